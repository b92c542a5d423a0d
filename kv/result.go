package kv

import "time"

// Result answers a Command: a tree of the same shape, one OpResult per Op.
//
// If Queued is nil a quorum has the command on disk. Else only this node has it on disk, and Ops is empty.
type Result struct {
	Header
	Ops    []OpResult
	Queued *Receipt
}

// Receipt is for a command that is durable in this node's queue and not committed.
type Receipt struct {
	ID      string    // for GET /v1/queue/{id}
	Expires time.Time // zero for never
}

// OpResult is what one Op did or found. It may be shared with others who get the same, so nobody changes it: a cache answers from the
// same memory for as long as it has the same to say.
type OpResult struct {
	KVs       []KeyValue // Range: the page; Put and Delete with PrevKV: what stood there; LeaseTTL: keys only
	Count     int64      // Range: matching keys regardless of Limit; Delete: keys removed
	More      bool       // Range: Limit cut the page
	Created   bool       // Put: the key did not exist
	Succeeded bool       // Txn: the Compares held
	Ops       []OpResult // Txn: of the branch taken
	Each      []Outcome  // Each: one per command
	Leases    []Lease    // LeaseGrant, LeaseKeepAlive, LeaseTTL: the one; LeaseList: all
	Alarms    []Alarm    // SetAlarm: the one; Alarms: all
}

// Lease is a lease as an answer shows it. TTL and Granted are seconds; TTL is -1 for a lease that is gone.
type Lease struct {
	ID, TTL, Granted int64
}

// Outcome is how a command ended: Err nil means Result counts, else nothing was applied. It is a function of the log
// alone, the same on every replica.
type Outcome struct {
	Result Result
	Err    *Error
}
