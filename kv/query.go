package kv

import "time"

// Query reads. The zero MaxAge is a linearizable read.
//
//	linearizable  MaxAge 0
//	bounded       MaxAge d
//	local         MaxAge Unlimited, LocalOnly
//	auto          MaxAge d, StaleIfError s: bounded, then whatever is at hand up to s old
//	serializable  MaxAge Unlimited (gRPC: forwarded where the cache has no answer)
type Query struct {
	By           By
	Ops          []Op          // Range, read-only Txn, LeaseTTL, LeaseList, Alarms, ReadAuth, Authenticate; all at one revision
	MaxAge       time.Duration // oldest answer accepted
	StaleIfError time.Duration // oldest answer accepted when a fresher one cannot be had
	MinRevision  int64         // a node behind it waits up to Wait, then RevisionTimeout; 0 for none
	Wait         time.Duration
	LocalOnly    bool // never ask another node: NotCached if this one does not know
}

// Page answers a Query.
type Page struct {
	Header
	Ops     []OpResult
	Source  Source
	Age     time.Duration // proven age of the answer, AgeUnknown if there is no proof; 0 for a linearizable one
	Pending int           // queued writes on the key that the answer does not show
}

// Source says where an answer came from.
type Source uint8

// The sources.
const (
	SourceMember   Source = iota // this node, a replica
	SourceUpstream               // forwarded
	SourceCache                  // a proxy's cache
)

func (s Source) String() string {
	switch s {
	case SourceUpstream:
		return "upstream"
	case SourceCache:
		return "cache"
	default:
		return "member"
	}
}
