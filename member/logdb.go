package member

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/plugin/tan"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// logDB is tan, the library's file based log, with one fsync per commit instead of two or three.
//
// Left alone, tan compares the raft state of an update with that of the update before it, and the raft core leaves the
// state out where it did not change: so an update with entries and no state makes the next one look like a change of
// term and vote, and an update that carries nothing at all is written and synced. logDB remembers the state last
// written, completes every update with it and drops those that would write nothing. What is dropped or completed is
// never older than what tan itself would have kept: a change of vote or term alone is written and synced before
// SaveRaftState returns.
//
// A write that fails halts the replica, because the library answers such an error with a panic of its own.
type logDB struct {
	raftio.ILogDB
	halt  *halt
	stall *stall // is told when a write begins and ends
	write func() // called before each write, which waits for it; nil: nothing. Tests hold a disk up here

	large chan struct{} // of one slot: the log has grown by snapshotLogBytes since the last snapshot

	mu      sync.Mutex
	states  map[raftio.NodeInfo]pb.State // last written; a replica not in it is read first
	bytes   uint64                       // of the commands saved since the last snapshot
	entries uint64                       // saved since the last snapshot
	last    uint64                       // index of the last entry, or of the snapshot
}

// errLogClosed is what Close of a log that could not be closed cleanly reports; nothing is lost by it.
var errLogClosed = errors.New("raft log was not closed cleanly; it is checked at the next start")

// logFactory makes the log of a NodeHost and keeps it, so that it can be examined before a replica starts on it.
type logFactory struct {
	halt  *halt
	stall *stall
	write func()
	db    *logDB // set by Create
}

func (f *logFactory) Name() string { return tan.Factory.Name() }

func (f *logFactory) Create(cfg config.NodeHostConfig, busy config.LogDBCallback,
	dirs, wals []string) (raftio.ILogDB, error) {
	db, err := tan.Factory.Create(cfg, busy, dirs, wals)
	if err != nil {
		return nil, fmt.Errorf("open raft log in %s: %w", dirs[0], err)
	}
	f.db = newLogDB(db, f.halt)
	f.db.stall, f.db.write = f.stall, f.write
	return f.db, nil
}

func newLogDB(db raftio.ILogDB, h *halt) *logDB {
	return &logDB{ILogDB: db, halt: h, large: make(chan struct{}, 1), states: make(map[raftio.NodeInfo]pb.State)}
}

// SaveRaftState returns once all that updates carry is durable. It keeps the order of the updates and changes none of
// the caller's.
func (l *logDB) SaveRaftState(updates []pb.Update, worker uint64) error {
	kept, err := l.complete(updates)
	if err == nil && len(kept) > 0 {
		err = l.save(kept, worker)
	}
	if err != nil {
		l.halt.stop(fmt.Errorf("write raft log: %w", err))
	}
	l.written(kept)
	return nil
}

// save writes, which the disk may hold back.
func (l *logDB) save(updates []pb.Update, worker uint64) error {
	if l.stall != nil {
		l.stall.begin()
		defer l.stall.end()
	}
	if l.write != nil {
		l.write()
	}
	return l.ILogDB.SaveRaftState(updates, worker)
}

// complete returns the updates worth writing, each with the state that holds after it.
func (l *logDB) complete(updates []pb.Update) ([]pb.Update, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kept []pb.Update
	ahead := make(map[raftio.NodeInfo]pb.State, 1) // states within this batch
	for _, u := range updates {
		id := raftio.GetNodeInfo(u.ShardID, u.ReplicaID)
		state, ok := ahead[id]
		if !ok {
			var err error
			if state, err = l.state(id); err != nil {
				return nil, err
			}
		}
		if pb.IsEmptyState(u.State) {
			u.State = state
		}
		if pb.IsStateEqual(u.State, state) && len(u.EntriesToSave) == 0 && pb.IsEmptySnapshot(u.Snapshot) {
			continue
		}
		ahead[id] = u.State
		kept = append(kept, u)
	}
	return kept, nil
}

// state returns the state last written, from tan if this is the first that is heard of the replica. l.mu is held.
func (l *logDB) state(id raftio.NodeInfo) (pb.State, error) {
	if s, ok := l.states[id]; ok {
		return s, nil
	}
	rs, err := l.ILogDB.ReadRaftState(id.ShardID, id.ReplicaID, 0)
	if err != nil && !errors.Is(err, raftio.ErrNoSavedLog) {
		return pb.State{}, err
	}
	l.states[id] = rs.State
	return rs.State, nil
}

func (l *logDB) written(updates []pb.Update) {
	if len(updates) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range updates {
		l.states[raftio.GetNodeInfo(u.ShardID, u.ReplicaID)] = u.State
		l.entries += uint64(len(u.EntriesToSave))
		if n := len(u.EntriesToSave); n > 0 {
			l.last = u.EntriesToSave[n-1].Index
		} else if !pb.IsEmptySnapshot(u.Snapshot) {
			l.last = max(l.last, u.Snapshot.Index)
		}
		for _, e := range u.EntriesToSave {
			l.bytes += uint64(len(e.Cmd))
		}
	}
	if l.bytes >= snapshotLogBytes {
		l.again()
	}
}

// committed returns the newest index that was known to be committed when the log was last written.
func (l *logDB) committed(shard, replica uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.states[raftio.GetNodeInfo(shard, replica)].Commit
}

// end is the index of the last entry that is durable.
func (l *logDB) end() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// again asks for a snapshot once more.
func (l *logDB) again() {
	select {
	case l.large <- struct{}{}:
	default:
	}
}

// begin says what the log holds behind its newest snapshot when it is opened, and where it ends.
func (l *logDB) begin(entries, bytes, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries, l.bytes, l.last = entries, bytes, last
	if bytes >= snapshotLogBytes {
		l.again()
	}
}

// snapshotTaken begins to count anew.
func (l *logDB) snapshotTaken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries, l.bytes = 0, 0
	select {
	case <-l.large:
	default:
	}
}

// overhead is how many entries to keep behind a snapshot: keepEntries, but no more than have about keepLogBytes.
func (l *logDB) overhead() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes == 0 {
		return keepEntries
	}
	return min(keepEntries, max(1, l.entries*keepLogBytes/l.bytes))
}

// ReadRaftState also learns the state that later updates are compared with.
func (l *logDB) ReadRaftState(shard, replica, last uint64) (raftio.RaftState, error) {
	rs, err := l.ILogDB.ReadRaftState(shard, replica, last)
	if err == nil || errors.Is(err, raftio.ErrNoSavedLog) {
		l.mu.Lock()
		l.states[raftio.GetNodeInfo(shard, replica)] = rs.State
		l.mu.Unlock()
	}
	return rs, err
}

// iterateMax is how many entries are read from disk at a time. The goroutine that reads them for a follower that lags is the
// one that commits: tan opens its file and reads a block of it for each, so that ten thousand of them, as a new learner may
// need, stopped all writes for seconds.
const iterateMax = 256

// IterateEntries halts the replica if the log cannot be read. Where many entries are asked for it returns the first of
// them as if the limit, in bytes, had been reached.
func (l *logDB) IterateEntries(ents []pb.Entry, size, shard, replica, low, high, limit uint64) ([]pb.Entry, uint64, error) {
	until := high
	if limit < math.MaxUint64 { // else all are needed
		until = min(high, low+iterateMax)
	}
	ents, size, err := l.ILogDB.IterateEntries(ents, size, shard, replica, low, until, limit)
	if err != nil {
		l.halt.stop(fmt.Errorf("read raft log entries %d to %d: %w", low, until-1, err))
	}
	if n := len(ents); until < high && n > 0 && ents[n-1].Index == until-1 {
		size = max(size, limit+1)
	}
	return ents, size, nil
}

// SaveSnapshots halts the replica if it cannot write.
func (l *logDB) SaveSnapshots(updates []pb.Update) error {
	if err := l.ILogDB.SaveSnapshots(updates); err != nil {
		l.halt.stop(fmt.Errorf("write snapshot record to raft log: %w", err))
	}
	l.snapshotTaken()
	return nil
}

// RemoveEntriesTo halts the replica if it cannot write.
func (l *logDB) RemoveEntriesTo(shard, replica, index uint64) error {
	if err := l.ILogDB.RemoveEntriesTo(shard, replica, index); err != nil {
		l.halt.stop(fmt.Errorf("truncate raft log to index %d: %w", index, err))
	}
	return nil
}

// RemoveNodeData forgets the replica's state along with its data.
func (l *logDB) RemoveNodeData(shard, replica uint64) error {
	l.forget(shard, replica)
	return l.ILogDB.RemoveNodeData(shard, replica)
}

// ImportSnapshot replaces the replica's state, so that the next update is compared with what is then on disk.
func (l *logDB) ImportSnapshot(ss pb.Snapshot, replica uint64) error {
	defer l.forget(ss.ShardID, replica)
	return l.ILogDB.ImportSnapshot(ss, replica)
}

func (l *logDB) forget(shard, replica uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.states, raftio.GetNodeInfo(shard, replica))
}

// Close reports what went wrong to halt instead of its caller, who would panic.
func (l *logDB) Close() error {
	if err := l.ILogDB.Close(); err != nil {
		l.halt.fail(fmt.Errorf("%w: %w", errLogClosed, err))
	}
	return nil
}
