package raftnet

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// paper is one end of a path that loses, repeats and reorders.
type paper struct {
	other *paper
	in    chan []byte
	done  chan struct{}
	once  *sync.Once

	mu   sync.Mutex
	rand *rand.Rand
}

func papers(seed uint64) (a, b *paper) {
	done, once := make(chan struct{}), new(sync.Once)
	end := func(s uint64) *paper {
		return &paper{in: make(chan []byte, 4096), done: done, once: once, rand: rand.New(rand.NewPCG(seed, s))} //nolint:gosec // a test
	}
	a, b = end(1), end(2)
	a.other, b.other = b, a
	return a, b
}

func (p *paper) SendDatagram(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 1 + p.rand.IntN(2) { // twice as often as not
		if p.rand.IntN(10) == 0 {
			continue
		}
		time.AfterFunc(20*time.Millisecond+time.Duration(p.rand.IntN(20))*time.Millisecond, func() {
			select {
			case p.other.in <- b:
			default:
			}
		})
	}
	return nil
}

func (p *paper) Quality() courier.Quality { return courier.Quality{RTT: 60 * time.Millisecond} }
func (p *paper) Close(string)             { p.once.Do(func() { close(p.done) }) }

func (p *paper) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	select {
	case b := <-p.in:
		return b, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestDatagramsKeepWhatStreamsPromise sends over a path that loses a tenth, repeats half and changes the order.
func TestDatagramsKeepWhatStreamsPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		connect(t, a, b)
		pa, pb2 := papers(seed)
		var wg sync.WaitGroup
		wg.Go(func() { a.ServePath(t.Context(), "b", pa) })
		wg.Go(func() { b.ServePath(t.Context(), "a", pb2) })
		t.Cleanup(func() { pa.Close(""); wg.Wait() })
		time.Sleep(time.Second)
		const count = 2000
		for i := range uint64(count) {
			size := 10
			if i%50 == 7 {
				size = 3000 // by stream
			}
			next, forwarded := entries(size), pb.Message{Type: pb.Propose, ShardID: 1, From: 1, To: 2, LogIndex: i}
			next.LogIndex = i
			if err := a.send(t, b, next); err != nil {
				t.Fatal(err)
			}
			if err := a.send(t, b, forwarded); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		appended, forwarded := b.took(pb.Replicate), b.took(pb.Propose)
		if !slices.IsSorted(appended) || len(appended) < count*99/100 || len(slices.Compact(slices.Clone(appended))) != len(appended) {
			t.Errorf("seed %d: %d of %d batches with entries came, sorted %t, want nearly all, once and in order",
				seed, len(appended), count, slices.IsSorted(appended))
		}
		slices.Sort(forwarded)
		if len(forwarded) != count || len(slices.Compact(forwarded)) != count {
			t.Errorf("seed %d: %d of %d proposals came, want each once", seed, len(forwarded), count)
		}
		if s := a.Mail()["b"]; s.First == 0 || s.RetriedCount == 0 {
			t.Errorf("seed %d: nothing went by datagram: %+v", seed, s)
		}
	})
}

func FuzzOpenLetter(f *testing.F) {
	b := pb.MessageBatch{Requests: []pb.Message{aBeat, entries(10)}}
	encoded, err := b.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(appendLetter(nil, kindLog, 7), encoded...))
	f.Add([]byte{1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return // a courier hands over none
		}
		lane, number, batch, err := openLetter(b, testCluster, "a")
		if err == nil && (lane < kindSwift || lane > lanes || number == 0 || batch.DeploymentId != testCluster || batch.SourceAddress != "a") {
			t.Errorf("lane %d, number %d, batch %+v", lane, number, batch)
		}
	})
}

func FuzzPiece(f *testing.F) {
	f.Add(appendPiece(nil, piece{7, true, []byte("end")})[frameHeader:])
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := splitPiece(b)
		if err == nil && (p.number == 0 || len(p.data) == 0 || len(p.data) > pieceSize || !bytes.HasSuffix(b, p.data)) {
			t.Errorf("piece %d of %d bytes", p.number, len(p.data))
		}
		if _, _, numbers, err := parseAck(b); err == nil && len(numbers) > len(b) {
			t.Errorf("%d numbers in %d bytes", len(numbers), len(b))
		}
	})
}
