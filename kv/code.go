package kv

import "strconv"

var codeNames = [...]string{
	OK:                  "ok",
	Internal:            "internal",
	Invalid:             "invalid",
	TooLarge:            "too-large",
	TooManyOps:          "too-many-ops",
	DuplicateKey:        "duplicate-key",
	KeyNotFound:         "key-not-found",
	Unauthenticated:     "unauthenticated",
	PermissionDenied:    "permission-denied",
	PreconditionFailed:  "precondition-failed",
	Reused:              "idempotency-key-reused",
	RateLimited:         "rate-limited",
	NoLeader:            "no-leader",
	UpstreamUnavailable: "upstream-unavailable",
	OutcomeUnknown:      "outcome-unknown",
	NoSpace:             "no-space",
	Compacted:           "compacted",
	FutureRevision:      "future-revision",
	RevisionTimeout:     "revision-timeout",
	StalenessExceeded:   "staleness-exceeded",
	NotCached:           "not-cached",
	AuthStale:           "authz-stale",
	LeaseNotFound:       "lease-not-found",
	LeaseExists:         "lease-exists",
	LeaseTTLTooLarge:    "lease-ttl-too-large",
	SlowConsumer:        "slow-consumer",
	Unsupported:         "unsupported",
	ReadOnlyNode:        "read-only",
	OriginConflict:      "origin-conflict",
	Stopping:            "stopping",
	Busy:                "busy",
	Corrupt:             "corrupt",
	SequenceGap:         "sequence-gap",
}

// String is the last part of the problem type that REST clients see; it never changes for a code.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "code-" + strconv.Itoa(int(c))
}
