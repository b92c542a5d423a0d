package contract

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"holdfast/kv"
)

// TestWatchesThatNobodyReadsHoldNobodyUp has what eight watches of a proxy miss exceed by far what QUIC lets a connection
// hold. Writes over the same link go on, and who reads at last has every change, in order.
func TestWatchesThatNobodyReadsHoldNobodyUp(t *testing.T) {
	p := openProxy(t, upstream(t, openMember(t)))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const watches, changes = 8, 400
	var readers []func() (kv.Batch, error, bool)
	for range watches {
		next, stop := iter.Pull2(p.Watch(ctx, kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: []byte{0}, End: []byte{0}}}}))
		defer stop() //nolint:gocritic // they end together
		for begun := false; !begun; {
			b, err, ok := next()
			if !ok || err != nil {
				t.Fatalf("a watch ended: %v", err)
			}
			begun = b.Created
		}
		readers = append(readers, next)
	}
	value := bytes.Repeat([]byte("v"), 4<<10)
	for i := range changes {
		if _, err := p.Do(ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: fmt.Appendf(nil, "k/%d", i), Value: value}}}); err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	for w, next := range readers {
		for seen := 0; seen < changes; {
			b, err, ok := next()
			if !ok || err != nil {
				t.Fatalf("watch %d ended after %d changes: %v", w, seen, err)
			}
			for _, e := range b.Events {
				if want := fmt.Sprintf("k/%d", seen); string(e.KV.Key) != want {
					t.Fatalf("watch %d shows %s in the place of %s", w, e.KV.Key, want)
				}
				seen++
			}
		}
	}
}
