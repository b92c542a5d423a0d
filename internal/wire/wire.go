// Package wire turns the values of package kv into bytes and back.
//
// The bytes of a command are queue record, uplink message and raft entry alike, so the format is versioned and
// canonical: one value has one encoding, and bytes that decode are exactly what encoding the decoded value gives again.
// Hence a Fingerprint over the bytes is a fingerprint of the command.
//
// # Format, version 1
//
// A message is a version byte, a kind byte (see the kind constants) and a body. Bodies are made of
//
//	uint     unsigned LEB128 of up to 64 bits, in as few bytes as possible
//	int      zigzag of an int64, as a uint; durations are nanoseconds
//	bytes    length as a uint, then that many bytes; strings are the same
//	list     number of items as a uint, then the items
//	flags    one byte; bits without a meaning are zero. A bit that announces an optional part is set if and only if the
//	         part is not its zero value
//	tag      one byte that names an enumerator or the kind of an op
//
// in the order in which the append functions of this package write them. Nothing follows a body.
//
// # What is kept
//
// Encoding and decoding gives back an equal value, with four exceptions: an empty slice comes back as nil (the
// vocabulary makes no difference between them, but for the Value of a SetRecord, which is kept as it is); the time in a
// Receipt comes back in UTC without a monotonic reading; the Err of a kv.Error and the Control of a WatchSpec belong to
// a process and are left out.
//
// Byte slices in decoded values alias the input: whoever decodes from a buffer that is used again copies first.
//
// # Refusals
//
// Bytes that this version cannot have written are refused with ErrMalformed, or with ErrNewer where a newer version may
// have: an unknown version, kind, op, enumerator or flag. Decoding never panics, allocates no more than maxAmplification
// times its input, and follows transactions to MaxDepth only.
package wire

import (
	"crypto/sha256"
	"errors"
)

// Version is the format written, and the newest that is read.
const Version = 1

// MaxDepth bounds how deep transactions nest: a Txn among the ops of a command or query has depth 1. Decoding bounds the
// answers alike. etcd's limit of 128 operations, of which each level takes one, allows as many.
const MaxDepth = 128

// maxAmplification is the most bytes that decoding allocates for each byte of input: an OpResult is 136 bytes in memory
// and may be 2 on the wire, and the allocator rounds up.
const maxAmplification = 96

// ErrNewer says that a newer version of the program wrote what was to be decoded: it holds something this version does
// not know. A replica stops rather than guess; a peer answers Unsupported.
var ErrNewer = errors.New("written by a newer version")

// ErrMalformed says that no version wrote what was to be decoded: it is damaged, cut short or not ours.
var ErrMalformed = errors.New("malformed")

// kind is the second byte of a message, so that one message is never taken for another.
type kind byte

const (
	kindCommand kind = 1 + iota
	kindOutcome
	kindQuery
	kindPage
	kindWatchSpec
	kindWatchControl
	kindBatch
	kindError
	kindEnd // one beyond the last
)

func (k kind) String() string {
	return [...]string{"message", "command", "outcome", "query", "page", "watch", "watch control", "batch", "error"}[k]
}

// Fingerprint tells encoded commands apart: the first half of their SHA-256.
func Fingerprint(b []byte) [16]byte {
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// decode reads one whole message of the kind.
func decode[T any](b []byte, k kind, body func(*reader) T) (T, error) {
	r := &reader{b: b, kind: k, budget: len(b)}
	r.start()
	v := body(r)
	if err := r.end(); err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}
