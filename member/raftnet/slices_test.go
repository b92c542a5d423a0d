package raftnet

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

func TestSlicesMakeABatchInAnyOrder(t *testing.T) {
	frame := make([]byte, 5*sliceSize+1)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(frame) // never fails
	life := courier.Life{1}
	part := func(i int) []byte { return frame[i*sliceSize : min((i+1)*sliceSize, len(frame))] }
	var in slicesIn
	if whole, err := in.begin(life, 7, len(frame)); whole || err != nil {
		t.Fatal(whole, err)
	}
	for n, i := range []int{5, 0, 3, 3, 1, 5, 4, 2} {
		got, whole, err := in.put(life, 7, i, part(i))
		if last := n == 7; err != nil || whole != last || last != bytes.Equal(got, frame) {
			t.Fatalf("slice %d: %d bytes, whole %v, %v", i, len(got), whole, err)
		}
	}
	if got, whole, err := in.put(life, 7, 2, part(2)); got != nil || !whole || err != nil {
		t.Errorf("one that comes after all: %d bytes, whole %v, %v", len(got), whole, err)
	}
	if whole, err := in.begin(life, 7, len(frame)); !whole || err != nil {
		t.Errorf("another connection for a batch that is whole: %v, %v", whole, err)
	}
	other := courier.Life{2}
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"another size", second(in.begin(life, 7, len(frame)+1)), errFormat},
		{"one before it", second(in.begin(life, 6, len(frame))), errOver},
		{"a slice of another batch", third(in.put(life, 8, 0, part(0))), errOver},
		{"a slice of another life", third(in.put(other, 7, 0, part(0))), errOver},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	if whole, err := in.begin(other, 1, len(frame)); whole || err != nil {
		t.Fatal(whole, err)
	}
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"too short", third(in.put(other, 1, 0, part(0)[1:])), errFormat},
		{"too long", third(in.put(other, 1, 5, part(0))), errFormat},
		{"beyond the last", third(in.put(other, 1, 6, part(5))), errFormat},
		{"of the life before", third(in.put(life, 7, 0, part(0))), errOver},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
}

func second(_ bool, err error) error          { return err }
func third(_ []byte, _ bool, err error) error { return err }

// beside gives two ends a connection for bulk and returns a's side of it.
func beside(t *testing.T, a, b *end) *wire {
	t.Helper()
	wa, wb := wires()
	var wg sync.WaitGroup
	wg.Go(func() { a.ServeBulk(context.Background(), b.node, wa) })
	wg.Go(func() { b.ServeBulk(context.Background(), a.node, wb) })
	t.Cleanup(func() { wa.Close(""); wg.Wait() })
	synctest.Wait()
	return wa
}

// sliceOf is a long batch of a's for b, as slices.
func sliceOf(t *testing.T, a, b *end, number, index uint64) *sliced {
	t.Helper()
	p, err := a.peer(b.node)
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.usable()
	if err != nil {
		t.Fatal(err)
	}
	batch := testBatch(a.node, pb.Message{Type: pb.Replicate, ShardID: 1, From: 1, To: 2, LogIndex: index,
		Entries: []pb.Entry{{Index: index + 1, Cmd: make([]byte, 20*sliceSize)}}})
	data, err := batch.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const rtt = 50 * time.Millisecond
	p.pace.begin(time.Now(), rtt, sliceFirstTrip, 0)
	t.Cleanup(p.pace.end)
	return l.cut(number, append([]byte{byte(number)}, data...), rtt)
}

func TestABatchInSlicesIsHandedOverOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		connect(t, a, b)
		stalled, closing := beside(t, a, b), beside(t, a, b)
		beside(t, a, b)
		stalled.mu.Lock()
		stalled.stall = make(chan struct{}) // holds up what it has taken
		stalled.mu.Unlock()
		time.AfterFunc(20*time.Millisecond, func() { closing.Close("") })
		if some, whole := sliceOf(t, a, b, 1, 10).send(t.Context()); !some || !whole {
			t.Errorf("over a connection that stands still, one that ends and one that works: %v, %v", some, whole)
		}
		if err := a.send(t, b, pb.Message{Type: pb.Replicate, ShardID: 1, From: 1, To: 2, LogIndex: 11, Entries: []pb.Entry{{Index: 12}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		// The stream's first batch has the number that went in slices: it would be the same one, and is dropped.
		if got := b.took(pb.Replicate); !slices.Equal(got, []uint64{10}) {
			t.Errorf("handed over: %v", got)
		}
	})
}

func TestSlicesThatGetNowhereAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		connect(t, a, b)
		began := time.Now()
		some, whole := sliceOf(t, a, b, 1, 10).send(t.Context())
		if took := time.Since(began); some || whole || took > sliceWait+time.Second {
			t.Errorf("without a connection: %v, %v after %s", some, whole, took)
		}
		w := beside(t, a, b)
		w.mu.Lock()
		w.stall = make(chan struct{})
		w.mu.Unlock()
		began = time.Now()
		some, whole = sliceOf(t, a, b, 1, 10).send(t.Context())
		if took := time.Since(began); !some || whole || took > 2*sliceStall {
			t.Errorf("over one that stands still: %v, %v after %s", some, whole, took)
		}
	})
}
