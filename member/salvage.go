package member

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/golang/snappy"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/kv"
	"holdfast/mvcc"
)

// Survivor is a member of a cluster that has lost its quorum for good, opened to see what can be saved. It takes part in
// nothing and changes nothing that a start would not.
type Survivor struct {
	m       *Member
	remains Remains
	log     raftio.RaftState
}

// Remains is what a survivor has.
type Remains struct {
	Cluster uint64
	Replica uint64
	Epoch   kv.Epoch
	Members map[uint64]string // voters and learners, by replica id, with their node ids, as far as this log knows

	Applied   uint64    // index of the newest entry in the state file
	Committed uint64    // newest index that is known here to have been on a quorum's disks
	Last      uint64    // index of the newest entry of the log
	LastTerm  uint64    // and the term it is of: of two logs the one with the higher term, then the higher index has more
	Written   time.Time // when the log was last written, for whatever reason, by this machine's clock
}

// Survey opens the dir of a member that does not run.
func Survey(cfg Config) (s *Survivor, err error) {
	written, err := newestFile(filepath.Join(cfg.Dir, raftDir)) // opening may write
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	m, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	s = &Survivor{m: m, remains: Remains{Written: written}}
	if err := s.survey(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return s, nil
}

// Remains tells what there is. The epoch is known once Salvage has returned.
func (s *Survivor) Remains() Remains { return s.remains }

// Close lets go of the dir.
func (s *Survivor) Close() error { return s.m.Close() }

func (s *Survivor) survey() error {
	db, id := s.m.logs.db, s.m.id
	sum, err := summarize(db.ILogDB, id.Replica)
	if err != nil {
		return err
	}
	s.log, err = db.ILogDB.ReadRaftState(shardID, id.Replica, sum.snapshot.Index)
	if err != nil && !errors.Is(err, raftio.ErrNoSavedLog) {
		return err
	}
	r := Remains{
		Cluster: id.Cluster, Replica: id.Replica, Epoch: s.m.store.Epoch(), Members: map[uint64]string{}, Written: s.remains.Written,
		Applied: s.m.store.Applied(), Committed: max(s.log.State.Commit, sum.snapshot.Index, s.m.store.Applied()), Last: sum.last, LastTerm: sum.snapshot.Term,
	}
	if info, err := db.GetBootstrapInfo(shardID, id.Replica); err == nil {
		addAll(r.Members, info.Addresses)
	}
	if m := sum.snapshot.Membership; len(m.Addresses) > 0 {
		clear(r.Members)
		addAll(r.Members, m.Addresses)
		addAll(r.Members, m.NonVotings)
	}
	err = s.entries(s.log.FirstIndex, func(e pb.Entry) error {
		r.LastTerm = e.Term
		if e.Type == pb.ConfigChangeEntry {
			return changeMembers(r.Members, e.Cmd)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.remains = r
	return nil
}

func addAll(to, from map[uint64]string) {
	for k, v := range from {
		to[k] = v
	}
}

func changeMembers(members map[uint64]string, cmd []byte) error {
	var c pb.ConfigChange
	if err := c.Unmarshal(cmd); err != nil {
		return fmt.Errorf("a change of membership in the raft log cannot be read: %w", err)
	}
	if c.Type == pb.RemoveNode {
		delete(members, c.ReplicaID)
	} else {
		members[c.ReplicaID] = c.Address
	}
	return nil
}

// newestFile is when a file below dir was last written.
func newestFile(dir string) (newest time.Time, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(d.Name()) != ".log" {
			return err
		}
		info, err := d.Info()
		if err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		return err
	})
	return newest, err
}

// entries calls f for each entry of the log from an index on.
func (s *Survivor) entries(from uint64, f func(pb.Entry) error) error {
	var batch []pb.Entry
	for next, end := max(from, s.log.FirstIndex), s.log.FirstIndex+s.log.EntryCount; next < end; {
		var err error
		batch, _, err = s.m.logs.db.ILogDB.IterateEntries(batch[:0], 0, shardID, s.m.id.Replica, next, end, examineStep)
		if err != nil {
			return fmt.Errorf("raft log from entry %d on: %w", next, err)
		}
		if len(batch) == 0 {
			return kv.Errorf(kv.Corrupt, "entries from %d on are missing in the raft log, which should go up to %d", next, end-1)
		}
		for _, e := range batch {
			if err := f(e); err != nil {
				return err
			}
			next = e.Index + 1
		}
	}
	return nil
}

// Salvage makes, at to, a state file of all that the survivor has, its log to the last entry included, as the state of a
// cluster that begins: see mvcc.Renew. Of the entries behind Committed nobody can tell any more whether they were on a
// quorum's disks; they are kept, since some of them may have been acknowledged.
func (s *Survivor) Salvage(ctx context.Context, to string, r mvcc.Renewal) (c mvcc.Contents, err error) {
	whole := to + ".whole"
	defer func() { err = errors.Join(err, removeIfThere(whole)) }()
	if err := s.copyState(ctx, whole); err != nil {
		return c, err
	}
	if err := s.replay(ctx, whole); err != nil {
		return c, err
	}
	info, err := os.Stat(whole)
	if err != nil {
		return c, err
	}
	return mvcc.Renew(whole, info.Size(), to, r, ctx.Done())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// copyState copies the state file as it is.
func (s *Survivor) copyState(ctx context.Context, to string) error {
	sn, err := s.m.store.Snapshot()
	if err != nil {
		return err
	}
	image, size, err := sn.Image()
	if err != nil {
		return errors.Join(err, sn.Close())
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.Join(err, sn.Close())
	}
	_, err = io.Copy(f, &interruptible{ctx, io.NewSectionReader(image, 0, size)})
	return errors.Join(err, f.Close(), sn.Close())
}

// replay applies what the log has beyond the state.
func (s *Survivor) replay(ctx context.Context, path string) error {
	store, err := mvcc.Open(path, mvcc.Options{Log: s.m.cfg.Log})
	if err != nil {
		return err
	}
	err = s.entries(store.Applied()+1, func(e pb.Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return applyTo(store, e)
	})
	s.remains.Epoch = store.Epoch()
	return errors.Join(err, store.Close())
}

// applyTo applies an entry, as the library would have it applied.
func applyTo(store *mvcc.Store, e pb.Entry) error {
	if e.Index <= store.Applied() {
		return nil
	}
	cmd, err := payload(e)
	if err != nil {
		return err
	}
	if cmd == nil {
		store.Advance(e.Index)
		return nil
	}
	c, err := decodeEntry(cmd)
	if err != nil {
		return undecodable(e.Index, err)
	}
	if _, err := store.Apply([]mvcc.Entry{{Index: e.Index, Command: c}}); err != nil {
		return fmt.Errorf("apply raft log entry %d: %w", e.Index, err)
	}
	return nil
}

// payload is the command in an entry, nil if it is raft's own. The library encodes commands as a byte that says how
// (version in the upper half, then three bits of compression, then whether there is a session) and what comes of it
// (its internal/rsm, encoded.go).
func payload(e pb.Entry) ([]byte, error) {
	const plain, packed = 0 << 1, 1 << 1
	switch {
	case e.Type == pb.ConfigChangeEntry || len(e.Cmd) == 0:
		return nil, nil
	case e.Type == pb.ApplicationEntry:
		return e.Cmd, nil
	case e.Type == pb.EncodedEntry && e.Cmd[0] == plain:
		return e.Cmd[1:], nil
	case e.Type == pb.EncodedEntry && e.Cmd[0] == packed:
		if n, w := binary.Uvarint(e.Cmd[1:]); w <= 0 || n > 2*maxRequestBytes {
			return nil, kv.Errorf(kv.Corrupt, "raft log entry %d claims to unpack to %d bytes", e.Index, n)
		}
		cmd, err := snappy.Decode(nil, e.Cmd[1:])
		if err != nil {
			return nil, kv.Errorf(kv.Corrupt, "raft log entry %d cannot be unpacked: %w", e.Index, err)
		}
		return cmd, nil
	}
	return nil, kv.Errorf(kv.Unsupported, "raft log entry %d is of a kind that this version does not know (%v, %#x)", e.Index, e.Type, e.Cmd[0])
}
