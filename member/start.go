package member

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/kv"
)

// refuseSettingFiles refuses to start where the library has taken settings from files in the working directory: it
// does so when it is loaded, unasked, and they reach down to what is on disk.
func refuseSettingFiles(dir string) error {
	for _, name := range []string{"dragonboat-soft-settings.json", "dragonboat-hard-settings.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return kv.Errorf(kv.Invalid, "the working directory holds %s, which changes how raft stores its data: "+
				"remove it, or start in another directory", name)
		}
	}
	return nil
}

const (
	hostFlagName = "dragonboat.ds" // the library's record of host name and settings; made anew if it is not there
	hostLockName = "LOCK"
)

// adoptHostName lets a data dir follow its machine when that is renamed. The library keeps its files in a folder named
// after the host and refuses to open those of another, but a host name is a label here, and this dir says itself whose
// it is (identity). A crash in between is made good by the next start.
func adoptHostName(dir string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var folders []string
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, e.Name())
		}
	}
	switch {
	case len(folders) == 0 || len(folders) == 1 && folders[0] == host:
		return nil
	case len(folders) > 1:
		return kv.Errorf(kv.Corrupt, "%s holds more than one folder (%q): exactly one belongs there, the raft log of "+
			"this replica; move what somebody put there away", dir, folders)
	}
	if err := os.Remove(filepath.Join(dir, hostFlagName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(filepath.Join(dir, folders[0]), filepath.Join(dir, host)); err != nil {
		return err
	}
	return syncDir(dir)
}

// examineLog reads the raft log from its newest snapshot on and compares it with the store: what the replica is about
// to replay must be whole, and must begin where the store ends or before.
func (m *Member) examineLog() error {
	var s logSummary
	err := protect("read raft log", func() (err error) {
		s, err = summarize(m.logs.db.ILogDB, m.id.Replica)
		return err
	})
	dir := filepath.Join(m.cfg.Dir, raftDir)
	if err != nil {
		return kv.Errorf(kv.Corrupt, "the raft log in %s is damaged: restore the data dir from a backup or, in a "+
			"cluster, remove this member and let it join again with an empty one: %w", dir, err)
	}
	applied := m.store.Applied()
	state := filepath.Join(m.cfg.Dir, stateName)
	if !s.snapshot.Imported && s.snapshot.Dummy && s.snapshot.OnDiskIndex > applied {
		return kv.Errorf(kv.Corrupt, "%s ends at log index %d, but the raft log was cut up to a snapshot at %d: the "+
			"file is lost, or older than the log; put the right one back or restore the data dir from a backup or, in a "+
			"cluster, remove this member and let it join again with an empty one", state, applied, s.snapshot.OnDiskIndex)
	}
	if applied > s.last {
		return kv.Errorf(kv.Corrupt, "%s holds the log up to index %d, but the raft log in %s ends at %d: the log is "+
			"lost, or older than the file; put the right one back or restore the data dir from a backup or, in a cluster, "+
			"remove this member and let it join again with an empty one", state, applied, dir, s.last)
	}
	if m.id.Started && s.last == 0 {
		if _, err := m.logs.db.GetBootstrapInfo(shardID, m.id.Replica); errors.Is(err, raftio.ErrNoBootstrapInfo) {
			return kv.Errorf(kv.Corrupt, "the raft log in %s is empty, and this replica has had one: put it back. If it is lost for good, "+
				"restore the data dir of a lone member from a backup; in a cluster give the box an empty data dir and let it join again", dir)
		}
	}
	_, m.votes = s.snapshot.Membership.Addresses[m.id.Replica]
	m.logs.db.begin(s.last-s.snapshot.Index, s.bytes, s.last)
	m.cfg.Log.Info("raft log examined", "snapshot", s.snapshot.Index, "last", s.last, "applied", applied, "bytes", s.bytes)
	return nil
}

// logSummary is what a raft log holds.
type logSummary struct {
	snapshot pb.Snapshot // newest, empty for none
	last     uint64      // index of the last entry, or of the snapshot
	bytes    uint64      // of the commands behind the snapshot
}

// examineStep is how many bytes of entries are held in memory at a time while the log is examined.
const examineStep = 1 << 20

func summarize(db raftio.ILogDB, replica uint64) (s logSummary, err error) {
	if s.snapshot, err = db.GetSnapshot(shardID, replica); err != nil {
		return s, fmt.Errorf("newest snapshot: %w", err)
	}
	s.last = s.snapshot.Index
	rs, err := db.ReadRaftState(shardID, replica, s.snapshot.Index)
	if errors.Is(err, raftio.ErrNoSavedLog) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("raft state: %w", err)
	}
	var entries []pb.Entry
	for next, end := rs.FirstIndex, rs.FirstIndex+rs.EntryCount; next < end; {
		entries, _, err = db.IterateEntries(entries[:0], 0, shardID, replica, next, end, examineStep)
		if err != nil {
			return s, fmt.Errorf("entries from %d on: %w", next, err)
		}
		if len(entries) == 0 {
			return s, fmt.Errorf("entries from %d on are missing; there should be some up to %d", next, end-1)
		}
		for _, e := range entries {
			if e.Index != next {
				return s, fmt.Errorf("entry %d is missing, %d follows", next, e.Index)
			}
			next++
			s.bytes += uint64(len(e.Cmd))
		}
		s.last = next - 1
	}
	return s, nil
}
