package member

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/statemachine"
	"golang.org/x/sync/errgroup"

	"holdfast/kv"
	"holdfast/member/nodehost"
	"holdfast/mvcc"
)

const (
	raftDir   = "raft"     // below Config.Dir: the NodeHost's
	stateName = "state.db" // below Config.Dir: the store
	shardID   = 1          // of the one raft group
)

// membersWait is how often a replica that starts looks whether it knows the members of its cluster.
const membersWait = 10 * time.Millisecond

// drainMax is how long a stopping member waits for the answers to commands that are under way.
const drainMax = 5 * time.Second

// Member is a replica. All methods may be called concurrently; Do, Read and Watch from the moment Open has returned,
// though before Run there is no leader.
type Member struct {
	cfg  Config
	id   identity
	halt *halt

	store    *mvcc.Store
	fs       *raftFS
	logs     *logFactory
	net      *raftnet
	registry *registry
	host     *nodehost.Host
	session  *client.Session

	lost  chan error // of one slot: why the raft log cannot be used
	votes bool       // the newest snapshot of the raft log says that this replica is a voter

	leader  *leadership
	stall   *stall
	door    *door
	rounds  *rounds
	lessor  *lessor
	asks    *asks
	applied *announcer    // told after each applied batch
	pulse   *announcer    // see beat
	ahead   chan struct{} // of one slot: it is time to flush, see flushAhead
	space   *space
	auditor *auditor
	backups chan struct{} // a place for each copy of the state under way
	metrics *metrics
	roster  rosterCache

	firstRoster Roster        // of the dir, for a member that has joined and knows nothing yet
	nonce       atomic.Uint64 // of the LeaderTerm this replica committed as leader
	logSize     atomic.Int64  // bytes below raft/, as last measured
	applying    atomic.Uint64 // see Applying

	ready    chan struct{}
	stopping chan struct{}   // closed when commands are no longer taken
	watching context.Context // ends then, too, and with it each watch
	unwatch  context.CancelFunc
	calls    sync.WaitGroup // of Do

	defragmenting sync.Mutex // held while one is under way

	hostOpen   sync.RWMutex // held while the host is asked; see askHost
	hostClosed bool
	askingRaft sync.WaitGroup // questions to raft's loop; see closeHost

	mu      sync.Mutex
	started bool
	stopped bool // guards calls.Add against calls.Wait
}

// Open opens the replica in cfg.Dir, or founds one in an empty dir. It checks what is there and takes no part in
// anything before Run; a member that is never run must be closed.
//
// An error says what is wrong with the directory and what to do: kv.CodeOf gives Corrupt for damage, Invalid for a
// setting that does not fit, Busy for a directory that is in use, NoSpace for a disk without room to start.
func Open(cfg Config) (_ *Member, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := refuseSettingFiles("."); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	m := &Member{
		cfg:      cfg,
		halt:     newHalt(),
		leader:   newLeadership(cfg.Clock),
		stall:    newStall(cfg.Log),
		lessor:   newLessor(cfg.Clock),
		registry: newRegistry(),
		applied:  newAnnouncer(),
		pulse:    newAnnouncer(),
		net:      &raftnet{net: cfg.Network},
		ahead:    make(chan struct{}, 1),
		lost:     make(chan error, 1),
		backups:  make(chan struct{}, backupsAtOnce),
		ready:    make(chan struct{}),
		stopping: make(chan struct{}),
	}
	m.watching, m.unwatch = context.WithCancel(context.Background())
	m.roster.init()
	m.door = newDoor(m.leader, cfg.Clock)
	m.asks = newAsks(m.sendTo)
	m.net.answer, m.net.check = m.answerAsked, m.checkBatch
	m.metrics = newMetrics(m)
	m.auditor = newAuditor(m)
	defer func() {
		if err != nil {
			err = errors.Join(err, m.release())
		}
	}()
	if m.space, err = newSpace(cfg, m.overlayBytes); err != nil {
		return nil, err
	}
	if m.id, err = loadIdentity(cfg); err != nil {
		return nil, err
	}
	if m.firstRoster, err = m.loadFirstRoster(); err != nil {
		return nil, err
	}
	m.rounds = newRounds(cfg.Clock, m.readIndex)
	m.fs = newRaftFS(m.halt, m.space.waiting)
	m.fs.synced = func(took time.Duration) { m.metrics.walSeconds.Observe(took.Seconds()) }
	if err := m.open(); err != nil {
		return nil, err
	}
	if err := m.metrics.register(cfg.Metrics); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Member) open() (err error) {
	m.store, err = mvcc.Open(filepath.Join(m.cfg.Dir, stateName), m.storeOptions())
	if err != nil {
		return fmt.Errorf("open state file: %w", err)
	}
	return m.openHost()
}

func (m *Member) storeOptions() mvcc.Options {
	return mvcc.Options{FlushEvery: m.cfg.FlushEvery, OnLease: m.lessor.told, OnRecord: m.rosterTold, Audit: m.auditor.call, Log: m.cfg.Log}
}

// Run takes part in the cluster until ctx ends, and returns nil then, or the first failure. It stops everything it
// started, unless the replica has halted: then the process must exit. It may be called once.
func (m *Member) Run(ctx context.Context) error {
	m.mu.Lock()
	if m.started {
		m.mu.Unlock()
		return errors.New("member: run or closed before")
	}
	m.started = true
	m.mu.Unlock()

	m.fs.armed.Store(true)
	err := m.startReplica()
	if err == nil {
		err = m.noteStarted()
	}
	if err == nil {
		err = m.work(ctx)
	} else {
		m.rounds.stop()
	}
	return errors.Join(err, m.shutdown())
}

// work runs what a replica does beside raft, until ctx ends or something fails.
func (m *Member) work(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.watchHalt(ctx) })
	g.Go(func() error { return m.watchLog(ctx) })
	g.Go(func() error { return m.electAlone(ctx) })
	g.Go(func() error { return m.rounds.run(ctx) })
	g.Go(func() error { return m.announceReady(ctx) })
	g.Go(func() error { return m.lead(ctx) })
	g.Go(func() error { return m.keepHistory(ctx) })
	g.Go(func() error { return m.expireLeases(ctx) })
	g.Go(func() error { return m.asks.run(ctx) })
	g.Go(func() error { return m.snapshotBySize(ctx) })
	g.Go(func() error { return m.flushAhead(ctx) })
	g.Go(func() error { return m.space.run(ctx) })
	g.Go(func() error { return m.keepQuota(ctx) })
	g.Go(func() error { return m.auditor.run(ctx) })
	g.Go(func() error { return m.measureLog(ctx) })
	g.Go(func() error { return m.followRoster(ctx) })
	if !m.cfg.founding {
		g.Go(func() error { return m.keepMembers(ctx) })
	}
	g.Go(func() error { return m.registerSelf(ctx) })
	g.Go(func() error { return m.watchRemoval(ctx) })
	g.Go(func() error {
		if err := m.store.Run(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("state file: %w", err)
		}
		return nil
	})
	drained := make(chan struct{})
	g.Go(func() error {
		defer close(drained)
		<-ctx.Done()
		m.drain()
		return nil
	})
	g.Go(func() error { m.beat(drained); return nil })
	return g.Wait()
}

// watchHalt returns why the replica halted, if it does.
func (m *Member) watchHalt(ctx context.Context) error {
	select {
	case <-m.halt.done:
		return m.halt.err
	case <-ctx.Done():
		return nil
	}
}

// drain refuses new commands and waits, for a while, until those under way are answered.
func (m *Member) drain() {
	m.mu.Lock()
	if !m.stopped {
		m.stopped = true
		close(m.stopping)
		m.unwatch()
	}
	m.mu.Unlock()
	answered := make(chan struct{})
	go func() {
		m.calls.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-m.halt.done:
	case <-time.After(drainMax):
	}
}

// shutdown closes everything, unless the replica has halted.
func (m *Member) shutdown() error {
	m.drain()
	if m.halt.failed() {
		return m.halt.err // see below
	}
	m.fs.done.Store(true)
	done := make(chan error, 1)
	go func() { done <- m.release() }()
	select {
	case err := <-done:
		return err
	case <-m.halt.done:
		// The library cannot be stopped while one of its goroutines hangs in halt, and to let it go on could
		// acknowledge what failed.
		return m.halt.err
	}
}

// release closes what Open opened. It is called once. Calls that come later find a closed host and a closed store.
func (m *Member) release() error {
	m.closeHost()
	neterr := m.net.Close() // if there was no host to do it
	m.metrics.unregister(m.cfg.Metrics)
	err := neterr
	if m.store != nil {
		if serr := m.store.Close(); serr != nil {
			err = errors.Join(err, fmt.Errorf("close state file: %w", serr))
		}
	}
	if m.halt.failed() {
		err = errors.Join(err, m.halt.err)
	}
	return err
}

// Close releases a member that was never run. Afterwards it has no effect.
func (m *Member) Close() error {
	m.mu.Lock()
	if m.started {
		m.mu.Unlock()
		return nil
	}
	m.started = true
	m.mu.Unlock()
	m.drain()
	m.rounds.stop()
	return m.release()
}

// Ready is closed once there is a leader, the epoch is known and a linearizable read has succeeded.
func (m *Member) Ready() <-chan struct{} { return m.ready }

func (m *Member) announceReady(ctx context.Context) error {
	for len(m.voterIDs()) == 0 && ctx.Err() == nil {
		// Until a replica has applied who the members are, raft drops their answers, to a read index too. It is not told.
		pause(ctx, membersWait)
	}
	for ctx.Err() == nil {
		if err := m.rounds.join(ctx); err == nil && !m.store.Epoch().IsZero() {
			close(m.ready)
			return nil
		}
		_, changed := m.leader.get()
		applied := m.applied.next()
		if !m.store.Epoch().IsZero() && m.leaderKnown() {
			continue
		}
		select {
		case <-changed:
		case <-applied:
		case <-ctx.Done():
		}
	}
	return nil
}

func (m *Member) leaderKnown() bool {
	l, _ := m.leader.get()
	return l.replica != 0
}

// header is the part of every answer that says who gave it.
func (m *Member) stamp(h *kv.Header) {
	h.Member, h.Term = m.id.Replica, m.leader.term.Load()
	if h.Epoch.IsZero() {
		h.Epoch = m.store.Epoch()
	}
}

func (m *Member) newFSM(uint64, uint64) statemachine.IOnDiskStateMachine {
	return &fsm{store: m.store, halt: m.halt, applied: m.applied.announce, work: &m.applying, ahead: m.ahead,
		early: max(1, int(m.cfg.SnapshotEntries*flushAheadEntries/snapshotEntries))}
}
