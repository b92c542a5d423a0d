package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	"holdfast/kv"
)

// journal keeps what changed since the last flush where a killed process leaves it: in a file that is appended to and
// not synced. Only its first record is, once for each flush: it says that there are changes, and in which boot. If the
// machine goes down with it, what the file has may not be all, and that can be told.
//
//	header: magic | boot id (16)
//	record: length(4) | crc32c(4) | delete(1) key length(uvarint) key | unless deleted: value as in bucket keys, else mod revision
type journal struct {
	path string
	boot [16]byte
	mark [16]byte // what begin writes: boot, or something that no boot is called while the contents are partial
	f    *os.File
}

const (
	journalMagic  = "HFJ1"
	journalHeader = len(journalMagic) + 16
	journalRecord = 64 << 20 // a longer one is damage
)

// add appends a change.
func (j *journal) add(e kv.Event) error {
	if j.f == nil {
		if err := j.begin(); err != nil {
			return err
		}
	}
	body := []byte{0}
	if e.Delete {
		body[0] = 1
	}
	body = binary.AppendUvarint(body, uint64(len(e.KV.Key)))
	body = append(body, e.KV.Key...)
	if e.Delete {
		body = binary.AppendVarint(body, e.KV.ModRevision)
	} else {
		body = appendValue(body, e.KV)
	}
	rec := binary.LittleEndian.AppendUint32(make([]byte, 0, len(body)+8), uint32(len(body)))
	rec = binary.LittleEndian.AppendUint32(rec, crc32.Checksum(body, castagnoli))
	_, err := j.f.Write(append(rec, body...))
	if err != nil {
		return fmt.Errorf("write %s: %w", j.path, err)
	}
	return nil
}

// begin makes it durable that there are changes.
func (j *journal) begin() error {
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(append([]byte(journalMagic), j.mark[:]...)); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("begin %s: %w", j.path, err), f.Close())
	}
	j.f = f
	return nil
}

// end empties the journal: everything in it is in the file of the cache. It need not be durable: replaying it again
// changes nothing.
func (j *journal) end() error {
	if j.f == nil {
		return nil
	}
	err := errors.Join(j.f.Truncate(0), j.f.Close())
	j.f = nil
	return err
}

// forget removes what an earlier process left.
func (j *journal) forget() error {
	if err := j.end(); err != nil {
		return err
	}
	if err := os.Truncate(j.path, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// replay returns the changes that an earlier process left, and whether they may not be all.
func (j *journal) replay() (events []kv.Event, partial bool, err error) {
	b, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if len(b) < journalHeader || string(b[:len(journalMagic)]) != journalMagic {
		return nil, true, nil
	}
	partial = [16]byte(b[len(journalMagic):journalHeader]) != j.boot
	b = b[journalHeader:]
	for len(b) > 0 {
		e, rest, ok := nextChange(b)
		if !ok {
			return events, true, nil
		}
		events, b = append(events, e), rest
	}
	return events, partial, nil
}

func nextChange(b []byte) (e kv.Event, rest []byte, ok bool) {
	if len(b) < 8 {
		return e, nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > journalRecord || int(n) > len(b)-8 {
		return e, nil, false
	}
	body := b[8 : 8+n]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return e, nil, false
	}
	size, w := binary.Uvarint(body[1:])
	if w <= 0 || size > uint64(len(body)-1-w) {
		return e, nil, false
	}
	key := body[1+w : 1+w+int(size)]
	value := body[1+w+int(size):]
	if e.Delete = body[0] == 1; e.Delete {
		mod, w := binary.Varint(value)
		e.KV = kv.KeyValue{Key: key, ModRevision: mod}
		return e, b[8+n:], w > 0
	}
	v, err := decodeValue(key, value)
	e.KV = v
	return e, b[8+n:], err == nil
}
