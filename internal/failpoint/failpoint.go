// Package failpoint names the instants between durable steps at which a test may have the process die, as a power cut
// would: so that what the next start finds there is tested and not imagined.
//
// A program built as usual has none of it: Hit does nothing and costs nothing. Built with the tag failpoints it reads its
// environment once:
//
//	FAILPOINT=promote/seated    the process kills itself when it comes there
//	FAILPOINT_LOG=PATH          each point that is passed is appended to the file, a line each
//
// The hidden command `agent failpoints` of such a program lists all points. A test goes through that list, kills at each,
// and fails on one that it never came to; so a new point is a constant here and needs no other registration.
package failpoint

// Point is an instant: the operation, and what is durable by then.
type Point string

// Making an identity and founding a cluster of one.
const (
	IdentityFolder      Point = "identity/folder"
	IdentityDrawn       Point = "identity/drawn"
	BootstrapStaged     Point = "bootstrap/staged"
	BootstrapJournalled Point = "bootstrap/journalled"
	BootstrapRenamed    Point = "bootstrap/renamed"
	BootstrapMade       Point = "bootstrap/made"
	BootstrapOpened     Point = "bootstrap/opened" // the replica has founded its cluster
	BootstrapRecorded   Point = "bootstrap/recorded"
	BootstrapCA         Point = "bootstrap/ca"
	BootstrapCertified  Point = "bootstrap/certified"
)

// Joining as a proxy.
const (
	ProxyRecorded  Point = "proxy/recorded"
	ProxyFolder    Point = "proxy/folder"
	ProxyAdmitted  Point = "proxy/admitted" // the cluster has taken it in; nothing is written here
	ProxyCertified Point = "proxy/certified"
	ProxyEndpoints Point = "proxy/endpoints"
)

// All lists every point, in the order in which a node may come to them.
func All() []Point {
	return []Point{
		IdentityFolder, IdentityDrawn,
		BootstrapStaged, BootstrapJournalled, BootstrapRenamed, BootstrapMade, BootstrapOpened, BootstrapRecorded, BootstrapCA, BootstrapCertified,
		ProxyRecorded, ProxyFolder, ProxyAdmitted, ProxyCertified, ProxyEndpoints,
	}
}
