package member

import (
	"context"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/mvcc"
)

// DefaultAuditEvery is how often the replicas are compared, if anything has changed since. An audit costs each a flush and
// the reading of its state file, which wears no flash, and each link two commands of some 60 bytes: at most 4 a day, about
// half a kilobyte with what raft adds. Nothing is proposed in a cluster of one, or while nothing changes.
const DefaultAuditEvery = 12 * time.Hour

// auditCalls is how many calls wait while one is digested: the two of an audit, and of one that the next leader began.
// More are skipped, and counted.
const auditCalls = 4

// An audit compares the replicas:
//
//	leader: Audit{} --log--> each replica: holds on to its state at that place, digests it
//	leader: Audit{its digest} --log--> each replica: compares; where they differ, raises AlarmCorrupt
//
// What a replica did not digest, because it was replaying its log or the history was compacted before it came to it, it
// does not compare. If the leader is the one that is wrong, the others raise the alarm.
type auditor struct {
	m     *Member
	calls chan mvcc.AuditCall
	mine  kv.Hash // newest digest of this replica
}

func newAuditor(m *Member) *auditor {
	return &auditor{m: m, calls: make(chan mvcc.AuditCall, auditCalls)}
}

// call takes an audit from Apply. What is replayed at a start is past.
func (a *auditor) call(c mvcc.AuditCall) {
	select {
	case <-a.m.ready:
	default:
		return
	}
	select {
	case a.calls <- c:
	default:
		a.m.metrics.audits.WithLabelValues("skipped").Inc()
	}
}

// run does what audits ask for, and as leader begins them, until ctx ends.
func (a *auditor) run(ctx context.Context) error {
	var due <-chan time.Time
	if every := a.m.cfg.AuditEvery; every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		due = ticker.C
	}
	audited := int64(0)
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-due:
			if rev := a.m.store.Revision(); rev != audited {
				audited = rev
				err = a.begin(ctx)
			}
		case c := <-a.calls:
			if c.Revision == 0 {
				err = a.digest(ctx, c)
			} else {
				err = a.compare(ctx, c)
			}
		}
		if err != nil && ctx.Err() == nil {
			a.m.metrics.audits.WithLabelValues("skipped").Inc()
			a.m.cfg.Log.Warn("the replicas were not compared; the next audit is in "+a.m.cfg.AuditEvery.String(), "err", err)
		}
	}
}

// begin asks for an audit, if this replica leads others.
func (a *auditor) begin(ctx context.Context) error {
	nonce := a.m.nonce.Load()
	if nonce == 0 || len(a.m.voterIDs()) < 2 || a.m.store.Feature() < kv.FeatureAdmin {
		return nil
	}
	return a.propose(ctx, kv.Audit{Term: nonce})
}

// digest digests the state at the place of the call. The leader then has the others compare.
func (a *auditor) digest(ctx context.Context, c mvcc.AuditCall) error {
	a.mine = kv.Hash{}
	sn, err := a.m.store.Snapshot()
	if err != nil {
		return err
	}
	defer sn.Close()
	h, err := sn.Hash(ctx, c.At)
	if err != nil {
		return err
	}
	if h.Compact != c.CompactAt {
		return kv.Errorf(kv.Compacted, "the history was compacted at %d before it was digested at %d", h.Compact, c.CompactAt)
	}
	a.mine = h
	if c.Term != a.m.nonce.Load() {
		return nil
	}
	return a.propose(ctx, kv.Audit{Term: c.Term, Revision: h.Revision, Compact: h.Compact, Sum: h.Sum})
}

// compare raises the alarm if this replica's digest is not the leader's.
func (a *auditor) compare(ctx context.Context, c mvcc.AuditCall) error {
	mine := a.mine
	if mine.Revision != c.Revision || mine.Compact != c.Compact {
		return nil // not digested here, which was counted
	}
	if mine.Sum == c.Sum {
		a.m.metrics.audits.WithLabelValues("same").Inc()
		return nil
	}
	a.m.metrics.audits.WithLabelValues("different").Inc()
	a.m.cfg.Log.Error("this replica and the leader do not hold the same: writes are refused from now on; compare the "+
		"hashes of all members, replace the one that is wrong, then disarm the alarm",
		"revision", c.Revision, "compact", c.Compact, "leader", c.Sum, "here", mine.Sum)
	for ctx.Err() == nil {
		err := a.m.setAlarm(ctx, kv.AlarmCorrupt, true)
		if err == nil {
			return nil
		}
		a.m.cfg.Log.Warn("the alarm could not be raised, trying again", "err", err)
		pause(ctx, quotaPoll)
	}
	return nil
}

func (a *auditor) propose(ctx context.Context, op kv.Audit) error {
	_, err := a.m.propose(ctx, wire.AppendCommand(nil, kv.Command{Ops: []kv.Op{op}}))
	return err
}
