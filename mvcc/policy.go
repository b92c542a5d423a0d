package mvcc

import (
	"errors"

	"go.etcd.io/bbolt"

	"holdfast/auth"
	"holdfast/kv"
)

// The policy is in the side table, entry by entry, and in memory as a part of the state, because each command is judged by
// it:
//
//	'p' | key of an auth.Entry -> its value
const sidePolicy = 'p'

// Policy is who may do what, as far as it is applied here; nil is that of a new cluster. After a linearizable read it is at
// least as new as the cluster's was when that was asked for.
func (s *Store) Policy() *auth.Policy { return s.policy.Load() }

// PolicyChanged returns a channel that is closed once Policy may return another than it did before.
func (s *Store) PolicyChanged() <-chan struct{} {
	s.policyMu.Lock()
	defer s.policyMu.Unlock()
	if s.policyChanged == nil {
		s.policyChanged = make(chan struct{})
	}
	return s.policyChanged
}

// publishPolicy shows the policy of the state. Watches are told of what was applied under it afterwards.
func (s *Store) publishPolicy() {
	if s.policy.Swap(s.state.Policy) == s.state.Policy {
		return
	}
	s.policyMu.Lock()
	defer s.policyMu.Unlock()
	if s.policyChanged != nil {
		close(s.policyChanged)
		s.policyChanged = nil
	}
}

// permits judges a command by the policy at its place in the log.
func (s *Store) permits(r *reader, c *kv.Command) (*kv.Error, error) {
	if !s.state.Policy.Enabled() {
		return nil, nil
	}
	err := s.state.Policy.Permits(c, func(id int64) ([][]byte, error) { return r.underLease(id, s.state.Revision) })
	refused, ok := refusal(err)
	if err != nil && !ok {
		return nil, err
	}
	return refused, nil
}

// underLease returns the keys that live under a lease at a revision.
func (r *reader) underLease(id, at int64) (keys [][]byte, err error) {
	all, err := r.leaseKeys(id)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		if err := r.refresh(); err != nil {
			return nil, err
		}
		v, err := r.get([]byte(k.key), at)
		if err != nil {
			return nil, err
		}
		if v != nil && !v.deleted && v.lease == id {
			keys = append(keys, []byte(k.key))
		}
	}
	return keys, nil
}

// LeaseKeys returns the keys that live under a lease now, none for one that does not exist.
func (s *Store) LeaseKeys(id int64) ([][]byte, error) {
	for range readAttempts {
		p, err := s.Read(kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: id, Keys: true}}})
		if errors.Is(err, errPassed) {
			continue
		}
		if err != nil {
			return nil, err
		}
		keys := make([][]byte, 0, len(p.Ops[0].KVs))
		for _, k := range p.Ops[0].KVs {
			keys = append(keys, k.Key)
		}
		return keys, nil
	}
	return nil, kv.Errorf(kv.Busy, "the keys under a lease change faster than they can be read")
}

// setPolicy stages a change of the policy.
func (x *exec) setPolicy(op kv.Op) error {
	next, entries, err := x.policy.Change(op)
	if err != nil {
		return err
	}
	x.policy = next
	for _, e := range entries {
		x.stageSide(string(sidePolicy)+e.Key, e.Value)
	}
	return nil
}

// loadPolicy reads the policy of a file.
func (s *state) loadPolicy(b *bbolt.Bucket) error {
	var entries []auth.Entry
	c := b.Cursor()
	for k, v := c.Seek([]byte{sidePolicy}); len(k) > 0 && k[0] == sidePolicy; k, v = c.Next() {
		v, err := openSide(k, v)
		if err != nil {
			return err
		}
		entries = append(entries, auth.Entry{Key: string(k[1:]), Value: v})
	}
	var err error
	s.Policy, err = auth.Load(entries)
	return err
}
