package wire

import (
	"fmt"
	"math"
)

// reader takes a message apart. The first fault is kept in err; everything read after it is zero, so that callers look
// once, at the end, and in loops.
type reader struct {
	b      []byte
	off    int
	kind   kind
	depth  int // of transactions
	inEach bool
	budget int // bytes that items of lists, counted without their own lists, may still claim
	err    error
}

// start reads version and kind.
func (r *reader) start() {
	switch v := r.byte("version"); {
	case r.err != nil:
	case v == 0:
		r.fail(ErrMalformed, "version 0")
	case v > Version:
		r.fail(ErrNewer, "format version %d, this version reads %d", v, Version)
	}
	switch k := kind(r.byte("kind")); {
	case r.err != nil || k == r.kind:
	case k == 0:
		r.fail(ErrMalformed, "kind 0")
	case k >= kindEnd:
		r.fail(ErrNewer, "unknown kind of message %d", byte(k))
	default:
		r.fail(ErrMalformed, "it is a %v", k)
	}
}

// end returns the first fault; bytes left over are one.
func (r *reader) end() error {
	if r.err == nil && r.off < len(r.b) {
		r.fail(ErrMalformed, "%d bytes too many", len(r.b)-r.off)
	}
	return r.err
}

// fail records a fault at the present offset, unless there was one before, and ends the input.
func (r *reader) fail(reason error, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("decode %v: %w: byte %d: %s", r.kind, reason, r.off, fmt.Sprintf(format, args...))
	}
	r.off = len(r.b)
}

func (r *reader) byte(what string) byte {
	if r.off >= len(r.b) {
		r.fail(ErrMalformed, "%s is missing", what)
		return 0
	}
	c := r.b[r.off]
	r.off++
	return c
}

func (r *reader) uint(what string) uint64 {
	var n uint64
	for i := range 10 {
		c := r.byte(what)
		switch {
		case r.err != nil:
			return 0
		case i == 9 && c > 1:
			r.fail(ErrMalformed, "%s is beyond 64 bits", what)
			return 0
		case i > 0 && c == 0:
			r.fail(ErrMalformed, "%s is longer than it has to be", what)
			return 0
		}
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			break
		}
	}
	return n
}

func (r *reader) uint32(what string) uint32 {
	n := r.uint(what)
	if n > math.MaxUint32 {
		r.fail(ErrMalformed, "%s is beyond 32 bits", what)
		return 0
	}
	return uint32(n)
}

func (r *reader) int(what string) int64 {
	n := r.uint(what)
	return int64(n>>1) ^ -int64(n&1)
}

// bytes returns a part of the input, nil for an empty one. Its capacity is its length, so that appending to it copies.
func (r *reader) bytes(what string) []byte {
	n := r.uint(what)
	if n > uint64(len(r.b)-r.off) {
		r.fail(ErrMalformed, "%s of %d bytes goes beyond the end", what, n)
		return nil
	}
	if n == 0 {
		return nil
	}
	from := r.off
	r.off += int(n)
	return r.b[from:r.off:r.off]
}

// fixed fills dst.
func (r *reader) fixed(dst []byte, what string) {
	if len(r.b)-r.off < len(dst) {
		r.fail(ErrMalformed, "%s is cut short", what)
		return
	}
	r.off += copy(dst, r.b[r.off:])
}

// flags reads a byte of flags, of which known have a meaning.
func (r *reader) flags(known byte, what string) byte {
	f := r.byte(what)
	if f&^known != 0 {
		r.fail(ErrNewer, "unknown flags %#x in %s", f&^known, what)
		return 0
	}
	return f
}

// present refuses an optional part that was announced and is zero.
func (r *reader) present(zero bool, what string) {
	if zero && r.err == nil {
		r.fail(ErrMalformed, "%s is announced and empty", what)
	}
}

// enum reads a tag up to last.
func enum[T ~uint8](r *reader, last T, what string) T {
	t := T(r.byte(what))
	if t > last {
		r.fail(ErrNewer, "unknown %s %d", what, byte(t))
		return 0
	}
	return t
}

// list reads a list whose items take at least least bytes each, not counting the items of lists within them. What it
// allocates is paid for by bytes that are there, also when lists nest and every one of them lies about its length.
func list[T any](r *reader, least int, what string, item func(*reader) T) []T {
	n := r.uint(what)
	if n > uint64(r.budget/least) {
		r.fail(ErrMalformed, "%s of %d items go beyond the end", what, n)
		return nil
	}
	if n == 0 {
		return nil
	}
	r.budget -= int(n) * least
	items := make([]T, n)
	for i := range items {
		if items[i] = item(r); r.err != nil {
			return nil
		}
	}
	return items
}

// descend enters a transaction, ascend leaves it.
func (r *reader) descend() {
	if r.depth++; r.depth > MaxDepth {
		r.fail(ErrMalformed, "transactions nest deeper than %d", MaxDepth)
	}
}

func (r *reader) ascend() { r.depth-- }
