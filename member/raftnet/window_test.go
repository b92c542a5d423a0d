package raftnet

import (
	"math/rand/v2"
	"testing"
)

func TestWindowTakesNoNumberTwice(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test
	var w window
	taken := make(map[uint64]bool)
	newest := uint64(0)
	for range 200_000 {
		n := max(1, newest+uint64(r.IntN(8)))
		if back := uint64(r.IntN(2 * windowSize)); r.IntN(2) == 0 && back < n {
			n -= back
		}
		v := w.take(n)
		want := overtaken
		switch {
		case n > newest:
			want = fresh
		case newest-n >= windowSize:
			want = ancient
		case taken[n]:
			want = repeated
		}
		if v != want {
			t.Fatalf("seed %d: %d with newest %d is %s, want %s", seed, n, newest, v, want)
		}
		if v == fresh || v == overtaken {
			taken[n] = true
		}
		newest = max(newest, n)
	}
}

func TestWindowSkipsFarAhead(t *testing.T) {
	var w window
	for _, tc := range []struct {
		number uint64
		want   verdict
	}{
		{1, fresh}, {1, repeated}, {1 << 40, fresh}, {1, ancient}, {1<<40 - windowSize, ancient},
		{1<<40 - windowSize + 1, overtaken}, {1<<40 - windowSize + 1, repeated}, {^uint64(0), fresh}, {^uint64(0), repeated},
	} {
		if got := w.take(tc.number); got != tc.want {
			t.Errorf("%d is %s, want %s", tc.number, got, tc.want)
		}
	}
}
