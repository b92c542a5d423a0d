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
//
// Such a program can also be told to hang: see Loop.
package failpoint

// Point is an instant: the operation, and what is durable by then.
type Point string

// Making an identity, and the parts of a member's dir.
const (
	IdentityFolder Point = "identity/folder"
	IdentityDrawn  Point = "identity/drawn"
	MemberRenamed  Point = "member/renamed"
	MemberMade     Point = "member/made"
	MemberOpened   Point = "member/opened" // the replica has its files; one that founds its cluster has done so
	MemberRecorded Point = "member/recorded"
)

// Founding a cluster of one.
const (
	BootstrapStaged     Point = "bootstrap/staged"
	BootstrapJournalled Point = "bootstrap/journalled"
	BootstrapCA         Point = "bootstrap/ca"
	BootstrapCertified  Point = "bootstrap/certified"
)

// Joining a cluster, as what it wants.
const (
	JoinAdmitted   Point = "join/admitted" // the cluster has taken it in; nothing is written here
	JoinCertified  Point = "join/certified"
	JoinJournalled Point = "join/journalled" // as a member
	JoinStaged     Point = "join/staged"
	ProxyRecorded  Point = "proxy/recorded"
	ProxyFolder    Point = "proxy/folder"
	ProxyEndpoints Point = "proxy/endpoints"
)

// Making a proxy a member, live. In between lies what joining has.
const (
	PromoteJournalled Point = "promote/journalled"
	PromoteSeated     Point = "promote/seated"    // with what the cluster said
	PromoteCommitted  Point = "promote/committed" // the member is a voter, and recorded as what this node is
	PromoteTurned     Point = "promote/turned"    // and serves
	PromoteCleared    Point = "promote/cleared"
	PromoteRecorded   Point = "promote/recorded"
	PromoteRefused    Point = "refused/recorded" // by the cluster
)

// Making a member a proxy, live.
const (
	DemoteJournalled Point = "demote/journalled"
	DemoteFolder     Point = "demote/folder"
	DemoteCommitted  Point = "demote/committed" // the proxy has a warm cache, and is recorded as what this node is
	DemoteTurned     Point = "demote/turned"    // and serves
	DemoteAsked      Point = "demote/asked"
	DemoteRemoved    Point = "demote/removed"
	DemoteRetired    Point = "demote/retired"
	DemoteRecorded   Point = "demote/recorded"
)

// Leaving the cluster.
const (
	LeaveJournalled Point = "leave/journalled"
	LeaveMoving     Point = "leave/moving"
	LeaveMoved      Point = "leave/moved"
)

// Putting a member in the place of what was there: a restore of a backup, and a recovery without a quorum.
const (
	ReplaceFolder     Point = "replace/folder"
	ReplaceIdentity   Point = "replace/identity" // of a restore: the node has one
	ReplaceState      Point = "replace/state"
	ReplaceFounded    Point = "replace/founded" // a whole member is staged
	ReplaceJournalled Point = "replace/journalled"
	ReplaceRetired    Point = "replace/retired" // of a recovery: the former member is out of the way
	ReplaceRenamed    Point = "replace/renamed"
	ReplaceRecorded   Point = "replace/recorded"
)

// SealFile is behind each file with a key that is sealed because it was not, or sealed anew with another secret.
const SealFile Point = "seal/file"

// ImageRemoved is behind each thing that making a golden image takes out of a dir.
const ImageRemoved Point = "image/removed"

// All lists every point, in the order in which a node may come to them.
func All() []Point {
	return []Point{
		IdentityFolder, IdentityDrawn,
		BootstrapStaged, BootstrapJournalled, JoinAdmitted, JoinCertified, JoinJournalled, JoinStaged,
		MemberRenamed, MemberMade, MemberOpened, MemberRecorded, BootstrapCA, BootstrapCertified,
		ProxyRecorded, ProxyFolder, ProxyEndpoints,
		PromoteJournalled, PromoteSeated, PromoteCommitted, PromoteTurned, PromoteCleared, PromoteRecorded, PromoteRefused,
		DemoteJournalled, DemoteFolder, DemoteCommitted, DemoteTurned, DemoteAsked, DemoteRemoved, DemoteRetired, DemoteRecorded,
		LeaveJournalled, LeaveMoving, LeaveMoved,
		ReplaceFolder, ReplaceIdentity, ReplaceState, ReplaceFounded, ReplaceJournalled, ReplaceRetired, ReplaceRenamed, ReplaceRecorded,
		SealFile, ImageRemoved,
	}
}
