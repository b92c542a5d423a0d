package kv

import "bytes"

// FromKey returns the End of a range without an upper bound.
func FromKey() []byte { return []byte{0} }

// PrefixEnd returns the End of the range of all keys that begin with prefix; an empty prefix has no upper bound. With
// an empty prefix Key must be "\x00", the least key there is.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return FromKey()
}

// PrefixRange returns Key and End of the range of all keys that begin with prefix.
func PrefixRange(prefix []byte) (key, end []byte) {
	if len(prefix) == 0 {
		return FromKey(), FromKey()
	}
	return prefix, PrefixEnd(prefix)
}

// Contains reports whether the range of key and end, as in Range, holds k.
func Contains(key, end, k []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, k)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(k, key) >= 0
	default:
		return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
	}
}
