package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"holdfast/kv"
)

// revision is the place of one change in the history: the revision of its command, and its number among the changes of
// that command, from 0.
type revision struct {
	main int64
	sub  uint32
}

// last is the end of a command's changes: no change of main comes after it.
func last(main int64) revision { return revision{main, math.MaxUint32} }

func (r revision) after(o revision) bool {
	return r.main > o.main || r.main == o.main && r.sub > o.sub
}

func (r revision) compare(o revision) int {
	return cmp.Or(cmp.Compare(r.main, o.main), cmp.Compare(r.sub, o.sub))
}

func (r revision) String() string { return fmt.Sprintf("%d.%d", r.main, r.sub) }

// record is one change of one key. It is immutable once it is in an overlay.
type record struct {
	kv.KeyValue // of a delete only Key and ModRevision
	sub         uint32
	deleted     bool
	prev        revision // of the version that this one replaced, a deletion included; zero if there was none
	writer      *kv.Seq  // the queued command that made the change, nil for any other
}

func (r *record) rev() revision { return revision{r.ModRevision, r.sub} }

// recordOverhead is what a record costs beside its key and value: itself, its node and its places in the tail.
const recordOverhead = 240

// clone is a copy that shares nothing with r.
func (r *record) clone() *record {
	c := *r
	b := make([]byte, len(r.Key)+len(r.Value))
	n := copy(b, r.Key)
	copy(b[n:], r.Value)
	c.Key, c.Value = b[:n:n], b[n:]
	return &c
}

// size is the memory a record costs, in bytes.
func (r *record) size() int64 { return int64(recordOverhead + len(r.Key) + len(r.Value)) }

// version is a record as the key index knows it: all but the value.
type version struct {
	key     []byte // valid until the source it came from moves, unless rec is set
	rev     revision
	create  int64
	number  int64 // the Version of a KeyValue
	lease   int64
	deleted bool
	rec     *record // nil if the record is in the file
}

func (v *version) set(r *record) {
	*v = version{key: r.Key, rec: r}
	v.describe(r)
}

// describe takes over what a record of the same key says, all but the record itself.
func (v *version) describe(r *record) {
	v.rev, v.create, v.number, v.lease, v.deleted = r.rev(), r.CreateRevision, r.Version, r.Lease, r.deleted
}

// The checksum of everything stored.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	crcLen       = 4
	revKeyLen    = 12
	flagDeleted  = 1
	flagWriter   = 2
	minRecordLen = crcLen + 1
)

// appendRevKey appends the key of bucket rev: main and sub, big endian.
func appendRevKey(b []byte, r revision) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.main))
	return binary.BigEndian.AppendUint32(b, r.sub)
}

func parseRevKey(b []byte) (revision, error) {
	if len(b) != revKeyLen {
		return revision{}, corruptf("a revision key has %d bytes, want %d", len(b), revKeyLen)
	}
	main := int64(binary.BigEndian.Uint64(b))
	if main < 0 {
		return revision{}, corruptf("a revision key has the revision %d", main)
	}
	return revision{main, binary.BigEndian.Uint32(b[8:])}, nil
}

// appendRecord appends the value of bucket rev:
//
//	crc32c(4) over the revision key and the rest | flags(1) | key length, key |
//	revisions since the version it replaced (uvarint), 0 for none, else the sub of that (uvarint) |
//	if a queued command made it: origin(16), lane(1), queue epoch, sequence (uvarints) |
//	if not deleted: revisions since create, version, lease (uvarints) | value
func appendRecord(b []byte, r *record) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	flag := flags(r.deleted)
	if r.writer != nil {
		flag |= flagWriter
	}
	b = append(b, flag)
	b = binary.AppendUvarint(b, uint64(len(r.Key)))
	b = append(b, r.Key...)
	b = appendPrev(b, r)
	if w := r.writer; w != nil {
		b = append(append(b, w.Origin[:]...), byte(w.Lane))
		b = binary.AppendUvarint(b, w.Epoch)
		b = binary.AppendUvarint(b, w.N)
	}
	if !r.deleted {
		b = appendNumbers(b, r.ModRevision, r.CreateRevision, r.Version, r.Lease)
		b = append(b, r.Value...)
	}
	var key [revKeyLen]byte
	sum := checksum(appendRevKey(key[:0], r.rev()), b[start+crcLen:])
	binary.BigEndian.PutUint32(b[start:], sum)
	return b
}

// parseRecord verifies and decodes a value of bucket rev. What it returns is a copy.
func parseRecord(key, b []byte) (*record, error) {
	if err := verifyRecord(key, b); err != nil {
		return nil, err
	}
	return decodeRecord(key, bytes.Clone(b))
}

// viewRecord is parseRecord without the copy: its bytes are those of b.
func viewRecord(key, b []byte) (*record, error) {
	if err := verifyRecord(key, b); err != nil {
		return nil, err
	}
	return decodeRecord(key, b)
}

func verifyRecord(key, b []byte) error {
	rev, err := parseRevKey(key)
	if err != nil {
		return err
	}
	if len(b) < minRecordLen || binary.BigEndian.Uint32(b) != checksum(key, b[crcLen:]) {
		return corruptf("the record of revision %v fails its checksum", rev)
	}
	return nil
}

// decodeRecord decodes a verified value; the record shares its bytes.
func decodeRecord(key, b []byte) (*record, error) {
	rev, err := parseRevKey(key)
	if err != nil {
		return nil, err
	}
	bad := func() error { return corruptf("the record of revision %v is malformed", rev) }
	flag, b := b[crcLen], b[minRecordLen:]
	n, w := binary.Uvarint(b)
	if flag > flagDeleted|flagWriter || w <= 0 || n > uint64(len(b)-w) || n == 0 {
		return nil, bad()
	}
	r := &record{sub: rev.sub, deleted: flag&flagDeleted != 0}
	r.ModRevision = rev.main
	b = b[w:]
	r.Key, b = b[:n:n], b[n:]
	if r.prev, b, err = parsePrev(rev.main, b); err != nil {
		return nil, bad()
	}
	if flag&flagWriter != 0 {
		if r.writer, b = parseWriter(b); r.writer == nil {
			return nil, bad()
		}
	}
	if r.deleted {
		if len(b) > 0 {
			return nil, bad()
		}
		return r, nil
	}
	if r.CreateRevision, r.Version, r.Lease, b, err = parseNumbers(rev.main, b); err != nil {
		return nil, bad()
	}
	r.Value = b
	return r, nil
}

func appendPrev(b []byte, r *record) []byte {
	if r.prev.main == 0 {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(r.ModRevision-r.prev.main))
	return binary.AppendUvarint(b, uint64(r.prev.sub))
}

func parsePrev(main int64, b []byte) (prev revision, rest []byte, err error) {
	since, w := binary.Uvarint(b)
	if w <= 0 || since >= uint64(main) {
		return prev, nil, corruptf("a link is malformed")
	}
	if b = b[w:]; since == 0 {
		return prev, b, nil
	}
	sub, w := binary.Uvarint(b)
	if w <= 0 || sub > math.MaxUint32 {
		return prev, nil, corruptf("a link is malformed")
	}
	return revision{main - int64(since), uint32(sub)}, b[w:], nil
}

// parseWriter takes a writer off the front of b; nil if there is none.
func parseWriter(b []byte) (*kv.Seq, []byte) {
	w := &kv.Seq{}
	if len(b) <= len(w.Origin) {
		return nil, nil
	}
	b = b[copy(w.Origin[:], b):]
	w.Lane, b = kv.Lane(b[0]), b[1:]
	for _, dst := range []*uint64{&w.Epoch, &w.N} {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return nil, nil
		}
		*dst, b = n, b[size:]
	}
	return w, b
}

func flags(deleted bool) byte {
	if deleted {
		return flagDeleted
	}
	return 0
}

func appendNumbers(b []byte, mod, create, version, lease int64) []byte {
	b = binary.AppendUvarint(b, uint64(mod-create))
	b = binary.AppendUvarint(b, uint64(version))
	return binary.AppendUvarint(b, uint64(lease))
}

func parseNumbers(mod int64, b []byte) (create, version, lease int64, rest []byte, err error) {
	var n [3]uint64
	for i := range n {
		v, w := binary.Uvarint(b)
		if w <= 0 {
			return 0, 0, 0, nil, corruptf("a number is malformed")
		}
		n[i], b = v, b[w:]
	}
	if n[0] >= uint64(mod) || n[1] == 0 || n[1] > math.MaxInt64 {
		return 0, 0, 0, nil, corruptf("a number is out of bounds")
	}
	return mod - int64(n[0]), int64(n[1]), int64(n[2]), b, nil
}

// checksum is the crc32c over two pieces that are stored apart.
func checksum(a, b []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, a), castagnoli, b)
}

// corruptf is for what is stored and cannot be trusted.
func corruptf(format string, args ...any) *kv.Error {
	return kv.Errorf(kv.Corrupt, format+"; rebuild this replica from the other members or from a backup", args...)
}
