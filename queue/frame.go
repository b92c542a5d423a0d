package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A segment file is a magic and frames. A frame is what one group commit wrote: length and CRC-32C of the body, both
// little endian, then the body, a run of records. A frame is the unit that is there or is not: a cut in the middle of
// writing it leaves bytes at the end of the last segment that were never acknowledged.
const (
	magic       = "HFQ1"
	frameHeader = 8
	frameMax    = 8 << 20
	recordMax   = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn says that a frame is cut short or fails its checksum.
var errTorn = errors.New("damaged frame")

func appendFrame(dst, body []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(body, castagnoli))
	return append(dst, body...)
}

// nextFrame returns the body of the frame at the start of b and what follows it.
func nextFrame(b []byte) (body, rest []byte, err error) {
	if len(b) < frameHeader {
		return nil, nil, errTorn
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > frameMax || int(n) > len(b)-frameHeader {
		return nil, nil, errTorn
	}
	body = b[frameHeader : frameHeader+int(n)]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, nil, errTorn
	}
	return body, b[frameHeader+int(n):], nil
}

// record is one entry of a frame. Which fields count depends on kind.
type record struct {
	kind  recordKind
	lane  uint8
	n     uint64 // number in the lane, local to this disk; sent: the newest number that may have been sent
	epoch uint64 // epoch: the queue epoch granted; sequences count from base
	base  uint64 // epoch: the last number that does not belong to it

	at, expires int64  // op: Unix milliseconds, expires 0 for never
	guard       uint8  // op, base
	seen        int64  // op, base: revision the guard goes by
	pred        uint64 // op, base: number of the op on the same key before it, 0 for none
	history     uint64 // op: the cluster's history that seen is from; epoch: the one that granted it; 0 if not known
	command     []byte // op: a kv.Command without its sequence
	keyAt, key  int    // op: where in the command the key stands, and how long it is

	state   State  // end
	outcome []byte // end; of number 0: a note
}

type recordKind uint8

// The numbers are in files: append only.
const (
	recordOldOp recordKind = 1 + iota // without history and key; read, and written no more
	recordSent
	recordEnd
	recordOldEpoch // without history
	recordForget   // an ended op is no longer kept
	recordOp
	recordEpoch
	recordBase  // the op goes by another base: the one before it on its key was given up
	recordPause // n is 1 while nothing is sent, else 0
)

// The tags of a note, which says whose share the op behind it takes.
const (
	noteDevice = 1 // that of an address or a user of the machine; versions before noteAuthor wrote it of principals too
	noteAuthor = 2 // that of the principal which has written it
)

// note is about the op that is written behind it. It is an end of no op, number 0, which versions that know of no notes, or
// not of this one, read and pass over: a box can go back to one of them.
func note(lane uint8, by payer) record {
	tag := byte(noteDevice)
	if by.author {
		tag = noteAuthor
	}
	return record{kind: recordEnd, lane: lane, state: Unknown, outcome: append([]byte{tag}, by.name...)}
}

func appendRecord(dst []byte, r *record) []byte {
	dst = append(dst, byte(r.kind), r.lane)
	dst = binary.AppendUvarint(dst, r.n)
	switch r.kind {
	case recordOp:
		dst = binary.AppendVarint(dst, r.at)
		dst = binary.AppendVarint(dst, r.expires)
		dst = appendBase(dst, r)
		dst = binary.LittleEndian.AppendUint64(dst, r.history)
		dst = binary.AppendUvarint(dst, uint64(r.keyAt))
		dst = binary.AppendUvarint(dst, uint64(r.key))
		dst = appendBlob(dst, r.command)
	case recordBase:
		dst = appendBase(dst, r)
	case recordEnd:
		dst = append(dst, byte(r.state))
		dst = appendBlob(dst, r.outcome)
	case recordEpoch:
		dst = binary.AppendUvarint(dst, r.epoch)
		dst = binary.AppendUvarint(dst, r.base)
		dst = binary.LittleEndian.AppendUint64(dst, r.history)
	}
	return dst
}

func appendBase(dst []byte, r *record) []byte {
	dst = append(dst, r.guard)
	dst = binary.AppendVarint(dst, r.seen)
	return binary.AppendUvarint(dst, r.pred)
}

func appendBlob(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// nextRecord takes a record off the front of a frame's body. Slices in it alias b.
func nextRecord(b []byte) (r record, rest []byte, err error) {
	c := cursor{b: b}
	r.kind, r.lane, r.n = recordKind(c.byte()), c.byte(), c.uvarint()
	switch r.kind {
	case recordOp, recordOldOp:
		r.at, r.expires = c.varint(), c.varint()
		c.base(&r)
		if r.kind == recordOp {
			r.history, r.keyAt, r.key = c.uint64(), c.int(), c.int()
		}
		r.command = c.blob()
		c.bad = c.bad || r.keyAt+r.key > len(r.command)
	case recordBase:
		c.base(&r)
	case recordEnd:
		r.state, r.outcome = State(c.byte()), c.blob()
	case recordEpoch, recordOldEpoch:
		r.epoch, r.base = c.uvarint(), c.uvarint()
		if r.kind == recordEpoch {
			r.history = c.uint64()
		}
	case recordSent, recordForget, recordPause:
	default:
		if !c.bad {
			return r, nil, fmt.Errorf("record kind %d: written by a newer version", r.kind)
		}
	}
	if c.bad || r.lane >= lanes || r.state >= states {
		return r, nil, errors.New("malformed record")
	}
	return r, c.b, nil
}

// cursor reads from the front of b; after a fault everything is zero and bad is set.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) fail() { c.b, c.bad = nil, true }

func (c *cursor) byte() byte {
	if len(c.b) == 0 {
		c.fail()
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) uint64() uint64 {
	if len(c.b) < 8 {
		c.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(c.b)
	c.b = c.b[8:]
	return v
}

// int is a length or a place in a record.
func (c *cursor) int() int {
	n := c.uvarint()
	if n > recordMax {
		c.fail()
		return 0
	}
	return int(n)
}

func (c *cursor) base(r *record) { r.guard, r.seen, r.pred = c.byte(), c.varint(), c.uvarint() }

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) blob() []byte {
	n := c.uvarint()
	if n > uint64(len(c.b)) || n > recordMax {
		c.fail()
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}
