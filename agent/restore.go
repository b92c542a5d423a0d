package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/config"
	"holdfast/internal/failpoint"
	"holdfast/kv"
	"holdfast/member"
	"holdfast/mvcc"
)

// replacedName is where the member that a restore or a recovery makes is staged; the one whose place it takes goes to
// retiredName.
const replacedName = "restore.new"

// The kinds of change by which a member takes the place of what was there; see replace.
const (
	restoring  = "restore"
	recovering = "recover"
)

// Offline is what commands on the data dir of a stopped agent have in common. The zero value of a field is the default
// named at it.
type Offline struct {
	DataDir string           // required
	Version string           // of the program, for the log
	Log     *slog.Logger     // nil: discarded
	Now     func() time.Time // dates the record for people; nil: time.Now
	Tell    func(string)     // told what is being done; nil: nobody is

	step func(failpoint.Point) error // called between durable steps; nil: pass. Tests cut them short here
}

func (o Offline) withDefaults() Offline {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	if o.step == nil {
		o.step = pass
	}
	return o
}

func (o Offline) record(reason string, node nodeID) record {
	return record{Mode: config.ModeMember, Wanted: config.ModeAuto, Reason: reason, Since: o.Now().UTC().Truncate(time.Second), NodeID: node.String()}
}

// Restoration says what to restore.
type Restoration struct {
	Offline
	File string // a backup, a snapshot of etcd or a copied db of etcd
	// Bump raises the newest revision by so much and ends the history there, for clients that know nothing of epochs.
	Bump int64
	// DropUsers leaves out who may do what in a snapshot of an etcd: whoever reaches the agent may do everything then.
	DropUsers bool
}

// Restored is what a restore or a recovery has made.
type Restored struct {
	Cluster  string `json:"cluster"`
	Epoch    string `json:"epoch"`
	Revision int64  `json:"revision"`
	Keys     int64  `json:"keys"`
	Leases   int64  `json:"leases"`
	Node     string `json:"node"`
	// SameIdentity reports that the node and its CA are who they were, so that nodes that had joined find it again.
	SameIdentity bool   `json:"same_identity"`
	Retired      string `json:"retired,omitempty"` // where the former member lies
	Freed        int64  `json:"freed,omitempty"`   // keys of an etcd that named a lease that was gone
	Users        int    `json:"users,omitempty"`   // of an etcd
	Auth         bool   `json:"auth,omitempty"`    // authentication is on in it
}

// Restore makes the data dir that of the only member of a new cluster with another epoch, with what a backup holds. The
// dir must hold nothing, or nothing but identity/ and queue/ of the node that it was. When Restore returns, the next start
// serves; after a crash at any instant the next start completes it, or refuses until it is done again or taken back by
// removing restore.new/: it never serves an empty store in its place.
func Restore(ctx context.Context, r Restoration) (done Restored, err error) {
	o := r.withDefaults()
	o.Tell("reading " + r.File)
	b, err := member.ReadBackup(ctx, r.File)
	if err != nil {
		return done, backupError(err)
	}
	if err := ownDir(o.DataDir); err != nil {
		return done, err
	}
	d, err := openDataDir(o.DataDir)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.onlyIdentity(); err != nil {
		return done, err
	}
	if err := d.makeFresh(replacedName); err != nil {
		return done, err
	}
	if err := o.step(failpoint.ReplaceFolder); err != nil {
		return done, err
	}
	done.SameIdentity = d.joined()
	node, err := d.ensureNodeID()
	if err != nil {
		return done, err
	}
	if err := o.step(failpoint.ReplaceIdentity); err != nil {
		return done, err
	}
	epoch := newEpoch()
	o.Tell("building the state")
	im, err := b.Make(ctx, d.join(replacedName, member.StateName), mvcc.Renewal{Epoch: epoch, Drop: dropRecords(done.SameIdentity), Bump: r.Bump, DropUsers: r.DropUsers})
	if err != nil {
		return done, backupError(err)
	}
	done.Users, done.Auth = im.Users, im.Enabled
	done.Freed = im.Freed
	err = d.found(ctx, o, o.record("restore", node), restoring, im.Contents, &done)
	return done, err
}

// backupError gives what is wrong with a file its exit code: a person has to choose another.
func backupError(err error) error {
	switch kv.CodeOf(err) {
	case kv.Corrupt, kv.Unsupported, kv.Invalid, kv.TooLarge:
		return &exitError{ExitConfig, err}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &exitError{ExitConfig, err}
	}
	return storageError(err)
}

// newEpoch draws the epoch of a new cluster.
func newEpoch() (e kv.Epoch) {
	var b [8]byte
	for e.Cluster == 0 {
		_, _ = rand.Read(b[:]) // never fails: the program would have ended
		e.Cluster = binary.LittleEndian.Uint64(b[:])
	}
	_, _ = rand.Read(e.Nonce[:])
	return e
}

// The names of records that say who is in a cluster. They are the formats of their packages.
var (
	recordsOfMembers  = []string{"members"}
	recordsOfIdentity = []string{"node/", "token/", "ca/", "revoked/"}
)

// dropRecords tells which records of a cluster a new one does not take over: who its members are, and, unless the node
// keeps the CA, who has joined and may join, since their certificates are worth nothing.
func dropRecords(sameIdentity bool) func(name []byte) bool {
	gone := recordsOfMembers
	if !sameIdentity {
		gone = slices.Concat(recordsOfMembers, recordsOfIdentity)
	}
	return func(name []byte) bool {
		return slices.ContainsFunc(gone, func(prefix string) bool { return strings.HasPrefix(string(name), prefix) })
	}
}

// onlyIdentity refuses a dir with anything in it that a restore would take the place of.
func (d *dataDir) onlyIdentity() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return storageError(err)
	}
	var found []string
	for _, e := range entries {
		switch e.Name() {
		case lockFile, identityName, queueName, replacedName, "agent.sock":
		default:
			found = append(found, e.Name())
		}
	}
	if len(found) > 0 {
		return refusef("data dir %s is not empty (%s): nothing was changed; restore into another dir, or stop its agent and move all of it away but %s/, which holds the node's identity and the cluster's CA: with it, proxies find the restored cluster without joining anew",
			d.path, strings.Join(found, ", "), identityName)
	}
	return nil
}

// makeFresh makes an empty folder, in place of what a crash has left under its name.
func (d *dataDir) makeFresh(name string) error {
	if err := d.removeAll(name); err != nil {
		return err
	}
	return d.makeFolder(name)
}

// removeAll removes a folder, durably.
func (d *dataDir) removeAll(name string) error {
	if err := errors.Join(os.RemoveAll(d.join(name)), syncDir(d.path)); err != nil {
		return storageError(err)
	}
	return nil
}

// found makes the staged state a cluster and puts it in its place:
//
//	restore.new/ with the state      cut short here: rolled back by the next restore, or by the start of the former member
//	restore.new/ is a whole member
//	mode.json says restore, recover  cut short here or later, the next start goes on
//	member/ -> retired/..., if there is one
//	restore.new/ -> member/
//	mode.json says member
func (d *dataDir) found(ctx context.Context, o Offline, rec record, kind string, c mvcc.Contents, done *Restored) error {
	if err := o.step(failpoint.ReplaceState); err != nil {
		return err
	}
	id, err := kv.ParseNodeID(rec.NodeID)
	if err != nil {
		return err
	}
	o.Tell("founding the cluster")
	cfg := member.Config{Dir: d.join(replacedName), ClusterID: c.Epoch.Cluster, NodeID: nodeID(id).uuid(), Version: o.Version, Log: o.Log}
	if err := member.Found(ctx, cfg); err != nil {
		return openError(err)
	}
	if err := o.step(failpoint.ReplaceFounded); err != nil {
		return err
	}
	rec.Switch = &change{Kind: kind}
	if err := d.writeRecord(rec); err != nil {
		return err
	}
	if err := o.step(failpoint.ReplaceJournalled); err != nil {
		return err
	}
	retired, err := d.finishReplace(rec, o.step)
	if err != nil {
		return err
	}
	rec.Switch = nil
	if err := d.writeRecord(rec); err != nil {
		return err
	}
	done.Cluster, done.Epoch, done.Revision, done.Keys, done.Leases = fmt.Sprintf("%016x", c.Epoch.Cluster), c.Epoch.String(), c.Revision, c.Keys, c.Leases
	done.Node, done.Retired = rec.NodeID, retired
	return o.step(failpoint.ReplaceRecorded)
}

// finishReplace goes on where found was cut short: everything it needs is in the dir. It returns where the former member
// went, if it moved one.
func (d *dataDir) finishReplace(rec record, step func(failpoint.Point) error) (retired string, err error) {
	staged, err := d.look(replacedName)
	if err != nil {
		return "", err
	}
	there, err := d.look(memberName)
	if err != nil {
		return "", err
	}
	if staged == absent {
		if there != filled {
			return "", refusef("data dir %s is in the middle of a %s, but neither %s/ nor %s/ is there: put back what was moved away, or restore a backup into another dir", d.path, rec.Switch.Kind, replacedName, memberName)
		}
		return "", nil // all but the record was done
	}
	if there != absent {
		if retired, err = d.retire(rec); err != nil {
			return "", err
		}
		if err := step(failpoint.ReplaceRetired); err != nil {
			return "", err
		}
	}
	if err := errors.Join(os.Rename(d.join(replacedName), d.join(memberName)), syncDir(d.path)); err != nil {
		return "", storageError(fmt.Errorf("make %s: %w", memberName, err))
	}
	return retired, step(failpoint.ReplaceRenamed)
}

// retire moves the member away, to a name that nothing has.
func (d *dataDir) retire(rec record) (string, error) {
	if err := d.makeFolder(retiredName); err != nil {
		return "", err
	}
	base := rec.Switch.Kind + "-" + rec.Since.Format("20060102T150405Z")
	for n := 1; n < retiredMax; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		there, err := d.look(retiredName + "/" + name)
		if err != nil {
			return "", err
		}
		if there != absent {
			continue
		}
		to := d.join(retiredName, name)
		if err := errors.Join(os.Rename(d.join(memberName), to), syncDir(d.join(retiredName)), syncDir(d.path)); err != nil {
			return "", storageError(fmt.Errorf("retire %s: %w", memberName, err))
		}
		return to, nil
	}
	return "", refusef("data dir %s: %s/ is full of former members: move some away", d.path, retiredName)
}

// retiredMax bounds the former members of one second.
const retiredMax = 100
