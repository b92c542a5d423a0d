package queue

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"holdfast/kv"
)

// box is a queue in a folder, with its sender running. crash ends it as a power cut does.
type box struct {
	*Queue
	t    *testing.T
	stop context.CancelFunc
	done chan error
}

func options(dir string) Options {
	return Options{Dir: dir, Origin: [16]byte{1}, Rules: []Rule{{Prefix: []byte("q/")}, {Prefix: []byte("q/none/"), Guard: GuardNone, Lane: kv.LaneNormal}},
		Wait: 50 * time.Millisecond, Retry: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
}

func start(t *testing.T, next Next, o Options) *box {
	t.Helper()
	q, err := Open(next, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &box{Queue: q, t: t, stop: stop, done: make(chan error, 1)}
	go func() { b.done <- q.Run(ctx) }()
	t.Cleanup(func() { b.crash() })
	return b
}

// crash stops the sender and forgets everything that is not on disk.
func (b *box) crash() {
	if b.stop == nil {
		return
	}
	b.stop()
	if err := <-b.done; err != nil && b.log.fault() == nil {
		b.t.Error(err)
	}
	b.stop = nil
	if err := b.log.close(); err != nil {
		b.t.Error(err)
	}
}

func (b *box) put(key, value string, w kv.Write) (kv.Result, error) {
	return b.Do(context.Background(), kv.Command{Write: w, Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}})
}

// commit writes a key and waits until the cluster has it, though a busy machine takes longer than Options.Wait.
func (b *box) commit(key, value string) {
	b.t.Helper()
	res, err := b.put(key, value, kv.WriteAuto)
	if err != nil {
		b.t.Fatal(err)
	}
	if res.Queued == nil {
		return
	}
	eventually(b.t, "committed", func() bool {
		item, found, err := b.Get(res.Queued.ID)
		return err == nil && found && item.State == Committed
	})
}

func (b *box) mustQueue(key, value string) string {
	b.t.Helper()
	res, err := b.put(key, value, kv.WriteQueue)
	if err != nil || res.Queued == nil {
		b.t.Fatalf("put %s: got %+v, %v, want a receipt", key, res, err)
	}
	return res.Queued.ID
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// handed waits until so many numbers of the normal lane are on their way.
func (b *box) handed(n uint64) {
	b.t.Helper()
	eventually(b.t, "sent", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.lanes[kv.LaneHigh].handed >= n
	})
}
