// Package kv is the vocabulary of Holdfast: what a node can be asked (Command, Query, WatchSpec), what it answers
// (Result, Page, Batch) and how it refuses (Error).
//
// Everything here is a plain value. A value handed to a node belongs to the node until it has answered, and a value
// handed back is shared: neither side changes the bytes in it afterwards. The package imports the standard library
// only, so that a program may speak the vocabulary without linking a store.
//
// Revisions are etcd's: an empty store is at revision 1, each Command that changes a key takes the next one, and the
// changes inside it are told apart by a sub-revision. Revisions are comparable within one Epoch only.
package kv

import (
	"encoding/hex"
	"fmt"
	"time"
)

// KeyValue is a key as it stands at one revision.
type KeyValue struct {
	Key            []byte
	Value          []byte
	CreateRevision int64 // revision of the Put that made the key exist
	ModRevision    int64 // revision of the latest Put
	Version        int64 // number of Puts since the key was made, 1 for the first
	Lease          int64 // lease the key lives under, 0 for none
}

// Epoch names one history of revisions: the cluster and 128 random bits that restore, recover and import draw again.
type Epoch struct {
	Cluster uint64
	Nonce   [16]byte
}

// IsZero reports whether e names no history yet.
func (e Epoch) IsZero() bool { return e == Epoch{} }

// String is the form used in the Holdfast-Epoch header: 16 and 32 hexadecimal digits joined by a dash.
func (e Epoch) String() string {
	return fmt.Sprintf("%016x-%s", e.Cluster, hex.EncodeToString(e.Nonce[:]))
}

// Header says which node answered, and at which point of the history.
type Header struct {
	Epoch    Epoch
	Member   uint64 // raft replica that answered
	Term     uint64 // raft term it knew
	Revision int64  // revision of the store at the answer
}

// By is on whose behalf a command, query or watch is made. The zero value is nobody, which is enough where authentication
// is off. A Principal counts as the word of who names it: a door of this process, or the node that Node is.
type By struct {
	Principal    string // user, certificate name or device token
	AuthRevision uint64 // revision of the policy the door decided by
	Node         string // id of the proxy that forwarded it, whose own scope is checked too
	// Token is what the client has shown, as in an Authorization header. Whoever knows the policy puts a Principal in its
	// place: it goes up an uplink, and never into a log or a queue.
	Token string
}

// Named is b without its Token: what is kept of it.
func (b By) Named() By { b.Token = ""; return b }

// Unlimited is the MaxAge or StaleIfError that accepts any age, an unknown one included.
const Unlimited = time.Duration(1<<63 - 1)

// AgeUnknown is the Age of a Page whose age cannot be proven.
const AgeUnknown = time.Duration(-1)
