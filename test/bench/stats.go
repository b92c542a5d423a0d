package main

import (
	"cmp"
	"slices"
)

// quantile returns the q-th (0 to 1) of sorted values by nearest rank, the zero value of none.
func quantile[T cmp.Ordered](sorted []T, q float64) T {
	if len(sorted) == 0 {
		var zero T
		return zero
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// figure is a measurement taken several times.
type figure struct {
	median, low, high float64
	n                 int
}

func figureOf(values []float64) figure {
	if len(values) == 0 {
		return figure{}
	}
	s := slices.Sorted(slices.Values(values))
	mid := s[len(s)/2]
	if len(s)%2 == 0 {
		mid = (s[len(s)/2-1] + mid) / 2
	}
	return figure{median: mid, low: s[0], high: s[len(s)-1], n: len(s)}
}

// spread is how far apart the highest and the lowest are, as a part of the median: the noise of the machine.
func (f figure) spread() float64 {
	if f.median == 0 {
		return 0
	}
	return (f.high - f.low) / f.median
}

// ratioOf pairs the rounds, so that what slowed both of a round falls out. Rounds whose denominator is 0 are left out.
func ratioOf(num, den []float64) figure {
	var r []float64
	for i := range min(len(num), len(den)) {
		if den[i] != 0 {
			r = append(r, num[i]/den[i])
		}
	}
	return figureOf(r)
}
