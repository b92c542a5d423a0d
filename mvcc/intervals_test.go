package mvcc

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"holdfast/kv"
)

func TestIntervalsFindWhatALookAtAllFinds(t *testing.T) {
	type entry struct{ key, end []byte }
	rapid.Check(t, func(t *rapid.T) {
		var ix intervals[int]
		all := map[int]entry{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "remove") == 0 {
				ids := make([]int, 0, len(all))
				for id := range all {
					ids = append(ids, id)
				}
				slices.Sort(ids)
				id := rapid.SampledFrom(ids).Draw(t, "id")
				ix.remove(all[id].key, all[id].end, id)
				delete(all, id)
			} else {
				e := entry{genKey(t), genEnd(t)}
				ix.insert(e.key, e.end, i)
				all[i] = e
			}
			key := genKey(t)
			var got, want []int
			ix.each(key, func(id int) { got = append(got, id) })
			for id, e := range all {
				if kv.Contains(e.key, e.end, key) {
					want = append(want, id)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || ix.count != len(all) {
				t.Fatalf("key %q: got %v, want %v of %v", key, got, want, all)
			}
		}
	})
}

// Ten thousand watches of ranges apart cost a lookup a few steps, not ten thousand.
func BenchmarkIntervalsEach(b *testing.B) {
	var ix intervals[int]
	for i := range 10_000 {
		key := fmt.Appendf(nil, "site/%05d/", i)
		ix.insert(key, kv.PrefixEnd(key), i)
	}
	i, found := 0, 0
	for b.Loop() {
		i++
		ix.each(fmt.Appendf(nil, "site/%05d/temp", i%10_000), func(int) { found++ })
	}
	if found != i {
		b.Fatalf("found %d of %d", found, i)
	}
}
