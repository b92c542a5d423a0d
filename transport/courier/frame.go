package courier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// A datagram is
//
//	version (1 byte), flags (1): bit 7 an account follows, bit 6 the answer may wait, bits 4 and 5 the dialect, bits 0 to 3
//	paths wanted
//	life of the sender (8), number (uvarint)
//	account: first 4 bytes of the life it is about, largest number (uvarint), those missing of the 64 before it (uvarint)
//	messages: length (uvarint) and so many bytes, to the end
//
// One without messages asks for no acknowledgement, one without an account for an answer. Messages are taken only along
// with an account of this very life of the receiver: what an earlier one may have had is not delivered again.

// version is that of the layout. Another one is refused.
const version = 1

const (
	flagAccount   = 0x80
	flagUnhurried = 0x40
	dialectShift  = 4
	wantedMask    = 0x0f

	// maxHeader is the longest header: 2, 8, 10, then 4, 10 and 10.
	maxHeader = 44
	// maxMessages bounds the messages of a datagram; none is empty.
	maxMessages = 64
)

// MaxDialect is the highest of Options.
const MaxDialect = 3

// Life tells one life of a node from another.
type Life [8]byte

// ErrFormat says that something is not a datagram of this package.
var ErrFormat = errors.New("not a datagram of a courier")

type header struct {
	wanted  int
	dialect int
	patient bool // what is in it is sent once: the account may wait for a datagram that goes anyway
	life    Life
	number  uint64
	account account
}

// account is what has come of a life: the largest number, and of the 64 before it bit i for number largest-1-i.
type account struct {
	known   bool
	tag     [4]byte
	largest uint64
	before  uint64
}

func (h header) append(b []byte) []byte {
	flags := byte(min(h.wanted, wantedMask) | min(h.dialect, MaxDialect)<<dialectShift) //nolint:gosec // bounded
	if h.account.known {
		flags |= flagAccount
	}
	if h.patient {
		flags |= flagUnhurried
	}
	b = append(b, version, flags)
	b = append(b, h.life[:]...)
	b = binary.AppendUvarint(b, h.number)
	if h.account.known {
		b = append(b, h.account.tag[:]...)
		b = binary.AppendUvarint(b, h.account.largest)
		// Little is missing as a rule, and lately: reversed, so that the number is short when the far end is whole.
		b = binary.AppendUvarint(b, ^h.account.before)
	}
	return b
}

func appendMessage(b, m []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(m))), m...)
}

// frameSize is what a message takes in a datagram.
func frameSize(m []byte) int { return len(m) + (bits.Len(uint(len(m)|1))+6)/7 }

// parse takes a datagram apart. The messages are parts of b.
func parse(b []byte) (h header, messages [][]byte, err error) {
	if len(b) < 2+len(h.life)+1 || b[0] != version {
		return h, nil, fmt.Errorf("datagram of %d bytes: %w", len(b), ErrFormat)
	}
	flags := b[1]
	h.wanted, h.dialect, h.patient = int(flags&wantedMask), int(flags>>dialectShift)&MaxDialect, flags&flagUnhurried != 0
	copy(h.life[:], b[2:])
	b = b[2+len(h.life):]
	if h.number, b, err = uvarint(b); err != nil {
		return h, nil, err
	}
	if flags&flagAccount != 0 {
		if len(b) < len(h.account.tag) {
			return h, nil, fmt.Errorf("account cut short: %w", ErrFormat)
		}
		h.account.known = true
		copy(h.account.tag[:], b)
		b = b[len(h.account.tag):]
		if h.account.largest, b, err = uvarint(b); err != nil {
			return h, nil, err
		}
		var missing uint64
		if missing, b, err = uvarint(b); err != nil {
			return h, nil, err
		}
		h.account.before = ^missing
	}
	for len(b) > 0 {
		var size uint64
		if size, b, err = uvarint(b); err != nil {
			return h, nil, err
		}
		if size == 0 || size > uint64(len(b)) || len(messages) == maxMessages {
			return h, nil, fmt.Errorf("message of %d bytes in %d: %w", size, len(b), ErrFormat)
		}
		messages = append(messages, b[:size])
		b = b[size:]
	}
	return h, messages, nil
}

func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, fmt.Errorf("number cut short: %w", ErrFormat)
	}
	return v, b[n:], nil
}

// Silence is how long nothing of the present life of a peer has come when an earlier one is believed that it goes on: the
// present one was a copy of it, and has ended. Whatever was under way of a life that is over has arrived by then.
const Silence = 10 * time.Second

// received is what has come of the present life of the peer.
type received struct {
	life    Life
	heard   time.Time
	earlier [4]Life // over; a datagram of one of these is left aside
	next    int
	account account
	long    [longAccount / 64]uint64 // bit i%64 of i/64 for number i%longAccount, of those up to the largest
	late    uint64                   // one that came after its account had passed it by; 0: none that was not told
}

// longAccount is how many numbers are remembered. An account is of 64, and where datagrams wait on one path and not on another, more
// come meanwhile. Such a late one gets an account that ends with it.
const longAccount = 1024

func (r *received) mark(number uint64) { r.long[number%longAccount/64] |= 1 << (number % 64) }

func (r *received) has(number uint64) bool {
	return number <= r.account.largest && number+longAccount > r.account.largest && r.long[number%longAccount/64]&(1<<(number%64)) != 0
}

// upTo is the account that ends with a number that has come.
func (r *received) upTo(number uint64) account {
	a := account{known: true, tag: r.account.tag, largest: number}
	for back := range uint64(64) {
		if number > back+1 && r.has(number-1-back) {
			a.before |= 1 << back
		}
	}
	return a
}

// take notes a datagram. It tells whether it is of the present life, which may have begun with it, and whether it has come
// before.
func (r *received) take(h header, now time.Time) (present, begun, again bool) {
	if begun = h.life != r.life; begun {
		if i := slices.Index(r.earlier[:], h.life); i >= 0 && h.life != (Life{}) {
			if now.Sub(r.heard) < Silence {
				return false, false, false
			}
			r.earlier[i] = r.life
		} else {
			r.earlier[r.next] = r.life
			r.next = (r.next + 1) % len(r.earlier)
		}
		r.life, r.account, r.long, r.late = h.life, account{}, [longAccount / 64]uint64{}, 0
	}
	r.heard = now
	a := &r.account
	if !a.known {
		*a = account{known: true, tag: [4]byte(h.life[:4]), largest: h.number}
		r.mark(h.number)
		return true, begun, false
	}
	switch {
	case h.number > a.largest:
		by := h.number - a.largest
		if by <= 64 {
			a.before = a.before<<by | 1<<(by-1)
		} else {
			a.before = 0
		}
		if by < longAccount {
			for n := a.largest + 1; n < h.number; n++ {
				r.long[n%longAccount/64] &^= 1 << (n % 64)
			}
		} else {
			r.long = [longAccount / 64]uint64{}
		}
		a.largest = h.number
		r.mark(h.number)
	case h.number == a.largest:
		return true, false, true
	default:
		if again = r.has(h.number); again {
			return true, false, true
		}
		if back := a.largest - h.number - 1; back < 64 {
			a.before |= 1 << back
		}
		if h.number+longAccount > a.largest {
			r.mark(h.number)
		}
	}
	return true, false, false
}

// has reports whether the account says that a number has come.
func (a account) has(number uint64) bool {
	if !a.known || number > a.largest {
		return false
	}
	if number == a.largest {
		return true
	}
	back := a.largest - number - 1
	return back < 64 && a.before&(1<<back) != 0
}
