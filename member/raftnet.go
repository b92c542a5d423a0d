package member

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// Network carries raft messages between members, which it knows by node id. Implementations deliver every batch at
// most once and the batches to one node in the order sent; they may lose any. The zero Config has none: a member
// without peers.
type Network interface {
	// Serve makes recv and chunk known, which take in what others send, before the member starts. They may be called
	// concurrently, block for as long as disk writes take, and do nothing once the member has stopped.
	//
	// Answer answers what others ask. It is called concurrently as well, with a context that ends when the asker is gone.
	Serve(recv func(pb.MessageBatch), chunk func(pb.Chunk) bool, answer func(ctx context.Context, request []byte) []byte) error
	// Connect returns a way to send messages to a node, reached or not. After an error, at once or of the connection later, the library
	// drops what follows for a while, and tells nobody.
	Connect(ctx context.Context, node string) (raftio.IConnection, error)
	// Reaches reports whether there is a connection to a node that is not lost. It sends nothing.
	Reaches(node string) bool
	// ConnectBulk returns a way to send the chunks of a snapshot to a node.
	ConnectBulk(ctx context.Context, node string) (raftio.ISnapshotConnection, error)
	// Ask returns what a node answers, an error if it cannot be asked or does not answer before ctx ends. Request and
	// answer have at most AskMax bytes.
	Ask(ctx context.Context, node string, request []byte) (answer []byte, err error)
	// Close ends all connections. It is called once, after the last Connect.
	Close() error
}

// AskMax is how long what members ask each other, and what they answer, may be: 1,024 questions about leases take less.
const AskMax = 1 << 20

// errNoNetwork is why a member without a Network reaches nobody.
var errNoNetwork = errors.New("this member has no network to others")

// alone is the Network of a member without peers.
type alone struct{}

func (alone) Serve(func(pb.MessageBatch), func(pb.Chunk) bool, func(context.Context, []byte) []byte) error {
	return nil
}

func (alone) Close() error { return nil }

func (alone) Ask(_ context.Context, node string, _ []byte) ([]byte, error) {
	return nil, fmt.Errorf("ask node %s: %w", node, errNoNetwork)
}

func (alone) Connect(_ context.Context, node string) (raftio.IConnection, error) {
	return nil, fmt.Errorf("connect to node %s: %w", node, errNoNetwork)
}

func (alone) Reaches(string) bool { return false }

func (alone) ConnectBulk(_ context.Context, node string) (raftio.ISnapshotConnection, error) {
	return nil, fmt.Errorf("connect to node %s: %w", node, errNoNetwork)
}

// raftnet is the library's transport on a Network. It is its own factory, for one NodeHost.
type raftnet struct {
	net    Network
	answer func(ctx context.Context, request []byte) []byte
	check  func(pb.MessageBatch) bool // false: the batch is not delivered
	recv   raftio.MessageHandler      // set by Create
	sink   raftio.ChunkHandler
	once   sync.Once
}

// Validate accepts any id: RaftAddress is a node id and never dialled.
func (*raftnet) Validate(id string) bool { return id != "" }

func (n *raftnet) Create(_ config.NodeHostConfig, recv raftio.MessageHandler, sink raftio.ChunkHandler) raftio.ITransport {
	n.sink = sink
	n.recv = func(b pb.MessageBatch) {
		if n.check(b) {
			recv(b)
		}
	}
	return n
}

func (*raftnet) Name() string { return "holdfast" }

func (n *raftnet) Start() error { return n.net.Serve(n.recv, n.sink, n.answer) }

// Close closes the Network, once.
func (n *raftnet) Close() (err error) {
	n.once.Do(func() { err = n.net.Close() })
	return err
}

func (n *raftnet) GetConnection(ctx context.Context, node string) (raftio.IConnection, error) {
	return n.net.Connect(ctx, node)
}

func (n *raftnet) GetSnapshotConnection(ctx context.Context, node string) (raftio.ISnapshotConnection, error) {
	return n.net.ConnectBulk(ctx, node)
}

// registry knows the node id behind each replica id. Unlike the library's own it does not panic when a replica is
// announced again. It is its own factory, for one NodeHost.
type registry struct {
	mu    sync.Mutex
	nodes map[raftio.NodeInfo]string
}

func newRegistry() *registry { return &registry{nodes: make(map[raftio.NodeInfo]string)} }

func (r *registry) Create(string, uint64, config.TargetValidator) (raftio.INodeRegistry, error) {
	return r, nil
}

func (*registry) Close() error { return nil }

// Add makes a replica known. Membership is decided by the log, so the newest announcement counts.
func (r *registry) Add(shard, replica uint64, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[raftio.GetNodeInfo(shard, replica)] = node
}

func (r *registry) Remove(shard, replica uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nodes, raftio.GetNodeInfo(shard, replica))
}

func (r *registry) RemoveShard(shard uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.nodes {
		if id.ShardID == shard {
			delete(r.nodes, id)
		}
	}
}

// list returns the node ids of the replicas of a shard.
func (r *registry) list(shard uint64) map[uint64]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make(map[uint64]string, len(r.nodes))
	for id, node := range r.nodes {
		if id.ShardID == shard {
			list[id.ReplicaID] = node
		}
	}
	return list
}

// Resolve returns the node id of a replica and the key of the queue its messages wait in: one per replica.
func (r *registry) Resolve(shard, replica uint64) (node, queue string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	node, ok := r.nodes[raftio.GetNodeInfo(shard, replica)]
	if !ok {
		return "", "", fmt.Errorf("replica %d has no node id", replica)
	}
	return node, node, nil
}
