package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/config"
	"holdfast/internal/failpoint"
	"holdfast/member"
	"holdfast/mvcc"
)

// Recovery says which member to make a cluster of.
type Recovery struct {
	Offline
	// Confirm is shown what is there and what may be lost, before anything is changed. False ends it.
	Confirm func(Loss) bool
}

// Loss is what a recovery keeps and what it may lose.
type Loss struct {
	Node    string   `json:"node"`
	Replica uint64   `json:"replica"`
	Cluster string   `json:"cluster"`
	Epoch   string   `json:"epoch"`
	Others  []uint64 `json:"others"` // replica ids of the other members, as this one knows them

	// The log of this member: to choose among survivors, take the one with the higher last term, then the higher last
	// index.
	LastTerm  uint64 `json:"last_term"`
	LastIndex uint64 `json:"last_index"`
	// Committed is the newest index known here to have been committed. What is between it and LastIndex is kept, although
	// nobody can tell whether it was.
	Committed uint64    `json:"committed_index"`
	Written   time.Time `json:"log_written"` // when this member's log was last written, by its clock

	// What the new cluster will have.
	Revision int64 `json:"revision"`
	Keys     int64 `json:"keys"`
	Leases   int64 `json:"leases"`
}

// ErrNotConfirmed says that a recovery ended because Confirm said no. Nothing was changed.
var ErrNotConfirmed = errors.New("not confirmed: nothing was changed")

// Recover makes the member in the data dir of a stopped agent the only member of a new cluster, for when the quorum of
// its own is lost for good. It keeps all that this member has, the identity of the node and the cluster's CA; the former
// member is kept below retired/. A crash is as in Restore, but that before the journal the former member is still there
// and goes on as it was.
func Recover(ctx context.Context, r Recovery) (done Restored, err error) {
	o := r.withDefaults()
	if err := ownDir(o.DataDir); err != nil {
		return done, err
	}
	d, err := openDataDir(o.DataDir)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	rec, node, err := d.recoverable()
	if err != nil {
		return done, err
	}
	if err := d.makeFresh(replacedName); err != nil {
		return done, err
	}
	if err := o.step(failpoint.ReplaceFolder); err != nil {
		return done, err
	}
	loss, c, err := d.salvage(ctx, o, node)
	if err != nil {
		return done, err
	}
	if !r.Confirm(loss) {
		return done, errors.Join(ErrNotConfirmed, d.removeAll(replacedName))
	}
	fresh := o.record("recover", node)
	fresh.Wanted = rec.Wanted
	done.SameIdentity = true
	err = d.found(ctx, o, fresh, recovering, c, &done)
	return done, err
}

// recoverable refuses a dir that is not that of a member. One that has lost its record is, if all else is there: what the
// record had follows from that.
func (d *dataDir) recoverable() (rec record, node nodeID, err error) {
	s, err := d.observe(config.Config{Mode: config.ModeAuto})
	if err != nil {
		return rec, node, err
	}
	if s.lostRecord() {
		node, err = d.readNodeID()
		return record{Mode: config.ModeMember, Wanted: config.ModeAuto}, node, err
	}
	decided, err := decide(s)
	switch {
	case err != nil:
		return rec, node, err
	case decided.do == bootstrapMember:
		return rec, node, refusef("data dir %s is empty: there is nothing to recover; restore a backup with: agent snapshot restore", d.path)
	case decided.do == finishSwitch:
		return rec, node, refusef("data dir %s is in the middle of a switch (%s): start the agent, which completes it, and stop it again", d.path, s.record.Switch.Kind)
	case decided.do != goOn || decided.mode != config.ModeMember:
		return rec, node, refusef("data dir %s is of a %s, which has no copy of the data to recover: use the dir of a member, or restore a backup", d.path, decided.mode)
	}
	node, err = d.readNodeID()
	return *s.record, node, err
}

// salvage stages the state of the new cluster and says what there is.
func (d *dataDir) salvage(ctx context.Context, o Offline, node nodeID) (loss Loss, c mvcc.Contents, err error) {
	o.Tell("reading the log of this member")
	s, err := member.Survey(member.Config{Dir: d.join(memberName), NodeID: node.uuid(), DiskReserve: -1, Log: o.Log})
	if err != nil {
		return loss, c, openError(err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	o.Tell("building the state")
	c, err = s.Salvage(ctx, d.join(replacedName, member.StateName), mvcc.Renewal{Epoch: newEpoch(), Drop: dropRecords(true)})
	if err != nil {
		return loss, c, openError(err)
	}
	r := s.Remains()
	loss = Loss{
		Node: node.String(), Replica: r.Replica, Cluster: fmt.Sprintf("%016x", r.Cluster), Epoch: r.Epoch.String(), Others: []uint64{},
		LastTerm: r.LastTerm, LastIndex: r.Last, Committed: r.Committed, Written: r.Written.UTC(), Revision: c.Revision, Keys: c.Keys, Leases: c.Leases,
	}
	for replica := range r.Members {
		if replica != r.Replica {
			loss.Others = append(loss.Others, replica)
		}
	}
	slices.Sort(loss.Others)
	return loss, c, nil
}
