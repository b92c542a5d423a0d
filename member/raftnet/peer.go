package raftnet

import (
	"fmt"
	"sync"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// peer is another member: what outlives its connections.
type peer struct {
	node string
	out  [lanes]outLane
	in   [lanes]inLane

	mu       sync.Mutex
	link     *link // nil without a connection
	replicas map[replicas]struct{}
}

// replicas is a replica on the peer and the one here that sends to it.
type replicas struct{ shard, theirs, ours uint64 }

// maxReplicas bounds those remembered of a peer; a node has one of a cluster at a time.
const maxReplicas = 16

// usable returns the connection to send over.
func (p *peer) usable() (*link, error) {
	p.mu.Lock()
	l := p.link
	p.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("node %s is not connected", p.node)
	}
	if lost, _ := l.conn.LossState(); lost {
		return nil, fmt.Errorf("the link to node %s is lost", p.node)
	}
	return l, nil
}

func (p *peer) attach(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = l
}

func (p *peer) detach(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == l {
		p.link = nil
	}
}

// note remembers between which replicas messages go.
func (p *peer) note(messages []pb.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range messages {
		r := replicas{m.ShardID, m.To, m.From}
		if _, ok := p.replicas[r]; !ok && len(p.replicas) >= maxReplicas {
			clear(p.replicas)
		}
		p.replicas[r] = struct{}{}
	}
}

func (p *peer) known() []replicas {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]replicas, 0, len(p.replicas))
	for r := range p.replicas {
		all = append(all, r)
	}
	return all
}

// outLane numbers the batches of a lane.
type outLane struct {
	mu   sync.Mutex // held while a batch is queued, so that numbers are in the order of the queue
	last uint64
}

func (o *outLane) put(q *queue, batch []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !q.put(numbered{o.last + 1, batch}) {
		return false
	}
	o.last++
	return true
}

// inLane is what has come on a lane.
type inLane struct {
	mu     sync.Mutex
	boots  boots
	window window
}

// enter begins a stream of a life of the peer.
func (i *inLane) enter(boot nonce) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	changed, ok := i.boots.enter(boot)
	if !ok {
		return fmt.Errorf("%w: %w", errLife, errFormat)
	}
	if changed {
		i.window = window{}
	}
	return nil
}

// deliver calls fn if the batch has not come before and none after it has.
func (i *inLane) deliver(boot nonce, number uint64, fn func()) verdict {
	i.mu.Lock()
	defer i.mu.Unlock()
	if boot != i.boots.now {
		return ancient
	}
	v := i.window.take(number)
	if v == fresh {
		fn()
	}
	return v
}
