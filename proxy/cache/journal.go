package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"holdfast/kv"
)

// change is one record of the journal: what the feed brought, an own write, a key that was let in as of a revision, or one
// that was let go.
type change struct {
	kv.Event
	own  bool
	held int64 // the revision, 0 for none of that
	gone bool
	veil bool // KV has key, end and revision of one
	part bool // of what the feed brought at once, and not the last of it
	last bool // of that: with it everything up to its revision is here
}

// journal keeps what changed since the last flush where a killed process leaves it: in a file that is appended to and
// not synced. Only its first record is, once for each flush: it says that there are changes, and in which boot. If the
// machine goes down with it, what the file has may not be all, and that can be told.
//
// While a flush writes, what it writes is in a second file, path.old, and what comes meanwhile is in the first.
//
//	header: magic | boot id (16) | epoch (24)
//	record: length(4) | crc32c(4) | flags(1) key length(uvarint) key | if held: revision | if deleted: mod revision, else value as in bucket keys
type journal struct {
	path  string
	boot  [16]byte
	mark  [16]byte // what begin writes: boot, or something that no boot is called while the contents are partial
	epoch kv.Epoch // records of another one are void
	f     file     // nil before the first change since the last flush
	size  int64    // of what is whole in f
}

// file is what a journal needs of an *os.File that is appended to.
type file interface {
	io.WriteCloser
	Truncate(size int64) error
}

const (
	journalMagic  = "HFJ2"
	journalHeader = len(journalMagic) + 16 + epochLen
	journalRecord = 64 << 20 // a longer one is damage
)

// The flags of a record.
const (
	flagDelete = 1 << iota
	flagOwn
	flagHeld
	flagGone
	flagVeil
	flagPart // neither this nor the next: an earlier version wrote it, and did not say
	flagLast
)

// add appends changes, all or none.
func (j *journal) add(changes ...change) error {
	if len(changes) == 0 {
		return nil
	}
	if j.f == nil {
		if err := j.begin(); err != nil {
			return err
		}
	}
	var recs []byte
	for _, c := range changes {
		recs = c.append(recs)
	}
	if _, err := j.f.Write(recs); err != nil { // a part of it would make all that comes behind unreadable
		return fmt.Errorf("write %s: %w", j.path, errors.Join(err, j.f.Truncate(j.size)))
	}
	j.size += int64(len(recs))
	return nil
}

// append appends the record of a change.
func (c change) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0) // length and checksum
	dst = append(dst, c.flags())
	dst = binary.AppendUvarint(dst, uint64(len(c.KV.Key)))
	dst = append(dst, c.KV.Key...)
	if c.held > 0 {
		dst = binary.AppendVarint(dst, c.held)
	}
	if c.Delete {
		dst = binary.AppendVarint(dst, c.KV.ModRevision)
	} else {
		dst = appendValue(dst, c.KV)
	}
	body := dst[at+8:]
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(body)))
	binary.LittleEndian.PutUint32(dst[at+4:], crc32.Checksum(body, castagnoli))
	return dst
}

func (c change) flags() (b byte) {
	for _, f := range []struct {
		set  bool
		flag byte
	}{{c.Delete, flagDelete}, {c.own, flagOwn}, {c.held > 0, flagHeld}, {c.gone, flagGone}, {c.veil, flagVeil}, {c.part, flagPart}, {c.last, flagLast}} {
		if f.set {
			b |= f.flag
		}
	}
	return b
}

// begin makes it durable that there are changes.
func (j *journal) begin() error {
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(appendEpoch(append([]byte(journalMagic), j.mark[:]...), j.epoch)); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("begin %s: %w", j.path, err), f.Close())
	}
	j.f, j.size = f, int64(journalHeader)
	return nil
}

func (j *journal) old() string { return j.path + ".old" }

// rotate puts the file aside and lets the next change begin another. An old file that is still there, because what it
// has could not be written, stays, and the present one goes on behind it.
func (j *journal) rotate() (rotated bool, err error) {
	if _, err := os.Lstat(j.old()); err == nil {
		return true, nil
	}
	err = os.Rename(j.path, j.old())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = j.end()
	}
	return err == nil, err
}

// forgetOld removes what was put aside: everything in it is in the file of the cache. That need not be durable: replaying
// it again changes nothing.
func (j *journal) forgetOld() error {
	if err := os.Remove(j.old()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (j *journal) end() (err error) {
	if j.f != nil {
		err = j.f.Close()
	}
	j.f = nil
	return err
}

// forget removes everything.
func (j *journal) forget() error {
	if err := errors.Join(j.end(), j.forgetOld()); err != nil {
		return err
	}
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// replay returns the changes that an earlier process left, and whether they may not be all.
func (j *journal) replay() (changes []change, partial bool, err error) {
	for _, path := range []string{j.old(), j.path} {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		some, torn := j.read(b)
		changes, partial = append(changes, some...), partial || torn
	}
	return changes, partial, nil
}

func (j *journal) read(b []byte) (changes []change, partial bool) {
	if len(b) < journalHeader || string(b[:len(journalMagic)]) != journalMagic {
		return nil, true
	}
	epoch, _ := decodeEpoch(b[len(journalMagic)+16:])
	if epoch != j.epoch {
		return nil, false // the cache was emptied since
	}
	partial = [16]byte(b[len(journalMagic):]) != j.boot
	b = b[journalHeader:]
	for len(b) > 0 {
		c, rest, ok := nextChange(b)
		if !ok {
			return changes, true
		}
		changes, b = append(changes, c), rest
	}
	return changes, partial
}

func nextChange(b []byte) (c change, rest []byte, ok bool) {
	if len(b) < 8 {
		return c, nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > journalRecord || int(n) > len(b)-8 {
		return c, nil, false
	}
	body := b[8 : 8+n]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return c, nil, false
	}
	size, w := binary.Uvarint(body[1:])
	if w <= 0 || size > uint64(len(body)-1-w) {
		return c, nil, false
	}
	c.Delete, c.own, c.gone = body[0]&flagDelete != 0, body[0]&flagOwn != 0, body[0]&flagGone != 0
	c.veil, c.part, c.last = body[0]&flagVeil != 0, body[0]&flagPart != 0, body[0]&flagLast != 0
	key := body[1+w : 1+w+int(size)]
	value := body[1+w+int(size):]
	if body[0]&flagHeld != 0 {
		if c.held, w = binary.Varint(value); w <= 0 {
			return c, nil, false
		}
		value = value[w:]
	}
	if c.Delete {
		mod, w := binary.Varint(value)
		c.KV = kv.KeyValue{Key: key, ModRevision: mod}
		return c, b[8+n:], w > 0
	}
	v, err := decodeValue(key, value)
	c.KV = v
	return c, b[8+n:], err == nil
}
