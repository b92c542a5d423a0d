package raftnet

import (
	"context"
	"sync"
	"time"

	"holdfast/transport/courier"
)

// bulkConns are the connections to a peer that carry snapshots and long batches of entries, and nothing else.
type bulkConns struct {
	mu      sync.Mutex
	conns   []Conn
	ours    map[any]int // how many each transfer from here wants, and the link with long batches
	theirs  int         // how many the peer wants
	changed chan struct{}
}

func (b *bulkConns) signal() <-chan struct{} {
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

func (b *bulkConns) tell() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// all returns the connections, and a channel that is closed when they, or how many are wanted, change.
func (b *bulkConns) all() ([]Conn, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Conn(nil), b.conns...), b.signal()
}

// want says how many connections a transfer from here would like, and tells whether that changes what the peer was told.
func (b *bulkConns) want(s any, n int) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.most()
	if b.ours == nil {
		b.ours = make(map[any]int)
	}
	b.ours[s] = n
	b.tell()
	return b.most() != before
}

// release undoes want.
func (b *bulkConns) release(s any) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.most()
	delete(b.ours, s)
	b.tell()
	return b.most() != before
}

func (b *bulkConns) most() (n int) {
	for _, o := range b.ours {
		n = max(n, o)
	}
	return n
}

// short reports whether there are fewer than the transfers from here want.
func (b *bulkConns) short() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns) < b.most()
}

// wantedHere is how many the transfers from here want.
func (b *bulkConns) wantedHere() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most()
}

func (b *bulkConns) setTheirs(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.theirs = min(n, stripeMax)
	b.tell()
}

func (b *bulkConns) add(c Conn) (remove func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns = append(b.conns, c)
	b.tell()
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, o := range b.conns {
			if o == c {
				b.conns = append(b.conns[:i:i], b.conns[i+1:]...)
				break
			}
		}
		b.tell()
	}
}

// tellBulk tells the peer how many connections for bulk are wanted here: only one of the two ends can open them. It reports
// whether the courier has taken that.
func (p *peer) tellBulk() bool {
	return p.send(note{what: noteBulk, number: uint64(p.bulk.wantedHere())}, courier.Sure)
}

// bulkTellEvery is the pause before the peer is told again at the beginning of a connection.
const bulkTellEvery = time.Second

// beginBulk tells the peer what is wanted here, as soon as there is a way to: what it was told on the connection before may not have
// arrived, or another life of this node has told it. Without that, it could keep connections for ever that nobody wants.
func (l *link) beginBulk(ctx context.Context) {
	select {
	case <-l.cleared:
	case <-ctx.Done():
		return
	}
	for !l.peer.tellBulk() {
		select {
		case <-time.After(bulkTellEvery):
		case <-ctx.Done():
			return
		}
	}
}

// BulkWanted is how many connections for snapshots the two ends want, and a channel that is closed when that, or what
// there is, changes.
func (n *Net) BulkWanted(node string) (conns int, changed <-chan struct{}, err error) {
	p, err := n.peer(node)
	if err != nil {
		return 0, nil, err
	}
	here := p.bulk.wantedHere()
	p.bulk.mu.Lock()
	defer p.bulk.mu.Unlock()
	return max(here, p.bulk.theirs), p.bulk.signal(), nil
}

// ServeBulk lets snapshots to and from node go over c until it ends or ctx does.
func (n *Net) ServeBulk(ctx context.Context, node string, c Conn) {
	p, err := n.enter(node)
	if err != nil {
		c.Close(err.Error())
		return
	}
	defer n.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close("") // before what is served on it is waited for
	wg.Go(func() {
		select {
		case <-n.closing:
		case <-c.Done():
		case <-ctx.Done():
		}
		cancel()
	})
	select {
	case <-n.serving:
	case <-ctx.Done():
		return
	}
	remove := p.bulk.add(c)
	defer remove()
	l := newLink(n, p, c)
	close(l.cleared) // the connection that this one is beside has been used to tell lives; each stream says of which it is
	for {
		s, err := c.Accept(ctx)
		if err != nil {
			return
		}
		select {
		case l.streams <- struct{}{}:
		default:
			n.metrics.dropped("streams_full", 1)
			giveUp(s, codeRefused)
			continue
		}
		wg.Go(func() {
			defer func() { <-l.streams }()
			l.serveStream(ctx, s)
		})
	}
}
