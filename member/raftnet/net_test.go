package raftnet

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is one end of a connection between two Nets without a network: streams are pipes.
type wire struct {
	other *wire
	done  chan struct{}
	once  *sync.Once
	uni   chan *pipe
	both  chan duplex

	samples atomic.Uint64

	mu      sync.Mutex
	lost    bool
	changed chan struct{}
	reason  string
	stall   chan struct{} // writes wait until it is closed; nil: none
}

func wires() (a, b *wire) {
	done, once := make(chan struct{}), new(sync.Once)
	end := func() *wire {
		return &wire{done: done, once: once, uni: make(chan *pipe, 8), both: make(chan duplex, 64), changed: make(chan struct{})}
	}
	a, b = end(), end()
	a.other, b.other = b, a
	return a, b
}

func (w *wire) Done() <-chan struct{} { return w.done }

func (w *wire) LossState() (bool, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost, w.changed
}

func (w *wire) Sample() (time.Duration, uint64) { return time.Millisecond, w.samples.Add(1) }

func (w *wire) setLost(lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = lost
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *wire) Close(reason string) {
	w.once.Do(func() {
		w.mu.Lock()
		w.reason = reason
		w.mu.Unlock()
		close(w.done)
	})
}

func (w *wire) open(to chan *pipe) (*pipe, error) {
	select {
	case <-w.done:
		return nil, net.ErrClosed
	default:
	}
	here, there := net.Pipe()
	p := newPipe(here, w)
	to <- newPipe(there, w.other)
	return p, nil
}

func (w *wire) accept(ctx context.Context, from chan *pipe) (*pipe, error) {
	select {
	case p := <-from:
		return p, nil
	case <-w.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *wire) OpenUni(context.Context) (Outgoing, error) { return w.open(w.other.uni) }
func (w *wire) AcceptUni(ctx context.Context) (Incoming, error) {
	return w.accept(ctx, w.uni)
}

func (w *wire) Open(context.Context) (Stream, error) {
	select {
	case <-w.done:
		return nil, net.ErrClosed
	default:
	}
	in, theirs := net.Pipe()
	out, their := net.Pipe()
	w.other.both <- duplex{newPipe(their, w.other), newPipe(theirs, w.other)}
	return duplex{newPipe(in, w), newPipe(out, w)}, nil
}

func (w *wire) Accept(ctx context.Context) (Stream, error) {
	select {
	case d := <-w.both:
		return d, nil
	case <-w.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// duplex is one end of a stream of two directions, each of which ends by itself.
type duplex struct{ in, out *pipe }

func (d duplex) Read(b []byte) (int, error)         { return d.in.Read(b) }
func (d duplex) Write(b []byte) (int, error)        { return d.out.Write(b) }
func (d duplex) Close() error                       { return d.out.Close() }
func (d duplex) CancelRead(uint64)                  { _ = d.in.Close() }
func (d duplex) CancelWrite(uint64)                 { _ = d.out.Close() }
func (d duplex) SetReadDeadline(t time.Time) error  { return d.in.SetReadDeadline(t) }
func (d duplex) SetWriteDeadline(t time.Time) error { return d.out.SetWriteDeadline(t) }
func (d duplex) SetUrgency(int)                     {}

// pipe is one end of a stream.
type pipe struct {
	net.Conn
	w     *wire
	ended chan struct{} // closed once this end has given it up
	once  sync.Once
}

func newPipe(c net.Conn, w *wire) *pipe { return &pipe{Conn: c, w: w, ended: make(chan struct{})} }

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.ended) })
	return p.Conn.Close()
}

// until ends the pipe with its connection.
func (p *pipe) until() func() bool {
	ctx, cancel := context.WithCancel(context.Background())
	stop := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-p.w.done:
			_ = p.Conn.Close()
		case <-stop:
		}
	}()
	return func() bool { close(stop); <-ctx.Done(); return true }
}

func (p *pipe) Read(b []byte) (int, error) {
	defer p.until()()
	return p.Conn.Read(b)
}

func (p *pipe) Write(b []byte) (int, error) {
	p.w.mu.Lock()
	stall := p.w.stall
	p.w.mu.Unlock()
	if stall != nil {
		select {
		case <-stall:
		case <-p.w.done:
			return 0, net.ErrClosed
		case <-p.ended:
			return 0, net.ErrClosed
		}
	}
	defer p.until()()
	return p.Conn.Write(b)
}

func (p *pipe) CancelRead(uint64)  { _ = p.Close() }
func (p *pipe) CancelWrite(uint64) { _ = p.Close() }
func (p *pipe) SetUrgency(int)     {}

// end is a Net and what it was handed.
type end struct {
	*Net
	node   string
	chunks func(pb.Chunk) bool
	answer func(context.Context, []byte) []byte

	mu  sync.Mutex
	got []pb.Message
}

func newEnd(t *testing.T, node string, cluster uint64) *end {
	t.Helper()
	return newEndWith(t, Options{Cluster: cluster, Node: node})
}

func newEndWith(t *testing.T, opts Options) *end {
	t.Helper()
	opts.Spool = t.TempDir()
	n, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	e := &end{Net: n, node: opts.Node, chunks: func(pb.Chunk) bool { return true }}
	err = n.Serve(func(b pb.MessageBatch) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.got = append(e.got, b.Requests...)
	}, func(c pb.Chunk) bool { return e.chunks(c) }, func(ctx context.Context, b []byte) []byte { return e.answer(ctx, b) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// took returns what was handed over of a type, by log index.
func (e *end) took(mt pb.MessageType) (indexes []uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.got {
		if m.Type == mt {
			indexes = append(indexes, m.LogIndex)
		}
	}
	return indexes
}

// connect joins two ends and returns each one's side of the connection.
func connect(t *testing.T, a, b *end) (*wire, *wire) {
	t.Helper()
	wa, wb := wires()
	var wg sync.WaitGroup
	wg.Go(func() { a.ServeConn(context.Background(), b.node, wa) })
	wg.Go(func() { b.ServeConn(context.Background(), a.node, wb) })
	t.Cleanup(func() { wa.Close(""); wg.Wait() })
	synctest.Wait()
	return wa, wb
}

func (e *end) send(t *testing.T, to *end, messages ...pb.Message) error {
	t.Helper()
	c, err := e.Connect(t.Context(), to.node)
	if err != nil {
		return err
	}
	return c.SendMessageBatch(testBatch(e.node, messages...))
}

func TestBatchesArriveOnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		connect(t, a, b)
		for i := range uint64(500) {
			if i == 250 {
				connect(t, a, b) // from now on the newer connection counts
			}
			append1, beat := entries(10), message(pb.Heartbeat)
			append1.LogIndex, beat.LogIndex = i, i
			if err := a.send(t, b, append1, beat); err != nil {
				t.Fatal(err)
			}
			if i == 249 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		for _, mt := range []pb.MessageType{pb.Replicate, pb.Heartbeat} {
			got := b.took(mt)
			if len(got) != 500 || !slices.IsSorted(got) {
				t.Errorf("%d of %s, sorted %t, want 500 in order", len(got), mt, slices.IsSorted(got))
			}
		}
	})
}

// TestWithoutALinkRaftIsTold: it is told which peer is unreachable, and the library never hears of an error, after which it would drop
// what follows.
func TestWithoutALinkRaftIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		if err := a.send(t, b, message(pb.Heartbeat)); err != nil {
			t.Errorf("without a connection: %v", err)
		}
		wa, _ := connect(t, a, b)
		if err := a.send(t, b, message(pb.Heartbeat)); err != nil {
			t.Fatal(err)
		}
		c, err := a.Connect(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		told := func(why string) {
			t.Helper()
			synctest.Wait()
			a.mu.Lock()
			defer a.mu.Unlock()
			if n := len(a.got); n == 0 || a.got[n-1].Type != pb.Unreachable || a.got[n-1].From != 2 || a.got[n-1].To != 1 {
				t.Errorf("%s: raft was told %+v, want that replica 2 is unreachable", why, a.got)
			}
			a.got = nil
		}
		wa.setLost(true)
		told("the link is lost")
		if a.Reaches("b") || !b.Reaches("a") {
			t.Error("a reaches b over a lost link, or b does not reach a")
		}
		time.Sleep(unreachableEvery)
		for range 2 {
			if err := c.SendMessageBatch(testBatch("a", message(pb.Heartbeat))); err != nil {
				t.Errorf("over a lost link: %v", err)
			}
		}
		if n := len(a.took(pb.Unreachable)); n != 1 {
			t.Errorf("raft was told %d times at once, want 1", n)
		}
		told("sending over a lost link")
		if _, err := a.ConnectBulk(t.Context(), "b"); err == nil {
			t.Error("a snapshot over a lost link")
		}
		wa.setLost(false)
		if err := c.SendMessageBatch(testBatch("a", message(pb.Heartbeat))); err != nil {
			t.Errorf("the link is back: %v", err)
		}
		synctest.Wait()
		wa.Close("")
		told("the connection has ended")
		time.Sleep(unreachableEvery)
		if err := c.SendMessageBatch(testBatch("a", message(pb.Heartbeat))); err != nil {
			t.Errorf("over a connection that has ended: %v", err)
		}
		told("sending over a connection that has ended")
		synctest.Wait()
		if n := len(b.took(pb.Heartbeat)); n != 2 {
			t.Errorf("%d heartbeats came, want the 2 for which there was a link", n)
		}
	})
}

// TestACommandWaitsForALink hands commands on to a leader while there is no link to it: each arrives once, when there is one, and none that
// is as old that whoever sent it has been told that nobody knows.
func TestACommandWaitsForALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		command := func(index uint64, size int) {
			t.Helper()
			m := pb.Message{Type: pb.Propose, ShardID: 1, From: 1, To: 2, LogIndex: index, Entries: []pb.Entry{{Cmd: make([]byte, size)}}}
			if err := a.send(t, b, m, message(pb.Heartbeat)); err != nil {
				t.Errorf("command %d: %v", index, err)
			}
		}
		came := func(when string, want ...uint64) {
			t.Helper()
			synctest.Wait()
			got := b.took(pb.Propose)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: commands %v came, want %v", when, got, want)
			}
		}
		command(1, 10)
		time.Sleep(asideLife)
		command(2, 10)
		command(3, 2000)
		wa, _ := connect(t, a, b)
		came("connected", 2, 3)
		wa.setLost(true)
		synctest.Wait()
		command(4, 10)
		came("the link is lost", 2, 3)
		wa.setLost(false)
		came("it is back", 2, 3, 4)

		wa.mu.Lock()
		wa.stall = make(chan struct{})
		wa.mu.Unlock()
		command(5, joinBytes)
		synctest.Wait() // it is with the stream, which takes none of it
		command(6, 10)
		command(7, joinBytes)
		wa.Close("")
		synctest.Wait()
		command(8, maxAsideBytes) // others wait, and there is no room for it
		command(9, 10)
		connect(t, a, b)
		came("another connection", 2, 3, 4, 5, 6, 7, 9)
		command(10, 10)
		came("as usual", 2, 3, 4, 5, 6, 7, 9, 10)
	})
}

func TestFullQueueOfEntriesHoldsUpNoHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		wa, _ := connect(t, a, b)
		stall := make(chan struct{})
		wa.mu.Lock()
		wa.stall = stall
		wa.mu.Unlock()
		sent := 0
		for ; len(a.took(pb.Unreachable)) == 0; sent++ {
			batch := entries(1 << 20)
			batch.LogIndex = uint64(sent) //nolint:gosec // few
			if err := a.send(t, b, batch); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if sent > 2*maxLogBytes>>20 {
				t.Fatalf("%d MiB were queued without a word", sent)
			}
		}
		if err := a.send(t, b, message(pb.Heartbeat)); err != nil {
			t.Errorf("a heartbeat beside a full queue of entries: %v", err)
		}
		close(stall)
		synctest.Wait()
		if n := len(b.took(pb.Heartbeat)); n != 1 {
			t.Errorf("%d heartbeats arrived, want 1", n)
		}
		if n := len(b.took(pb.Replicate)); n != sent-1 || n < maxLogBytes>>20-1 {
			t.Errorf("%d of %d batches with entries arrived, want all but the last", n, sent)
		}
	})
}

func TestFullQueueOfTheSwiftLaneIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		wa, _ := connect(t, a, b)
		wa.mu.Lock()
		wa.stall = make(chan struct{})
		wa.mu.Unlock()
		for i := 0; len(a.took(pb.Unreachable)) == 0; i++ {
			if err := a.send(t, b, message(pb.Heartbeat)); err != nil {
				t.Fatal(err)
			}
			if i > 3*maxQueueBatches {
				t.Fatalf("%d heartbeats were queued without a word", i)
			}
		}
	})
}

func TestAnotherClusterIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster+1)
		wa, _ := connect(t, a, b)
		c, err := a.Connect(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		batch := testBatch("a", message(pb.Heartbeat))
		batch.DeploymentId = testCluster + 1 // what the stream says of itself is enough
		if err := c.SendMessageBatch(batch); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-wa.Done():
		default:
			t.Fatal("the connection stands")
		}
		if len(b.took(pb.Heartbeat)) > 0 {
			t.Error("the heartbeat was taken")
		}
	})
}

func chunk(id, count uint64, size int) pb.Chunk {
	return pb.Chunk{DeploymentId: testCluster, ShardID: 1, ReplicaID: 2, From: 1, ChunkId: id, ChunkCount: count,
		ChunkSize: uint64(size), Data: bytes.Repeat([]byte{byte(id)}, size)} //nolint:gosec // few
}

func TestSnapshotIsConfirmedWhenItIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		var ids []uint64
		release := make(chan struct{})
		b.chunks = func(c pb.Chunk) bool {
			if c.IsLastChunk() {
				<-release
			}
			ids = append(ids, c.ChunkId)
			return len(c.Data) == 2<<20
		}
		connect(t, a, b)
		s, err := a.ConnectBulk(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range uint64(3) {
			if err := s.SendChunk(chunk(i, 4, 2<<20)); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		go func() { done <- s.SendChunk(chunk(3, 4, 2<<20)) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("the last chunk was confirmed before the receiver had taken it: %v", err)
		default:
		}
		close(release)
		if err := <-done; err != nil || !slices.Equal(ids, []uint64{0, 1, 2, 3}) {
			t.Errorf("%v, chunks %v", err, ids)
		}
	})
}

func TestSnapshotThatIsNotTakenFails(t *testing.T) {
	for name, refuse := range map[string]uint64{"in the middle": 1, "at the end": 3} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
				b.chunks = func(c pb.Chunk) bool { return c.ChunkId != refuse }
				wa, _ := connect(t, a, b)
				s, err := a.ConnectBulk(t.Context(), "b")
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				for i := range uint64(4) {
					if err = s.SendChunk(chunk(i, 4, 1000)); err != nil {
						break
					}
				}
				if err == nil {
					t.Error("no error")
				}
				select {
				case <-wa.Done():
					t.Error("the connection ended with the snapshot")
				default:
				}
			})
		})
	}
}

func TestStalledSnapshotIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		stuck := make(chan struct{})
		b.chunks = func(pb.Chunk) bool { <-stuck; return false }
		connect(t, a, b)
		s, err := a.ConnectBulk(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		defer close(stuck)
		began := time.Now()
		err = s.SendChunk(chunk(0, 1, 1000))
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took < transferStall || took > transferStall+time.Minute {
			t.Errorf("%v after %s, want a deadline after %s", err, took, transferStall)
		}
	})
}

// TestSnapshotGoesOnOverTheNextConnection: without a connection for bulk it makes do with that of all the rest, and then with the one that
// takes its place.
func TestSnapshotGoesOnOverTheNextConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		b.chunks = func(pb.Chunk) bool { return true }
		first, _ := connect(t, a, b)
		first.mu.Lock()
		first.stall = make(chan struct{})
		first.mu.Unlock()
		s, err := a.ConnectBulk(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- s.SendChunk(chunk(0, 1, 1000)) }()
		time.Sleep(stripeWait + time.Second)
		first.Close("")
		synctest.Wait()
		connect(t, a, b)
		if err := <-done; err != nil || time.Since(began) > 4*stripeWait {
			t.Errorf("%v after %s, want it within %s", err, time.Since(began), 4*stripeWait)
		}
	})
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		wa, _ := connect(t, a, b)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-wa.Done():
		default:
			t.Error("the connection stands")
		}
		if _, err := a.Connect(t.Context(), "b"); !errors.Is(err, errClosed) {
			t.Errorf("connect: %v, want %v", err, errClosed)
		}
		w, _ := wires()
		a.ServeConn(t.Context(), "b", w)
		select {
		case <-w.Done():
		default:
			t.Error("a connection was taken after the end")
		}
	})
}
