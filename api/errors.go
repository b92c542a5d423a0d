package api

import (
	"net/http"
	"time"

	"holdfast/kv"
)

// ProblemType is what the type of a problem (RFC 9457) begins with; the code's name follows.
const ProblemType = "urn:holdfast:problem:"

// Face is how one kv.Code looks outside, to every kind of client.
type Face struct {
	Status     int           // HTTP
	Title      string        // one line for a person, the same for every occurrence
	Retryable  bool          // the same request may be sent again as it is, and may then succeed
	Outcome    Outcome       // what became of the request
	RetryAfter time.Duration // advice where the error itself has none, 0 for no advice
	GRPC       GRPCCode
	Text       string // gRPC message: etcd's own, letter for letter, where etcd knows the condition (clients compare it); else our own
}

// Outcome says whether a refused request may have had an effect.
type Outcome string

// The outcomes.
const (
	OutcomeNone    Outcome = "none"    // it had none and will have none
	OutcomeUnknown Outcome = "unknown" // it may have been applied, or may still be
)

// GRPCCode is a gRPC status code. The numbers are the protocol's; this package does not link gRPC for them.
type GRPCCode uint32

// The gRPC status codes that the table uses.
const (
	grpcOK                 GRPCCode = 0
	grpcInvalidArgument    GRPCCode = 3
	grpcNotFound           GRPCCode = 5
	grpcPermissionDenied   GRPCCode = 7
	grpcResourceExhausted  GRPCCode = 8
	grpcFailedPrecondition GRPCCode = 9
	grpcAborted            GRPCCode = 10
	grpcOutOfRange         GRPCCode = 11
	grpcUnimplemented      GRPCCode = 12
	grpcInternal           GRPCCode = 13
	grpcUnavailable        GRPCCode = 14
	grpcDataLoss           GRPCCode = 15
	grpcUnauthenticated    GRPCCode = 16
)

// Retry-After where the error has no better advice. An election takes about a second; space is made by a person, by a
// compaction or by a lease, none of which is quicker than half a minute.
const (
	retrySoon  = time.Second
	retryLater = 30 * time.Second
)

// faces is the one table. The texts beginning with "etcdserver:" are those of etcd's package rpctypes, version 3.7.
var faces = [kv.Codes]Face{
	kv.OK:       {http.StatusOK, "OK", false, OutcomeNone, 0, grpcOK, ""},
	kv.Internal: {http.StatusInternalServerError, "Internal fault", false, OutcomeUnknown, 0, grpcInternal, "holdfast: internal fault"},

	kv.Invalid:      {http.StatusBadRequest, "Malformed request", false, OutcomeNone, 0, grpcInvalidArgument, "holdfast: invalid request"},
	kv.TooLarge:     {http.StatusRequestEntityTooLarge, "Too large", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: request is too large"},
	kv.TooManyOps:   {http.StatusBadRequest, "Too many operations", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: too many operations in txn request"},
	kv.DuplicateKey: {http.StatusBadRequest, "Key given twice", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: duplicate key given in txn request"},
	kv.KeyNotFound:  {http.StatusNotFound, "No such key", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: key not found"},

	kv.Unauthenticated:  {http.StatusUnauthorized, "Not authenticated", false, OutcomeNone, 0, grpcUnauthenticated, "etcdserver: invalid auth token"},
	kv.PermissionDenied: {http.StatusForbidden, "Permission denied", false, OutcomeNone, 0, grpcPermissionDenied, "etcdserver: permission denied"},
	// Nobody said who they are, or what they said holds no more: 401, so that a client shows its credentials.
	kv.UserEmpty:       {http.StatusUnauthorized, "Nobody said who asks", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: user name is empty"},
	kv.AuthFailed:      {http.StatusUnauthorized, "Wrong user or password", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: authentication failed, invalid user ID or password"},
	kv.AuthOldRevision: {http.StatusUnauthorized, "Credentials are out of date", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: revision of auth store is old"},

	kv.AuthNotEnabled:       {http.StatusConflict, "Authentication is off", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: authentication is not enabled"},
	kv.InvalidAuthMgmt:      {http.StatusBadRequest, "No such change of users and roles", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: invalid auth management"},
	kv.UserNotFound:         {http.StatusNotFound, "No such user", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: user name not found"},
	kv.UserExists:           {http.StatusConflict, "User exists", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: user name already exists"},
	kv.RoleEmpty:            {http.StatusBadRequest, "Name of a role is missing", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: role name is empty"},
	kv.RoleNotFound:         {http.StatusNotFound, "No such role", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: role name not found"},
	kv.RoleExists:           {http.StatusConflict, "Role exists", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: role name already exists"},
	kv.RoleNotGranted:       {http.StatusConflict, "User does not have the role", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: role is not granted to the user"},
	kv.PermissionNotGiven:   {http.StatusBadRequest, "Permission is missing", false, OutcomeNone, 0, grpcInvalidArgument, "etcdserver: permission not given"},
	kv.PermissionNotGranted: {http.StatusConflict, "Role does not have the permission", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: permission is not granted to the role"},
	kv.RootUserMissing:      {http.StatusConflict, "There is no user root", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: root user does not exist"},
	kv.RootRoleMissing:      {http.StatusConflict, "The user root lacks the role root", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: root user does not have root role"},

	kv.AuthStale:    {http.StatusServiceUnavailable, "Policy too old to decide by", true, OutcomeNone, retryLater, grpcUnavailable, "holdfast: the mirrored policy is too old to decide by"},
	kv.ReadOnlyNode: {http.StatusMethodNotAllowed, "This node is read-only", false, OutcomeNone, 0, grpcPermissionDenied, "holdfast: this node is read-only"},

	kv.PreconditionFailed: {http.StatusPreconditionFailed, "Precondition failed", false, OutcomeNone, 0, grpcFailedPrecondition, "holdfast: precondition failed"},
	kv.Reused:             {http.StatusUnprocessableEntity, "Idempotency key used for another request", false, OutcomeNone, 0, grpcInvalidArgument, "holdfast: the retry key was used for another request"},
	kv.OriginConflict:     {http.StatusConflict, "Queue numbers used by another history", false, OutcomeNone, 0, grpcAborted, "holdfast: the queue's numbers were used by another history of its disk"},
	kv.SequenceGap:        {http.StatusConflict, "Predecessor missing", true, OutcomeNone, 0, grpcAborted, "holdfast: a queued command came before its predecessor"},

	kv.RateLimited: {http.StatusTooManyRequests, "Too many requests", true, OutcomeNone, retrySoon, grpcResourceExhausted, "etcdserver: too many requests"},
	kv.Busy:        {http.StatusServiceUnavailable, "Node is busy", true, OutcomeNone, retrySoon, grpcResourceExhausted, "etcdserver: too many requests"},
	kv.NoSpace:     {http.StatusInsufficientStorage, "No space", true, OutcomeNone, retryLater, grpcResourceExhausted, "etcdserver: mvcc: database space exceeded"},

	// etcd's grpc-proxy, too, answers "no leader" when it has lost what is above it.
	kv.NoLeader:            {http.StatusServiceUnavailable, "No leader", true, OutcomeNone, retrySoon, grpcUnavailable, "etcdserver: no leader"},
	kv.UpstreamUnavailable: {http.StatusServiceUnavailable, "Upstream unavailable", true, OutcomeNone, retrySoon, grpcUnavailable, "etcdserver: no leader"},
	kv.Stopping:            {http.StatusServiceUnavailable, "Node is stopping", true, OutcomeNone, retrySoon, grpcUnavailable, "etcdserver: server stopped"},
	// Not retryable: sent again, an unguarded write may undo what others wrote since. Read first, or guard it.
	kv.OutcomeUnknown: {http.StatusGatewayTimeout, "Outcome unknown", false, OutcomeUnknown, 0, grpcUnavailable, "etcdserver: request timed out"},

	kv.Compacted:         {http.StatusGone, "Revision has been compacted", false, OutcomeNone, 0, grpcOutOfRange, "etcdserver: mvcc: required revision has been compacted"},
	kv.FutureRevision:    {http.StatusConflict, "Revision is not there yet", true, OutcomeNone, retrySoon, grpcOutOfRange, "etcdserver: mvcc: required revision is a future revision"},
	kv.RevisionTimeout:   {http.StatusGatewayTimeout, "Revision not reached in time", true, OutcomeNone, retrySoon, grpcUnavailable, "holdfast: the revision asked for was not reached in time"},
	kv.StalenessExceeded: {http.StatusServiceUnavailable, "Nothing fresh enough", true, OutcomeNone, retrySoon, grpcUnavailable, "holdfast: nothing fresh enough can be had"},
	kv.NotCached:         {http.StatusGatewayTimeout, "Not cached", false, OutcomeNone, 0, grpcUnavailable, "holdfast: not cached"},

	kv.LeaseNotFound:    {http.StatusNotFound, "No such lease", false, OutcomeNone, 0, grpcNotFound, "etcdserver: requested lease not found"},
	kv.LeaseExists:      {http.StatusConflict, "Lease exists", false, OutcomeNone, 0, grpcFailedPrecondition, "etcdserver: lease already exists"},
	kv.LeaseTTLTooLarge: {http.StatusBadRequest, "Lease TTL too large", false, OutcomeNone, 0, grpcOutOfRange, "etcdserver: too large lease TTL"},

	kv.SlowConsumer: {http.StatusServiceUnavailable, "Consumer too slow", true, OutcomeNone, 0, grpcResourceExhausted, "holdfast: the watcher fell behind"},
	kv.Unsupported:  {http.StatusNotImplemented, "Not in this version or kind of node", false, OutcomeNone, 0, grpcUnimplemented, "holdfast: not supported by this node"},
	kv.Corrupt:      {http.StatusInternalServerError, "Stored data is damaged", false, OutcomeNone, 0, grpcDataLoss, "etcdserver: corrupt cluster"},
}

// FaceOf returns the row of a code. A code this version does not know, from a newer node, looks like Internal.
func FaceOf(c kv.Code) Face {
	if int(c) >= len(faces) {
		return faces[kv.Internal]
	}
	return faces[c]
}
