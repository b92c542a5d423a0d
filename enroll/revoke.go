package enroll

import (
	"context"
	"time"

	"holdfast/kv"
	"holdfast/transport"
)

// revokedRecords are nodes that are never let in again. A record is kept until the CA of its certificates is dropped.
const revokedRecords = "revoked/"

// MaxRevoked bounds the records of nodes that were revoked.
const MaxRevoked = 10_000

// RevokedRecord is what is left of a node that was revoked.
type RevokedRecord struct {
	ID   string         `json:"id"`
	Name string         `json:"name"`
	Role transport.Role `json:"role"`
	At   time.Time      `json:"at"`

	version int64
}

// Revocations lists the nodes that were revoked.
func Revocations(ctx context.Context, s Store) ([]RevokedRecord, error) {
	return records(ctx, s, revokedRecords, func(r *RevokedRecord, v int64) { r.version = v })
}

// Find is the node of that id, or of that name if only one has it.
func Find(nodes []NodeRecord, name string) (NodeRecord, error) {
	var found []NodeRecord
	for _, n := range nodes {
		if n.ID == name {
			return n, nil
		}
		if n.Name == name {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return NodeRecord{}, kv.Errorf(kv.KeyNotFound, "no node has the name or id %q; agent nodes ls lists those there are", name)
	case 1:
		return found[0], nil
	}
	return NodeRecord{}, kv.Errorf(kv.Invalid, "%d nodes have the name %q, so give the id: %s and %s are two of them", len(found), name, found[0].ID, found[1].ID)
}

// Revoke shuts a node out for good: its certificate, and every one it could ask for, is good for nothing, wherever the
// record has arrived.
func (a *Authority) Revoke(ctx context.Context, name string) (RevokedRecord, error) {
	nodes, err := Nodes(ctx, a.opts.Store)
	if err != nil {
		return RevokedRecord{}, err
	}
	revoked, err := Revocations(ctx, a.opts.Store)
	if err != nil {
		return RevokedRecord{}, err
	}
	n, err := Find(nodes, name)
	if err != nil {
		for _, r := range revoked {
			if r.ID == name {
				return r, nil // again
			}
		}
		return RevokedRecord{}, err
	}
	if n.ID == a.opts.Identity().Node() {
		return RevokedRecord{}, kv.Errorf(kv.Invalid, "%s is this node itself: revoke it on another member", name)
	}
	if len(revoked) >= MaxRevoked {
		return RevokedRecord{}, kv.Errorf(kv.RateLimited, "the cluster remembers %d revoked nodes, its limit; replace the CA (agent cert rotate): those revoked before are forgotten when the old one is dropped", len(revoked))
	}
	r := RevokedRecord{ID: n.ID, Name: n.Name, Role: n.Role, At: a.opts.Now().UTC().Truncate(time.Second)}
	changes := []change{{revokedRecords + n.ID, r, anyVersion}, {nodeRecords + n.ID, nil, n.version}}
	if n.Role == transport.Member {
		trust, err := readTrust(ctx, a.opts.Store)
		if err != nil {
			return r, err
		}
		for _, ca := range trust.CAs {
			changes = append(changes, change{keyName(ca.Hash, n.ID), nil, anyVersion})
		}
	}
	if err := commit(ctx, a.opts.Store, changes...); err != nil {
		return r, err
	}
	a.opts.Log.Warn("node revoked", "node", n.ID, "name", n.Name, "role", string(n.Role))
	a.Poke()
	return r, nil
}

// forget removes the records of nodes revoked before a time, a bounded number at once.
func (a *Authority) forget(ctx context.Context, before time.Time) error {
	revoked, err := Revocations(ctx, a.opts.Store)
	if err != nil {
		return err
	}
	var changes []change
	for _, r := range revoked {
		if r.At.Before(before) && len(changes) < forgetAtOnce {
			changes = append(changes, change{revokedRecords + r.ID, nil, r.version})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return commit(ctx, a.opts.Store, changes...)
}

// forgetAtOnce bounds one command; the rest is forgotten with the next CA.
const forgetAtOnce = 1000

// LocalNodes is Nodes as far as the replica at hand has come.
func LocalNodes(ctx context.Context, s Store) ([]NodeRecord, error) { return Nodes(ctx, local{s}) }

// LocalRevocations is Revocations as far as the replica at hand has come.
func LocalRevocations(ctx context.Context, s Store) ([]RevokedRecord, error) {
	return Revocations(ctx, local{s})
}

// Invite lets a node that has joined, by id, take a seat among the members with its own certificate.
func (a *Authority) Invite(ctx context.Context, node string) error {
	nodes, err := Nodes(ctx, a.opts.Store)
	if err != nil {
		return err
	}
	n, err := Find(nodes, node)
	if err != nil || n.Seat || n.Role == transport.Member {
		return err
	}
	is := n
	is.Seat = true
	err = set(ctx, a.opts.Store, nodeRecords+n.ID, is, n.version)
	if kv.CodeOf(err) == kv.PreconditionFailed {
		return kv.Errorf(kv.Busy, "the record of node %s has just been changed: try again: %w", node, err)
	}
	return err
}
