package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
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

// awaitLink waits until the two know how their link is doing.
func awaitLink(t *testing.T, a, b *carrier) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if c, err := a.Connect(t.Context(), b.node); err == nil {
			// Some traffic, by which the loss is seen.
			for range 600 {
				m := pb.Message{Type: pb.ReplicateResp, ShardID: 1, From: 1, To: 2}
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

// TestSnapshotFillsALossyLink holds the target: 20 MB over 20 Mbit/s at 5 % take 1/0.8 of what the link can do at most.
func TestSnapshotFillsALossyLink(t *testing.T) {
	const (
		size = 20 << 20
		rate = 20_000_000
		loss = .05
	)
	for _, from := range []int{0, 1} { // whichever of the two has dialed
		t.Run(fmt.Sprint(from), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := simnet.New(t, 31)
				c := newCarriers(t, net, "a", "b")
				net.Link("a", "b").Delay(25 * time.Millisecond).Loss(loss).Rate(rate)
				sender, receiver := c[from], c[1-from]
				awaitLink(t, sender, receiver)
				began := time.Now()
				sum, err := sender.send(t.Context(), receiver, size)
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				if !bytes.Equal(sum, receiver.got.Sum(nil)) {
					t.Error("what came is not what was sent")
				}
				share := size * 8 / took.Seconds() / (rate * (1 - loss) * .947)
				t.Logf("%.1f s, %.2f of what the link can do", took.Seconds(), share)
				if share < .8 {
					t.Errorf("%.2f of what the link can do, want 0.8", share)
				}
			})
		})
	}
}

// TestSnapshotGoesOnAfterACut cuts the link in the middle, for longer than connections live.
func TestSnapshotGoesOnAfterACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 10 << 20
		net := simnet.New(t, 32)
		c := newCarriers(t, net, "a", "b")
		net.Link("a", "b").Delay(25 * time.Millisecond).Loss(.02).Rate(20_000_000)
		awaitLink(t, c[0], c[1])
		before := net.OneWay("a", "b").Stats().Bytes
		time.AfterFunc(2*time.Second, func() { net.Cut("a", "b") })
		time.AfterFunc(32*time.Second, func() { net.Heal("a", "b") })
		began := time.Now()
		sum, err := c[0].send(t.Context(), c[1], size)
		if err != nil {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		if !bytes.Equal(sum, c[1].got.Sum(nil)) {
			t.Error("what came is not what was sent")
		}
		sent := net.OneWay("a", "b").Stats().Bytes - before
		t.Logf("%s, %d bytes sent for %d", time.Since(began), sent, size)
		if sent > size*3/2 {
			t.Errorf("%d bytes sent for %d: it began anew", sent, size)
		}
	})
}

// TestSnapshotGoesOnAfterItsReceiverRestarted stops the receiver in the middle, and damages what it had: only that is sent
// again.
func TestSnapshotGoesOnAfterItsReceiverRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 10 << 20
		net := simnet.New(t, 34)
		c := newCarriers(t, net, "a", "b")
		net.Link("a", "b").Delay(25 * time.Millisecond).Rate(20_000_000)
		awaitLink(t, c[0], c[1])
		before := net.OneWay("a", "b").Stats().Bytes
		time.AfterFunc(3*time.Second, func() {
			c[1].stop(t)
			files, err := filepath.Glob(filepath.Join(c[1].spool, "in-*"))
			if err != nil || len(files) != 1 {
				t.Errorf("%v, %v, want the file of one snapshot", files, err)
				return
			}
			f, err := os.OpenFile(files[0], os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, 64<<10), 256<<10); err != nil { // as a power cut may leave it
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
			c[1].start(t, net)
			c[1].meet(net, c)
		})
		began := time.Now()
		sum, err := c[0].send(t.Context(), c[1], size)
		if err != nil {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		if !bytes.Equal(sum, c[1].got.Sum(nil)) {
			t.Error("what came is not what was sent")
		}
		sent := net.OneWay("a", "b").Stats().Bytes - before
		t.Logf("%s, %d bytes sent for %d", time.Since(began), sent, size)
		if sent > size*5/4 {
			t.Errorf("%d bytes sent for %d: it began anew", sent, size)
		}
		for _, n := range c {
			if files, err := os.ReadDir(n.spool); err != nil || len(files) > 0 {
				t.Errorf("%s keeps %v, %v", n.name, files, err)
			}
		}
	})
}

// TestSnapshotIsGivenUpWithoutALink cuts the link for good.
func TestSnapshotIsGivenUpWithoutALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := simnet.New(t, 33)
		c := newCarriers(t, net, "a", "b")
		net.Link("a", "b").Delay(25 * time.Millisecond).Rate(5_000_000)
		awaitLink(t, c[0], c[1])
		time.AfterFunc(2*time.Second, func() { net.Cut("a", "b") })
		began := time.Now()
		_, err := c[0].send(t.Context(), c[1], 10<<20)
		if took := time.Since(began); err == nil || took > 12*time.Minute {
			t.Errorf("%v after %s, want an error within twelve minutes", err, took)
		}
		if errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
