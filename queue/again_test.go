package queue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// keyed is a put with an Idempotency-Key.
func keyed(retry byte, w kv.Write, key, value string) kv.Command {
	return kv.Command{ID: kv.ID{Key: [16]byte{retry}}, Write: w, Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}}
}

func (b *box) mustReceipt(c kv.Command) string {
	b.t.Helper()
	res, err := b.Do(context.Background(), c)
	if err != nil || res.Queued == nil {
		b.t.Fatalf("got %+v, %v, want a receipt", res, err)
	}
	return res.Queued.ID
}

func TestARequestThatComesAgainWhileItIsQueuedGetsTheSameReceipt(t *testing.T) {
	c := newCluster()
	c.set(false, false)
	o := options(t.TempDir())
	b := start(t, c, o)
	other := b.mustQueue("q/none/a", "another's")
	id := b.mustReceipt(keyed(1, kv.WriteQueue, "q/none/a", "v"))
	second := b.mustReceipt(keyed(2, kv.WriteAuto, "q/none/a", "v")) // the same write, as another request
	if id == other || id == second {
		t.Fatalf("one receipt for two requests: %s, %s, %s", other, id, second)
	}
	again := func(when string) {
		t.Helper()
		for _, w := range []kv.Write{kv.WriteQueue, kv.WriteAuto} {
			if got := b.mustReceipt(keyed(1, w, "q/none/a", "v")); got != id {
				t.Errorf("%s: receipt %s, want %s", when, got, id)
			}
			if got := b.mustReceipt(keyed(2, w, "q/none/a", "v")); got != second {
				t.Errorf("%s: receipt %s, want %s", when, got, second)
			}
		}
		if _, err := b.Do(t.Context(), keyed(1, kv.WriteSync, "q/none/a", "v")); kv.CodeOf(err) != kv.OutcomeUnknown {
			t.Errorf("%s: who wants a quorum's answer got %v, want outcome-unknown", when, err)
		}
		for name, cmd := range map[string]kv.Command{
			"another value":   keyed(1, kv.WriteAuto, "q/none/a", "w"),
			"another key":     keyed(1, kv.WriteQueue, "q/none/b", "v"),
			"not queued":      keyed(1, kv.WriteSync, "x", "v"),
			"a deletion":      {ID: kv.ID{Key: [16]byte{1}}, Write: kv.WriteAuto, Ops: []kv.Op{kv.Delete{Key: []byte("q/none/a")}}},
			"in a txn":        {ID: kv.ID{Key: [16]byte{1}}, Ops: []kv.Op{kv.Txn{Then: []kv.Op{kv.Put{Key: []byte("q/none/a"), Value: []byte("v")}}}}},
			"the second's, w": keyed(2, kv.WriteAuto, "q/none/a", "w"),
		} {
			if _, err := b.Do(t.Context(), cmd); kv.CodeOf(err) != kv.Reused {
				t.Errorf("%s: %s: got %v, want reused", when, name, err)
			}
		}
		if d := b.Status().Depth; d != 3 {
			t.Errorf("%s: %d in line, want 3", when, d)
		}
	}
	again("at once")
	b.crash()
	b = start(t, c, o)
	again("after a kill")
	b.crash()
	b = start(t, c, o)
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, []string{"another's", "v", "v"}) {
		t.Errorf("applied %q", got)
	}
	res, err := b.Do(t.Context(), keyed(1, kv.WriteAuto, "q/none/a", "v")) // the cluster knows
	if err != nil || res.Queued == nil && res.Revision == 0 {
		t.Errorf("once it is committed: %+v, %v", res, err)
	}
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); len(got) != 3 {
		t.Errorf("applied again: %q", got)
	}
	if b.retries != nil {
		t.Errorf("with nothing in line %d keys are remembered", len(b.retries))
	}
}

// However many send the same request at the same time, and whatever each of them waits for, there is one write.
func TestTheSameRequestFromManyIsOneWrite(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	b := start(t, c, o)
	b.commit("q/none/a", "base")
	c.hang()
	var mu sync.Mutex
	receipts := map[string]int{}
	var callers sync.WaitGroup
	for i := range 24 {
		callers.Go(func() {
			res, err := b.Do(t.Context(), keyed(1, []kv.Write{kv.WriteQueue, kv.WriteAuto}[i%2], "q/none/a", "v"))
			if err != nil || res.Queued == nil {
				t.Errorf("got %+v, %v, want a receipt", res, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			receipts[res.Queued.ID]++
		})
	}
	callers.Wait()
	if len(receipts) != 1 {
		t.Errorf("receipts %v, want one for all", receipts)
	}
	if s := b.Status(); s.Depth != 1 || b.inMemory != 0 {
		t.Errorf("%d on disk and %d in memory, want one on disk", s.Depth, b.inMemory)
	}
	c.release()
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, []string{"base", "v"}) {
		t.Errorf("applied %q", got)
	}
}

// Who takes his write back takes it from nobody else: the same request of another is a write still, and none that was
// answered with an error is.
func TestARequestThatIsTakenBackIsStillTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		o := options(t.TempDir())
		o.Wait = time.Minute
		b := start(t, c, o)
		b.commit("q/none/a", "first")
		c.hang()
		b.mustQueue("q/none/a", "sent")
		synctest.Wait() // what comes behind it is not sent, and can be taken back
		ctx, cancel := context.WithCancel(t.Context())
		var patient, hasty sync.WaitGroup
		hasty.Go(func() {
			if _, err := b.Do(ctx, keyed(1, kv.WriteSync, "q/none/a", "v")); kv.CodeOf(err) != kv.UpstreamUnavailable {
				t.Errorf("who has left: %v, want upstream-unavailable", err)
			}
		})
		synctest.Wait()
		patient.Go(func() {
			res, err := b.Do(t.Context(), keyed(1, kv.WriteAuto, "q/none/a", "v"))
			if err != nil || res.Revision == 0 && res.Queued == nil {
				t.Errorf("who has stayed: %+v, %v", res, err)
			}
		})
		synctest.Wait()
		cancel()
		hasty.Wait()
		c.release()
		patient.Wait()
		eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
		if got := c.log(); !slices.Equal(got, []string{"first", "sent", "v"}) {
			t.Errorf("applied %q", got)
		}
	})
}

// The cluster answers a retry key as it did, so that there is no trying again under it: the writer is told at once.
func TestAKeyThatWasContendedIsUsedUp(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Wait = time.Minute
	b := start(t, c, o)
	b.commit("q/a", "base")
	c.hang()
	answered := make(chan error, 1)
	go func() {
		_, err := b.Do(t.Context(), keyed(1, kv.WriteAuto, "q/a", "mine"))
		answered <- err
	}()
	b.handed(2)
	c.others("q/a", "theirs")
	c.release()
	for range 2 { // and the same again
		if err := <-answered; kv.CodeOf(err) != kv.PreconditionFailed {
			t.Errorf("got %v, want precondition-failed", err)
		}
		_, err := b.Do(t.Context(), keyed(1, kv.WriteAuto, "q/a", "mine"))
		answered <- err
	}
	if got := c.log(); !slices.Equal(got, []string{"base"}) || c.keys["q/a"].value != "theirs" {
		t.Errorf("applied %q, the key is %q", got, c.keys["q/a"].value)
	}
	if s := b.Status(); s.Depth != 0 || s.Kept != 0 {
		t.Errorf("left: %+v", s)
	}
}

// A request that was given up has made nothing: it may come again, as a write.
func TestARequestThatWasGivenUpMayComeAgain(t *testing.T) {
	c := newCluster()
	c.set(false, false)
	b := start(t, c, options(t.TempDir()))
	id := b.mustReceipt(keyed(1, kv.WriteQueue, "q/none/a", "v"))
	if done, err := b.Discard(id); !done || err != nil {
		t.Fatal(done, err)
	}
	if again := b.mustReceipt(keyed(1, kv.WriteQueue, "q/none/a", "v")); again == id {
		t.Errorf("the receipt of what was discarded, %s, for a write that is in line", id)
	}
	if d := b.Status().Depth; d != 1 {
		t.Errorf("%d in line, want 1", d)
	}
}

func TestTheBoundOfTheQueueBoundsWhatRetryKeysTake(t *testing.T) {
	const ops = 50_000
	o := options(t.TempDir())
	q, err := Open(newCluster(), o)
	if err != nil {
		t.Fatal(err)
	}
	var recs []record
	for i := range ops {
		key := fmt.Sprintf("q/sensor/%07d", i)
		c := keyed(0, kv.WriteSync, key, "v")
		c.ID.Key = [16]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}
		op := &op{lane: q.lanes[kv.LaneNormal], n: uint64(i + 1), key: key, at: 1, guard: GuardSeen}
		recs = append(recs, op.record(encodedCommand(c)))
	}
	if err := q.log.append(recs, nil); err != nil {
		t.Fatal(err)
	}
	if err := q.log.close(); err != nil {
		t.Fatal(err)
	}
	before := heap()
	if q, err = Open(newCluster(), o); err != nil {
		t.Fatal(err)
	}
	took := heap() - before
	if s := q.Status(); s.Depth != ops || len(q.retries) != ops || took > s.Bytes || took > s.Memory*12/10 || s.Memory > took*12/10 {
		t.Errorf("%d ops with %d keys take %d B of memory; %d B are reported and %d B counted", s.Depth, len(q.retries), took, s.Memory, s.Bytes)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}
