package kv

import (
	"errors"
	"fmt"
	"time"
)

// Code is why a request was refused. api/errors.go has the one table from Code to what a client sees.
type Code uint8

// The codes. Their numbers are part of the wire format: append only.
const (
	OK                  Code = iota
	Internal                 // a fault of ours
	Invalid                  // malformed; Detail says what
	TooLarge                 // key, value or request beyond its limit
	TooManyOps               // more ops in a transaction than the limit
	DuplicateKey             // a transaction puts one key twice
	KeyNotFound              // IgnoreValue or IgnoreLease on a key that does not exist
	Unauthenticated          // who are you
	PermissionDenied         // not yours
	PreconditionFailed       // a Guard failed; Revision is the key's current mod revision, 0 if absent
	Reused                   // an ID was used before, for another command
	RateLimited              // this client's rate or share is exceeded
	NoLeader                 // definitely not applied: no leader or quorum within the time allowed
	UpstreamUnavailable      // definitely not applied: the uplink is lost
	OutcomeUnknown           // sent; whether it was applied is not known
	NoSpace                  // quota or disk reserve reached: nothing was stored
	Compacted                // that history is gone; Revision is the oldest that can be read
	FutureRevision           // that revision is not there yet
	RevisionTimeout          // MinRevision was not reached in time
	StalenessExceeded        // nothing fresh enough can be had
	NotCached                // LocalOnly, and this node does not know
	AuthStale                // the mirrored policy is older than auth.max-offline
	LeaseNotFound            // no such lease, or it has expired
	LeaseExists              // the id asked for is taken
	LeaseTTLTooLarge         // beyond the longest TTL, 9,000,000,000 s as in etcd
	SlowConsumer             // a watcher fell behind what it may hold
	Unsupported              // this version or kind of node does not do that
	ReadOnlyNode             // a proxy with proxy.read-only
	OriginConflict           // a queue's numbers were used by another history of its disk
	Stopping                 // definitely not applied: the node is shutting down
	Busy                     // definitely not applied: a bounded queue of the node is full
	Corrupt                  // what is stored failed its checksum; nothing of it is served
	SequenceGap              // an ID.Seq came before its predecessor; Revision is the last sequence used

	// What etcd's authentication refuses. Who lacks a right is PermissionDenied, whose token is no good Unauthenticated.
	AuthNotEnabled       // authentication is off
	AuthOldRevision      // who asks has been changed since the door let them in: authenticate again
	AuthFailed           // no such user, or not this password
	InvalidAuthMgmt      // that change makes no sense, or would lock everybody out
	UserEmpty            // a name is missing, above all that of who asks
	UserNotFound         // no such user
	UserExists           // the name is taken
	RoleEmpty            // the name of a role is missing
	RoleNotFound         // no such role
	RoleExists           // the name is taken
	RoleNotGranted       // the user has no such role
	PermissionNotGiven   // a permission is missing in the request
	PermissionNotGranted // the role has no such permission
	RootUserMissing      // authentication needs a user root
	RootRoleMissing      // who has the role root
	codes
)

// Codes is the number of codes, for tables over them.
const Codes = int(codes)

// Error is a refusal. Detail is for a person and names the input and what to do; it is not part of the identity of an
// error: compare codes with errors.Is and the package's sentinels, or CodeOf.
type Error struct {
	Code       Code
	Detail     string
	Revision   int64         // see Code
	RetryAfter time.Duration // earliest sensible retry, 0 for no advice
	Err        error         // cause, local to this process
}

// Errorf returns an Error with a Detail and, if %w is used, a cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Detail: err.Error(), Err: errors.Unwrap(err)}
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Code.String()
	}
	return e.Detail
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an Error of the same code, so that errors.Is(err, &Error{Code: Compacted}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// CodeOf returns the code of err: OK for nil, Internal for an error that is not an Error.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}
