package queue

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

func TestTheIndexFindsTheLastOpOfEachKey(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	x, want := newIndex(), map[string]*op{}
	for step := range 200_000 {
		key := strconv.Itoa(r.IntN(3000))
		switch more := step/20_000%2 == 0; { // it grows for a while, then it shrinks
		case r.IntN(4) > 0 == more:
			o := &op{key: key, hash: x.hash(key)}
			x.put(o)
			want[key] = o
		default:
			x.remove(key)
			delete(want, key)
		}
		if probe := strconv.Itoa(r.IntN(3000)); x.last(probe) != want[probe] {
			t.Fatalf("seed %d, step %d, key %s: got %p, want %p", seed, step, probe, x.last(probe), want[probe])
		}
		if x.used != len(want) {
			t.Fatalf("seed %d, step %d: %d keys, want %d", seed, step, x.used, len(want))
		}
	}
	for key := range want {
		x.remove(key)
	}
	if x.used != 0 || len(x.slots) != indexMin {
		t.Errorf("empty, it has %d keys and %d slots", x.used, len(x.slots))
	}
}
