package auth

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"strings"

	"holdfast/kv"
)

// The bounds of a policy. etcd has none; a policy is in memory on every node, and mirrored to every proxy.
const (
	MaxUsers       = 10_000
	MaxRoles       = 10_000
	MaxDevices     = 50_000
	MaxPermissions = 1_000 // of a role
	MaxNameBytes   = 1 << 10
	MaxPrefixes    = 64 // of a device or a node
)

// Change makes the policy that an op leads to, and the entries that have changed. An op it does not know is no change. The
// refusals are etcd's, in etcd's order.
func (p *Policy) Change(op kv.Op) (*Policy, []Entry, *kv.Error) {
	var next *Policy
	var entries []Entry
	var err *kv.Error
	switch op := op.(type) {
	case kv.SetAuth:
		next, entries, err = p.or().change(op)
	case kv.SetDevice:
		next, entries, err = p.or().changeDevice(op)
	case kv.SetScope:
		next, entries, err = p.or().changeScope(op)
	}
	if err != nil || len(entries) == 0 {
		return p, nil, err
	}
	return next, entries, nil
}

// draft is a policy on its way, and what has to be written for it.
type draft struct {
	*Policy
	entries []Entry
}

// moved counts the change.
func (d *draft) moved() {
	d.revision++
	d.entries = append(d.entries, d.stateEntry())
}

func (p *Policy) change(op kv.SetAuth) (*Policy, []Entry, *kv.Error) {
	d := &draft{Policy: p.clone()}
	err := d.apply(op)
	if err != nil {
		return p, nil, err
	}
	return d.Policy, d.entries, nil
}

func (d *draft) apply(op kv.SetAuth) *kv.Error {
	if len(op.User) > MaxNameBytes || len(op.Role) > MaxNameBytes || len(op.Key) > MaxNameBytes*4 || len(op.End) > MaxNameBytes*4 || len(op.Secret) > MaxNameBytes {
		return kv.Errorf(kv.TooLarge, "a name of a user or role has at most %d bytes, a key in a permission %d", MaxNameBytes, MaxNameBytes*4)
	}
	switch op.Do {
	case kv.AuthEnable:
		return d.enable(op.Secret)
	case kv.AuthDisable:
		if d.enabled {
			d.enabled, d.since = false, d.revision+1
			d.moved()
		}
		return nil
	case kv.AuthSetKey:
		return d.setKey(op.Secret)
	case kv.AuthAddUser:
		return d.addUser(op)
	case kv.AuthDeleteUser:
		return d.deleteUser(op.User)
	case kv.AuthSetPassword:
		return d.setPassword(op)
	case kv.AuthGrantRole:
		return d.grantRole(op.User, op.Role)
	case kv.AuthRevokeRole:
		return d.revokeRole(op.User, op.Role)
	case kv.AuthAddRole:
		return d.addRole(op.Role)
	case kv.AuthDeleteRole:
		return d.deleteRole(op.Role)
	case kv.AuthGrantPermission:
		return d.grantPermission(op)
	case kv.AuthRevokePermission:
		return d.revokePermission(op)
	default:
		return kv.Errorf(kv.Invalid, "there is no change %d of users and roles", op.Do)
	}
}

// enable turns authentication on, which does not move the revision, as in etcd.
func (d *draft) enable(seed []byte) *kv.Error {
	if d.enabled {
		return nil
	}
	root := d.users[kv.RootName]
	switch {
	case root == nil:
		return &kv.Error{Code: kv.RootUserMissing, Detail: "authentication needs a user root: agent user add root"}
	case !root.root:
		return &kv.Error{Code: kv.RootRoleMissing, Detail: "the user root needs the role root: agent user grant-role root root"}
	}
	d.enabled = true
	d.entries = append(d.entries, d.stateEntry())
	if len(seed) > 0 {
		d.private = nil // another one each time: whoever has seen the old one is shut out
		return d.setKey(seed)
	}
	return nil
}

// setKey takes a seed if there is none.
func (d *draft) setKey(seed []byte) *kv.Error {
	if len(seed) != ed25519.SeedSize {
		return kv.Errorf(kv.Invalid, "the seed of a signing key has %d bytes, not %d", len(seed), ed25519.SeedSize)
	}
	if d.private == nil {
		d.setSeed(bytes.Clone(seed))
		d.entries = append(d.entries, Entry{Key: entryKey, Value: d.seed})
	}
	return nil
}

// user returns a copy of a user, to be changed.
func (d *draft) user(name string) (*User, *kv.Error) {
	u := d.users[name]
	if u == nil {
		return nil, kv.Errorf(kv.UserNotFound, "there is no user %q", name)
	}
	c := *u
	return &c, nil
}

// keep puts a changed user in its place.
func (d *draft) keep(u *User) {
	d.prepare(u)
	d.users = put(d.users, u.Name, u)
	d.entries = append(d.entries, userEntry(u, true))
	d.moved()
}

func (d *draft) addUser(op kv.SetAuth) *kv.Error {
	switch {
	case op.User == "":
		return kv.Errorf(kv.UserEmpty, "the name of the user is missing")
	case strings.HasPrefix(op.User, kv.DevicePrincipal) || strings.HasPrefix(op.User, kv.NodePrincipal):
		return kv.Errorf(kv.InvalidAuthMgmt, "a user cannot be called %q: what begins with %s or %s is a device or a node", op.User, kv.DevicePrincipal, kv.NodePrincipal)
	case d.users[op.User] != nil:
		return kv.Errorf(kv.UserExists, "there is a user %q already", op.User)
	case len(d.users) >= MaxUsers:
		return kv.Errorf(kv.TooManyOps, "there are %d users, the limit", MaxUsers)
	}
	u := &User{Name: op.User, NoPassword: op.NoPassword, Created: d.revision + 1, Changed: d.revision + 1}
	if !op.NoPassword {
		u.Hash = bytes.Clone(op.Secret)
	}
	d.keep(u)
	return nil
}

func (d *draft) deleteUser(name string) *kv.Error {
	if d.enabled && name == kv.RootName {
		return kv.Errorf(kv.InvalidAuthMgmt, "the user root cannot be deleted while authentication is on")
	}
	if _, err := d.user(name); err != nil {
		return err
	}
	d.users = drop(d.users, name)
	d.entries = append(d.entries, Entry{Key: entryUser + name})
	d.moved()
	return nil
}

func (d *draft) setPassword(op kv.SetAuth) *kv.Error {
	u, err := d.user(op.User)
	if err != nil {
		return err
	}
	if !u.NoPassword {
		u.Hash = bytes.Clone(op.Secret)
	}
	u.Changed = d.revision + 1
	d.keep(u)
	return nil
}

func (d *draft) grantRole(name, role string) *kv.Error {
	u, err := d.user(name)
	if err != nil {
		return err
	}
	if role != kv.RootName && d.roles[role] == nil {
		return kv.Errorf(kv.RoleNotFound, "there is no role %q", role)
	}
	i, has := slices.BinarySearch(u.Roles, role)
	if has {
		return nil
	}
	u.Roles = slices.Insert(slices.Clone(u.Roles), i, role)
	d.keep(u)
	return nil
}

func (d *draft) revokeRole(name, role string) *kv.Error {
	if d.enabled && name == kv.RootName && role == kv.RootName {
		return kv.Errorf(kv.InvalidAuthMgmt, "the user root keeps the role root while authentication is on")
	}
	u, err := d.user(name)
	if err != nil {
		return err
	}
	i, has := slices.BinarySearch(u.Roles, role)
	if !has {
		return kv.Errorf(kv.RoleNotGranted, "the user %q does not have the role %q", name, role)
	}
	u.Roles = slices.Delete(slices.Clone(u.Roles), i, i+1)
	d.keep(u)
	return nil
}

func (d *draft) addRole(name string) *kv.Error {
	switch {
	case name == "":
		return kv.Errorf(kv.RoleEmpty, "the name of the role is missing")
	case d.roles[name] != nil:
		return kv.Errorf(kv.RoleExists, "there is a role %q already", name)
	case len(d.roles) >= MaxRoles:
		return kv.Errorf(kv.TooManyOps, "there are %d roles, the limit", MaxRoles)
	}
	d.keepRole(&Role{Name: name})
	return nil
}

// keepRole puts a changed role in its place, and works out anew what those may do who have it.
func (d *draft) keepRole(r *Role) {
	d.roles = put(d.roles, r.Name, r)
	d.prepareAll(r.Name)
	d.entries = append(d.entries, roleEntry(r))
	d.moved()
}

func (d *draft) role(name string) (*Role, *kv.Error) {
	r := d.roles[name]
	if r == nil {
		return nil, kv.Errorf(kv.RoleNotFound, "there is no role %q", name)
	}
	return r, nil
}

func (d *draft) deleteRole(name string) *kv.Error {
	if d.enabled && name == kv.RootName {
		return kv.Errorf(kv.InvalidAuthMgmt, "the role root cannot be deleted while authentication is on")
	}
	if _, err := d.role(name); err != nil {
		return err
	}
	d.roles = drop(d.roles, name)
	d.entries = append(d.entries, Entry{Key: entryRole + name})
	for _, user := range sorted(d.users) {
		u := *d.users[user]
		i, has := slices.BinarySearch(u.Roles, name)
		if !has {
			continue
		}
		u.Roles = slices.Delete(slices.Clone(u.Roles), i, i+1)
		d.prepare(&u)
		d.users = put(d.users, user, &u)
		d.entries = append(d.entries, userEntry(&u, true))
	}
	d.moved()
	return nil
}

func (d *draft) grantPermission(op kv.SetAuth) *kv.Error {
	if !validRange(op.Key, op.End) {
		return kv.Errorf(kv.InvalidAuthMgmt, "the range of the permission from %q to %q can hold no key", op.Key, op.End)
	}
	r, err := d.role(op.Role)
	if err != nil {
		return err
	}
	perm := Permission{Key: bytes.Clone(op.Key), End: bytes.Clone(op.End), Kind: op.Permission}
	perms := slices.Clone(r.Permissions)
	i := slices.IndexFunc(perms, perm.sameRange)
	switch {
	case i >= 0:
		perms[i] = perm
	case len(perms) >= MaxPermissions:
		return kv.Errorf(kv.TooManyOps, "the role %q has %d permissions, the limit: choose longer ranges", op.Role, MaxPermissions)
	default:
		perms = append(perms, perm)
		slices.SortStableFunc(perms, func(a, b Permission) int { return bytes.Compare(a.Key, b.Key) })
	}
	d.keepRole(&Role{Name: r.Name, Permissions: perms})
	return nil
}

func (d *draft) revokePermission(op kv.SetAuth) *kv.Error {
	r, err := d.role(op.Role)
	if err != nil {
		return err
	}
	perms := slices.DeleteFunc(slices.Clone(r.Permissions), Permission{Key: op.Key, End: op.End}.sameRange)
	if len(perms) == len(r.Permissions) {
		return kv.Errorf(kv.PermissionNotGranted, "the role %q has no permission on exactly the range from %q to %q", op.Role, op.Key, op.End)
	}
	d.keepRole(&Role{Name: r.Name, Permissions: perms})
	return nil
}

func (a Permission) sameRange(b Permission) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.End, b.End)
}

func (p *Policy) changeDevice(op kv.SetDevice) (*Policy, []Entry, *kv.Error) {
	has := p.devices[op.ID]
	switch {
	case !validID(op.ID):
		return p, nil, kv.Errorf(kv.Invalid, "%q is no id of a device token: it has 1 to %d letters and digits", op.ID, maxIDBytes)
	case op.Device == nil && has == nil:
		return p, nil, kv.Errorf(kv.UserNotFound, "there is no device token %s", op.ID)
	case op.Device == nil:
	case op.Device.Verbs == 0 || op.Device.Verbs&^kv.VerbsAll != 0:
		return p, nil, kv.Errorf(kv.Invalid, "a device token allows some of get, put, delete and watch")
	case len(op.Device.Prefixes) == 0 || len(op.Device.Prefixes) > MaxPrefixes:
		return p, nil, kv.Errorf(kv.Invalid, "a device token has 1 to %d prefixes, not %d", MaxPrefixes, len(op.Device.Prefixes))
	case len(op.Device.Name) > MaxNameBytes:
		return p, nil, kv.Errorf(kv.TooLarge, "a name has at most %d bytes", MaxNameBytes)
	case has == nil && len(p.devices) >= MaxDevices:
		return p, nil, kv.Errorf(kv.TooManyOps, "there are %d device tokens, the limit: revoke those that are not used", MaxDevices)
	}
	d := &draft{Policy: p.clone()}
	d.setDevice(op.ID, op.Device)
	d.entries = append(d.entries, deviceEntry(op.ID, op.Device))
	d.moved()
	return d.Policy, d.entries, nil
}

func (p *Policy) changeScope(op kv.SetScope) (*Policy, []Entry, *kv.Error) {
	if _, err := kv.ParseNodeID(op.Node); err != nil {
		return p, nil, kv.Errorf(kv.Invalid, "%v", err)
	}
	if s := op.Scope; s != nil && (len(s.Prefixes) > MaxPrefixes || len(s.Roles) > MaxPrefixes) {
		return p, nil, kv.Errorf(kv.Invalid, "a scope has at most %d prefixes and as many roles", MaxPrefixes)
	}
	d := &draft{Policy: p.clone()}
	d.setScope(op.Node, op.Scope)
	d.entries = append(d.entries, scopeEntry(op.Node, op.Scope))
	d.moved()
	return d.Policy, d.entries, nil
}
