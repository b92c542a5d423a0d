package auth

import (
	"crypto/ed25519"
	"maps"
	"slices"
	"strings"

	"holdfast/kv"
)

// Policy is who may do what, at one point of the history. It is immutable: all of it may be read by anybody. The zero value
// of a pointer is the policy of a new cluster: authentication is off and there is nobody.
type Policy struct {
	enabled  bool
	revision uint64 // counted as etcd does: 1 is the policy of a new cluster
	since    uint64 // tokens that were given before this revision are void
	users    map[string]*User
	roles    map[string]*Role
	devices  map[string]*kv.Device
	scopes   map[string]*kv.NodeScope

	seed    []byte             // what private is made of; nil if there is none, and in a mirror
	private ed25519.PrivateKey // signs tokens; nil likewise
	public  ed25519.PublicKey  // verifies them; nil before there was a key

	allowed map[string]spans // by device: its prefixes
	reach   map[string]spans // by node: its prefixes
}

// User is somebody with a name.
type User struct {
	Name       string
	Roles      []string // in order
	Hash       []byte   // bcrypt, empty if no password fits; nil in a mirror
	NoPassword bool     // comes with a certificate only
	Created    uint64   // revision of the policy that made the user
	Changed    uint64   // and that set the password last

	root        bool
	read, write spans
}

// Role is a set of permissions with a name.
type Role struct {
	Name        string
	Permissions []Permission // in order of key
}

// Permission is what may be done with a range of keys, as in kv.Range.
type Permission struct {
	Key, End []byte
	Kind     kv.Permission
}

var fresh = &Policy{revision: 1}

// or makes nil the policy of a new cluster.
func (p *Policy) or() *Policy {
	if p == nil {
		return fresh
	}
	return p
}

// Enabled reports whether authentication is on.
func (p *Policy) Enabled() bool { return p != nil && p.enabled }

// Revision moves with each change, as etcd's auth revision does.
func (p *Policy) Revision() uint64 { return p.or().revision }

// HasKey reports whether tokens can be signed.
func (p *Policy) HasKey() bool { return p != nil && p.private != nil }

// clone is a copy of which one map may be replaced.
func (p *Policy) clone() *Policy {
	q := *p.or()
	return &q
}

// put returns m with one entry more, or another value for it; m stays as it is.
func put[V any](m map[string]V, key string, v V) map[string]V {
	c := maps.Clone(m)
	if c == nil {
		c = map[string]V{}
	}
	c[key] = v
	return c
}

// drop returns m without an entry; m stays as it is.
func drop[V any](m map[string]V, key string) map[string]V {
	c := maps.Clone(m)
	delete(c, key)
	return c
}

// setSeed makes the keys.
func (p *Policy) setSeed(seed []byte) {
	p.seed = seed
	p.private = ed25519.NewKeyFromSeed(seed)
	p.public = p.private.Public().(ed25519.PublicKey)
}

// prepare works out what a user may do. It is called whenever the user or one of the roles has changed.
func (p *Policy) prepare(u *User) {
	u.root = slices.Contains(u.Roles, kv.RootName)
	var read, write []span
	for _, name := range u.Roles {
		r := p.roles[name]
		if r == nil {
			continue
		}
		for _, perm := range r.Permissions {
			s := newSpan(perm.Key, perm.End)
			if perm.Kind != kv.PermitWrite {
				read = append(read, s)
			}
			if perm.Kind != kv.PermitRead {
				write = append(write, s)
			}
		}
	}
	u.read, u.write = join(read), join(write)
}

// prepareAll works it out for everybody who has a role. Their entries are replaced.
func (p *Policy) prepareAll(role string) {
	users := maps.Clone(p.users)
	for name, u := range users {
		if slices.Contains(u.Roles, role) {
			c := *u
			p.prepare(&c)
			users[name] = &c
		}
	}
	p.users = users
}

func prefixSpans(prefixes []string) spans {
	all := make([]span, 0, len(prefixes))
	for _, prefix := range prefixes {
		all = append(all, prefixSpan(prefix))
	}
	return join(all)
}

// setDevice puts a device in its place; nil removes it.
func (p *Policy) setDevice(id string, d *kv.Device) {
	if d == nil {
		p.devices, p.allowed = drop(p.devices, id), drop(p.allowed, id)
		return
	}
	p.devices, p.allowed = put(p.devices, id, d), put(p.allowed, id, prefixSpans(d.Prefixes))
}

// setScope puts a scope in its place; nil removes it.
func (p *Policy) setScope(node string, s *kv.NodeScope) {
	p.reach = drop(p.reach, node)
	if s == nil {
		p.scopes = drop(p.scopes, node)
		return
	}
	p.scopes = put(p.scopes, node, s)
	if s.Prefixes != nil {
		p.reach = put(p.reach, node, prefixSpans(s.Prefixes))
	}
}

// Device is the device token with an id, and the id of a principal's; nil if there is none.
func (p *Policy) Device(principal string) (d *kv.Device, id string) {
	id, ok := strings.CutPrefix(principal, kv.DevicePrincipal)
	if !ok || p == nil {
		return nil, ""
	}
	return p.devices[id], id
}

// IsRoot reports whether a principal is a user with every right.
func (p *Policy) IsRoot(principal string) bool {
	u := p.or().users[principal]
	return u != nil && u.root
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
