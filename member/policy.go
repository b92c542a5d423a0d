package member

import "holdfast/auth"

// Policy is who may do what, as far as it is applied here; after a linearizable read it is as new as that.
func (m *Member) Policy() *auth.Policy { return m.store.Policy() }

// PolicyChanged returns a channel that is closed once Policy may return another than it did before.
func (m *Member) PolicyChanged() <-chan struct{} { return m.store.PolicyChanged() }

// PolicySource is what a Guard in front of a member judges by.
func (m *Member) PolicySource() auth.Source {
	return auth.Source{
		Policy:  func() (*auth.Policy, bool) { return m.Policy(), true },
		Changed: m.PolicyChanged,
		Leases:  m.store.LeaseKeys,
		Signs:   true,
	}
}
