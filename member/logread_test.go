package member

import "testing"

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
