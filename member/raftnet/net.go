package raftnet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/prometheus/client_golang/prometheus"
)

// Options is what a Net needs. Cluster, Node and Spool are required.
type Options struct {
	Cluster uint64 // id of the cluster; what comes from another one is refused
	Node    string // id of this node, in the form that Config.NodeID of a member has

	// Spool is a folder of the Net's own for snapshots under way, made when there is one. Up to 64 MiB are kept of one that
	// goes out, for each peer, and all of the one that comes in.
	Spool string
	// Room returns an error if so many bytes more would not leave enough free on the file system of Spool. It is asked before
	// a snapshot takes them. Nil: there is always room.
	Room func(bytes int64) error

	// Replica is what this node holds of the cluster, and Lives are its starts with that, the present one first, which the
	// others are told before anything else. Without them a copy of the node's data dir is not told from the node.
	Replica uint64
	Lives   []Life
	Copied  func(error) // hears ErrCopied, of each member that says so; needed with Lives

	// Dialect is what this node reads and writes of letters and slices; see letter.go. 0: all that this version can. Tests play an earlier
	// version with a lesser one.
	Dialect int

	// Sparing reports whether no copies are to be made against loss. It must not block. Nil: they always are.
	Sparing func() bool

	Log     *slog.Logger          // nil for none
	Metrics prometheus.Registerer // nil for none; names begin with holdfast_raftnet_
}

// Net is a member.Network. All methods may be called concurrently.
type Net struct {
	opts    Options
	boot    nonce
	metrics *metrics

	serving chan struct{} // closed by Serve
	recv    func(pb.MessageBatch)
	chunk   func(pb.Chunk) bool
	answer  func(context.Context, []byte) []byte

	closing chan struct{} // closed by Close
	wg      sync.WaitGroup

	mu     sync.Mutex
	closed bool
	peers  map[string]*peer // by node id

	intake intake
	limit  bulkLimit

	noRoomAt atomic.Int64 // when it was last logged that a snapshot found no room, in ns
}

// New makes a Net without connections. It must be closed, which a member that was given it does.
func New(opts Options) (*Net, error) {
	if opts.Cluster == 0 || opts.Node == "" || opts.Spool == "" {
		return nil, errors.New("raftnet: the ids of cluster and node, and a folder for snapshots, are required")
	}
	if len(opts.Lives) > 0 && opts.Copied == nil {
		return nil, errors.New("raftnet: who hears that this node is a copy is required")
	}
	if opts.Dialect == 0 {
		opts.Dialect = dialect
	}
	if opts.Room == nil {
		opts.Room = func(int64) error { return nil }
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	n := &Net{opts: opts, serving: make(chan struct{}), closing: make(chan struct{}), peers: make(map[string]*peer)}
	n.metrics = newMetrics(n.Mail, n.Bulk)
	n.boot = NewLife()
	if len(opts.Lives) > 0 {
		n.boot = opts.Lives[0]
	}
	if err := n.metrics.register(opts.Metrics); err != nil {
		return nil, err
	}
	return n, nil
}

func newNonce() []byte {
	var b nonce
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return b[:]
}

// Serve makes known who takes in what others send, and who answers what they ask. It is called once; connections wait
// for it.
func (n *Net) Serve(recv func(pb.MessageBatch), chunk func(pb.Chunk) bool, answer func(context.Context, []byte) []byte) error {
	n.recv, n.chunk, n.answer = recv, chunk, answer
	if err := n.revive(); err != nil {
		return fmt.Errorf("snapshots that were under way: %w", err)
	}
	close(n.serving)
	return nil
}

// Connect returns a way to send batches to a node, whether there is a connection or not. It never blocks.
func (n *Net) Connect(_ context.Context, node string) (raftio.IConnection, error) {
	p, err := n.peer(node)
	if err != nil {
		return nil, err
	}
	return &connection{net: n, peer: p}, nil
}

// Reaches reports whether there is a connection to a node that is not lost.
func (n *Net) Reaches(node string) bool {
	p, err := n.peer(node)
	if err != nil {
		return false
	}
	l, _ := p.usable()
	return l != nil
}

// ConnectBulk begins to send one snapshot, which ends with ctx at the latest: over connections of its own where there are
// some within stripeWait, else beside all the rest. While another one goes to the node it waits; see turns.
func (n *Net) ConnectBulk(ctx context.Context, node string) (raftio.ISnapshotConnection, error) {
	p, err := n.peer(node)
	if err != nil {
		return nil, err
	}
	if err := p.turns.take(ctx, n.closing); err != nil {
		return nil, fmt.Errorf("a snapshot to node %s: %w", node, err)
	}
	if _, err := p.usable(); err != nil {
		p.turns.end(false)
		return nil, err
	}
	s, err := n.openStriped(ctx, p)
	if err != nil {
		p.turns.end(false)
		return nil, err
	}
	return s, nil
}

// Close ends all connections and waits until nothing is handed over any more. Afterwards it has no effect.
func (n *Net) Close() error {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.closing)
	}
	n.mu.Unlock()
	n.wg.Wait()
	n.metrics.unregister(n.opts.Metrics)
	return nil
}

// ServeConn carries raft over c, which leads to node, until it ends or ctx does. From now on it is the connection to
// node; an older one only receives.
func (n *Net) ServeConn(ctx context.Context, node string, c Conn) {
	p, err := n.enter(node)
	if err != nil {
		c.Close(err.Error())
		return
	}
	defer n.wg.Done()
	select {
	case <-n.serving:
	case <-n.closing:
	case <-c.Done():
	case <-ctx.Done():
	}
	l := newLink(n, p, c)
	select {
	case <-n.serving:
		err = l.run(ctx)
		if p.detach(l) {
			p.hush.end()
		}
		n.closeQueues(l)
		n.unreachable(p)
	default: // it has ended before
		c.Close("the member is not there")
	}
	if err != nil {
		n.opts.Log.Debug("raft connection ended", "peer", node, "err", err)
	}
}

var errClosed = errors.New("the member has stopped")

// enter counts a connection that Close waits for.
func (n *Net) enter(node string) (*peer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed
	}
	n.wg.Add(1)
	return n.peerLocked(node), nil
}

func (n *Net) peer(node string) (*peer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed
	}
	return n.peerLocked(node), nil
}

func (n *Net) peerLocked(node string) *peer {
	p, ok := n.peers[node]
	if !ok {
		p = newPeer(node, n.boot.life(), n.opts)
		n.peers[node] = p
	}
	return p
}

// unreachableEvery is how often at most raft is told that a peer for which it has messages cannot be reached. That the link was lost,
// or the connection has ended, it was told at once.
const unreachableEvery = 500 * time.Millisecond

// stillUnreachable is unreachable, for one of many messages.
func (n *Net) stillUnreachable(p *peer) {
	now, last := time.Now().UnixNano(), p.toldAt.Load()
	if now-last >= int64(unreachableEvery) && p.toldAt.CompareAndSwap(last, now) {
		n.unreachable(p)
	}
}

// unreachable tells this node's replica that those it has sent to on a node do not get everything. It is the message
// that the library gives to a replica, which enters the step loop by the queue of received messages. One that does not
// fit in there is made up for by the next answer to a heartbeat, which shows the leader where the peer's log ends.
func (n *Net) unreachable(p *peer) {
	batch := pb.MessageBatch{DeploymentId: n.opts.Cluster, BinVer: raftio.TransportBinVersion}
	for _, r := range p.known() {
		batch.Requests = append(batch.Requests, pb.Message{Type: pb.Unreachable, ShardID: r.shard, From: r.theirs, To: r.ours})
	}
	select {
	case <-n.serving:
	default:
		return
	}
	if len(batch.Requests) > 0 {
		n.metrics.unreachable.Inc()
		n.recv(batch)
	}
}

// connection is the library's handle for sending to a node. It outlives connections of Conn.
type connection struct {
	net  *Net
	peer *peer
}

// Close lets go of nothing: connections belong to who opened them.
func (*connection) Close() {}

// SendMessageBatch queues a batch and never blocks. If the node cannot be reached at present, or the queue of a lane is full, what there
// is no room for is dropped and the node's replicas are reported: a peer that is slow to take entries is still led. Commands that are
// handed on to a leader wait for a link, see aside.go.
//
// An error says that raft made what cannot be sent. For anything else it would be wrong: the library drops all that follows an error, for
// up to a second and a half, and what it drops nobody hears of.
func (c *connection) SendMessageBatch(batch pb.MessageBatch) error {
	c.peer.note(batch.Requests)
	if batch.Requests = c.net.hold(c.peer, batch.Requests); len(batch.Requests) == 0 {
		return nil
	}
	l, _ := c.peer.usable()
	if l == nil {
		c.net.setAside(c.peer, batch.Requests)
		c.net.stillUnreachable(c.peer)
		return nil
	}
	return c.net.send(c.peer, l, batch)
}

// send gives a batch to the courier of a peer, or to the queues of a link to it.
func (n *Net) send(p *peer, l *link, batch pb.MessageBatch) error {
	for i, requests := range byLane(batch.Requests) {
		if len(requests) == 0 {
			continue
		}
		batch.Requests = requests
		lane := kind(i + 1)
		var busy bool
		if lane == kindLog {
			if requests, busy = l.underway.news(requests, l.rtt()); len(requests) == 0 {
				continue
			}
			batch.Requests = requests
		}
		if busy && l.broad() {
			rest := withoutEntries(requests)
			if len(rest) < len(requests) {
				n.metrics.dropped("behind", 1)
				n.unreachable(p)
			}
			if requests, busy = rest, false; len(requests) == 0 {
				continue
			}
			batch.Requests = requests
		}
		if !busy {
			batch.Requests = p.mail(lane, requests)
		}
		if len(batch.Requests) == 0 {
			n.metrics.sent.Inc()
			continue
		}
		b, err := batch.Marshal()
		if err != nil {
			return fmt.Errorf("encode a batch: %w", err)
		}
		if len(b) > maxBatchFrame-16 {
			return fmt.Errorf("batch of %d bytes: %w", len(b), errFrame)
		}
		if number, ok := p.out[i].put(l.queues[i], b); ok {
			l.underway.queued(number, len(b), batch.Requests)
			n.metrics.sent.Inc()
			continue
		}
		n.stillUnreachable(p)
		if l.over() {
			n.metrics.dropped("link", 1)
			n.setAside(p, batch.Requests)
			continue
		}
		n.metrics.dropped("queue_full", 1)
	}
	return nil
}

// withoutEntries is messages but those with entries for a follower.
func withoutEntries(messages []pb.Message) (rest []pb.Message) {
	for _, m := range messages {
		if m.Type != pb.Replicate || len(m.Entries) == 0 {
			rest = append(rest, m)
		}
	}
	return rest
}

// byLane sorts messages by lane, in order.
func byLane(requests []pb.Message) (sorted [lanes][]pb.Message) {
	for _, m := range requests {
		i := laneOf(m) - 1
		sorted[i] = append(sorted[i], m)
	}
	return sorted
}
