package uplink

import (
	"bytes"
	"slices"
	"strings"

	"holdfast/kv"
)

// A peer's scope is a list of key prefixes. A range is in scope if one prefix covers all of it.

func commandInScope(c kv.Command, peer Peer) *kv.Error {
	if !c.ID.Seq.IsZero() {
		if err := originInScope(c.ID.Seq.Origin, peer); err != nil {
			return err
		}
	}
	for _, g := range c.Guards {
		if err := rangeInScope(g.Key, g.End, peer); err != nil {
			return err
		}
	}
	return opsInScope(c.Ops, peer)
}

func opsInScope(ops []kv.Op, peer Peer) *kv.Error {
	for _, op := range ops {
		if err := opInScope(op, peer); err != nil {
			return err
		}
	}
	return nil
}

func opInScope(op kv.Op, peer Peer) *kv.Error {
	switch op := op.(type) {
	case kv.Put:
		return rangeInScope(op.Key, nil, peer)
	case kv.Delete:
		return rangeInScope(op.Key, op.End, peer)
	case kv.Range:
		return rangeInScope(op.Key, op.End, peer)
	case kv.Each:
		for _, c := range op.Commands {
			if err := commandInScope(c, peer); err != nil {
				return err
			}
		}
		return nil
	case kv.Txn:
		for _, c := range op.Compares {
			if err := rangeInScope(c.Key, c.End, peer); err != nil {
				return err
			}
		}
		if err := opsInScope(op.Then, peer); err != nil {
			return err
		}
		return opsInScope(op.Else, peer)
	case kv.OpenQueue:
		return originInScope(op.Origin, peer)
	case kv.Skip, kv.LeaseGrant, kv.LeaseKeepAlive, kv.LeaseTTL, kv.LeaseList, kv.LeaseRevoke, kv.Compact, kv.Alarms:
		return nil // name no key; see lease.go. Whether this peer may is for authorisation
	case kv.ReadAuth, kv.Authenticate:
		return nil // the policy says who may ask
	case kv.SetAuth, kv.SetDevice, kv.SetScope:
		if slices.Contains(peer.Scope, "") {
			return nil // likewise
		}
		return kv.Errorf(kv.PermissionDenied, "node %s may touch a part of the keys only, and so not say who may do what", peer.Node)
	case kv.Records:
		if string(op.Prefix) == membersRecord {
			return nil
		}
		return kv.Errorf(kv.PermissionDenied, "a proxy may not read the record %q", op.Prefix)
	default:
		return kv.Errorf(kv.PermissionDenied, "a proxy may not send a %T", op)
	}
}

// membersRecord says who the members are and where. Every node may know that: it needs one of them.
const membersRecord = "members"

func watchesInScope(ws []kv.Watch, peer Peer) *kv.Error {
	for _, w := range ws {
		if err := rangeInScope(w.Key, w.End, peer); err != nil {
			return err
		}
	}
	return nil
}

func rangeInScope(key, end []byte, peer Peer) *kv.Error {
	for _, prefix := range peer.Scope {
		if covers(prefix, key, end) {
			return nil
		}
	}
	return kv.Errorf(kv.PermissionDenied, "key %q is outside the scope of node %s (%s); join it again with a wider one",
		key, peer.Node, scopeText(peer.Scope))
}

func covers(prefix string, key, end []byte) bool {
	if prefix == "" {
		return true
	}
	if !bytes.HasPrefix(key, []byte(prefix)) {
		return false
	}
	if len(end) == 0 {
		return true
	}
	last := kv.PrefixEnd([]byte(prefix))
	if bytes.Equal(last, kv.FromKey()) { // a prefix of 0xff only: nothing lies behind it
		return true
	}
	return !bytes.Equal(end, kv.FromKey()) && bytes.Compare(end, last) <= 0
}

func scopeText(scope []string) string {
	if len(scope) == 0 {
		return "none"
	}
	return strings.Join(scope, ", ")
}
