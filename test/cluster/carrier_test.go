package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/internal/bridge"
	"holdfast/internal/simnet"
	"holdfast/member/raftnet"
	"holdfast/transport"
)

// carrier is a node with nothing but the network of a member: what a snapshot goes through.
type carrier struct {
	*raftnet.Net
	name  string
	node  string
	id    *transport.Identity
	spool string
	lives []raftnet.Life
	pool  *transport.Pool
	stop  func(*testing.T)
	room  func(int64) error

	got    hash.Hash
	chunks int
}

func newCarriers(t *testing.T, net *simnet.Net, names ...string) []*carrier {
	t.Helper()
	ca, err := transport.NewCA(fmt.Sprintf("%016x", clusterID))
	if err != nil {
		t.Fatal(err)
	}
	var all []*carrier
	for _, name := range names {
		c := &carrier{name: name, id: identity(t, ca), spool: t.TempDir(), got: sha256.New(), room: func(int64) error { return nil }}
		c.node = bridge.MemberNode(c.id.Node())
		c.start(t, net)
		t.Cleanup(func() { c.stop(t) })
		all = append(all, c)
	}
	for _, c := range all {
		c.meet(net, all)
	}
	return all
}

// newPair is two carriers with a link of 50 ms between them, and they know already how it is doing.
func newPair(t *testing.T, seed uint64, loss float64, rate int64) (*simnet.Net, []*carrier) {
	t.Helper()
	net := simnet.New(t, seed)
	c := newCarriers(t, net, "a", "b")
	net.Link("a", "b").Delay(25 * time.Millisecond).Loss(loss).Rate(rate)
	awaitLink(t, c[0], c[1])
	return net, c
}

// start makes what a node needs to carry.
func (c *carrier) start(t *testing.T, net *simnet.Net) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", c.name)
	conn := net.Node(c.name)
	ep, err := transport.New(transport.Config{Conn: conn, Identity: func() *transport.Identity { return c.id }, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	c.lives = append([]raftnet.Life{raftnet.NewLife()}, c.lives...)
	if c.Net, err = raftnet.New(raftnet.Options{Cluster: clusterID, Node: c.node, Spool: c.spool, Room: func(n int64) error { return c.room(n) }, Log: log,
		Replica: 1, Lives: c.lives, Copied: func(err error) { t.Error(err) }}); err != nil {
		t.Fatal(err)
	}
	if c.pool, err = bridge.Members(ep, c.Net, transport.PoolOptions{}); err != nil {
		t.Fatal(err)
	}
	err = c.Serve(func(pb.MessageBatch) {}, func(chunk pb.Chunk) bool {
		if chunk.ChunkId != uint64(c.chunks) { //nolint:gosec // few
			t.Errorf("chunk %d after %d", chunk.ChunkId, c.chunks)
		}
		c.chunks++
		c.got.Write(chunk.Data)
		return true
	}, func(context.Context, []byte) []byte { return nil })
	if err != nil {
		t.Fatal(err)
	}
	endPool, endNet := run(t, c.name, c.pool.Run), run(t, c.name, ep.Run)
	c.stop = func(t *testing.T) {
		t.Helper()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		endPool(false)
		endNet(false)
		_ = conn.Close()
		c.stop = func(*testing.T) {}
	}
}

// meet tells a node where the others are.
func (c *carrier) meet(net *simnet.Net, all []*carrier) {
	addrs := map[string][]string{}
	for _, o := range all {
		if o != c {
			addrs[o.id.Node()] = []string{net.Addr(o.name)}
		}
	}
	c.pool.Set(addrs)
}

// send sends size random bytes as a snapshot.
func (c *carrier) send(ctx context.Context, to *carrier, size int) (sum []byte, err error) {
	s, err := c.ConnectBulk(ctx, to.node)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data) // never fails
	const chunkSize = 2 << 20
	count := uint64((size + chunkSize - 1) / chunkSize) //nolint:gosec // few
	for i := range count {
		part := data[i*chunkSize : min((i+1)*chunkSize, uint64(size))] //nolint:gosec // positive
		chunk := pb.Chunk{DeploymentId: clusterID, ShardID: 1, ReplicaID: 2, From: 1, ChunkId: i, ChunkCount: count,
			ChunkSize: uint64(len(part)), Data: bytes.Clone(part)}
		if err := s.SendChunk(chunk); err != nil {
			return nil, err
		}
	}
	whole := sha256.Sum256(data)
	return whole[:], nil
}

// sendWhole sends size random bytes as a snapshot, and wants them to arrive. It returns how long that took.
func (c *carrier) sendWhole(t *testing.T, to *carrier, size int) time.Duration {
	t.Helper()
	began := time.Now()
	sum, err := c.send(t.Context(), to, size)
	took := time.Since(began)
	if err != nil {
		t.Fatalf("after %s: %v", took, err)
	}
	if !bytes.Equal(sum, to.got.Sum(nil)) {
		t.Error("what came is not what was sent")
	}
	return took
}

// awaitLink waits until the two know how their link is doing.
func awaitLink(t *testing.T, a, b *carrier) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if c, err := a.Connect(t.Context(), b.node); err == nil {
			// Some traffic, by which the loss is seen.
			for i := range uint64(600) {
				m := pb.Message{Type: pb.ReplicateResp, ShardID: 1, From: 1, To: 2, LogIndex: i} // one that repeats another would be acknowledged by nobody
				if err := c.SendMessageBatch(pb.MessageBatch{DeploymentId: clusterID, SourceAddress: a.node, BinVer: raftio.TransportBinVersion, Requests: []pb.Message{m}}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			return
		}
	}
	t.Fatal("no connection within a minute")
}
