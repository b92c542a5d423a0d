package transport

// Protocol is what a connection is for, told apart by ALPN. The version is part of the name: a peer that does not speak
// it refuses the connection.
type Protocol string

// The protocols of a node.
const (
	Raft   Protocol = "holdfast-raft/1"   // member to member
	Path   Protocol = "holdfast-path/1"   // beside a connection of Raft: another way for datagrams
	Bulk   Protocol = "holdfast-bulk/1"   // beside one of Raft: for snapshots
	Uplink Protocol = "holdfast-uplink/1" // proxy, or member, to member
	// Mapping is beside an Uplink or one of Raft, from another socket: how long a NAT between the two keeps a mapping. Who serves
	// Uplink serves it.
	Mapping Protocol = "holdfast-mapping/1"
	Join    Protocol = "holdfast-join/1"  // a node without a certificate to member
	Relay   Protocol = "holdfast-relay/1" // the same to a proxy, which carries what it says to a member
)

// mayDial reports whether a node of role r may open a connection of the protocol.
func (p Protocol) mayDial(r Role) bool {
	switch p {
	case Raft, Path, Bulk:
		return r == Member
	case Uplink, Mapping:
		return r == Member || r == Proxy
	case Join, Relay:
		return r == None
	}
	return false
}

// anonymous reports whether who dials shows no certificate.
func (p Protocol) anonymous() bool { return p == Join || p == Relay }

// mayServe reports whether a node of role r may answer one. A proxy may only where the dialing side says so
// (Target.AllowProxy): else a stolen proxy's certificate would pass for a member.
func (p Protocol) mayServe(r Role, allowProxy bool) bool {
	switch p {
	case Raft, Path, Bulk:
		return r == Member
	case Uplink, Mapping, Join:
		return r == Member || (r == Proxy && allowProxy)
	case Relay:
		return r == Proxy && allowProxy
	}
	return false
}
