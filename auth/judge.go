package auth

import (
	"slices"
	"strings"

	"holdfast/kv"
)

// LeaseKeys returns the keys that live under a lease, none for one that does not exist.
type LeaseKeys func(id int64) ([][]byte, error)

// subject is who asks, as the policy knows them.
type subject struct {
	root        bool // a user with every right
	read, write spans
	verbs       kv.Verbs // what read and write are good for
	node        spans    // and what of it the node may touch that carried the request, unless unbound
	unbound     bool
}

// Permits reports why the policy refuses a command, nil if it does not. It is a function of its arguments: mvcc judges by
// it in apply. Leases may be nil where somebody behind judges what lives under leases. Of a batch each command is judged
// when it is its turn.
//
// What a cluster writes for itself (terms, records, alarms, queue epochs, and revocations and compactions with a term) is
// not for clients to send and not judged.
func (p *Policy) Permits(c *kv.Command, leases LeaseKeys) error {
	if !p.Enabled() || !forClients(c) {
		return nil
	}
	if takesRoot(c.Ops) {
		return p.Root(c.By)
	}
	s, err := p.subject(c.By, c.ID.Seq.IsZero())
	if err != nil {
		return err
	}
	for i := range c.Guards {
		g := &c.Guards[i]
		if s.may(g.Key, g.End, kv.VerbGet) != nil && s.may(g.Key, g.End, kv.VerbPut) != nil && s.may(g.Key, g.End, kv.VerbDelete) != nil {
			return denied(c.By.Principal, "read or write", g.Key)
		}
	}
	return p.ops(&c.By, &s, c.Ops, leases)
}

// forClients reports whether anything in a command could have been sent by a client.
func forClients(c *kv.Command) bool {
	for _, op := range c.Ops {
		switch op := op.(type) {
		case kv.LeaderTerm, kv.OpenEpoch, kv.OpenQueue, kv.Skip, kv.SetRecord, kv.Records, kv.SetFeature, kv.Audit, kv.SetAlarm, kv.Alarms, kv.Each:
		case kv.Compact:
			if op.Term == 0 {
				return true
			}
		case kv.LeaseRevoke:
			if op.Term == 0 {
				return true
			}
		case kv.SetAuth:
			if op.Do != kv.AuthSetKey {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// subject finds out who a principal is. Strict: what they have shown must not be older than their password.
func (p *Policy) subject(by kv.By, strict bool) (s subject, err error) {
	switch {
	case by.Principal == "":
		return s, &kv.Error{Code: kv.UserEmpty, Detail: "authentication is on: show a token (Authorization: Bearer), a user and a password, or a client certificate"}
	case strings.HasPrefix(by.Principal, kv.DevicePrincipal):
		d, id := p.Device(by.Principal)
		if d == nil {
			return s, kv.Errorf(kv.Unauthenticated, "there is no device token %s: it was revoked", id)
		}
		s = subject{read: p.allowed[id], write: p.allowed[id], verbs: d.Verbs}
	case strings.HasPrefix(by.Principal, kv.NodePrincipal):
		if by.Principal[len(kv.NodePrincipal):] != by.Node {
			return s, kv.Errorf(kv.PermissionDenied, "node %s asks as %s", by.Node, by.Principal)
		}
		s = subject{read: everything, verbs: kv.VerbGet | kv.VerbWatch}
	default:
		u := p.users[by.Principal]
		switch {
		case u == nil:
			return s, kv.Errorf(kv.PermissionDenied, "there is no user %q", by.Principal)
		case by.AuthRevision < u.Created || strict && by.AuthRevision < u.Changed:
			return s, kv.Errorf(kv.AuthOldRevision, "the user %q has been changed since: authenticate again", by.Principal)
		}
		s = subject{root: u.root, read: u.read, write: u.write, verbs: kv.VerbsAll}
	}
	err = p.bind(&s, by)
	return s, err
}

var everything = spans{{open: true}}

// bind limits a subject to what the node may do that carried its request.
func (p *Policy) bind(s *subject, by kv.By) error {
	if by.Node == "" {
		s.unbound = true
		return nil
	}
	scope := p.scopes[by.Node]
	if scope == nil {
		if s.root {
			return kv.Errorf(kv.PermissionDenied, "node %s may not speak for %q, who has every right, without a token to show for it", by.Node, by.Principal)
		}
		s.unbound = true
		return nil
	}
	if u := p.users[by.Principal]; u != nil && (scope.Roles != nil || s.root) {
		for _, role := range u.Roles {
			if !slices.Contains(scope.Roles, role) {
				return kv.Errorf(kv.PermissionDenied, "node %s may not speak for those who have the role %q", by.Node, role)
			}
		}
	}
	s.unbound, s.node = scope.Prefixes == nil, p.reach[by.Node]
	return nil
}

// may reports why a subject may not do something with a range of keys.
func (s *subject) may(key, end []byte, verb kv.Verbs) error {
	if !s.unbound && !s.node.cover(key, end) {
		return errOutside
	}
	if s.root {
		return nil
	}
	has := s.write
	if verb&(kv.VerbGet|kv.VerbWatch) != 0 {
		has = s.read
	}
	if s.verbs&verb == 0 || !has.cover(key, end) {
		return errDenied
	}
	return nil
}

var (
	errDenied  = &kv.Error{Code: kv.PermissionDenied}
	errOutside = &kv.Error{Code: kv.PermissionDenied, Detail: "outside the scope of the node"}
)

// denied says who may not do what, but not what is there.
func denied(who, what string, key []byte) error {
	return kv.Errorf(kv.PermissionDenied, "%s may not %s %q", who, what, key)
}

// judge is may with a text.
func (s *subject) judge(by *kv.By, key, end []byte, verb kv.Verbs, what string) error {
	err := s.may(key, end, verb)
	if err == nil {
		return nil
	}
	if err == errOutside { //nolint:errorlint // this very one: no error is made where it is only asked
		return kv.Errorf(kv.PermissionDenied, "node %s may not %s %q for anybody", by.Node, what, key)
	}
	return denied(by.Principal, what, key)
}

// ops judges a list, both branches of every transaction in it included.
func (p *Policy) ops(by *kv.By, s *subject, ops []kv.Op, leases LeaseKeys) error {
	for _, op := range ops {
		if err := p.op(by, s, op, leases); err != nil {
			return err
		}
	}
	return nil
}

func (p *Policy) op(by *kv.By, s *subject, op kv.Op, leases LeaseKeys) error {
	switch op := op.(type) {
	case kv.Put:
		if err := s.judge(by, op.Key, nil, kv.VerbPut, "write"); err != nil {
			return err
		}
		if op.PrevKV {
			if err := s.judge(by, op.Key, nil, kv.VerbGet, "read"); err != nil {
				return err
			}
		}
		if op.Lease != 0 {
			return s.leased(by, op.Lease, leases, kv.VerbPut)
		}
		return nil
	case kv.Delete:
		if op.PrevKV {
			if err := s.judge(by, op.Key, op.End, kv.VerbGet, "read"); err != nil {
				return err
			}
		}
		return s.judge(by, op.Key, op.End, kv.VerbDelete, "delete")
	case kv.Range:
		return s.judge(by, op.Key, op.End, kv.VerbGet, "read")
	case kv.Txn:
		for i := range op.Compares {
			if err := s.judge(by, op.Compares[i].Key, op.Compares[i].End, kv.VerbGet, "read"); err != nil {
				return err
			}
		}
		if err := p.ops(by, s, op.Then, leases); err != nil {
			return err
		}
		return p.ops(by, s, op.Else, leases)
	case kv.LeaseGrant:
		if s.verbs&kv.VerbPut == 0 {
			return kv.Errorf(kv.PermissionDenied, "%s may not make leases", by.Principal)
		}
		return nil
	case kv.LeaseRevoke:
		return s.leased(by, op.ID, leases, kv.VerbDelete)
	case kv.LeaseKeepAlive:
		return s.leased(by, op.ID, leases, kv.VerbPut)
	case kv.LeaseTTL:
		if op.Keys {
			return s.leased(by, op.ID, leases, kv.VerbGet)
		}
		return nil
	case kv.LeaseList, kv.Authenticate:
		return nil // what lives under them is judged by the answer
	case kv.ReadAuth:
		return p.readAuth(by, op)
	case kv.Compact, kv.SetAuth, kv.SetDevice, kv.SetScope:
		return p.Root(*by)
	default:
		return nil // what forClients knows
	}
}

// leased judges all keys under a lease: to put one more there, or to end it, touches them all.
func (s *subject) leased(by *kv.By, id int64, leases LeaseKeys, verb kv.Verbs) error {
	if s.root && s.unbound || leases == nil {
		return nil
	}
	if s.verbs&verb == 0 {
		return kv.Errorf(kv.PermissionDenied, "%s may not do that with leases", by.Principal)
	}
	keys, err := leases(id)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if s.may(k, nil, verb) != nil {
			return kv.Errorf(kv.PermissionDenied, "%s may not touch all keys that live under the lease %016x", by.Principal, uint64(id))
		}
	}
	return nil
}

// Root reports why somebody may not do what takes every right, nil if they may or authentication is off. A node cannot
// say so for anybody.
func (p *Policy) Root(by kv.By) error {
	if !p.Enabled() {
		return nil
	}
	if by.Principal == "" {
		_, err := p.subject(by, true)
		return err
	}
	u := p.users[by.Principal]
	switch {
	case strings.HasPrefix(by.Principal, kv.DevicePrincipal) || strings.HasPrefix(by.Principal, kv.NodePrincipal):
	case u == nil:
		return kv.Errorf(kv.UserNotFound, "there is no user %q", by.Principal)
	case by.AuthRevision < u.Created || by.AuthRevision < u.Changed:
		return kv.Errorf(kv.AuthOldRevision, "the user %q has been changed since: authenticate again", by.Principal)
	case u.root && by.Node == "":
		return nil
	}
	return kv.Errorf(kv.PermissionDenied, "%s may not do that: it takes a user with the role root", by.Principal)
}

// readAuth is etcd's rule: everybody may see themselves and their own roles.
func (p *Policy) readAuth(by *kv.By, op kv.ReadAuth) error {
	switch op.What {
	case kv.AuthStatus:
		return nil
	case kv.AuthSomeone:
		_, err := p.subject(*by, true)
		if kv.CodeOf(err) == kv.PermissionDenied {
			return nil // etcd asks for somebody, whoever it is
		}
		return err
	case kv.AuthUser:
		if by.Principal != "" && op.Name == by.Principal {
			return nil
		}
	case kv.AuthRole:
		if u := p.users[by.Principal]; u != nil && slices.Contains(u.Roles, op.Name) {
			return nil
		}
	case kv.AuthPolicy:
		if by.Node != "" && by.Principal == kv.NodePrincipal+by.Node {
			return nil
		}
	}
	return p.Root(*by)
}

// PermitsQuery is Permits for a query.
func (p *Policy) PermitsQuery(q *kv.Query, leases LeaseKeys) error {
	if !p.Enabled() || !readsForClients(q.Ops) {
		return nil
	}
	if len(q.Ops) == 1 {
		if op, ok := q.Ops[0].(kv.ReadAuth); ok {
			return p.readAuth(&q.By, op)
		}
	}
	s, err := p.subject(q.By, true)
	if err != nil {
		return err
	}
	return p.ops(&q.By, &s, q.Ops, leases)
}

// readsForClients is forClients for a query. Nobody needs a name to ask for one.
func readsForClients(ops []kv.Op) bool {
	for _, op := range ops {
		switch op.(type) {
		case kv.Records, kv.Alarms, kv.Authenticate:
		default:
			return true
		}
	}
	return false
}

// PermitsWatch is Permits for a watch on a range.
func (p *Policy) PermitsWatch(by kv.By, key, end []byte) error {
	if !p.Enabled() {
		return nil
	}
	s, err := p.subject(by, true)
	if err != nil {
		return err
	}
	return s.judge(&by, key, end, kv.VerbWatch, "watch")
}

// PermitsLeases reports why somebody may not see a list of leases: as in etcd, because of one key under one of them.
func (p *Policy) PermitsLeases(by kv.By, ids []int64, leases LeaseKeys) error {
	if !p.Enabled() {
		return nil
	}
	s, err := p.subject(by, true)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.leased(&by, id, leases, kv.VerbGet); err != nil {
			return err
		}
	}
	return nil
}

// Answer is what a ReadAuth finds. Whether it may be asked is for PermitsQuery.
func (p *Policy) Answer(op kv.ReadAuth) (res kv.OpResult, err error) {
	p = p.or()
	names := func(list []string) {
		for _, name := range list {
			res.KVs = append(res.KVs, kv.KeyValue{Key: []byte(name)})
		}
	}
	switch op.What {
	case kv.AuthStatus:
		res.Succeeded, res.Count = p.enabled, int64(p.revision) //nolint:gosec // counts changes
	case kv.AuthRoot, kv.AuthSomeone: // where nobody has found out who asks
		res.Succeeded = !p.enabled
	case kv.AuthUsers:
		names(p.Users())
	case kv.AuthUser:
		u := p.users[op.Name]
		if u == nil {
			return res, kv.Errorf(kv.UserNotFound, "there is no user %q", op.Name)
		}
		names(u.Roles)
	case kv.AuthRoles:
		names(p.Roles())
	case kv.AuthRole:
		r := p.roles[op.Name]
		if r == nil {
			return res, kv.Errorf(kv.RoleNotFound, "there is no role %q", op.Name)
		}
		if op.Name == kv.RootName {
			res.KVs = []kv.KeyValue{{Key: []byte{}, Value: kv.FromKey(), Version: int64(kv.PermitReadWrite)}}
			break
		}
		for _, perm := range r.Permissions {
			res.KVs = append(res.KVs, kv.KeyValue{Key: perm.Key, Value: perm.End, Version: int64(perm.Kind)})
		}
	case kv.AuthDevices:
		for _, id := range sorted(p.devices) {
			res.KVs = append(res.KVs, kv.KeyValue{Key: []byte(id), Value: deviceEntry(id, p.devices[id]).Value})
		}
	case kv.AuthPolicy:
		if op.Name != p.Text() {
			res.KVs = []kv.KeyValue{{Key: []byte(p.Text()), Value: p.Encode()}}
		}
	}
	res.Count = max(res.Count, int64(len(res.KVs)))
	return res, nil
}
