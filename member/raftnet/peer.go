package raftnet

import (
	"fmt"
	"sync"
	"sync/atomic"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// peer is another member: what outlives its connections.
type peer struct {
	node string
	out  [lanes]outLane
	in   [lanes]inLane
	post *courier.Courier // what fits a datagram, while there is a path

	hush hush // what need not be said

	aside  aside        // commands that wait for a link
	toldAt atomic.Int64 // when raft last heard that the peer cannot be reached for one of many messages, in ns

	bulk  bulkConns
	turns turns // of snapshots to the peer
	pace  pace  // of them

	bulkSent atomic.Uint64 // bytes of snapshots

	forwarded atomic.Int64 // when the peer last forwarded a proposal or asked for an index to read at, in ns
	said      said

	inParts atomic.Uint64 // letters that were sent in parts
	opening sync.Mutex    // of parts
	parts   joiner
	slices  slicesIn

	meeting sync.Mutex // held while a life of the peer is judged

	mu       sync.Mutex
	link     *link  // nil without a connection
	life     Life   // the last one that was welcome
	replica  uint64 // whose life that is
	unmet    bool   // the peer tells nothing of its lives
	replicas map[replicas]struct{}
}

func newPeer(node string, life courier.Life, opts Options) *peer {
	p := &peer{node: node, replicas: make(map[replicas]struct{}), hush: newHush(), turns: newTurns(),
		post: courier.New(courier.Options{Life: life, Dialect: opts.Dialect, Sparing: opts.Sparing})}
	for i := range p.in {
		p.in[i].ordered = kind(i+1) == kindLog
		p.in[i].wake = make(chan struct{}, 1)
	}
	return p
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

// detach takes a connection that has ended out of use. It tells whether there is none now.
func (p *peer) detach(l *link) (none bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == l {
		p.link = nil
	}
	return p.link == nil
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
