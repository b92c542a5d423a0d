package rest

import (
	"net/url"
	"slices"
	"strings"

	"holdfast/kv"
)

// target is what a path leads to.
type target uint8

const (
	toNothing target = iota
	toKey
	toStatus
	toQueue
	toQueued
	toTokens
	toToken
	toDevices
	toDevice
	toScope
	toNodes
	toNode
	toCert
	toRenew
	toRotate
	toFinish
	toMembers
	toMember
	toSwitch
	toTxn
	toBatch
	toLeases
	toLease
	toKeepAlive
	toPause
	toResume
	toFlush
	toRetry
	toSnapshot
	toDocument

	targets // how many there are
)

const (
	keyRoot    = "/v1/kv/"
	statusPath = "/v1/status"
	queuePath  = "/v1/queue"
	queueRoot  = "/v1/queue/"
	pausePath  = "/v1/queue/pause"
	resumePath = "/v1/queue/resume"
	flushPath  = "/v1/queue/flush"
	retryLeaf  = "/retry"
	tokensPath = "/v1/tokens"
	tokenRoot  = "/v1/tokens/" //nolint:gosec // a path

	membersPath = "/v1/members"
	memberRoot  = "/v1/members/"
	nodeRoot    = "/v1/nodes/"

	txnPath       = "/v1/txn"
	batchPath     = "/v1/batch"
	leasesPath    = "/v1/leases"
	leaseRoot     = "/v1/leases/"
	keepAliveLeaf = "/keepalive"
	snapshotPath  = "/v1/snapshot"
	documentPath  = "/v1/openapi.yaml"
)

// exact are the paths without a name in them.
var exact = map[string]target{
	statusPath:   toStatus,
	queuePath:    toQueue,
	pausePath:    toPause,
	resumePath:   toResume,
	flushPath:    toFlush,
	tokensPath:   toTokens,
	devicesPath:  toDevices,
	nodesPath:    toNodes,
	certPath:     toCert,
	renewPath:    toRenew,
	rotatePath:   toRotate,
	finishPath:   toFinish,
	membersPath:  toMembers,
	txnPath:      toTxn,
	batchPath:    toBatch,
	leasesPath:   toLeases,
	snapshotPath: toSnapshot,
	documentPath: toDocument,
}

// route returns what a URL leads to, and the name of what is behind it: an id, or a key's bytes, which are everything behind /v1/kv/, each escape undone once and
// nothing else done. "//", ".", ".." and a trailing slash are part of the key, %2F equals a slash, and a plus is a plus.
//
// The root itself is taken literally: /v1%2Fkv/a leads nowhere. It is compared with the path as it was sent, which is
// RawPath where that differs from the usual encoding of Path, and has no escape in the root where it does not.
func route(u *url.URL) (target, string) {
	sent := u.RawPath
	if sent == "" {
		sent = u.Path
	}
	if strings.HasPrefix(sent, keyRoot) && strings.HasPrefix(u.Path, keyRoot) {
		return toKey, u.Path[len(keyRoot):]
	}
	if to, ok := exact[sent]; ok {
		return to, ""
	}
	if id, ok := strings.CutPrefix(sent, queueRoot); ok {
		if isID(id) {
			return toQueued, id
		}
		if id, ok = strings.CutSuffix(id, retryLeaf); ok && isID(id) {
			return toRetry, id
		}
	}
	if id, ok := strings.CutPrefix(sent, tokenRoot); ok && isID(id) {
		return toToken, id
	}
	if id, ok := strings.CutPrefix(sent, deviceRoot); ok && isID(id) {
		return toDevice, id
	}
	if node, ok := strings.CutSuffix(sent, scopeLeaf); ok {
		if node, ok = strings.CutPrefix(node, nodeRoot); ok && isID(node) {
			return toScope, node
		}
	}
	if name, ok := strings.CutPrefix(u.Path, memberRoot); ok && strings.HasPrefix(sent, memberRoot) && name != "" && !strings.Contains(name, "/") {
		return toMember, name
	}
	if name, ok := strings.CutPrefix(sent, nodeRoot); ok && name != "" {
		if node, kind, two := strings.Cut(name, "/"); two && isID(node) && slices.Contains(switchKinds, kind) {
			return toSwitch, name
		} else if !two {
			return toNode, u.Path[len(nodeRoot):] // a name may have any character
		}
	}
	if id, ok := strings.CutPrefix(sent, leaseRoot); ok {
		if isID(id) {
			return toLease, id
		}
		if id, ok = strings.CutSuffix(id, keepAliveLeaf); ok && isID(id) {
			return toKeepAlive, id
		}
	}
	return toNothing, ""
}

// isID reports whether a path segment can be an id: those of this node need no escapes.
func isID(segment string) bool {
	return segment != "" && !strings.ContainsAny(segment, "/%")
}

func errEmptyKey() error {
	return kv.Errorf(kv.Invalid, "the key is empty; name one behind %s, or ask for all keys with GET %s?prefix", keyRoot, keyRoot)
}
