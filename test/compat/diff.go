package compat

import (
	"slices"
	"strings"
)

// Bounds on what a difference shows.
const (
	diffContext = 2    // equal lines around what differs
	diffLines   = 1000 // of either text; what is behind is left out
	clipAt      = 400  // characters of a line
)

// diff shows two texts line by line: what both have, what only etcd has (-), what only the other has (+). It is empty if
// they are equal.
func diff(etcd, other string) string {
	if etcd == other {
		return ""
	}
	a, b := strings.Split(etcd, "\n"), strings.Split(other, "\n")
	var before, after []string
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		before, a, b = append(before, a[0]), a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		after, a, b = append(after, a[len(a)-1]), a[:len(a)-1], b[:len(b)-1]
	}
	slices.Reverse(after)
	out := slices.Concat(marked("    ", before), changes(cut(a), cut(b)), marked("    ", after))
	return strings.Join(nearChanges(out), "\n") + "\n"
}

// nearChanges leaves out what is far from any change.
func nearChanges(lines []string) (out []string) {
	last := -1 // the last line that is in
	for i, l := range lines {
		from, to := max(0, i-diffContext), min(len(lines), i+diffContext+1)
		near := slices.ContainsFunc(lines[from:to], func(l string) bool { return !strings.HasPrefix(l, "    ") })
		if !near {
			continue
		}
		if i > last+1 {
			out = append(out, "    ...")
		}
		out, last = append(out, l), i
	}
	return out
}

// changes goes along the longest common subsequence.
func changes(a, b []string) (out []string) {
	// common[i][j] is the length of that of a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			out = append(out, marked("    ", a[i:i+1])...)
			i, j = i+1, j+1
		case common[i+1][j] >= common[i][j+1]:
			out = append(out, marked("  - ", a[i:i+1])...)
			i++
		default:
			out = append(out, marked("  + ", b[j:j+1])...)
			j++
		}
	}
	out = append(out, marked("  - ", a[i:])...)
	return append(out, marked("  + ", b[j:])...)
}

func marked(mark string, lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		if len(l) > clipAt {
			l = l[:clipAt] + "..."
		}
		out[i] = mark + l
	}
	return out
}

func cut(lines []string) []string {
	if len(lines) > diffLines {
		return append(slices.Clip(lines[:diffLines]), "...")
	}
	return lines
}
