package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"holdfast/kv"
	"holdfast/member/nodehost"
)

// StateName is the name of the state file in the dir of a member.
const StateName = stateName

// Found makes cfg.Dir, which holds nothing but a state file (mvcc.Renew, mvcc.ImportEtcd), the dir of the only member of a
// new cluster: the one that the epoch of the state names. It returns once all of it is durable but for the name of the
// dir itself.
//
// The log of the cluster begins behind a snapshot. So nobody who joins later can be told to make the state of the log
// alone: what was there before its first entry is in the state only.
func Found(ctx context.Context, cfg Config) (err error) {
	cfg.ReplicaID, cfg.Peers, cfg.founding = 1, nil, true
	cfg.DiskReserve, cfg.Quota, cfg.AuditEvery, cfg.History = -1, -1, -1, 0 // nothing is written but what has to be
	if cfg.ClusterID == 0 || !nodeIDForm.MatchString(cfg.NodeID) {
		return fmt.Errorf("member: found a cluster: cluster id %016x and node id %q are needed", cfg.ClusterID, cfg.NodeID)
	}
	id := identity{Format: identityFormat, Cluster: cfg.ClusterID, Replica: cfg.ReplicaID, Node: cfg.NodeID}
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if err := writeDurably(filepath.Join(cfg.Dir, identityName), append(b, '\n')); err != nil {
		return fmt.Errorf("record identity: %w", err)
	}
	if err := foundLog(ctx, cfg); err != nil {
		return fmt.Errorf("begin the log of the new cluster: %w", err)
	}
	return checkFounded(cfg)
}

// foundLog runs the member until its log begins behind a snapshot.
func foundLog(ctx context.Context, cfg Config) error {
	m, err := Open(cfg)
	if err != nil {
		return err
	}
	if got := m.store.Epoch(); got.IsZero() || got.Cluster != cfg.ClusterID {
		return errors.Join(fmt.Errorf("the state is of epoch %s, which is not of cluster %016x", got, cfg.ClusterID), m.Close())
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- m.Run(run) }()
	select {
	case <-m.Ready():
	case err := <-done:
		stop()
		return errors.Join(err, ctx.Err(), errNotReady)
	case <-ctx.Done():
		stop()
		return errors.Join(ctx.Err(), <-done)
	}
	err = m.cutLog(ctx)
	stop()
	return errors.Join(err, <-done)
}

var errNotReady = errors.New("it ended before it was ready")

// cutLog takes a snapshot and gives up the log before it.
func (m *Member) cutLog(ctx context.Context) error {
	rs, err := m.requestSnapshot(nodehost.SnapshotOption{
		OverrideCompactionOverhead: true,
		CompactionOverhead:         1,
	})
	if err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	select {
	case r := <-rs.ResultC():
		defer rs.Release()
		if !r.Completed() {
			return errors.New("raft did not complete the snapshot")
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// checkFounded looks at what a start will find.
func checkFounded(cfg Config) error {
	m, err := Open(cfg)
	if err != nil {
		return err
	}
	s, err := summarize(m.logs.db.ILogDB, m.id.Replica)
	if err == nil && (s.snapshot.Index == 0 || s.snapshot.OnDiskIndex > m.store.Applied()) {
		err = kv.Errorf(kv.Internal, "the log of the new cluster has its snapshot at index %d, of state %d, and the state is at %d", s.snapshot.Index,
			s.snapshot.OnDiskIndex, m.store.Applied())
	}
	return errors.Join(err, m.Close())
}
