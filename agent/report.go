package agent

import (
	"context"
	"fmt"

	"holdfast/api"
	"holdfast/auth"
)

// node is what stands behind the gate, as the rest of the agent sees it: a member, and whatever else a node may become.
type node struct {
	backend  api.Backend
	admin    api.Admin                   // nil if it is no full replica
	caughtUp <-chan struct{}             // closed once it has a leader and everything the leader had
	alive    func(context.Context) error // nil once its loop has answered
	describe func(*api.Status)           // fills in its part, from memory
	policy   auth.Source                 // what it judges by; the zero value: it knows no policy
}

// The states of api.Status.
const (
	stateReplaying = "replaying"
	stateServing   = "serving"
	stateStopping  = "stopping"
)

// Report describes the agent. It answers from memory, in every state.
func (a *Agent) Report() api.Status {
	s := api.Status{
		Name:    a.cfg.Name,
		NodeID:  a.planned().node.String(),
		Version: a.opts.Version,
		Mode:    string(a.planned().record.Mode),
		Started: a.started,
		DataDir: a.dir.path,
		Listen:  a.Addrs(),
	}
	n := a.node.Load()
	if n != nil {
		n.describe(&s)
	}
	if v := a.queue.Load(); v != nil {
		q := v.Status()
		s.Queue = &q
	}
	s.Links, s.KeepAlive, s.Budget = a.links(), a.keepAlive(), a.budgetStatus()
	if e := a.errands.current(); e != nil {
		change := e.status(s.NodeID)
		s.Switch = &change
	}
	s.State, s.Ready, s.Reason = a.state(n)
	return s
}

func (a *Agent) state(n *node) (state string, ready bool, reason string) {
	switch {
	case a.gate.isDraining():
		return stateStopping, false, "the agent is stopping"
	case isClosed(a.ready):
		return stateServing, true, ""
	case n == nil:
		return stateReplaying, false, "the store is being opened"
	}
	return stateReplaying, false, "the log is being replayed, or a leader waited for"
}

// statusLine is the state in a sentence, for the service manager and the log.
func (a *Agent) statusLine() string { return lineOf(a.Report()) }

func lineOf(s api.Status) string {
	switch {
	case s.State == stateReplaying:
		return "Replaying the log"
	case s.State == stateStopping:
		return "Stopping"
	case s.Proxy != nil:
		return proxyLine(s) + besides(s)
	case s.Member == nil:
		return "Serving"
	}
	return memberLine(s) + besides(s)
}

// memberLine is the state of a member in a sentence.
func memberLine(s api.Status) string {
	switch {
	case s.Member.LogHeldSeconds > 0:
		return "The disk holds back a write of the raft log: serving local reads"
	case s.Member.Leader == "":
		return "No quorum: serving local reads, refusing what needs a leader"
	case s.Member.WritesRefused != "":
		return "Refusing writes: " + s.Member.WritesRefused
	case s.Member.Leader == s.Member.ReplicaID:
		return "Serving as leader"
	}
	return "Serving as follower of " + s.Member.Leader
}

// proxyLine is the state of a proxy in a sentence.
func proxyLine(s api.Status) string {
	switch {
	case !s.Proxy.Joined:
		return "Not joined yet: asking the cluster"
	case s.Proxy.UplinkLost:
		return "Uplink lost: serving what is cached"
	}
	return "Serving as proxy of " + s.Proxy.Upstream
}

// besides is what else somebody should know who reads one line: writes that wait, and links over which nothing comes.
func besides(s api.Status) (text string) {
	if s.Queue != nil && s.Queue.Depth > 0 {
		text += fmt.Sprintf(", %d writes queued", s.Queue.Depth)
	}
	lost := 0
	for _, l := range s.Links {
		if l.Lost {
			lost++
		}
	}
	if lost > 0 && s.Proxy == nil {
		text += fmt.Sprintf(", %d of %d links lost", lost, len(s.Links))
	}
	return text
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
