package config

import "strings"

// didYouMean is ", did you mean X?" for the name nearest to what was written, or nothing if none is near.
func didYouMean(name string, known []string) string {
	if best := Nearest(name, known); best != "" {
		return ": did you mean " + best + "?"
	}
	return ""
}

// Nearest returns the known name that is most likely meant, or "". A name that is right but for its section counts as
// near: flush is store.flush.
func Nearest(name string, known []string) string {
	best, bestDistance := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best != "" {
		return best
	}
	for _, k := range known {
		if last := k[strings.LastIndexAny(k, ".")+1:]; last == name {
			return k
		}
	}
	return ""
}

// nameMax bounds the work on names that nobody typed.
const nameMax = 64

// distance is the number of letters to insert, delete or replace to turn a into b.
func distance(a, b string) int {
	if len(a) > nameMax || len(b) > nameMax {
		return nameMax
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
