package failpoint

// Loop is a loop that a test may have hang, so that it is seen who notices:
//
//	FAILPOINT_HANG=member/apply    the loop that hangs,
//	FAILPOINT_HANG_IF=PATH         at the first piece of work that it begins once this file is there
type Loop string

// The loops whose health the watchdog goes by.
const (
	ApplyLoop Loop = "member/apply" // of the replica: log entries
	FeedLoop  Loop = "proxy/feed"   // of the cache: what the watch stream brings
)
