package member

import (
	"math"
	"testing"
)

// A leader reads its log while it writes it, for followers that lag behind what is in memory.
func TestLiveLogIsReadToItsEnd(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	l.save(update(state(1, 7, 0)))
	const last = 600 // several blocks of tan's
	for i := uint64(1); i <= last; i++ {
		l.save(update(state(1, 7, i), entry(i)))
		low := max(i, 10) - 9
		got, _, err := l.ILogDB.IterateEntries(nil, 0, shardID, testReplica, low, i+1, 1<<20)
		if err != nil || uint64(len(got)) != i+1-low {
			t.Fatalf("entries %d to %d: %d, %v", low, i, len(got), err)
		}
	}
	got, _, err := l.ILogDB.IterateEntries(nil, 0, shardID, testReplica, 1, last+1, 64<<20)
	if err != nil || len(got) != last || got[last-1].Index != last {
		t.Fatalf("the whole log: %d entries, %v", len(got), err)
	}
}

// What commits also reads for followers that lag: a little at a time, which the library takes for a full answer.
func TestALongLogIsReadInPieces(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	const last = 2*iterateMax + 10
	l.save(update(state(1, 7, 0)))
	for i := uint64(1); i <= last; i++ {
		l.save(update(state(1, 7, i), entry(i)))
	}
	const limit = 64 << 20
	for next := uint64(1); next <= last; {
		got, size, err := l.IterateEntries(nil, 0, shardID, testReplica, next, last+1, limit)
		if err != nil || len(got) == 0 || len(got) > iterateMax || got[0].Index != next {
			t.Fatalf("from %d on: %d entries, %v", next, len(got), err)
		}
		next = got[len(got)-1].Index + 1
		if full := next <= last; full != (size > limit) {
			t.Errorf("up to %d of %d the size is %d, and %d the limit", next-1, last, size, limit)
		}
	}
	if got, _, err := l.IterateEntries(nil, 0, shardID, testReplica, 1, last+1, math.MaxUint64); err != nil || len(got) != last {
		t.Errorf("without a limit: %d entries, %v; want all %d", len(got), err, last)
	}
}
