package mvcc

import (
	"encoding/binary"
	"math"
)

// MaxKeyBytes is the longest key that Apply takes, that of bbolt. It is part of the replicated history, like every
// check in Apply.
const MaxKeyBytes = 32 << 10

// appendIndexEntry appends the value of bucket key, whose key is the key itself: the newest version of it.
//
//	crc32c(4) over the key and the rest | flags(1) | revision: main, sub (uvarints) |
//	if not deleted: revisions since create, version, lease (uvarints)
func appendIndexEntry(b []byte, r *record) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = append(b, flags(r.deleted))
	b = binary.AppendUvarint(b, uint64(r.ModRevision))
	b = binary.AppendUvarint(b, uint64(r.sub))
	if !r.deleted {
		b = appendNumbers(b, r.ModRevision, r.CreateRevision, r.Version, r.Lease)
	}
	binary.BigEndian.PutUint32(b[start:], checksum(r.Key, b[start+crcLen:]))
	return b
}

// parseIndexEntry verifies and decodes an entry of bucket key into v, which shares the bytes of key.
func parseIndexEntry(v *version, key, entry []byte) error {
	if len(entry) < minRecordLen || binary.BigEndian.Uint32(entry) != checksum(key, entry[crcLen:]) {
		return corruptf("the index entry of key %q fails its checksum", key)
	}
	flag, entry := entry[crcLen], entry[minRecordLen:]
	main, w := binary.Uvarint(entry)
	sub, w2 := binary.Uvarint(entry[max(w, 0):])
	if flag > flagDeleted || w <= 0 || w2 <= 0 || main == 0 || main > math.MaxInt64 || sub > math.MaxUint32 {
		return corruptf("the index entry of key %q is malformed", key)
	}
	*v = version{key: key, rev: revision{int64(main), uint32(sub)}, deleted: flag == flagDeleted}
	entry = entry[w+w2:]
	var err error
	if !v.deleted {
		v.create, v.number, v.lease, entry, err = parseNumbers(v.rev.main, entry)
	}
	if err != nil || len(entry) > 0 {
		return corruptf("the index entry of key %q at revision %v is malformed", key, v.rev)
	}
	return nil
}
