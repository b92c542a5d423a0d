package mvcc

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"holdfast/auth"
	"holdfast/kv"
)

// Store is the state of one replica. One goroutine calls Apply and Advance; everything else may be called from any,
// at any time.
type Store struct {
	path string
	opts Options

	layers atomic.Pointer[layers]
	tail   *tail
	hub    *hub

	// What readers see. A batch of Apply moves them together, revision first: a reader that finds compact above its
	// revision takes its revision again.
	revision atomic.Int64
	compact  atomic.Int64
	applied  atomic.Uint64
	durable  atomic.Uint64
	epoch    atomic.Pointer[kv.Epoch]
	term     atomic.Uint64
	alarms   atomic.Pointer[[]kv.Alarm]
	feature  atomic.Uint64
	policy   atomic.Pointer[auth.Policy]
	records  atomic.Uint64 // moves when a record may have changed

	policyMu      sync.Mutex
	policyChanged chan struct{} // closed with the next change; guarded by policyMu

	applyMu sync.Mutex
	state   state   // guarded by applyMu: where Apply is
	unsaved bool    // guarded by applyMu: state has changed, other than Applied, since the last flush
	scratch scratch // guarded by applyMu

	flushMu sync.Mutex
	saved   state  // guarded by flushMu: what the file holds
	sweep   sweep  // guarded by flushMu: how far compaction is in the file
	waiting *state // guarded by flushMu: of a frozen overlay that found no space
	stuck   bool   // guarded by flushMu: bbolt panicked inside a write and may hold its locks
	swept   atomic.Int64

	defragging atomic.Pointer[chan struct{}] // closed when the defragmentation under way ends; nil if none is

	full   atomic.Bool // the last flush found no space
	failed atomic.Pointer[failure]
	closed chan struct{}
	once   sync.Once

	wakeFlush chan struct{} // of one slot: the active overlay is large
	wakeSweep chan struct{} // of one slot: there may be something to free
	counts    counters
}

type failure struct{ err error }

// Open opens the store at path, or makes an empty one at revision 1. The time it takes does not depend on what is in
// it. It fails with kv.Unsupported if a newer version wrote the file and with kv.Corrupt if the file is damaged.
func Open(path string, opts Options) (*Store, error) {
	s := &Store{
		path:      path,
		opts:      opts.withDefaults(),
		closed:    make(chan struct{}),
		wakeFlush: make(chan struct{}, 1),
		wakeSweep: make(chan struct{}, 1),
	}
	for _, left := range []string{restorePath(path), defragPath(path)} {
		if err := removeIfThere(left); err != nil {
			return nil, fmt.Errorf("open store %s: remove what was interrupted: %w", path, err)
		}
	}
	f, st, sw, err := openFile(path)
	if err != nil {
		return nil, err
	}
	s.tail = newTail(s.opts.RingBytes)
	s.hub = newHub()
	s.adopt(f, st, sw)
	return s, nil
}

// adopt makes f what the store stands on. The caller holds both locks, or is alone.
func (s *Store) adopt(f *file, st state, sw sweep) {
	continues := st.Epoch == s.state.Epoch && st.Revision >= s.state.Revision
	s.layers.Store(&layers{active: newOverlay()})
	s.state, s.unsaved, s.saved, s.sweep = st, false, st, sw
	s.waiting = nil
	s.full.Store(false)
	s.swept.Store(sw.Done)
	s.tail.reset(st.Revision)
	s.durable.Store(st.Applied)
	s.publish()
	s.hub.reset(st.Revision, continues)
	s.applied.Store(st.Applied)
	s.layers.Store(&layers{active: newOverlay(), file: f})
	s.measure()
	s.opts.OnRecord("")
	if st.Compact > sw.Done {
		wake(s.wakeSweep)
	}
}

// publish shows readers what Apply has done, all but the applied index: who waits for that may rely on watches having
// been told too. The caller holds applyMu.
func (s *Store) publish() {
	s.revision.Store(s.state.Revision)
	s.compact.Store(s.state.Compact)
	if e := s.epoch.Load(); e == nil || *e != s.state.Epoch {
		epoch := s.state.Epoch
		s.epoch.Store(&epoch)
	}
	s.term.Store(s.state.Term)
	s.feature.Store(s.state.Feature)
	s.publishPolicy()
	if a := s.alarms.Load(); a == nil || !slices.Equal(*a, s.state.Alarms) {
		alarms := s.state.Alarms
		s.alarms.Store(&alarms)
	}
}

// Applied is the index of the newest entry applied, in memory.
func (s *Store) Applied() uint64 { return s.applied.Load() }

// Durable is the index of the newest entry that is in the file: after a crash the log is replayed from the next one.
func (s *Store) Durable() uint64 { return s.durable.Load() }

// Revision is the newest revision.
func (s *Store) Revision() int64 { return s.revision.Load() }

// CompactRevision is the oldest revision that can be read, 0 if all can.
func (s *Store) CompactRevision() int64 { return s.compact.Load() }

// Epoch is the history that revisions belong to, zero before OpenEpoch was applied.
func (s *Store) Epoch() kv.Epoch { return *s.epoch.Load() }

// LeaderTerm is the nonce of the newest LeaderTerm applied.
func (s *Store) LeaderTerm() uint64 { return s.term.Load() }

// RecordChanges is another number after each change of the cluster's own records, of whatever name. It says nothing
// across restarts.
func (s *Store) RecordChanges() uint64 { return s.records.Load() }

func (s *Store) header() kv.Header {
	return kv.Header{Epoch: s.Epoch(), Revision: s.Revision()}
}

// fail makes err final: what was being written may or may not be in the file, so nothing is applied or written any more
// until the file has been opened again.
func (s *Store) fail(err error) error {
	f := &failure{fmt.Errorf("the store %s stopped and must be reopened: %w", s.path, err)}
	if s.failed.CompareAndSwap(nil, f) {
		s.opts.Log.Error("store stopped", "path", s.path, "err", err)
	}
	return s.failed.Load().err
}

func (s *Store) failure() error {
	if f := s.failed.Load(); f != nil {
		return f.err
	}
	return nil
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func errClosed() *kv.Error { return kv.Errorf(kv.Stopping, "the store is closed") }

// Close flushes, ends all watches with kv.Stopping and closes the file. The caller has ended Apply, Run and snapshots
// before.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closed)
		s.hub.end()
		if s.failure() == nil {
			err = s.flush(true)
		}
		if kv.CodeOf(err) == kv.NoSpace {
			s.opts.Log.Warn("state file not written at the end: no space; the next start replays the log", "path", s.path)
			err = nil
		}
		s.flushMu.Lock()
		defer s.flushMu.Unlock()
		if s.stuck {
			err = abandon(s.layers.Load().file.handle)
			return
		}
		err = errors.Join(err, s.layers.Load().file.release())
	})
	return err
}
