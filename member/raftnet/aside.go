package raftnet

import (
	"slices"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A follower hands commands on to its leader, and raft sends none of them again: one that is lost is answered with an unknown
// outcome, after 15 seconds. So one for which there is no link at the moment waits for the next, or for this one to come back. It has
// gone nowhere yet, so it still goes once at most. All other messages raft makes up for, and of those for a link that is away none waits.
const (
	// asideLife is how long a command waits, as long as one that was sent is sent again (courier.Sure).
	asideLife = 10 * time.Second
	// maxAsideBytes bounds what waits for a peer; one command always finds room.
	maxAsideBytes = 2 << 20
)

// aside is what waits for a link to a peer.
type aside struct {
	mu      sync.Mutex
	waiting []waitingCommand
	bytes   int
}

type waitingCommand struct {
	pb.Message
	size  int
	until time.Time
}

// put has the commands among messages wait, and tells how many there was no room for.
func (a *aside) put(now time.Time, messages []pb.Message) (dropped int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range messages {
		if m.Type != pb.Propose {
			continue
		}
		size := m.SizeUpperLimit()
		if dropped += a.prune(now); len(a.waiting) > 0 && a.bytes+size > maxAsideBytes {
			dropped++
			continue
		}
		a.waiting = append(a.waiting, waitingCommand{m, size, now.Add(asideLife)})
		a.bytes += size
	}
	return dropped
}

// prune drops those that have waited for too long, which are the first.
func (a *aside) prune(now time.Time) (dropped int) {
	for dropped < len(a.waiting) && !a.waiting[dropped].until.After(now) {
		a.bytes -= a.waiting[dropped].size
		dropped++
	}
	a.waiting = slices.Delete(a.waiting, 0, dropped)
	return dropped
}

// take returns what waits, in the order in which it came.
func (a *aside) take(now time.Time) (messages []pb.Message, dropped int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	dropped = a.prune(now)
	for _, w := range a.waiting {
		messages = append(messages, w.Message)
	}
	a.waiting, a.bytes = nil, 0
	return messages, dropped
}

// setAside has the commands among messages wait for a link to the peer.
func (n *Net) setAside(p *peer, messages []pb.Message) {
	n.metrics.dropped("link", p.aside.put(time.Now(), messages))
	n.fetch(p) // there may be one by now, for which nobody else would look
}

// fetch sends what has waited for a link to the peer, if there is one.
func (n *Net) fetch(p *peer) {
	l, err := p.usable()
	if err != nil {
		return
	}
	messages, dropped := p.aside.take(time.Now())
	n.metrics.dropped("link", dropped)
	for _, m := range messages { // each by itself: in a datagram, if it fits
		batch := pb.MessageBatch{DeploymentId: n.opts.Cluster, SourceAddress: n.opts.Node, BinVer: raftio.TransportBinVersion, Requests: []pb.Message{m}}
		if err := n.send(p, l, batch); err != nil {
			n.metrics.dropped("link", 1)
			n.opts.Log.Error("a command was not handed on to the leader; whoever sent it hears that its outcome is unknown", "peer", p.node, "err", err)
		}
	}
}

// leftOver has the commands among the batches of a queue wait for another link: they were not sent.
func (n *Net) leftOver(p *peer, batches []numbered) {
	for _, q := range batches {
		var batch pb.MessageBatch
		if err := batch.Unmarshal(q.batch); err == nil { // it was encoded here
			n.setAside(p, batch.Requests)
		}
	}
}
