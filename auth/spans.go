package auth

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"holdfast/kv"
)

// spans are ranges of keys in order, none of which touches another.
type spans []span

// span is the half-open [begin, end), without an upper bound if it is open.
type span struct {
	begin, end string
	open       bool
}

func newSpan(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{begin: string(key), end: string(key) + "\x00"}
	case bytes.Equal(end, kv.FromKey()):
		return span{begin: string(key), open: true}
	default:
		return span{begin: string(key), end: string(end)}
	}
}

func prefixSpan(prefix string) span {
	key, end := kv.PrefixRange([]byte(prefix))
	if prefix == "" {
		return span{open: true}
	}
	return newSpan(key, end)
}

// join puts spans in order and makes one of those that touch.
func join(all []span) spans {
	slices.SortFunc(all, func(a, b span) int { return strings.Compare(a.begin, b.begin) })
	var joined spans
	for _, s := range all {
		if n := len(joined); n > 0 && (joined[n-1].open || s.begin <= joined[n-1].end) {
			last := &joined[n-1]
			last.open, last.end = last.open || s.open, max(last.end, s.end)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

// cover reports whether every key of the range of key and end, as in kv.Range, lies in one of the spans. Of a range that
// can hold no key the first one has to.
func (all spans) cover(key, end []byte) bool {
	i, found := slices.BinarySearchFunc(all, key, func(s span, k []byte) int { return compare(s.begin, k) })
	if !found {
		i--
	}
	if i < 0 {
		return false
	}
	s := &all[i]
	switch {
	case s.open:
		return true
	case len(end) == 1 && end[0] == 0:
		return false
	case len(end) == 0 || bytes.Compare(end, key) <= 0:
		return compare(s.end, key) > 0
	default:
		return compare(s.end, end) >= 0
	}
}

// compare does not allocate.
func compare(a string, b []byte) int { return cmp.Compare(a, string(b)) }

// validRange reports whether a permission on it could ever hold a key. The rule is etcd's.
func validRange(key, end []byte) bool {
	if len(key) == 0 {
		return false
	}
	return len(end) == 0 || bytes.Equal(end, kv.FromKey()) || bytes.Compare(key, end) < 0
}
