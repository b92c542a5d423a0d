package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"holdfast/config"
	"holdfast/internal/failpoint"
	"holdfast/member"
)

// record is the body of mode.json: what the node is, and how it came to be that.
type record struct {
	Mode   config.Mode `json:"mode"`   // member or proxy; with a Switch from an empty dir, what it is becoming, else what serves
	Wanted config.Mode `json:"wanted"` // the --mode in force when this was recorded
	Reason string      `json:"reason"` // for people: "bootstrap", ...
	Since  time.Time   `json:"since"`
	NodeID string      `json:"node_id"` // the identity that this record belongs to
	Switch *change     `json:"switch,omitempty"`
}

// change is a switch in progress: recorded before its first step that cannot be undone by looking at the dir alone, and
// taken out after its last.
type change struct {
	Kind string `json:"kind"`
	// Token is the join token that an operator gave to be promoted with, kept until the cluster has answered.
	Token   string `json:"token,omitempty"`
	Replica uint64 `json:"replica,omitempty"` // of the member that is to be removed
	Force   bool   `json:"force,omitempty"`
	Into    string `json:"into,omitempty"` // where everything is being moved; a node that leaves
	// Admission is what the cluster told a node that it takes in as a member: a member.Admission.
	Admission json.RawMessage `json:"admission,omitempty"`
}

// The kinds of change.
const (
	bootstrapping = "bootstrap" // from an empty dir to a cluster of one
	joining       = "join"      // from an empty dir to a member of a cluster that is there
	promoting     = "promote"   // from a proxy to a member; see promote
	demoting      = "demote"    // from a member to a proxy; see demote
	leaving       = "leave"     // from a member or a proxy to no node at all; see leave
)

const (
	modeKind    = "holdfast-mode"
	modeVersion = 1
)

// observe looks at the dir and adds what the configuration wants. Damage is part of what is observed; an error means
// that the dir could not be looked at.
func (d *dataDir) observe(cfg config.Config) (situation, error) {
	s := situation{
		dir:      d.path,
		wanted:   cfg.Mode,
		fallback: cfg.Fallback,
		join:     len(cfg.Join) > 0,
		token:    cfg.TokenFile != "" || cfg.Token.Reveal() != "",
	}
	var err error
	if s.member, err = d.look(memberName); err != nil {
		return s, err
	}
	if s.proxy, err = d.look(proxyName); err != nil {
		return s, err
	}
	if s.staged, err = d.look(stagedName); err != nil {
		return s, err
	}
	if s.replaced, err = d.look(replacedName); err != nil {
		return s, err
	}
	if err := d.observeFiles(&s); err != nil {
		return s, err
	}
	return s, nil
}

func (d *dataDir) observeFiles(s *situation) error {
	rec := record{}
	switch err := readSealed(d.join(modeFile), modeKind, modeVersion, &rec); {
	case err == nil:
		s.record = &rec
	case unreadable(err):
		s.damage = err
	case !errors.Is(err, fs.ErrNotExist):
		return storageError(err)
	}
	id, err := d.readNodeID()
	switch {
	case err == nil:
		s.node = id.String()
	case unreadable(err):
		s.damage = errors.Join(s.damage, err)
	case !errors.Is(err, fs.ErrNotExist):
		return storageError(err)
	}
	return nil
}

func unreadable(err error) bool { return errors.Is(err, errDamaged) || errors.Is(err, errNewer) }

// bootstrap makes the folder of a member that is a cluster of one:
//
//	member.new/                      staged; cut short here, the next start begins again
//	mode.json says bootstrap         cut short here or later, the next start goes on
//	member.new/ -> member/
//	(the member founds its cluster)
//	mode.json says member            see founded
func (d *dataDir) bootstrap(rec record) error {
	if err := d.makeFolder(stagedName); err != nil {
		return fmt.Errorf("stage %s: %w", stagedName, err)
	}
	if err := d.step(failpoint.BootstrapStaged); err != nil {
		return err
	}
	rec.Switch = &change{Kind: bootstrapping}
	if err := d.writeRecord(rec); err != nil {
		return err
	}
	if err := d.step(failpoint.BootstrapJournalled); err != nil {
		return err
	}
	return d.finishBootstrap()
}

// joinMember makes the folder of a member that the cluster has admitted. What is to be made is in the journal:
//
//	mode.json says join, and as whom   cut short before, the next start asks the cluster again; from here on it goes on
//	member.new/                        staged
//	member.new/ -> member/
//	(the member is opened)
//	mode.json says member              see founded
func (d *dataDir) joinMember(rec record, admission json.RawMessage) error {
	rec.Switch = &change{Kind: joining, Admission: admission}
	if err := d.writeRecord(rec); err != nil {
		return err
	}
	if err := d.step(failpoint.JoinJournalled); err != nil {
		return err
	}
	return d.finishJoin(admission)
}

// finishJoin goes on where joinMember was cut short.
func (d *dataDir) finishJoin(admission json.RawMessage) error {
	there, err := d.look(memberName)
	if err != nil || there != absent {
		return err
	}
	var a member.Admission
	if err := json.Unmarshal(admission, &a); err != nil {
		return refusef("data dir %s: what the cluster said when it took this node in cannot be read: %w: move %s away and start again to ask anew", d.path, err, modeFile)
	}
	if err := d.makeFolder(stagedName); err != nil {
		return fmt.Errorf("stage %s: %w", stagedName, err)
	}
	if err := member.Stage(d.join(stagedName), a); err != nil {
		return storageError(fmt.Errorf("stage %s: %w", stagedName, err))
	}
	if err := d.step(failpoint.JoinStaged); err != nil {
		return err
	}
	return d.adoptStaged()
}

// finishSwitch goes on with the change that the dir is in the middle of.
func (d *dataDir) finishSwitch(rec record) error {
	switch rec.Switch.Kind {
	case joining:
		return d.finishJoin(rec.Switch.Admission)
	case restoring, recovering:
		_, err := d.finishReplace(rec, d.step)
		return err
	}
	return d.finishBootstrap()
}

// finishBootstrap goes on where bootstrap was cut short. Whatever it finds, no client was ever answered: that starts
// after founded.
func (d *dataDir) finishBootstrap() error {
	there, err := d.look(memberName)
	if err != nil || there != absent {
		return err
	}
	if err := d.makeFolder(stagedName); err != nil {
		return fmt.Errorf("stage %s: %w", stagedName, err)
	}
	return d.adoptStaged()
}

// adoptStaged makes the staged folder the member's.
func (d *dataDir) adoptStaged() error {
	if err := os.Rename(d.join(stagedName), d.join(memberName)); err != nil {
		return storageError(fmt.Errorf("make %s: %w", memberName, err))
	}
	if err := d.step(failpoint.MemberRenamed); err != nil {
		return err
	}
	if err := syncDir(d.path); err != nil {
		return storageError(fmt.Errorf("make %s: %w", memberName, err))
	}
	return d.step(failpoint.MemberMade)
}

// founded records that the switch is complete. From here on an empty member folder is lost data.
func (d *dataDir) founded(rec record) error {
	rec.Switch = nil
	if err := d.writeRecord(rec); err != nil {
		return err
	}
	return d.step(failpoint.MemberRecorded)
}

func (d *dataDir) writeRecord(rec record) error {
	if err := writeSealed(d.join(modeFile), modeKind, modeVersion, rec); err != nil {
		return storageError(fmt.Errorf("record the mode: %w", err))
	}
	return nil
}
