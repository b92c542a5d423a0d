package member

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"holdfast/kv"
)

// Status is a member as its operator sees it, with what api.MemberStatus needs.
type Status struct {
	ClusterID       uint64
	ReplicaID       uint64
	Leader          uint64 // replica id, 0 while there is none
	Term            uint64
	Epoch           kv.Epoch // zero before the cluster has one
	Revision        int64
	CompactRevision int64
	Applied         uint64
	Durable         uint64 // what the state file holds; the log has the rest
	StateBytes      int64
	LogBytes        int64 // as measured within the last logPoll
	OverlayBytes    int64
	DiskFreeBytes   int64
	LogHeld         time.Duration // for how long the disk has held back a write of the raft log; 0 if it does not
	WritesRefused   string        // why writes are refused at present
}

// Status answers from memory and never blocks.
func (m *Member) Status() Status {
	st := m.store.Stats()
	l, _ := m.leader.get()
	return Status{
		ClusterID:       m.id.Cluster,
		ReplicaID:       m.id.Replica,
		Leader:          l.replica,
		Term:            l.term,
		Epoch:           m.store.Epoch(),
		Revision:        st.Revision,
		CompactRevision: st.Compact,
		Applied:         st.Applied,
		Durable:         st.Durable,
		StateBytes:      st.FileBytes,
		LogBytes:        m.logSize.Load(),
		OverlayBytes:    st.OverlayBytes,
		DiskFreeBytes:   m.space.bytes.Load(),
		LogHeld:         m.stall.held(),
		WritesRefused:   m.refusesWrites(),
	}
}

// refusesWrites is why this member refuses writes at present, empty if it takes them.
func (m *Member) refusesWrites() string {
	if err := m.store.Barred(kv.Command{Ops: []kv.Op{kv.Put{}}}); err != nil {
		return err.Detail
	}
	return m.space.why()
}

// Header says where this replica stands, from memory.
func (m *Member) Header() kv.Header {
	h := kv.Header{Revision: m.store.Revision()}
	m.stamp(&h)
	return h
}

// NodeID is the id by which other members know this node.
func (m *Member) NodeID() string { return m.id.Node }

func (m *Member) overlayBytes() int64 {
	if m.store == nil {
		return 0
	}
	return m.store.Stats().OverlayBytes
}

// logPoll is how often the size of the raft log is measured, if anything was written.
const logPoll = 10 * time.Second

// measureLog keeps logSize up to date until ctx ends.
func (m *Member) measureLog(ctx context.Context) error {
	seen := ^uint64(0)
	for ctx.Err() == nil {
		if written := m.fs.written.Load(); written != seen {
			seen = written
			size, err := dirSize(filepath.Join(m.cfg.Dir, raftDir))
			if err != nil {
				m.cfg.Log.Warn("size of the raft log is not known", "err", err)
			} else {
				m.logSize.Store(size)
			}
		}
		pause(ctx, logPoll)
	}
	return nil
}

// dirSize is the sum of the sizes of the files below dir. Files that vanish meanwhile count nothing.
func dirSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		size += info.Size()
		return nil
	})
	return size, err
}
