package member

import "holdfast/auth"

// Policy is who may do what, as far as it is applied here; after a linearizable read it is as new as that.
func (m *Member) Policy() *auth.Policy { return m.store.Policy() }

// PolicyChanged returns a channel that is closed once Policy may return another than it did before.
func (m *Member) PolicyChanged() <-chan struct{} { return m.store.PolicyChanged() }

// LeaseKeys returns the keys that live under a lease, as far as it is applied here.
func (m *Member) LeaseKeys(id int64) ([][]byte, error) { return m.store.LeaseKeys(id) }
