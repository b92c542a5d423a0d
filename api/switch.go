package api

import (
	"context"
	"time"
)

// Switcher changes what a node is: a member, a proxy, or no part of its cluster any more. It is an operator's: the
// administration socket has it and no other listener. Errors are *kv.Error. All methods may be called concurrently.
type Switcher interface {
	// Switch begins a change, or goes on waiting for one that is under way or done already, and returns how it stands when
	// it has ended or ctx ends. A change that was begun goes on without its caller, and across restarts. An error means
	// that it was refused, or undone: the node is what it was.
	Switch(ctx context.Context, r SwitchRequest) (SwitchStatus, error)
}

// The kinds of change.
const (
	SwitchPromote = "promote" // from a proxy to a member
	SwitchDemote  = "demote"  // from a member to a proxy
	SwitchLeave   = "leave"   // out of the cluster; the agent stops
)

// SwitchRequest asks for a change.
type SwitchRequest struct {
	Kind  string // SwitchPromote, SwitchDemote or SwitchLeave
	Node  string // id or name of a node; SwitchSelf: the one that is asked
	Token string // join token to be promoted with; empty: the one in the configuration
	Force bool   // leave without asking the cluster
}

// SwitchSelf names the node that is asked.
const SwitchSelf = "self"

// SwitchStatus is how a change stands.
type SwitchStatus struct {
	Kind    string    `json:"kind"`
	NodeID  string    `json:"node_id"`
	Step    string    `json:"step"`              // what is being done, in words
	Trouble string    `json:"trouble,omitempty"` // why that does not get on; it is tried again
	Since   time.Time `json:"since"`
	Done    bool      `json:"done"`
}
