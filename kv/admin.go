package kv

import (
	"strconv"
	"time"
)

// Replica is a member of the cluster as an operator sees it.
type Replica struct {
	ID         uint64
	Node       string   // node id, 32 hexadecimal digits
	Name       string   // a label, not an identity; empty if not known here
	PeerURLs   []string // where other nodes reach it, as quic://host:port
	ClientURLs []string // where its clients do
	Learner    bool     // has the data, or is getting it, and no vote
	Leaving    bool     // is being removed
	Away       bool     // a voter out of reach for so long that another may take its seat
}

// Wanted is what the cluster's operator wants of its members. It is replicated.
type Wanted struct {
	Voters       int           // how many voting members, 1 to 7
	ReplaceAfter time.Duration // for how long a voter is away before another may take its seat, in whole seconds; 0: for ever
}

// Condition is how one member stands.
type Condition struct {
	Header           // Member and Term are this member's
	Leader    uint64 // replica id, 0 while there is none
	Committed uint64 // raft index known to be committed
	Applied   uint64 // raft index applied to the state
	Learner   bool
	DBSize    int64 // bytes of the state file
	DBInUse   int64 // of these, bytes that hold something
	DBQuota   int64 // size at which AlarmNoSpace is raised
	Feature   uint64
	Version   string
	Alarms    []Alarm
}

// Alarm is a replicated fact that stops some kinds of requests on all members until it is disarmed.
type Alarm struct {
	Member uint64 // replica that raised it
	Kind   AlarmKind
}

// AlarmKind says what is wrong. The numbers are etcd's.
type AlarmKind uint8

// The alarms.
const (
	AlarmNone    AlarmKind = iota
	AlarmNoSpace           // the state has reached its quota: what would make it grow is refused with NoSpace
	AlarmCorrupt           // replicas differ: everything but reading is refused with Corrupt
)

func (k AlarmKind) String() string {
	switch k {
	case AlarmNone:
		return "none"
	case AlarmNoSpace:
		return "no-space"
	case AlarmCorrupt:
		return "corrupt"
	default:
		return "alarm-" + strconv.Itoa(int(k))
	}
}

// The feature levels: what a command may hold is gated by the lowest level that every member supports.
const (
	FeatureFirst uint64 = iota // what a data dir without a level has
	FeatureAdmin               // alarms, audits and leases
	FeatureAuth                // users, roles, device tokens
	features
)

// FeatureNewest is the level of this version.
const FeatureNewest = features - 1

// Hash is a digest of all keys, all revisions of them that are kept, up to Revision. Two members that answer for the
// same Revision and Compact must have the same Sum.
type Hash struct {
	Header   // of the answer
	Sum      uint32
	Revision int64 // the digest is of the state at
	Compact  int64 // and of the history from
}
