package wire

import "holdfast/kv"

const (
	authNoPassword byte = 1 // of a SetAuth
	authThere      byte = 1 // of a SetDevice or SetScope: what it sets follows; else it is removed

	// A list that is nil is another than an empty one in a scope.
	scopeRoles    byte = 2
	scopePrefixes byte = 4
)

func appendString(dst []byte, s *string) []byte { return appendBytes(dst, *s) }

func stringOf(r *reader) string { return string(r.bytes("text")) }

// appendAuthOp appends an op of kv/auth.go.
func appendAuthOp(dst []byte, o kv.Op) []byte {
	switch o := o.(type) {
	case kv.SetAuth:
		dst = append(dst, byte(tagSetAuth), byte(o.Do), byte(o.Permission), bit(o.NoPassword, authNoPassword))
		dst = appendBytes(appendBytes(dst, o.User), o.Role)
		dst = appendBytes(appendBytes(dst, o.Key), o.End)
		return appendBytes(dst, o.Secret)
	case kv.SetDevice:
		dst = append(dst, byte(tagSetDevice), bit(o.Device != nil, authThere))
		dst = appendBytes(dst, o.ID)
		if o.Device != nil {
			dst = AppendDevice(dst, o.Device)
		}
		return dst
	case kv.SetScope:
		dst = append(dst, byte(tagSetScope))
		dst = appendBytes(dst, o.Node)
		return AppendScope(dst, o.Scope)
	case kv.ReadAuth:
		return appendBytes(append(dst, byte(tagReadAuth), byte(o.What)), o.Name)
	case kv.Authenticate:
		dst = appendBytes(append(dst, byte(tagAuthenticate)), o.User)
		return appendBytes(appendBytes(dst, o.Password), o.From)
	}
	return dst
}

func authOp(r *reader, t opTag) kv.Op {
	switch t {
	case tagSetAuth:
		o := kv.SetAuth{Do: enum(r, kv.AuthChanges-1, "change of users and roles"), Permission: enum(r, kv.PermitReadWrite, "permission")}
		o.NoPassword = r.flags(authNoPassword, "change of users and roles") != 0
		o.User, o.Role = string(r.bytes("user")), string(r.bytes("role"))
		o.Key, o.End, o.Secret = r.bytes("key"), r.bytes("end of range"), r.bytes("secret")
		return o
	case tagSetDevice:
		f := r.flags(authThere, "device token")
		o := kv.SetDevice{ID: string(r.bytes("id"))}
		if f != 0 {
			o.Device = device(r)
		}
		return o
	case tagSetScope:
		return kv.SetScope{Node: string(r.bytes("node")), Scope: scope(r)}
	case tagReadAuth:
		return kv.ReadAuth{What: enum(r, kv.AuthParts-1, "part of the policy"), Name: string(r.bytes("name"))}
	default:
		return kv.Authenticate{User: string(r.bytes("user")), Password: string(r.bytes("password")), From: string(r.bytes("address"))}
	}
}

// AppendDevice appends a device token as a SetDevice has it.
func AppendDevice(dst []byte, d *kv.Device) []byte {
	dst = append(dst, byte(d.Verbs))
	dst = append(dst, d.Hash[:]...)
	dst = appendBytes(dst, d.Name)
	dst = appendInt(dst, d.Expires)
	dst = appendUint(appendUint(dst, uint64(d.Rate)), uint64(d.Share))
	return appendList(dst, d.Prefixes, appendString)
}

func device(r *reader) *kv.Device {
	d := &kv.Device{Verbs: kv.Verbs(r.flags(byte(kv.VerbsAll), "verbs"))}
	r.fixed(d.Hash[:], "hash")
	d.Name = string(r.bytes("name"))
	d.Expires = r.int("time of expiry")
	d.Rate, d.Share = r.uint32("rate"), r.uint32("share")
	d.Prefixes = list(r, 1, "prefixes", stringOf)
	return d
}

// AppendScope appends what a node may do, or nil, as a SetScope has it.
func AppendScope(dst []byte, s *kv.NodeScope) []byte {
	if s == nil {
		return append(dst, 0)
	}
	dst = append(dst, authThere|bit(s.Roles != nil, scopeRoles)|bit(s.Prefixes != nil, scopePrefixes))
	if s.Roles != nil {
		dst = appendList(dst, s.Roles, appendString)
	}
	if s.Prefixes != nil {
		dst = appendList(dst, s.Prefixes, appendString)
	}
	return dst
}

func scope(r *reader) *kv.NodeScope {
	f := r.flags(authThere|scopeRoles|scopePrefixes, "scope")
	if f&authThere == 0 {
		if f != 0 {
			r.fail(ErrMalformed, "a scope that is not there has parts")
		}
		return nil
	}
	s := &kv.NodeScope{}
	if f&scopeRoles != 0 {
		s.Roles = orEmpty(list(r, 1, "roles", stringOf))
	}
	if f&scopePrefixes != 0 {
		s.Prefixes = orEmpty(list(r, 1, "prefixes", stringOf))
	}
	return s
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// DecodeDevice is the inverse of AppendDevice.
func DecodeDevice(b []byte) (*kv.Device, error) {
	r := &reader{b: b, budget: len(b)}
	d := device(r)
	return d, r.end()
}

// DecodeScope is the inverse of AppendScope.
func DecodeScope(b []byte) (*kv.NodeScope, error) {
	r := &reader{b: b, budget: len(b)}
	s := scope(r)
	return s, r.end()
}

// checkAuthOp reports whether an op of kv/auth.go can be encoded and read back.
func checkAuthOp(op kv.Op) error {
	switch op := op.(type) {
	case kv.SetAuth:
		if op.Do >= kv.AuthChanges {
			return unknown("change of users and roles", op.Do)
		}
		if op.Permission > kv.PermitReadWrite {
			return unknown("permission", op.Permission)
		}
	case kv.SetDevice:
		if op.Device != nil && op.Device.Verbs&^kv.VerbsAll != 0 {
			return unknown("verb", op.Device.Verbs)
		}
	case kv.ReadAuth:
		if op.What >= kv.AuthParts {
			return unknown("part of the policy", op.What)
		}
	}
	return nil
}
