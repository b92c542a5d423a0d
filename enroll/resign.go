package enroll

import (
	"context"

	"holdfast/kv"
	"holdfast/transport"
)

// Resign records that this node is to be a proxy, of every key, and no longer a member: what it renews its certificate as,
// and to whom the CA's key is not sealed. The Authority no longer puts its own record right, until Stay. It is refused with
// Busy while no other member holds the key of a CA: nobody could join any more.
func (a *Authority) Resign(ctx context.Context) error {
	if err := a.load(ctx); err != nil {
		return err
	}
	v, self := a.view.Load(), a.opts.Identity().Node()
	for _, ca := range v.trust.CAs {
		if !v.heldBeside(ca.Hash, self) {
			return kv.Errorf(kv.Busy, "no other member holds the key of the cluster's CA yet, without which no box could join: try again in a moment")
		}
	}
	a.resigned.Store(true)
	was, there := v.nodes[self]
	if !there || was.Role == transport.Proxy {
		return nil
	}
	is := was
	is.Role, is.Scope, is.Seal, is.Seat = transport.Proxy, []string{""}, nil, true
	err := set(ctx, a.opts.Store, nodeRecords+self, is, was.version)
	if kv.CodeOf(err) == kv.PreconditionFailed {
		return kv.Errorf(kv.Busy, "the record of this node has just been changed: try again: %w", err)
	}
	return err
}

// Stay takes Resign back: the Authority records that this node is a member.
func (a *Authority) Stay() {
	a.resigned.Store(false)
	a.Poke()
}

// heldBeside reports whether the key of a CA is sealed to another member than a node.
func (v *view) heldBeside(ca, node string) bool {
	for _, n := range v.nodes {
		if n.ID != node && n.Role == transport.Member && v.sealed[keyName(ca, n.ID)] {
			return true
		}
	}
	return false
}
