package raftnet

import (
	"context"
	"sync"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// Path is a connection that carries datagrams to a member, proven to be that node. All methods may be called
// concurrently.
type Path interface {
	courier.Path
	// ReceiveDatagram waits for the next one. It ends with the connection.
	ReceiveDatagram(ctx context.Context) ([]byte, error)
	// Close ends the connection. The reason is shown to the peer.
	Close(reason string)
}

// On a link shorter than nearRTT, with less loss than nearLoss, streams do as well and cost less: what is lost comes
// again within a few milliseconds, and what comes in numbers travels together.
const (
	nearRTT  = 2 * time.Millisecond
	nearLoss = 0.003
)

// ServePath takes datagrams from node on a path, and sends some there, until it ends or ctx does. A path is of use beside
// a connection that ServeConn serves; it may be the same one.
func (n *Net) ServePath(ctx context.Context, node string, path Path) {
	p, err := n.enter(node)
	if err != nil {
		path.Close(err.Error())
		return
	}
	defer n.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-n.serving:
	case <-n.closing:
		return
	case <-ctx.Done():
		return
	}
	n.wg.Go(func() {
		select {
		case <-n.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	detach := p.post.Attach(path)
	defer detach()
	for {
		b, err := path.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		if err := n.open(p, b); err != nil {
			n.metrics.dropped("refused", 1)
			n.opts.Log.Warn("a datagram of a member was refused and the connection closed; if it goes on, see whether both "+
				"run the same version", "peer", node, "err", err)
			path.Close(err.Error())
			return
		}
	}
}

// open takes a datagram apart and hands over what is in it.
func (n *Net) open(p *peer, b []byte) error {
	if !n.admits(p, courier.SenderOf(b)) { // the courier would take it for the peer, started anew
		n.metrics.dropped("ancient", 1)
		return nil
	}
	life, letters, err := p.post.Receive(b)
	if err != nil {
		return err
	}
	for _, b := range letters {
		if b[0] == kindPart {
			p.opening.Lock()
			whole, err := p.parts.take(life, time.Now(), b)
			p.opening.Unlock()
			if err != nil {
				return err
			}
			if whole == nil {
				continue
			}
			b = whole
		}
		if b[0] == kindNote {
			ask, err := parseNote(b)
			if err != nil {
				return err
			}
			if ask.what == noteBulk {
				p.bulk.setTheirs(int(min(ask.number, stripeMax)))
				continue
			}
			if answer, ok := p.hush.read(time.Now(), ask); ok {
				p.send(answer, courier.Once)
			}
			continue
		}
		l, err := openLetter(b, n.opts.Cluster, p.node)
		if err != nil {
			return err
		}
		in := &p.in[l.lane-1]
		if in.enter(life) != nil {
			n.metrics.dropped("ancient", 1)
			continue
		}
		if l.notice {
			n.takeNotice(p, in, life, l)
			continue
		}
		n.take(p, in, life, l.number, l.batch)
	}
	return nil
}

// mail sends messages of a lane as datagrams, as far as they fit and the link is one on which that is better, and
// returns those that are left for a stream.
func (p *peer) mail(lane kind, messages []pb.Message) (left []pb.Message) {
	rtt, loss, ok := p.post.Link()
	if !ok || rtt < nearRTT && loss < nearLoss {
		return messages
	}
	parts, most := 1, 0
	switch {
	case loss < nearLoss:
	case rtt < paceNear:
		parts = maxParts
	default: // a longer one may be thin: there long batches have a pace, unless it is known to carry them
		most = p.burst()
		parts = min(max(most/p.post.MaxMessage(), 1), maxParts)
	}
	if p.mailOne(lane, messages, parts) {
		return nil
	}
	if lane == kindLog && most > 0 {
		messages = cutLong(messages, parts*p.post.MaxMessage()/2, most)
	}
	if len(messages) == 1 {
		return messages
	}
	for i := range messages {
		if !p.mailOne(lane, messages[i:i+1], parts) {
			if lane == kindLog { // what follows must not come before it
				return append(left, messages[i:]...)
			}
			left = append(left, messages[i])
		}
	}
	return left
}

func (p *peer) mailOne(lane kind, messages []pb.Message, parts int) bool {
	out := &p.out[lane-1]
	care := p.care(messages)
	if p.post.Dialect() >= dialectBrief && !long(messages, parts*p.post.MaxMessage()) {
		body, ok := appendBrief(make([]byte, maxLetterHeader, maxLetterHeader+briefGuess), messages)
		if ok && care == courier.Once && lane == kindLog {
			return p.notify(out, body)
		}
		if ok {
			return p.dispatch(out, byte(lane)|briefBit, body, care, messages)
		}
	}
	batch := pb.MessageBatch{Requests: messages}
	size := batch.Size()
	if size+maxLetterHeader > p.post.MaxMessage() {
		return false
	}
	if lane == kindLog {
		care = max(care, courier.Sure) // what follows waits for it
	}
	body := make([]byte, maxLetterHeader+size)
	if n, err := batch.MarshalTo(body[maxLetterHeader:]); err != nil || n != size { // the stream says what is wrong
		return false
	}
	return p.dispatch(out, byte(lane), body, care, messages)
}

const (
	// burstLeast is how many bytes of messages a second a link of paceNear and more is known to carry that is none of the thin ones: about
	// 200 kbit/s, with a copy of each.
	burstLeast = 12 << 10
	burstTakes = 500 * time.Millisecond
	// entryOverhead is more than an entry takes beside its command.
	entryOverhead = 64
)

// burst is how many bytes of entries may be sent at once on a long link: what it is known to carry within burstTakes; none if it may be a thin one.
func (p *peer) burst() int {
	carries := p.post.Carries()
	if carries < burstLeast {
		return 0
	}
	return int(carries * burstTakes.Seconds())
}

// cutLong makes several messages of one that has more than most bytes of entries, as a leader does that sends them one after the other, if
// there are at most all bytes.
func cutLong(messages []pb.Message, most, all int) (cut []pb.Message) {
	size := 0
	for _, m := range messages {
		for _, e := range m.Entries {
			size += entryOverhead + len(e.Cmd)
		}
	}
	if size <= most || size > all {
		return messages
	}
	for _, m := range messages {
		from, size := 0, 0
		for i, e := range m.Entries {
			n := entryOverhead + len(e.Cmd)
			if size += n; size > most && i > from {
				cut = append(cut, part(m, from, i))
				from, size = i, n
			}
		}
		cut = append(cut, part(m, from, len(m.Entries)))
	}
	return cut
}

// part is the message with the entries from i to j of m.
func part(m pb.Message, i, j int) pb.Message {
	if i > 0 {
		m.LogIndex, m.LogTerm = m.Entries[i-1].Index, m.Entries[i-1].Term
	}
	m.Entries = m.Entries[i:j:j]
	return m
}

// long reports whether the commands of messages alone have more bytes than a letter.
func long(messages []pb.Message, most int) bool {
	size := 0
	for _, m := range messages {
		for _, e := range m.Entries {
			size += len(e.Cmd)
		}
	}
	return size > most
}

// briefGuess is what most brief messages have room in.
const briefGuess = 256

// dispatch sends a letter, whose messages are in body behind room for a header, as the next of its lane.
func (p *peer) dispatch(out *outLane, form byte, body []byte, care courier.Care, messages []pb.Message) bool {
	out.mu.Lock()
	defer out.mu.Unlock()
	letter := sealed(body, form, out.last+1)
	if len(letter) <= p.post.MaxMessage() {
		if !p.post.Send(letter, care) {
			return false
		}
	} else {
		parts := split(letter, p.inParts.Add(1), p.post.MaxMessage())
		if len(parts) == 0 || !p.post.SendAll(max(care, courier.Sure), parts...) {
			return false
		}
	}
	out.last++
	p.said.note(time.Now(), messages)
	return true
}

// notify sends messages that nothing waits for, behind what the lane has sent.
func (p *peer) notify(out *outLane, body []byte) bool {
	out.mu.Lock()
	defer out.mu.Unlock()
	return p.post.Send(sealed(body, kindNotice, out.last), courier.Once)
}

// sealed puts the header of a letter right before its messages, which begin at maxLetterHeader.
func sealed(body []byte, form byte, number uint64) []byte {
	var header [maxLetterHeader]byte
	h := appendLetter(header[:0], form, number)
	start := maxLetterHeader - len(h)
	copy(body[start:], h)
	return body[start:]
}

// care is how much messages matter: a heartbeat, and the answer to it, is made up for by the next one, unless a read
// waits for it. Of two followers the faster makes a commit, but what one of them has forwarded goes one way, and so does
// the news there that it is committed, and an index for which a read there waits. Where nobody waits for that news the next
// heartbeat does as well, and so it does for an answer that says what one before it has said.
func (p *peer) care(messages []pb.Message) courier.Care {
	care := courier.Once
	for _, m := range messages {
		switch m.Type {
		case pb.Heartbeat, pb.HeartbeatResp:
			if m.Hint != 0 {
				care = max(care, courier.Sure)
			}
		case pb.Ping, pb.Pong, pb.NoOP:
		case pb.Propose, pb.ReadIndex, pb.ReadIndexResp, pb.TimeoutNow:
			return courier.Vital
		case pb.ReplicateResp:
			if !p.said.again(time.Now(), m) {
				care = courier.Sure
			}
		case pb.Replicate:
			switch {
			case len(m.Entries) > 0:
				care = courier.Sure
			case time.Since(time.Unix(0, p.forwarded.Load())) < forwardedLately:
				return courier.Vital
			}
		default:
			care = courier.Sure
		}
	}
	return care
}

// said is the answer that a follower last gave to entries.
type said struct {
	mu   sync.Mutex
	last pb.Message
	at   time.Time
}

// saidLately is for how long an answer stands.
const saidLately = time.Second

// again reports whether an answer says no more than the last, which was given lately.
func (s *said) again(now time.Time, m pb.Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !m.Reject && !s.last.Reject && m.To == s.last.To && m.From == s.last.From && m.ShardID == s.last.ShardID &&
		m.Term == s.last.Term && m.LogIndex <= s.last.LogIndex && now.Sub(s.at) < saidLately
}

// note remembers the answers among messages that were sent.
func (s *said) note(now time.Time, messages []pb.Message) {
	for _, m := range messages {
		if m.Type == pb.ReplicateResp && !s.again(now, m) {
			s.mu.Lock()
			s.last, s.at = m, now
			s.mu.Unlock()
		}
	}
}

// forwardedLately is how long ago a peer may have forwarded a proposal, or asked for an index to read at, and still wait.
const forwardedLately = time.Second

// PathsWanted is how many connections to node carry datagrams at best, the one of ServeConn included, and a channel that
// is closed when that changes. Up to one, none is wanted beside it.
func (n *Net) PathsWanted(node string) (paths int, changed <-chan struct{}, err error) {
	p, err := n.peer(node)
	if err != nil {
		return 0, nil, err
	}
	paths, changed = p.post.Wanted()
	return paths, changed, nil
}

// Mail is what couriers have done, by node.
func (n *Net) Mail() map[string]courier.Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make(map[string]courier.Stats, len(n.peers))
	for node, p := range n.peers {
		all[node] = p.post.Stats()
	}
	return all
}
