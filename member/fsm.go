package member

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"holdfast/internal/failpoint"
	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/mvcc"
)

// fsm is the state machine of a replica: mvcc behind the library's interface. It reads no clock and does no I/O but
// that of mvcc.
//
// What cannot be applied (an entry this version does not know, a store that fails) halts the replica before the entry
// is acknowledged: the library would panic on an error, and going on without the entry would make this replica differ
// from others.
type fsm struct {
	store   *mvcc.Store
	halt    *halt
	applied func()         // called after each batch
	work    *atomic.Uint64 // counts up when a batch is begun and when it is ended: odd between
	ahead   chan struct{}  // of one slot: told when early entries have been applied since the last flush
	batch   []mvcc.Entry   // reused; Update is never called concurrently
	early   int            // entries applied since the last Sync after which ahead is told
	since   int            // entries applied since the last Sync or the last word to ahead
}

// Open returns the index of the last entry the store holds.
func (f *fsm) Open(<-chan struct{}) (uint64, error) { return f.store.Applied(), nil }

// outcomeRoom holds the outcome of a PUT without growing.
const outcomeRoom = 64

// Update applies entries and sets their results, which are encoded kv.Outcomes.
func (f *fsm) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	f.work.Add(1)
	defer f.work.Add(1)
	failpoint.Hang(failpoint.ApplyLoop)
	f.batch = f.batch[:0]
	for _, e := range entries {
		c, err := decodeEntry(e.Cmd)
		if err != nil {
			f.halt.stop(undecodable(e.Index, err))
		}
		f.batch = append(f.batch, mvcc.Entry{Index: e.Index, Command: c})
	}
	outcomes, err := f.store.Apply(f.batch)
	if err == nil && len(outcomes) != len(entries) {
		err = fmt.Errorf("%d outcomes for %d entries", len(outcomes), len(entries))
	}
	clear(f.batch)
	if err != nil {
		f.halt.stop(fmt.Errorf("apply raft log entries %d to %d: %w",
			entries[0].Index, entries[len(entries)-1].Index, err))
	}
	for i, o := range outcomes {
		entries[i].Result = statemachine.Result{Value: 1, Data: wire.AppendOutcome(make([]byte, 0, outcomeRoom), o)}
	}
	f.applied()
	if f.since += len(entries); f.since >= f.early {
		f.since = 0
		select {
		case f.ahead <- struct{}{}:
		default:
		}
	}
	return entries, nil
}

// decodeEntry returns the command of an entry. It may alias the entry.
func decodeEntry(entry []byte) (kv.Command, error) {
	cmd, err := unpackCommand(entry, packMax)
	if err != nil {
		return kv.Command{}, err
	}
	return wire.DecodeCommand(cmd)
}

func undecodable(index uint64, err error) error {
	if errors.Is(err, wire.ErrNewer) {
		return fmt.Errorf("raft log entry %d was written by a newer version of holdfast; this replica stops rather "+
			"than guess: install that version and start again, the data is intact: %w", index, err)
	}
	return fmt.Errorf("raft log entry %d cannot be read; this replica stops rather than differ from others: "+
		"restore the data dir from a backup, or report it with the log: %w", index, err)
}

// Lookup is not used: reads go to the store itself.
func (*fsm) Lookup(any) (any, error) { return nil, errors.ErrUnsupported }

// fullPause is how often a full disk is tried again.
const fullPause = time.Second

// Sync returns once all that was applied is durable. Nil promises that, because the log is cut behind it.
func (f *fsm) Sync() error {
	err := f.store.Flush()
	for ; kv.CodeOf(err) == kv.NoSpace; err = f.store.Flush() {
		time.Sleep(fullPause) // an answer would be a lie, and an error the library's panic: the log stays as it is meanwhile
	}
	if err != nil {
		f.halt.stop(fmt.Errorf("write applied commands to the state file: %w", err))
	}
	f.since = 0
	return nil
}

// PrepareSnapshot pins the state as it is, for a replica that needs all of it.
func (f *fsm) PrepareSnapshot() (any, error) {
	s, err := f.store.Snapshot()
	if err != nil {
		f.halt.stop(fmt.Errorf("begin a snapshot of the state file: %w", err))
	}
	return s, nil
}

// SaveSnapshot sends what PrepareSnapshot pinned.
func (f *fsm) SaveSnapshot(pinned any, w io.Writer, stop <-chan struct{}) error {
	s, ok := pinned.(*mvcc.Snapshot)
	if !ok {
		return fmt.Errorf("a snapshot of type %T", pinned)
	}
	defer s.Close()
	out := &sink{w: w}
	err := s.WriteTo(out, stop)
	switch {
	case out.err != nil:
		return out.err // the receiver's end: nothing is wrong with the state
	case kv.CodeOf(err) == kv.Stopping:
		return statemachine.ErrSnapshotStopped
	case err != nil:
		f.halt.stop(fmt.Errorf("read the state file for a snapshot: %w", err))
	}
	return nil
}

// sink remembers that it was writing that failed.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (n int, err error) {
	n, s.err = s.w.Write(p)
	return n, s.err
}

// RecoverFromSnapshot replaces the state by what another replica has sent.
func (f *fsm) RecoverFromSnapshot(r io.Reader, stop <-chan struct{}) error {
	err := f.store.Restore(r, stop)
	if kv.CodeOf(err) == kv.Stopping {
		return statemachine.ErrSnapshotStopped
	}
	if err != nil {
		f.halt.stop(fmt.Errorf("replace the state file by a snapshot of another replica: %w", err))
	}
	f.applied()
	return nil
}

// Close leaves the store open: it belongs to the member, and may be read until the member closes it.
func (*fsm) Close() error { return nil }
