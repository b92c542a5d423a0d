package kv

// RootName is the name of the user that has every right once authentication is on, and of the role that gives it, to others
// too, as in etcd.
const RootName = "root"

// A principal that begins with one of these is no user, and no user can have such a name.
const (
	DevicePrincipal = "device:" // | id of a device token
	NodePrincipal   = "node:"   // | id of the node that asks for itself
)

// SetAuth changes users, roles or whether authentication is on. It is the only Op of its command. Refusals are etcd's. The
// revision of the policy moves with each change, that of the keys never.
type SetAuth struct {
	Do         AuthChange
	User, Role string
	Key, End   []byte // of a permission, as in Range
	Permission Permission
	NoPassword bool   // AuthAddUser: a user who comes with a certificate only
	Secret     []byte // AuthAddUser, AuthSetPassword: the password's bcrypt hash; AuthEnable: 32 random bytes that a new key for signing tokens is made of; AuthSetKey: the same, for where there is none
}

// AuthChange is what a SetAuth does.
type AuthChange uint8

// The changes.
const (
	AuthEnable AuthChange = iota
	AuthDisable
	AuthAddUser
	AuthDeleteUser
	AuthSetPassword
	AuthGrantRole
	AuthRevokeRole
	AuthAddRole
	AuthDeleteRole
	AuthGrantPermission
	AuthRevokePermission
	AuthSetKey // does not move the revision of the policy
	AuthChanges
)

// Permission is what may be done with a range of keys. The numbers are etcd's.
type Permission uint8

// The permissions.
const (
	PermitRead Permission = iota
	PermitWrite
	PermitReadWrite
)

// SetDevice makes, replaces or (Device nil) removes a device token. It is the only Op of its command.
type SetDevice struct {
	ID     string
	Device *Device
}

// Device is what a device token allows, and how it is recognised.
type Device struct {
	Name     string
	Hash     [32]byte // SHA-256 of the secret, which has 256 random bits and is kept nowhere
	Verbs    Verbs
	Prefixes []string // of keys; "" is every key
	Expires  int64    // seconds since 1970, 0 for never; judged where the token is shown, never in apply
	Rate     uint32   // requests per second, 0 for the node's own limit
	Share    uint32   // of the node's queue in KiB, 0 for the node's own limit
}

// Verbs is a set of what a device may do with its keys.
type Verbs uint8

// The verbs.
const (
	VerbGet Verbs = 1 << iota
	VerbPut
	VerbDelete
	VerbWatch
	VerbsAll = VerbGet | VerbPut | VerbDelete | VerbWatch
)

// SetScope limits what a node that is no member may do for others and for itself, or (Scope nil) lets it do what its
// certificate allows. It is the only Op of its command.
type SetScope struct {
	Node  string // id
	Scope *NodeScope
}

// NodeScope is what a node may do. It comes on top of the prefixes in its certificate.
type NodeScope struct {
	Roles    []string // of those who it may speak for, all of theirs; nil: any but root
	Prefixes []string // of keys; nil: any
}

// ReadAuth asks for a part of the policy. It is for queries, where it is the only Op.
type ReadAuth struct {
	What AuthPart
	Name string
}

// AuthPart is what a ReadAuth asks for.
type AuthPart uint8

// The parts, and where the OpResult has them.
const (
	AuthStatus  AuthPart = iota // Succeeded: it is on; Count: revision of the policy
	AuthUsers                   // KVs: Key is a name
	AuthUser                    // KVs: Key is the name of a role
	AuthRoles                   // KVs: Key is a name
	AuthRole                    // KVs: Key and Value are the ends of a range, Version is the Permission
	AuthRoot                    // as AuthSomeone: refused unless whoever asks has every right, or authentication is off
	AuthSomeone                 // KVs: Key is the principal of whoever asks; Succeeded: they have every right. Refused unless they are somebody, or authentication is off
	AuthDevices                 // KVs: Key is an id, Value as package auth encodes a device
	AuthPolicy                  // KVs: Value is the policy without secrets, as package auth encodes it. For nodes, and root
	AuthParts
)

// Authenticate asks for a token for a user. It is for queries, where it is the only Op, and a member answers it: the Value
// of the one KV is the token.
type Authenticate struct {
	User, Password string
	From           string // address of the client, which a guesser is slowed down by
}

func (SetAuth) op()      {}
func (SetDevice) op()    {}
func (SetScope) op()     {}
func (ReadAuth) op()     {}
func (Authenticate) op() {}
