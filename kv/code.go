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

	AuthNotEnabled:       "auth-not-enabled",
	AuthOldRevision:      "auth-old-revision",
	AuthFailed:           "auth-failed",
	InvalidAuthMgmt:      "invalid-auth-management",
	UserEmpty:            "user-empty",
	UserNotFound:         "user-not-found",
	UserExists:           "user-exists",
	RoleEmpty:            "role-empty",
	RoleNotFound:         "role-not-found",
	RoleExists:           "role-exists",
	RoleNotGranted:       "role-not-granted",
	PermissionNotGiven:   "permission-not-given",
	PermissionNotGranted: "permission-not-granted",
	RootUserMissing:      "root-user-missing",
	RootRoleMissing:      "root-role-missing",
}

// String is the last part of the problem type that REST clients see; it never changes for a code.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "code-" + strconv.Itoa(int(c))
}
