package raftnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// A leader at rest says the same ten times a second, and its followers answer the same: 300 MB a day and link. While
// neither has news, the two ends agree to say it no more, and each tells its own replica what it would have heard:
//
//	loud --- the same heartbeat for hushAfter ---> asked --- the peer agrees ---> quiet
//	 ^                                                                            |
//	 +-- news either way, a link long lost, raft gives no heartbeat, no renewal --+
//
// News is any message but a heartbeat like the last one, or the answer to one, or a follower's word that its log does not
// press on its memory. It always goes out, and ends the quiet on
// both ends: on the one that sends it at once, so that a leader that is dead is found out by the election timeout from
// then on. The leader's end renews the agreement every hushRenew, and only while its raft gives heartbeats; without a
// renewal for hushLife it is over. So a leader that dies at rest is missed after hushLife and an election timeout at the
// latest, and one whose step loop stalls after hushStall and an election timeout. Whoever misses it first, because it has
// something to say, asks for votes, which wakes the others.
//
// The two ends need not agree at each moment, for what they say of it may be lost. A follower's end that ends the quiet by
// itself says so once there is a link, unless the leader speaks before; a leader that speaks is answered, even where the quiet goes on. And a link
// that is lost for less than hushGrace, as one that loses a tenth of its packets is by chance several times an hour, changes
// nothing: what it was last proven by is not that old.
//
// What is told to a replica is never news: the very heartbeat that the leader last sent, and an answer to one that it has
// just given. Reads and commits do not rest on it, for their confirmations are news.
const (
	hushAfter = 10 * time.Second
	hushRenew = 15 * time.Second
	hushLife  = 21 * time.Second // one renewal and the attempts to make it
	hushStall = 500 * time.Millisecond
	// hushBeat is how often a follower's replica hears its leader's heartbeat: several times an election timeout.
	hushBeat = 300 * time.Millisecond
	// hushRetry is the least pause between attempts to agree.
	hushRetry = time.Second
	// hushGrace is how long a link may be lost before the quiet over it ends.
	hushGrace = 5 * time.Second
	// hushWord is how long a leader has, and two round trips, to speak again after the follower's end has ended the quiet,
	// before it is told so. What ended the quiet may have told it.
	hushWord = 300 * time.Millisecond
	// hushOwed bounds the answers that are owed: more than the heartbeats of a long round trip, which are under way when a
	// follower agrees.
	hushOwed = 16
)

// hush is what one end knows of the quiet with a peer.
type hush struct {
	wake chan struct{} // of run. One place

	mu sync.Mutex

	// Of the leader's end.
	beat   pb.Message // the last heartbeat that was given for the peer
	seen   time.Time  // when
	steady time.Time  // since when it is the same and there is no news
	asked  uint64     // number of the last attempt to agree
	at     time.Time  // of it
	proven time.Time  // when the peer last agreed
	quiet  bool

	// Of the follower's end.
	heard pb.Message    // the last heartbeat of the peer
	until time.Time     // how long it goes on for the replica here; zero: it does not
	owed  int           // answers to heartbeats that the peer has sent nevertheless
	word  time.Time     // when the peer is to be told that it does not go on; zero: there is no need
	rtt   time.Duration // as last known
}

func newHush() hush { return hush{wake: make(chan struct{}, 1)} }

// A note between the two ends, in a datagram as letters are: kindNote, what, number, and of a heartbeat shard, from, to,
// term and commit, all but the first two as uvarints.
type note struct {
	what   noteKind
	number uint64
	beat   pb.Message
}

type noteKind uint8

const (
	noteAsk   noteKind = iota + 1 // the heartbeat will be the same from now on
	noteAgree                     // the replica here hears it without you
	noteLoud                      // no longer
	noteBulk                      // so many connections for snapshots are wanted
)

// kindNote is where a letter has its lane.
const kindNote = 0x10

func (n note) append(b []byte) []byte {
	b = append(b, kindNote, byte(n.what))
	for _, v := range []uint64{n.number, n.beat.ShardID, n.beat.From, n.beat.To, n.beat.Term, n.beat.Commit} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func parseNote(b []byte) (n note, err error) {
	if len(b) < 2 || b[0] != kindNote {
		return n, fmt.Errorf("note: %w", errFormat)
	}
	n.what = noteKind(b[1])
	n.beat.Type = pb.Heartbeat
	b = b[2:]
	for _, to := range []*uint64{&n.number, &n.beat.ShardID, &n.beat.From, &n.beat.To, &n.beat.Term, &n.beat.Commit} {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			return n, fmt.Errorf("note cut short: %w", errFormat)
		}
		*to, b = v, b[size:]
	}
	if len(b) > 0 || n.what < noteAsk || n.what > noteBulk {
		return n, fmt.Errorf("note %d: %w", n.what, errFormat)
	}
	return n, nil
}

func plain(m pb.Message, t pb.MessageType) bool { return m.Type == t && m.Hint == 0 && m.HintHigh == 0 }

func sameBeat(a, b pb.Message) bool {
	return a.ShardID == b.ShardID && a.From == b.From && a.To == b.To && a.Term == b.Term && a.Commit == b.Commit
}

// outgoing takes out of messages to the peer what it need not hear now. It returns the rest, and the answers that this
// node's replica is to be given in return.
func (h *hush) outgoing(now time.Time, messages []pb.Message) (rest, answers []pb.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := messages[:0:0]
	for _, m := range messages {
		switch {
		case plain(m, pb.Heartbeat):
			if !sameBeat(m, h.beat) {
				h.news(now)
			}
			h.beat, h.seen = m, now
			if h.quiet && now.Sub(h.proven) <= hushLife {
				answers = append(answers, pb.Message{Type: pb.HeartbeatResp, ShardID: m.ShardID, From: m.To, To: m.From, Term: m.Term})
				continue
			}
			h.quiet = false
		case plain(m, pb.HeartbeatResp), plain(m, pb.RateLimit):
			if now.Before(h.until) && m.To == h.heard.From && m.From == h.heard.To && m.Term <= h.heard.Term {
				if h.owed == 0 || m.Type != pb.HeartbeatResp {
					continue
				}
				h.owed--
			}
		default:
			h.news(now)
			h.stop(now)
		}
		kept = append(kept, m)
	}
	return kept, answers
}

// incoming looks at what the peer has sent.
func (h *hush) incoming(now time.Time, messages []pb.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range messages {
		switch {
		case plain(m, pb.Heartbeat):
			if !sameBeat(m, h.heard) {
				h.until = time.Time{}
			}
			h.heard, h.word = m, time.Time{}
			if now.Before(h.until) {
				h.owed = min(h.owed+1, hushOwed)
			}
		case plain(m, pb.HeartbeatResp), plain(m, pb.RateLimit):
		default:
			h.news(now)
			h.until, h.word = time.Time{}, time.Time{}
		}
	}
}

// news ends the quiet of the leader's end.
func (h *hush) news(now time.Time) { h.steady, h.quiet = now, false }

// stop ends the quiet of the follower's end, of which the peer will be told if it does not speak by itself.
func (h *hush) stop(now time.Time) {
	if now.Before(h.until) {
		h.word = now.Add(hushWord + 2*h.rtt)
		h.nudge()
	}
	h.until = time.Time{}
}

// wakeUp ends the quiet of the follower's end soon, and has the peer told so at once: it has time to speak before the replica
// here misses it. That takes hushWord and two round trips, and as much again where what is said is lost once.
func (h *hush) wakeUp(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if soon := now.Add(2 * (hushWord + 2*h.rtt)); soon.Before(h.until) {
		h.until, h.word = soon, now
		h.nudge()
	}
}

// end ends the quiet of both ends, as far as this one can.
func (h *hush) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.news(now)
	h.stop(now)
}

// ask returns the note by which to agree, or to go on, if it is time for one.
func (h *hush) ask(now time.Time, rtt time.Duration) (n note, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rtt = rtt
	switch {
	case h.beat.Type != pb.Heartbeat, now.Sub(h.seen) > hushStall, now.Sub(h.steady) < hushAfter,
		now.Sub(h.at) < max(hushRetry, 3*rtt), h.quiet && now.Sub(h.proven) < hushRenew:
		return n, false
	}
	h.asked++
	h.at = now
	return note{what: noteAsk, number: h.asked, beat: h.beat}, true
}

// read takes a note of the peer and returns the answer, if there is one.
func (h *hush) read(now time.Time, n note) (answer note, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch n.what {
	case noteAsk:
		if h.heard.Type != pb.Heartbeat || !sameBeat(n.beat, h.heard) {
			return answer, false
		}
		if h.until.Before(now) {
			h.owed = 0
		}
		h.until, h.word = now.Add(hushLife), time.Time{}
		h.nudge()
		return note{what: noteAgree, number: n.number, beat: n.beat}, true
	case noteAgree:
		if n.number == h.asked && sameBeat(n.beat, h.beat) && h.steady.Before(h.at) {
			h.quiet, h.proven = true, h.at
			h.nudge()
		}
	case noteLoud:
		h.news(now)
		h.until, h.word = time.Time{}, time.Time{}
	}
	return answer, false
}

// look is for run: it returns the heartbeat to give to the replica here, whether the peer must be told that there is no quiet
// any more, and when to look again; zero: not before something happens.
func (h *hush) look(now time.Time) (beat *pb.Message, loud bool, next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sooner := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if now.Before(h.until) {
		m := h.heard
		beat = &m
		sooner(now.Add(hushBeat))
	}
	switch {
	case h.word.IsZero():
	case h.word.After(now):
		sooner(h.word)
	default: // again soon, if it can not be said now
		loud, h.word = true, now.Add(hushRetry)
		sooner(h.word)
	}
	if h.quiet {
		if now.Sub(h.seen) <= hushStall {
			sooner(now.Add(hushStall))
		} else {
			h.news(now)
			loud, h.word = true, now.Add(hushRetry)
			sooner(h.word)
		}
	}
	return beat, loud, next
}

// told takes note that the peer will hear that there is no quiet: the courier sees to that.
func (h *hush) told() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.word = time.Time{}
}

func (h *hush) nudge() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// keepQuiet does for the replica here what the quiet with a peer asks for, until ctx ends.
func (n *Net) keepQuiet(ctx context.Context, p *peer) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		beat, loud, next := p.hush.look(time.Now())
		if beat != nil {
			n.tell(*beat)
		}
		if loud && p.send(note{what: noteLoud}, courier.Sure) {
			p.hush.told()
		}
		var timerC <-chan time.Time
		if !next.IsZero() {
			timer.Reset(time.Until(next))
			timerC = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-p.hush.wake:
		case <-timerC:
		}
	}
}

// doubt is called when another member asks for a vote: it misses the leader. So the replica here soon hears no more of it than
// it says itself, which it is asked to do.
func (n *Net) doubt() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.peers {
		p.hush.wakeUp(time.Now())
	}
}

// tell gives messages to the replica here as if the peer had sent them.
func (n *Net) tell(messages ...pb.Message) {
	n.metrics.quiet.Add(float64(len(messages)))
	n.recv(pb.MessageBatch{DeploymentId: n.opts.Cluster, BinVer: raftio.TransportBinVersion, Requests: messages})
}

// hold takes out of messages what the peer need not hear, and agrees with it on that when it is time.
func (n *Net) hold(p *peer, messages []pb.Message) []pb.Message {
	now := time.Now()
	rest, answers := p.hush.outgoing(now, messages)
	if len(answers) > 0 {
		n.tell(answers...)
	}
	if rtt, _, ok := p.post.Link(); ok {
		if ask, due := p.hush.ask(now, rtt); due {
			p.send(ask, courier.Once)
		}
	}
	return rest
}

func (p *peer) send(n note, care courier.Care) bool { return p.post.Send(n.append(nil), care) }
