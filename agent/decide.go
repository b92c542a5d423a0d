package agent

import (
	"errors"
	"fmt"
	"slices"

	"holdfast/config"
)

// situation is everything that decides what a node becomes: what its data dir says, what the configuration wants, and
// what the cluster answered if it has been asked.
type situation struct {
	dir string // for messages

	damage   error   // mode.json or the identity is there and cannot be used
	record   *record // nil: nothing is recorded
	node     string  // node id, "" for none yet
	member   presence
	proxy    presence
	staged   presence
	replaced presence // restore.new/

	wanted   config.Mode
	fallback string // proxy, none or "" for the default of the mode
	join     bool
	token    bool

	answer answer
}

// answer is what the cluster said to a node that wants to join.
type answer int

const (
	notAsked answer = iota
	nobodyAnswers
	voterWanted
	clusterFull
)

// action is what to do with the data dir.
type action int

const (
	refuse          action = iota
	bootstrapMember        // make a cluster of one, then serve
	finishSwitch           // complete the recorded switch, then go on
	goOn                   // serve as recorded
	askCluster             // ask, and decide again with the answer; make nothing meanwhile
	keepAsking             // not ready; ask again, make nothing meanwhile
	joinMember             // join as a learner, become a voter
	becomeProxy            // record proxy and serve
	serveUnjoined          // serve as a proxy that has not joined, and keep trying
)

// decision is the outcome of weighing a situation.
type decision struct {
	do     action
	mode   config.Mode // what the node is or becomes
	reason string      // for the record
}

// decide weighs a situation. It looks at nothing else and changes nothing. A refusal has exit code 78 and is one line
// that says what was found and what to do about it.
func decide(s situation) (decision, error) {
	switch {
	case s.damage != nil:
		return decision{}, damaged(s)
	case s.record == nil:
		return decideUnrecorded(s)
	}
	if err := contradiction(s); err != nil {
		return decision{}, err
	}
	rec := s.record
	if s.wanted != config.ModeAuto && s.wanted != rec.Mode && s.wanted != rec.Wanted {
		return decision{}, wrongMode(s)
	}
	if s.lostMember() {
		return decideAnswer(s)
	}
	if rec.Switch != nil && !rec.Switch.live() {
		return decision{do: finishSwitch, mode: rec.Mode, reason: rec.Reason}, nil
	}
	return decision{do: goOn, mode: rec.Mode, reason: rec.Reason}, nil
}

// lostRecord reports whether mode.json is missing or damaged and all else in the dir is that of a member, and of nothing more:
// agent recover makes a new one. A start does not: it cannot tell the last state of a change of mode from this.
func (s situation) lostRecord() bool {
	gone := s.damage == nil || errors.Is(s.damage, errDamaged)
	return s.record == nil && gone && s.node != "" && s.member == filled && s.proxy == absent && s.staged == absent
}

// decideUnrecorded is for a dir without mode.json.
func decideUnrecorded(s situation) (decision, error) {
	switch {
	case s.lostRecord():
		return decision{}, refusef("data dir %s has %s/ but no %s: put %s back from a backup; without one, %s", s.dir, memberName, modeFile, modeFile, afterLostRecord)
	case s.replaced != absent:
		return decision{}, refusef("data dir %s: a restore was cut short before it was complete (%s/ is there): run agent snapshot restore again, or remove %s/ to begin with an empty store", s.dir, replacedName, replacedName)
	case s.member != absent && s.proxy != absent:
		return decision{}, bothThere(s)
	case s.member != absent:
		return decision{}, refusef("data dir %s has %s/ but no %s: put %s back from a backup, or set --data-dir to another dir", s.dir, memberName, modeFile, modeFile)
	case s.proxy != absent:
		return decision{}, refusef("data dir %s has %s/ but no %s: put %s back from a backup, or move %s/ (a cache) away and start again", s.dir, proxyName, modeFile, modeFile, proxyName)
	case s.staged == filled:
		return decision{}, refusef("data dir %s has %s/ with something in it and no %s: nothing that a start leaves behind looks like this; move %s/ away and start again", s.dir, stagedName, modeFile, stagedName)
	case s.join:
		return decideJoin(s)
	case s.wanted == config.ModeProxy:
		return decision{}, refusef("data dir %s is empty and --mode=proxy needs a cluster behind it: set --join to the address of any of its nodes, and --token-file", s.dir)
	}
	return decision{do: bootstrapMember, mode: config.ModeMember, reason: "bootstrap"}, nil
}

// decideJoin is for an empty dir and --join.
func decideJoin(s situation) (decision, error) {
	if !s.token {
		return decision{}, refusef("joining needs a token: make one with `agent token create` on a member, and set --token-file or HOLDFAST_TOKEN")
	}
	return decideAnswer(s)
}

// lostMember reports whether the data of a member is gone and nothing else is, and it is known where its cluster is: the
// others have the data, and take it in again under another replica id. A folder that is there and empty may be one on
// which nothing is mounted.
func (s situation) lostMember() bool {
	rec := s.record
	return rec != nil && rec.Mode == config.ModeMember && rec.Switch == nil && s.member == absent && s.proxy == absent && s.join
}

// decideAnswer is for what the cluster answered, or not yet, to a node that is to join it.
func decideAnswer(s situation) (decision, error) {
	proxy := s.wanted == config.ModeProxy
	switch s.answer {
	case notAsked:
		return decision{do: askCluster}, nil
	case nobodyAnswers:
		if proxy {
			return decision{do: serveUnjoined, mode: config.ModeProxy, reason: "join"}, nil
		}
		return decision{do: keepAsking}, nil
	case voterWanted:
		if proxy {
			return decision{do: becomeProxy, mode: config.ModeProxy, reason: "join"}, nil
		}
		return decision{do: joinMember, mode: config.ModeMember, reason: "join"}, nil
	case clusterFull:
		switch {
		case proxy:
			return decision{do: becomeProxy, mode: config.ModeProxy, reason: "join"}, nil
		case s.mayBeProxy():
			return decision{do: becomeProxy, mode: config.ModeProxy, reason: fallbackReason}, nil
		}
		return decision{}, refusef("the cluster has all the members it wants: set --fallback=proxy to become a proxy, or have it want more (on a member: agent members set --voters N)")
	}
	return decision{}, fmt.Errorf("answer %d of the cluster is unknown", s.answer)
}

// mayBeProxy reports whether a node that joins takes being a proxy.
func (s situation) mayBeProxy() bool {
	return s.wanted == config.ModeProxy || s.fallback == "proxy" || s.fallback == "" && s.wanted == config.ModeAuto
}

// contradiction reports what in the dir does not fit its record.
func contradiction(s situation) error {
	rec := s.record
	switch {
	case rec.Mode != config.ModeMember && rec.Mode != config.ModeProxy:
		return refusef("data dir %s: %s records the mode %q, which this version does not know", s.dir, modeFile, rec.Mode)
	case s.node == "":
		return refusef("data dir %s is recorded as a %s but has no %s/%s: put it back from a backup; a node never gets a second identity", s.dir, rec.Mode, identityName, nodeFile)
	case rec.NodeID != s.node:
		return refusef("data dir %s: %s belongs to node %s but %s/%s is node %s: put back the one that was there", s.dir, modeFile, rec.NodeID, identityName, nodeFile, s.node)
	case rec.Switch != nil && !rec.Switch.known(rec.Mode):
		return refusef("data dir %s is in the middle of a switch (%q) that this version does not know: start the version that began it", s.dir, rec.Switch.Kind)
	case rec.Switch != nil && rec.Switch.live():
		return liveContradiction(s)
	case rec.Switch != nil && s.proxy != absent:
		return refusef("data dir %s is being made a member but has %s/: move %s/ (a cache) away and start again", s.dir, proxyName, proxyName)
	case rec.Switch != nil:
		return nil // every state of member/ and member.new/ is a step of it
	case rec.Mode == config.ModeMember && s.proxy != absent, rec.Mode == config.ModeProxy && s.member != absent:
		return bothThere(s)
	case rec.Mode == config.ModeMember && s.member != filled && !s.lostMember():
		return refusef("data dir %s is recorded as a member but %s/ is %s: mount or put back its data; a node that lost it for good takes its place again with --join=HOST:PORT of another member, once %s/ is not even there", s.dir, memberName, s.member, memberName)
	}
	return nil
}

// liveContradiction reports what in the dir does not fit a switch between member and proxy: what serves has to be there.
// The other one, and what is staged, may be there or not.
func liveContradiction(s situation) error {
	if s.record.Mode == config.ModeMember && s.member != filled {
		return refusef("data dir %s is recorded as a member (being changed: %s) but %s/ is %s: mount or put back its data", s.dir, s.record.Switch.Kind, memberName, s.member)
	}
	return nil
}

// live reports whether the change is one between member and proxy, which runs while the node serves as what is recorded.
func (c *change) live() bool { return c.Kind == promoting || c.Kind == demoting || c.Kind == leaving }

// known reports whether this version can go on with the change in a mode.
func (c *change) known(mode config.Mode) bool {
	return c.live() || mode == config.ModeMember && slices.Contains([]string{bootstrapping, joining, restoring, recovering}, c.Kind)
}

func (p presence) String() string {
	return [...]string{absent: "missing", empty: "empty", filled: "there"}[p]
}

func damaged(s situation) error {
	if errors.Is(s.damage, errNewer) {
		return refusef("data dir %s: %w: start that version, or restore the dir from a backup of this one", s.dir, s.damage)
	}
	if s.lostRecord() {
		return refusef("data dir %s: %w: put the file back from a backup; without one, %s; nothing was changed", s.dir, s.damage, afterLostRecord)
	}
	return refusef("data dir %s: %w: put the file back from a backup; if the cluster has other members, this node may join it anew with an empty dir (--join); nothing was changed", s.dir, s.damage)
}

// afterLostRecord is what to do with a member that has lost its mode.json.
const afterLostRecord = "a lone member goes on after `agent recover`, and one that has others joins them anew with an empty dir (--join)"

func bothThere(s situation) error {
	recorded := "no " + modeFile + " says what it is"
	if s.record != nil {
		recorded = fmt.Sprintf("it is recorded as a %s, and no change of that is under way", s.record.Mode)
	}
	return refusef("data dir %s has both %s/ (%s) and %s/ (%s); %s: move the one that does not belong here away (%s/ is only a cache; %s/ is data)",
		s.dir, memberName, s.member, proxyName, s.proxy, recorded, proxyName, memberName)
}

// wrongMode names the recorded mode and the ways out.
func wrongMode(s situation) error {
	if s.record.Mode == config.ModeMember {
		return refusef("data dir %s is recorded as a member and --mode=%s wants something else: set --mode=auto to go on as a member, run `agent demote` if it belongs to a cluster, or, for a lone member, `agent leave --force` and then start with --mode=proxy --join", s.dir, s.wanted)
	}
	return refusef("data dir %s is recorded as a %s and --mode=%s wants something else: set --mode=auto to go on as a %s, or run `agent promote`", s.dir, s.record.Mode, s.wanted, s.record.Mode)
}
