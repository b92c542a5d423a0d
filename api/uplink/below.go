package uplink

import (
	"context"
	"encoding/hex"
	"sync"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// A proxy may have others behind it, and sends what they ask on its own connection. Whatever it sends is held against its own
// scope. The numbers of their queues are theirs alone: each proves itself by a tunnel through the proxy, and for as long as that
// stands, the connection that carries it may bring commands of that origin, and no other connection.

// Carry serves a stream that carries a tunnel, until it or ctx ends. The node at the other end of it, once it has proven itself, is
// one that peer may speak for until leave is called.
type Carry func(ctx context.Context, conn Conn, peer Peer, st Stream, enter func(node string) (leave func())) error

// below is who is known to be behind a peer, on one connection.
type below struct {
	mu    sync.Mutex
	nodes map[string]int // tunnels that stand, by node
}

func (b *below) enter(node string) (leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.nodes == nil {
		b.nodes = make(map[string]int)
	}
	b.nodes[node]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.nodes[node]--; b.nodes[node] <= 0 {
			delete(b.nodes, node)
		}
	}
}

func (b *below) has(node string) bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nodes[node] > 0
}

// speaker is whose request it is: one who is known to be behind the peer if it is named, else the peer itself.
func (p Peer) speaker(named string) string {
	if named != "" && p.below.has(named) {
		return named
	}
	return p.Node
}

// originInScope refuses numbers of a queue that is neither the peer's nor of one who is known to be behind it.
func originInScope(origin [16]byte, peer Peer) *kv.Error {
	id := hex.EncodeToString(origin[:])
	if id == peer.Node || peer.below.has(id) {
		return nil
	}
	return &kv.Error{Code: kv.UpstreamUnavailable, RetryAfter: time.Second,
		Detail: "node " + peer.Node + " sends queued writes of node " + id + ", which has not proven that it is behind it; nothing was applied"}
}

// carried is a stream of which something was read ahead.
type carried struct {
	Stream
	r *wire.Patient
}

func (c carried) Read(p []byte) (int, error) { return c.r.Read(p) }
