package rest

import (
	"bytes"

	"holdfast/kv"
)

// span is a key, or where allowed a range of keys, as a request names it:
//
//	"key" or "key_base64"   the key; what is not text has to come in base64
//	"prefix": true          every key that begins with it; an empty one is every key
//	"end" or "end_base64"   every key from it on, up to this one and without it; "AA==" is without an end
type span struct {
	key, end       []byte
	keyed, bounded bool
	prefix         bool
}

const (
	spanMembers = "key, key_base64, end, end_base64, prefix"
	keyMembers  = "key, key_base64"
)

// span reads a member if it is one of a span's.
func (d *opDecoder) span(s *span, name string, ranged bool) (mine bool, err error) {
	switch {
	case name == "key" || name == "key_base64":
		if s.keyed {
			return true, d.errorf("give key or key_base64, not both")
		}
		s.keyed = true
		s.key, err = d.bytes(name == "key")
	case !ranged:
		return false, nil
	case name == "end" || name == "end_base64":
		if s.bounded {
			return true, d.errorf("give end or end_base64, not both")
		}
		s.bounded = true
		s.end, err = d.bytes(name == "end")
	case name == "prefix":
		s.prefix, err = d.flag()
	default:
		return false, nil
	}
	return true, err
}

// bytes reads text as it is, or base64.
func (d *opDecoder) bytes(text bool) ([]byte, error) {
	if !text {
		return d.base64()
	}
	s, err := d.text()
	return []byte(s), err
}

// spanned checks a span that has been read, and makes it Key and End of a range.
func (d *opDecoder) spanned(s *span) error {
	switch {
	case !s.keyed:
		return d.errorf("the key is missing: give key, or key_base64")
	case len(s.key) > d.limits.KeyMax || len(s.end) > d.limits.KeyMax:
		return d.refuse(kv.TooLarge, "the key is longer than %d bytes, the limit (limits.key)", d.limits.KeyMax)
	case s.prefix && s.bounded:
		return d.errorf("give prefix or an end, not both")
	case s.prefix:
		s.key, s.end = kv.PrefixRange(s.key)
	case len(s.key) == 0:
		return d.errorf("the key is empty")
	case s.bounded && len(s.end) == 0:
		return d.errorf("the end is empty")
	case s.bounded && !bytes.Equal(s.end, kv.FromKey()) && bytes.Compare(s.end, s.key) <= 0:
		return d.errorf("the end is not behind the key, so no key lies between them")
	}
	return nil
}
