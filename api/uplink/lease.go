package uplink

import (
	"context"

	"holdfast/kv"
)

// A lease names no keys, but whoever revokes it deletes those that live under it, and whoever asks what it has left may
// ask which they are. So both are for a peer whose scope covers all of them. What comes under the lease between the look
// and the revocation is put there by somebody who knows that the lease is not his own.
//
// To grant, renew and list leases touches no key.

// leasesInScope looks at the keys of the leases that a command would revoke.
func (s *Server) leasesInScope(ctx context.Context, c kv.Command, peer Peer) *kv.Error {
	if wholeScope(peer) {
		return nil
	}
	for _, op := range c.Ops {
		switch op := op.(type) {
		case kv.LeaseRevoke:
			page, err := s.backend.Read(ctx, kv.Query{By: c.By, Ops: []kv.Op{kv.LeaseTTL{ID: op.ID, Keys: true}}})
			if err != nil {
				return asError(err)
			}
			if err := keysInScope(page.Ops[0].KVs, peer); err != nil {
				return err
			}
		case kv.Each:
			for _, one := range op.Commands {
				if err := s.leasesInScope(ctx, one, peer); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// answersInScope looks at the keys of leases in an answer.
func answersInScope(ops []kv.Op, results []kv.OpResult, peer Peer) *kv.Error {
	if wholeScope(peer) || len(results) != len(ops) {
		return nil
	}
	for i, op := range ops {
		var err *kv.Error
		switch op := op.(type) {
		case kv.LeaseTTL:
			err = keysInScope(results[i].KVs, peer)
		case kv.Txn:
			branch := op.Else
			if results[i].Succeeded {
				branch = op.Then
			}
			err = answersInScope(branch, results[i].Ops, peer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func keysInScope(kvs []kv.KeyValue, peer Peer) *kv.Error {
	for _, v := range kvs {
		if err := rangeInScope(v.Key, nil, peer); err != nil {
			return kv.Errorf(kv.PermissionDenied, "the lease has keys outside the scope of node %s (%s)", peer.Node, scopeText(peer.Scope))
		}
	}
	return nil
}

// wholeScope reports whether a peer may touch every key.
func wholeScope(peer Peer) bool {
	for _, prefix := range peer.Scope {
		if prefix == "" {
			return true
		}
	}
	return false
}
