package raftnet

import (
	"encoding/binary"
	"fmt"
	"time"

	"holdfast/transport/courier"
)

// A letter that is longer than a datagram goes in parts, if it has few: on a link that loses packets each is sent in copies and
// again as any message is, so that entries of some kilobytes take one round trip as small ones do. What is longer goes over a stream,
// which does not pay for copies, and so does all of it on a link that may be a thin one: there it has a pace. A long link that is known to carry
// more is none of those; see burst.
//
// A part is kindPart, the number of the letter among those in parts (uvarint), which part it is and how many there are (1 byte
// each), and its bytes.
const (
	kindPart = 0x30

	// maxParts is how many a letter has at most: 8 kB.
	maxParts      = 8
	maxPartHeader = 1 + binary.MaxVarintLen64 + 2
	// maxOpenLetters bounds those of which parts are missing; the oldest makes room. partsKept is for how long one is waited for.
	maxOpenLetters = 64
	partsKept      = 10 * time.Second
)

// split cuts a letter into parts of at most most bytes, headers included; nil if those would be too many.
func split(letter []byte, number uint64, most int) (parts [][]byte) {
	room := most - maxPartHeader
	count := (len(letter) + room - 1) / room
	if count > maxParts {
		return nil
	}
	for i := range count {
		from, to := i*len(letter)/count, (i+1)*len(letter)/count
		b := append(make([]byte, 0, maxPartHeader+to-from), kindPart)
		b = append(binary.AppendUvarint(b, number), byte(i), byte(count)) //nolint:gosec // bounded by maxParts
		parts = append(parts, append(b, letter[from:to]...))
	}
	return parts
}

// joiner puts letters of a life of the peer together. The zero value has no parts.
type joiner struct {
	life courier.Life
	open map[uint64]*openParts
}

type openParts struct {
	parts [][]byte
	left  int
	began time.Time
}

// take takes a part and returns the letter if it is whole now.
func (j *joiner) take(life courier.Life, now time.Time, b []byte) (whole []byte, err error) {
	if life != j.life {
		j.life, j.open = life, nil
	}
	bad := fmt.Errorf("part of a letter: %w", errFormat)
	number, n := binary.Uvarint(b[1:])
	if n <= 0 || len(b) < 1+n+3 {
		return nil, bad
	}
	which, count, data := int(b[1+n]), int(b[2+n]), b[3+n:]
	if count < 2 || count > maxParts || which >= count {
		return nil, bad
	}
	o := j.open[number]
	if o == nil {
		j.makeRoom(now)
		o = &openParts{parts: make([][]byte, count), left: count, began: now}
		j.open[number] = o
	}
	if len(o.parts) != count {
		return nil, bad
	}
	if o.parts[which] == nil {
		o.parts[which] = data
		o.left--
	}
	if o.left > 0 {
		return nil, nil
	}
	delete(j.open, number)
	for _, p := range o.parts {
		whole = append(whole, p...)
	}
	return whole, nil
}

// makeRoom forgets letters that are not waited for any more.
func (j *joiner) makeRoom(now time.Time) {
	if j.open == nil {
		j.open = make(map[uint64]*openParts)
	}
	oldest := uint64(0)
	for number, o := range j.open {
		if now.Sub(o.began) > partsKept {
			delete(j.open, number)
		} else if oldest == 0 || number < oldest {
			oldest = number
		}
	}
	if len(j.open) >= maxOpenLetters {
		delete(j.open, oldest)
	}
}
