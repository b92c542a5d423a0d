package wire

import (
	"encoding/binary"
	"slices"

	"holdfast/kv"
)

const (
	commandSeq byte = 1 << iota
	commandKey
	commandBy
	commandToken // what the client has shown; on its way up an uplink only
	commandFlags = commandSeq | commandKey | commandBy | commandToken
)

// AppendCommand appends the encoding of c to dst. It panics on a command that CheckCommand refuses for an op that is
// nil or a pointer; others that CheckCommand refuses do not decode again.
func AppendCommand(dst []byte, c kv.Command) []byte {
	return appendCommandBody(appendStart(dst, kindCommand), &c)
}

func appendCommandBody(dst []byte, c *kv.Command) []byte {
	hasSeq, hasKey, hasBy := c.ID.Seq != kv.Seq{}, c.ID.Key != [16]byte{}, c.By.Named() != kv.By{}
	hasToken := c.By.Token != ""
	dst = append(dst, bit(hasSeq, commandSeq)|bit(hasKey, commandKey)|bit(hasBy, commandBy)|bit(hasToken, commandToken))
	if hasSeq {
		dst = appendSeq(dst, c.ID.Seq)
	}
	if hasKey {
		dst = append(dst, c.ID.Key[:]...)
	}
	if hasBy {
		dst = appendBy(dst, c.By)
	}
	if hasToken {
		dst = appendBytes(dst, c.By.Token)
	}
	dst = appendList(dst, c.Guards, appendGuard)
	return appendList(dst, c.Ops, appendOp)
}

// DecodeCommand is the inverse of AppendCommand. Byte slices in the command alias b.
func DecodeCommand(b []byte) (kv.Command, error) { return decode(b, kindCommand, command) }

// RetryKey is the retry key of an encoded command, all zero if it has none. It looks at nothing else.
func RetryKey(b []byte) (key [16]byte) {
	const at = 2 // behind version and kind: the flags
	if len(b) <= at || b[0] > Version || kind(b[1]) != kindCommand || b[at]&commandKey == 0 {
		return key
	}
	r := &reader{b: b, kind: kindCommand, budget: len(b), off: at + 1}
	if b[at]&commandSeq != 0 {
		seq(r)
	}
	r.fixed(key[:], "retry key")
	return key
}

func command(r *reader) (c kv.Command) {
	f := r.flags(commandFlags, "command")
	if f&commandSeq != 0 {
		c.ID.Seq = seq(r)
		r.present(c.ID.Seq == kv.Seq{}, "sequence")
	}
	if f&commandKey != 0 {
		r.fixed(c.ID.Key[:], "retry key")
		r.present(c.ID.Key == [16]byte{}, "retry key")
	}
	if f&commandBy != 0 {
		c.By = by(r)
	}
	if f&commandToken != 0 {
		c.By.Token = token(r)
	}
	c.Guards = list(r, 7, "guards", guard)
	c.Ops = list(r, 1, "ops", op)
	if len(c.Ops) > 1 && slices.ContainsFunc(c.Ops, alone) {
		r.fail(ErrMalformed, "an op stands beside others and has to be alone")
	}
	return c
}

func appendSeq(dst []byte, s kv.Seq) []byte {
	dst = append(dst, s.Origin[:]...)
	dst = appendUint(dst, s.Epoch)
	dst = append(dst, byte(s.Lane))
	return appendUint(dst, s.N)
}

func seq(r *reader) (s kv.Seq) {
	r.fixed(s.Origin[:], "origin")
	s.Epoch = r.uint("queue epoch")
	s.Lane = enum(r, kv.LaneBulk, "lane")
	s.N = r.uint("sequence")
	return s
}

func appendBy(dst []byte, b kv.By) []byte {
	dst = appendBytes(dst, b.Principal)
	dst = appendUint(dst, b.AuthRevision)
	return appendBytes(dst, b.Node)
}

// by reads the optional part By of a message.
func by(r *reader) (b kv.By) {
	b.Principal = string(r.bytes("principal"))
	b.AuthRevision = r.uint("auth revision")
	b.Node = string(r.bytes("node"))
	r.present(b == kv.By{}, "principal")
	return b
}

// token reads the optional Token of a By, which a message has apart from it.
func token(r *reader) string {
	t := string(r.bytes("token"))
	r.present(t == "", "token")
	return t
}

const guardOr byte = 1

func appendGuard(dst []byte, g *kv.Guard) []byte {
	hasOr := g.Or != kv.Seq{}
	dst = append(dst, bit(hasOr, guardOr))
	if hasOr {
		dst = appendSeq(dst, g.Or)
	}
	return appendCompare(dst, &g.Compare)
}

func guard(r *reader) (g kv.Guard) {
	if r.flags(guardOr, "guard") != 0 {
		g.Or = seq(r)
		r.present(g.Or == kv.Seq{}, "last writer")
	}
	g.Compare = compare(r)
	return g
}

func appendCompare(dst []byte, c *kv.Compare) []byte {
	dst = appendBytes(dst, c.Key)
	dst = appendBytes(dst, c.End)
	dst = append(dst, byte(c.Target), byte(c.Relation))
	dst = appendInt(dst, c.Num)
	return appendBytes(dst, c.Value)
}

func compare(r *reader) (c kv.Compare) {
	c.Key = r.bytes("key")
	c.End = r.bytes("end of range")
	c.Target = enum(r, kv.TargetLease, "target")
	c.Relation = enum(r, kv.NotEqual, "relation")
	c.Num = r.int("number")
	c.Value = r.bytes("value")
	return c
}

func appendFixed64(dst []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(dst, n) }

func (r *reader) fixed64(what string) uint64 {
	var b [8]byte
	r.fixed(b[:], what)
	return binary.BigEndian.Uint64(b[:])
}
