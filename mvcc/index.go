package mvcc

import (
	"bytes"
	"encoding/binary"
	"math"
)

// MaxKeyBytes is the longest key that Apply takes: escaping may double it, and bbolt stops at 32,768 bytes. It is part
// of the replicated history, like every check in Apply.
const MaxKeyBytes = 15 << 10

// The escaping keeps the order of keys and lets none be a prefix of another: a zero byte becomes 00 FF, and 00 01 ends
// the key.
const (
	escape     = 0x00
	escapeZero = 0xff
	escapeEnd  = 0x01
)

func appendEscaped(b, key []byte) []byte {
	for {
		i := bytes.IndexByte(key, escape)
		if i < 0 {
			b = append(b, key...)
			return append(b, escape, escapeEnd)
		}
		b = append(b, key[:i]...)
		b = append(b, escape, escapeZero)
		key = key[i+1:]
	}
}

// parseEscaped returns the key at the start of b and what follows it. The key is a part of b if it has no zero byte,
// else it is in buf.
func parseEscaped(buf, b []byte) (key, rest []byte, ok bool) {
	i := bytes.IndexByte(b, escape)
	if i < 0 || i+1 >= len(b) {
		return nil, nil, false
	}
	if b[i+1] == escapeEnd {
		return b[:i:i], b[i+2:], true
	}
	buf = buf[:0]
	for {
		buf = append(buf, b[:i]...)
		switch b[i+1] {
		case escapeEnd:
			return buf, b[i+2:], true
		case escapeZero:
			buf = append(buf, 0)
		default:
			return nil, nil, false
		}
		b = b[i+2:]
		if i = bytes.IndexByte(b, escape); i < 0 || i+1 >= len(b) {
			return nil, nil, false
		}
	}
}

// appendIndexKey appends the key of bucket key: the escaped key, then the revision with its bits inverted, so that the
// newest version comes first.
func appendIndexKey(b, key []byte, r revision) []byte {
	b = appendEscaped(b, key)
	b = binary.BigEndian.AppendUint64(b, ^uint64(r.main))
	return binary.BigEndian.AppendUint32(b, ^r.sub)
}

// appendIndexEntry appends the value of bucket key:
//
//	crc32c(4) over the index key and the rest | flags(1) | if not deleted: revisions since create, version, lease
func appendIndexEntry(b, indexKey []byte, r *record) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = append(b, flags(r.deleted))
	if !r.deleted {
		b = appendNumbers(b, r.ModRevision, r.CreateRevision, r.Version, r.Lease)
	}
	binary.BigEndian.PutUint32(b[start:], checksum(indexKey, b[start+crcLen:]))
	return b
}

// parseIndexEntry verifies and decodes an entry of bucket key into v. The key of v is a part of indexKey or of buf,
// which is returned, grown if need be.
func parseIndexEntry(v *version, buf, indexKey, entry []byte) ([]byte, error) {
	key, rest, ok := parseEscaped(buf, indexKey)
	if !ok || len(rest) != revKeyLen || len(key) == 0 {
		return buf, corruptf("an entry of the key index is malformed")
	}
	if cap(key) > cap(buf) && bytes.IndexByte(key, escape) >= 0 {
		buf = key
	}
	rev := revision{int64(^binary.BigEndian.Uint64(rest)), ^binary.BigEndian.Uint32(rest[8:])}
	if len(entry) < minRecordLen || binary.BigEndian.Uint32(entry) != checksum(indexKey, entry[crcLen:]) {
		return buf, corruptf("the index entry of key %q at revision %v fails its checksum", key, rev)
	}
	flag, entry := entry[crcLen], entry[minRecordLen:]
	*v = version{key: key, rev: rev, deleted: flag == flagDeleted}
	if v.deleted {
		if len(entry) > 0 {
			return buf, corruptf("the index entry of key %q at revision %v is malformed", key, rev)
		}
		return buf, nil
	}
	var err error
	v.create, v.number, v.lease, entry, err = parseNumbers(rev.main, entry)
	if err != nil || len(entry) > 0 || flag != 0 || rev.main <= 0 || rev.main == math.MaxInt64 {
		return buf, corruptf("the index entry of key %q at revision %v is malformed", key, rev)
	}
	return buf, nil
}

// parseIndexRevision returns the revision at the end of an index key.
func parseIndexRevision(indexKey []byte) (revision, error) {
	n := len(indexKey) - revKeyLen
	if n < 0 {
		return revision{}, corruptf("an entry of the key index is malformed")
	}
	r := indexKey[n:]
	return revision{int64(^binary.BigEndian.Uint64(r)), ^binary.BigEndian.Uint32(r[8:])}, nil
}
