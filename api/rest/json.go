package rest

import (
	"encoding/base64"
	"strconv"
	"unicode/utf8"

	"holdfast/kv"
)

// appendString appends s as a JSON string. Bytes that are not UTF-8 become the replacement character.
func appendString[S string | []byte](b []byte, s S) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		if r == utf8.RuneError && size == 1 {
			b = append(b, s[start:i]...)
			b = append(b, "\ufffd"...)
			i++
			start = i
			continue
		}
		i += size
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// appendKey appends "key" and "key_base64". A key that is not UTF-8 has no "key": JSON could only show another one.
func appendKey(b, key []byte) []byte {
	if utf8.Valid(key) {
		b = append(b, `"key":`...)
		b = appendString(b, key)
		b = append(b, ',')
	}
	b = append(b, `"key_base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, key)
	return append(b, '"')
}

// appendKV appends the members of a key as lists and watches show it, without the braces.
func appendKV(b []byte, item *kv.KeyValue, keysOnly bool) []byte {
	b = appendKey(b, item.Key)
	if !keysOnly {
		b = append(b, `,"value":"`...)
		b = base64.StdEncoding.AppendEncode(b, item.Value)
		b = append(b, '"')
	}
	return appendVersions(b, item)
}

// appendVersions appends where a key stands in history, and its lease if it has one.
func appendVersions(b []byte, item *kv.KeyValue) []byte {
	b = append(b, `,"create_revision":`...)
	b = strconv.AppendInt(b, item.CreateRevision, 10)
	b = append(b, `,"mod_revision":`...)
	b = strconv.AppendInt(b, item.ModRevision, 10)
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, item.Version, 10)
	if item.Lease != 0 {
		b = append(b, `,"lease":"`...)
		b = append(b, formatLeaseID(item.Lease)...)
		b = append(b, '"')
	}
	return b
}
