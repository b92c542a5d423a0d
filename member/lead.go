package member

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/member/nodehost"
)

// lead does what a new leader owes its cluster: after every election that this replica wins it commits a LeaderTerm
// with a fresh nonce, and before that, in a cluster without one, the epoch, and the feature level as far as nobody needs to be
// asked: see feature.go. Randomness enters the log here, once.
func (m *Member) lead(ctx context.Context) error {
	done := uint64(0) // term whose LeaderTerm is committed
	for ctx.Err() == nil {
		now, changed := m.leader.get()
		if now.replica != m.id.Replica || now.term != done {
			m.nonce.Store(0)
			m.lessor.resign()
		}
		if now.replica != m.id.Replica || now.term == done {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		nonce, err := m.takeOffice(ctx)
		if err == nil {
			err = m.lessor.assume(nonce, m.listLeases)
		}
		switch {
		case err == nil:
			done = now.term
			m.nonce.Store(nonce)
		case ctx.Err() == nil:
			m.cfg.Log.Warn("new leader could not commit its term, trying again", "term", now.term, "err", err)
			pause(ctx, officeRetry)
		}
	}
	return nil
}

// officeRetry is how long a new leader that could not commit its term waits before it tries again.
const officeRetry = 200 * time.Millisecond

func (m *Member) takeOffice(ctx context.Context) (nonce uint64, err error) {
	if err := m.rounds.join(ctx); err != nil { // what earlier leaders did is applied now
		return 0, err
	}
	var ops []kv.Op
	if m.store.Epoch().IsZero() {
		epoch := kv.Epoch{Cluster: m.id.Cluster}
		rand.Read(epoch.Nonce[:])
		ops = append(ops, kv.OpenEpoch{Epoch: epoch})
	}
	if level := m.ownFeature(); m.store.Feature() < level {
		ops = append(ops, kv.SetFeature{Level: level})
	}
	for nonce == 0 {
		nonce = random64()
	}
	ops = append(ops, kv.LeaderTerm{Nonce: nonce})
	_, err = m.propose(ctx, wire.AppendCommand(nil, kv.Command{Ops: ops}))
	return nonce, err
}

// historySteps is how many samples of the revision span the history that is kept. A revision is given up at most one
// step later than History says.
const historySteps = 10

// The bounds of a step.
const (
	shortestStep = 10 * time.Millisecond
	longestStep  = time.Minute
)

// sample says which revision was the newest at a time.
type sample struct {
	at       time.Duration
	revision int64
}

// keepHistory has revisions compacted once they have been superseded for Config.History. Every replica takes samples,
// the leader proposes. While nothing changes nothing is proposed.
func (m *Member) keepHistory(ctx context.Context) error {
	if m.cfg.History <= 0 {
		return nil
	}
	step := min(max(m.cfg.History/historySteps, shortestStep), longestStep)
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	var samples []sample // oldest first; at most History/step + 1, as those that are due are taken off
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		var due int64
		samples, due = sampleHistory(samples, sample{m.cfg.Clock(), m.store.Revision()}, m.cfg.History)
		nonce := m.nonce.Load()
		if due <= max(m.store.CompactRevision(), 1) || nonce == 0 {
			continue
		}
		c := kv.Command{Ops: []kv.Op{kv.Compact{Revision: due, Term: nonce}}}
		if m.store.Barred(c) != nil { // for an alarm; the next one includes it
			continue
		}
		if _, err := m.propose(ctx, wire.AppendCommand(nil, c)); err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("compaction of the history was not committed; the next one includes it",
				"revision", due, "err", err)
		}
	}
}

// sampleHistory adds now to samples and takes off those that are older than history but for the newest of them, whose
// revision is due: all that it superseded has been superseded for that long. 0 is none.
func sampleHistory(samples []sample, now sample, history time.Duration) ([]sample, int64) {
	if n := len(samples); n == 0 || samples[n-1].revision != now.revision {
		samples = append(samples, now)
	}
	for len(samples) > 1 && now.at-samples[1].at >= history {
		samples = samples[1:]
	}
	if now.at-samples[0].at < history {
		return samples, 0
	}
	return samples, samples[0].revision
}

// snapshotBySize takes a snapshot, which allows the log to be cut, when the log has grown by snapshotLogBytes. The
// library itself counts entries only.
func (m *Member) snapshotBySize(ctx context.Context) error {
	for {
		select {
		case <-m.logs.db.large:
		case <-ctx.Done():
			return nil
		}
		err := m.snapshot(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		m.cfg.Log.Warn("snapshot was not taken, the raft log goes on growing; trying again", "err", err)
		pause(ctx, snapshotTimeout/10)
		m.logs.db.again()
	}
}

func (m *Member) snapshot(ctx context.Context) error {
	rs, err := m.requestSnapshot(nodehost.SnapshotOption{
		OverrideCompactionOverhead: true,
		CompactionOverhead:         m.logs.db.overhead(),
	})
	if err != nil {
		return err
	}
	select {
	case r := <-rs.ResultC():
		defer rs.Release()
		if !r.Completed() && !r.Rejected() { // rejected: one at this index is there already
			return errors.New("raft did not complete the snapshot")
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flushAheadEntries is how many entries after a flush the next one begins. The library takes a snapshot each
// snapshotEntries, and holds up the application of entries while it has the state flushed: so most of that is done
// before, beside it.
const flushAheadEntries = snapshotEntries * 9 / 10

// flushAhead flushes the store whenever the state machine says that a snapshot is near.
func (m *Member) flushAhead(ctx context.Context) error {
	for {
		select {
		case <-m.ahead:
		case <-ctx.Done():
			return nil
		}
		if err := m.store.Flush(); err != nil && kv.CodeOf(err) != kv.NoSpace && ctx.Err() == nil {
			return fmt.Errorf("write applied commands to the state file: %w", err)
		}
	}
}

// pause sleeps for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
