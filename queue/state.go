package queue

// State is where an op stands.
//
//	queued ──> sending ──> committed | conflict | rejected | unknown
//	   │                                   (consumed a sequence)
//	   └─────> expired | superseded | discarded
//	             (the sequence is skipped)
type State uint8

// The states. The numbers are in files: append only.
const (
	Queued State = iota
	Sending
	Committed
	Conflict
	Rejected
	Expired
	Superseded
	Discarded
	Unknown
	states
)

var stateNames = [states]string{"queued", "sending", "committed", "conflict", "rejected", "expired", "superseded",
	"discarded", "unknown"}

func (s State) String() string {
	if s < states {
		return stateNames[s]
	}
	return "unknown"
}

// ParseState is the inverse of String.
func ParseState(name string) (State, bool) {
	for s, n := range stateNames {
		if n == name {
			return State(s), true
		}
	}
	return 0, false
}

// Ended reports whether nothing more will become of the op.
func (s State) Ended() bool { return s > Sending }

// kept reports whether an ended op stays listed until somebody has looked: it did not become what its writer wanted.
func (s State) kept() bool { return s == Conflict || s == Rejected || s == Unknown || s == Expired }
