package raftnet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

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

// Connect returns a way to send batches to a node. It never blocks: without a connection, or while its link is lost, it
// fails.
func (n *Net) Connect(_ context.Context, node string) (raftio.IConnection, error) {
	p, err := n.peer(node)
	if err != nil {
		return nil, err
	}
	if _, err := p.usable(); err != nil {
		n.unreachable(p)
		return nil, err
	}
	return &connection{net: n, peer: p}, nil
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
		n.metrics.dropped("link", l.closeQueues())
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

// SendMessageBatch queues a batch and never blocks. An error says that the node cannot be reached at present, and that
// its replicas have been reported so. If the queue of entries is full, those of the batch are dropped and the replicas
// reported, while the rest goes out: a peer that is slow to take entries is still led.
func (c *connection) SendMessageBatch(batch pb.MessageBatch) error {
	c.peer.note(batch.Requests)
	err := c.send(batch)
	if err != nil {
		c.net.unreachable(c.peer)
	}
	return err
}

func (c *connection) send(batch pb.MessageBatch) error {
	if batch.Requests = c.net.hold(c.peer, batch.Requests); len(batch.Requests) == 0 {
		return nil
	}
	l, err := c.peer.usable()
	if err != nil {
		return err
	}
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
			c.net.metrics.dropped("behind", 1)
			c.net.unreachable(c.peer)
			continue
		}
		if !busy {
			batch.Requests = c.peer.mail(lane, requests)
		}
		if len(batch.Requests) == 0 {
			c.net.metrics.sent.Inc()
			continue
		}
		b, err := batch.Marshal()
		if err != nil {
			return fmt.Errorf("encode a batch: %w", err)
		}
		if len(b) > maxBatchFrame-16 {
			return fmt.Errorf("batch of %d bytes: %w", len(b), errFrame)
		}
		if number, ok := c.peer.out[i].put(l.queues[i], b); ok {
			l.underway.queued(number, len(b), batch.Requests)
			c.net.metrics.sent.Inc()
			continue
		}
		c.net.metrics.dropped("queue_full", 1)
		if lane == kindSwift {
			return fmt.Errorf("node %s takes nothing: %d bytes wait for it", c.peer.node, maxSwiftBytes)
		}
		c.net.unreachable(c.peer)
	}
	return nil
}

// byLane sorts messages by lane, in order.
func byLane(requests []pb.Message) (sorted [lanes][]pb.Message) {
	for _, m := range requests {
		i := laneOf(m) - 1
		sorted[i] = append(sorted[i], m)
	}
	return sorted
}
