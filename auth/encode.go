package auth

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// Entry is one piece of a policy as it is kept; a nil Value is one that is gone.
//
//	s          -> flags(1: on), revision, since (uvarints)
//	u | name   -> flags(1: no password), created, changed (uvarints), hash, roles (each a length and bytes; first their number)
//	r | name   -> number of permissions, of each: kind(1), key, end
//	d | id     -> a device as package wire has it
//	n | node   -> a scope as package wire has it
//	k          -> seed(32) of the signing key
//	v          -> public key(32), in a mirror only
type Entry struct {
	Key   string
	Value []byte
}

// The keys of entries, or what they begin with.
const (
	entryState  = "s"
	entryUser   = "u"
	entryRole   = "r"
	entryDevice = "d"
	entryScope  = "n"
	entryKey    = "k"
	entryVerify = "v"
)

// IsKey reports whether the entry with a key is the seed, which another cluster must not take over.
func IsKey(key string) bool { return key == entryKey }

const (
	stateEnabled   byte = 1
	userNoPassword byte = 1
)

func (p *Policy) stateEntry() Entry {
	b := []byte{0}
	if p.enabled {
		b[0] |= stateEnabled
	}
	b = binary.AppendUvarint(b, p.revision)
	return Entry{entryState, binary.AppendUvarint(b, p.since)}
}

func appendText[T ~string | ~[]byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func userEntry(u *User, secrets bool) Entry {
	b := []byte{0}
	if u.NoPassword {
		b[0] |= userNoPassword
	}
	b = binary.AppendUvarint(b, u.Created)
	b = binary.AppendUvarint(b, u.Changed)
	if secrets {
		b = appendText(b, u.Hash)
	} else {
		b = appendText(b, "")
	}
	b = binary.AppendUvarint(b, uint64(len(u.Roles)))
	for _, r := range u.Roles {
		b = appendText(b, r)
	}
	return Entry{entryUser + u.Name, b}
}

func roleEntry(r *Role) Entry {
	b := binary.AppendUvarint([]byte{}, uint64(len(r.Permissions)))
	for _, p := range r.Permissions {
		b = append(b, byte(p.Kind))
		b = appendText(appendText(b, p.Key), p.End)
	}
	return Entry{entryRole + r.Name, b}
}

func deviceEntry(id string, d *kv.Device) Entry {
	if d == nil {
		return Entry{Key: entryDevice + id}
	}
	return Entry{entryDevice + id, wire.AppendDevice(nil, d)}
}

func scopeEntry(node string, s *kv.NodeScope) Entry {
	if s == nil {
		return Entry{Key: entryScope + node}
	}
	return Entry{entryScope + node, wire.AppendScope(nil, s)}
}

// Load makes a policy of its entries, in any order. Nothing makes nil, the policy of a new cluster.
func Load(entries []Entry) (*Policy, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	p := &Policy{revision: 1, users: map[string]*User{}, roles: map[string]*Role{}, devices: map[string]*kv.Device{},
		scopes: map[string]*kv.NodeScope{}, allowed: map[string]spans{}, reach: map[string]spans{}}
	for _, e := range entries {
		if err := p.load(e); err != nil {
			return nil, err
		}
	}
	for _, u := range p.users {
		p.prepare(u)
	}
	return p, nil
}

// load takes an entry into the maps, which are p's own.
func (p *Policy) load(e Entry) error {
	if e.Key == "" {
		return damaged(e)
	}
	kind, name := e.Key[:1], e.Key[1:]
	r := &parser{b: e.Value}
	switch kind {
	case entryState:
		p.enabled = r.byte()&stateEnabled != 0
		p.revision, p.since = r.uint(), r.uint()
	case entryUser:
		u := &User{Name: name, NoPassword: r.byte()&userNoPassword != 0, Created: r.uint(), Changed: r.uint(), Hash: r.text()}
		for range r.count() {
			u.Roles = append(u.Roles, string(r.text()))
		}
		p.users[name] = u
	case entryRole:
		role := &Role{Name: name}
		for range r.count() {
			role.Permissions = append(role.Permissions, Permission{Kind: kv.Permission(r.byte()), Key: r.text(), End: r.text()})
		}
		p.roles[name] = role
	case entryDevice:
		d, err := wire.DecodeDevice(bytes.Clone(e.Value))
		if err != nil {
			return damaged(e)
		}
		p.devices[name], p.allowed[name] = d, prefixSpans(d.Prefixes)
		return nil
	case entryScope:
		s, err := wire.DecodeScope(bytes.Clone(e.Value))
		if err != nil || s == nil {
			return damaged(e)
		}
		p.scopes[name] = s
		if s.Prefixes != nil {
			p.reach[name] = prefixSpans(s.Prefixes)
		}
		return nil
	case entryKey:
		if len(e.Value) != ed25519.SeedSize {
			return damaged(e)
		}
		p.setSeed(bytes.Clone(e.Value))
		return nil
	case entryVerify:
		if len(e.Value) != ed25519.PublicKeySize {
			return damaged(e)
		}
		p.public = bytes.Clone(e.Value)
		return nil
	default:
		return kv.Errorf(kv.Unsupported, "a policy has an entry %q, which this version does not know", kind)
	}
	if r.bad || len(r.b) > 0 {
		return damaged(e)
	}
	return nil
}

func damaged(e Entry) error {
	return kv.Errorf(kv.Corrupt, "the entry %q of the policy is malformed", e.Key)
}

// parser takes an entry apart; what is read after a fault is zero.
type parser struct {
	b   []byte
	bad bool
}

func (r *parser) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *parser) uint() uint64 {
	n, w := binary.Uvarint(r.b)
	if w <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[w:]
	return n
}

// count is a number of items, of which each takes a byte at least.
func (r *parser) count() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

// text is a copy.
func (r *parser) text() []byte {
	n := r.count()
	s := r.b[:n]
	r.b = r.b[n:]
	if n == 0 {
		return nil
	}
	return bytes.Clone(s)
}

// Entries is the whole policy in order of key: all that is kept, or for a mirror without password hashes and with the
// public key in the place of the seed.
func (p *Policy) Entries(secrets bool) []Entry {
	if p == nil {
		return nil
	}
	all := []Entry{p.stateEntry()}
	for _, u := range p.users {
		all = append(all, userEntry(u, secrets))
	}
	for _, r := range p.roles {
		all = append(all, roleEntry(r))
	}
	for id, d := range p.devices {
		all = append(all, deviceEntry(id, d))
	}
	for node, s := range p.scopes {
		all = append(all, scopeEntry(node, s))
	}
	switch {
	case secrets && p.seed != nil:
		all = append(all, Entry{entryKey, p.seed})
	case p.public != nil:
		all = append(all, Entry{entryVerify, p.public})
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// mirrorVersion begins an encoded policy.
const mirrorVersion = 1

// Encode is the policy for a mirror: a version(1), and of each of Entries(false) key and value, each a length and bytes.
func (p *Policy) Encode() []byte {
	b := []byte{mirrorVersion}
	for _, e := range p.Entries(false) {
		b = appendText(appendText(b, e.Key), e.Value)
	}
	return b
}

// Decode is the inverse of Encode. What it returns judges as the policy that was encoded does, and has no secrets.
func Decode(b []byte) (*Policy, error) {
	if len(b) == 0 || b[0] != mirrorVersion {
		return nil, kv.Errorf(kv.Unsupported, "the policy has another version than %d: upgrade this node", mirrorVersion)
	}
	r := &parser{b: b[1:]}
	var entries []Entry
	for len(r.b) > 0 {
		entries = append(entries, Entry{Key: string(r.text()), Value: r.text()})
	}
	if r.bad {
		return nil, kv.Errorf(kv.Corrupt, "the policy is cut short or damaged")
	}
	return Load(entries)
}

// Users lists the names of all users, Roles those of all roles, both in order.
func (p *Policy) Users() []string { return sorted(p.or().users) }

// Roles lists the names of all roles, in order.
func (p *Policy) Roles() []string { return sorted(p.or().roles) }

// Expired are the ids of the device tokens that ended before a time, the oldest first.
func (p *Policy) Expired(before time.Time) []string {
	var ids []string
	for id, d := range p.or().devices {
		if d.Expires != 0 && d.Expires < before.Unix() {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(cmp.Compare(p.devices[a].Expires, p.devices[b].Expires), strings.Compare(a, b))
	})
	return ids
}

// Devices are the device tokens by id. The map must not be changed.
func (p *Policy) Devices() map[string]*kv.Device { return maps.Clone(p.or().devices) }
