package mvcc

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// Whether the writer has looked for a key before it inserts it, for another one, or for none, a record goes to its place.
func TestOverlayKeepsItsOrderHoweverTheWriterSearched(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	o := newOverlay()
	var want []*record
	key := func() []byte { return fmt.Appendf(nil, "k%02d", rng.IntN(40)) }
	for main := int64(2); main < 3000; main++ {
		for sub := range uint32(1 + rng.IntN(3)) {
			r := &record{sub: sub}
			r.Key, r.ModRevision = key(), main
			if slices.ContainsFunc(want[max(0, len(want)-int(sub)):], func(o *record) bool { return bytes.Equal(o.Key, r.Key) }) {
				continue // a command changes a key once
			}
			switch rng.IntN(3) {
			case 0:
				probe := bytes.Clone(r.Key)
				o.getForWrite(probe, main-1)
				copy(probe, "zzz") // the caller's memory is the caller's
			case 1:
				o.getForWrite(key(), main-1)
			}
			o.insert(r)
			want = append(want, r)
		}
	}
	slices.SortFunc(want, func(a, b *record) int {
		if before(a, b.Key, b.rev()) {
			return -1
		}
		return 1
	})
	if got := slices.Collect(o.all); !slices.Equal(got, want) {
		t.Errorf("%d records, or their order, differ from the %d inserted", len(got), len(want))
	}
	for range 1000 {
		k, main := key(), 1+rng.Int64N(3000)
		if a, b := o.get(k, main), o.getForWrite(k, main); a != b {
			t.Fatalf("%s at %d: %v and %v", k, main, a, b)
		}
	}
}
