package member

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/kv"
)

const (
	// spacePoll is how often the file system is asked while writes are taken, spacePollFull while they are refused.
	// A write that finds its budget used up asks at once.
	spacePoll     = 5 * time.Second
	spacePollFull = 500 * time.Millisecond

	// spaceFresh is how long what the file system said is believed by writes. Others fill disks too: a core dump takes
	// a second for a gigabyte. Asking takes a microsecond.
	spaceFresh = 100 * time.Millisecond

	// A write is charged writeFactor times its bytes and writeOverhead: for the log, for the state file with its
	// index, and for pages that are only partly filled.
	writeFactor   = 4
	writeOverhead = 1 << 10
	// overlayFactor is what a byte that waits in memory may take in the state file, which copies pages on write.
	overlayFactor = 3

	// reserveShare bounds the default reserve on small file systems to this fraction of their size.
	reserveShare = 8
)

// space refuses writes while the file system has room enough for what was promised already: the library and the state
// file must not find the disk full. It asks the file system now and then, and in between counts what it lets through.
//
//	free ----- reserve ------- lower (half of it) ----- 0
//	 all writes | only those that free space | none
type space struct {
	dir     string
	reserve int64 // negative for none
	lower   int64
	free    func(path string) (free, size int64, err error)
	overlay func() int64 // bytes that wait in memory to be written
	log     *slog.Logger

	began    time.Time
	asked    atomic.Int64 // when the file system was asked, since began
	left     atomic.Int64 // to be let through before the file system is asked again
	bytes    atomic.Int64 // free, as of the last time it was asked
	refused  atomic.Uint64
	refusing atomic.Pointer[string] // why writes are refused at present

	mu      sync.Mutex // one asks at a time
	blocked int        // writers that wait for room, see waiting
}

func newSpace(cfg Config, overlay func() int64) (*space, error) {
	s := &space{dir: cfg.Dir, reserve: cfg.DiskReserve, free: cfg.Free, overlay: overlay, log: cfg.Log, began: time.Now()}
	free, size, err := s.free(s.dir)
	if err != nil {
		return nil, fmt.Errorf("ask for the free space of %s: %w", s.dir, err)
	}
	s.reserve = reserveOn(s.reserve, size)
	s.lower = s.reserve / 2
	s.bytes.Store(free)
	return s, nil
}

// reserveOn is what Config.DiskReserve means on a file system of that size.
func reserveOn(reserve, size int64) int64 {
	if reserve == 0 || reserve == DefaultDiskReserve {
		return min(DefaultDiskReserve, size/reserveShare)
	}
	return reserve
}

// Room refuses with NoSpace what would take so many bytes of the file system of Dir, if they would be of the reserve. It
// may be called before Open, and asks the file system each time.
func (c Config) Room(bytes int64) error {
	ask := c.Free
	if ask == nil {
		ask = diskFree
	}
	free, size, err := ask(c.Dir)
	if err != nil {
		return kv.Errorf(kv.NoSpace, "the free space of %s is not known: %w", c.Dir, err)
	}
	if reserve := reserveOn(c.DiskReserve, size); reserve >= 0 && free-bytes < reserve {
		return kv.Errorf(kv.NoSpace, "%d MiB are free on the file system of %s, of which %d MiB are held in reserve (store.disk-reserve): "+
			"free some there", free>>20, c.Dir, reserve>>20)
	}
	return nil
}

// admit lets a command of n encoded bytes through, or refuses it with NoSpace. Frees says that all it does is to give
// space back.
func (s *space) admit(n int64, frees bool) error {
	if s.reserve < 0 {
		return nil
	}
	cost := writeFactor*n + writeOverhead
	if time.Since(s.began)-time.Duration(s.asked.Load()) < spaceFresh && s.left.Add(-cost) >= 0 {
		return nil
	}
	return s.ask(cost, frees)
}

// ask has a look at the file system and decides anew.
func (s *space) ask(cost int64, frees bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	room, err := s.look()
	if err != nil {
		s.refused.Add(1)
		return kv.Errorf(kv.NoSpace, "the free space of %s is not known, so nothing was stored: %w", s.dir, err)
	}
	switch {
	case room-cost >= 0 && s.refusing.Load() == nil:
		s.left.Add(-cost)
		return nil
	case frees && room-cost >= s.lower-s.reserve:
		return nil
	}
	s.refused.Add(1)
	why := s.refusing.Load()
	if why == nil { // there is room, but not for this one
		why = s.refuse()
	}
	e := kv.Errorf(kv.NoSpace, "nothing was stored: %s", *why)
	e.RetryAfter = spacePoll
	return e
}

// fits refuses with NoSpace what would take n bytes of the file system for a while, if they would be of the reserve.
func (s *space) fits(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	room, err := s.look()
	switch {
	case err != nil:
		return kv.Errorf(kv.NoSpace, "the free space of %s is not known: %w", s.dir, err)
	case s.reserve >= 0 && room < n:
		return kv.Errorf(kv.NoSpace, "this needs %d MiB for a second file for a while, and %d MiB are free on the file system "+
			"of %s, of which %d MiB are held in reserve: free some there first", n>>20+1, s.bytes.Load()>>20, s.dir, s.reserve>>20)
	}
	return nil
}

// look asks the file system for the room above the reserve, and settles whether writes are refused. s.mu is held.
func (s *space) look() (room int64, err error) {
	free, _, err := s.free(s.dir)
	if err != nil {
		return 0, err
	}
	s.bytes.Store(free)
	s.asked.Store(int64(time.Since(s.began)))
	room = free - overlayFactor*s.overlay() - s.reserve
	s.left.Store(room)
	switch {
	case s.blocked > 0:
	case room <= 0:
		s.refuse()
	case s.refusing.Load() != nil && room >= s.reserve/16:
		s.refusing.Store(nil)
		s.log.Info("writes accepted again", "free", free)
	}
	if s.refusing.Load() != nil {
		s.left.Store(0)
	}
	return room, nil
}

// refuse notes why writes are refused. s.mu is held.
func (s *space) refuse() *string {
	free := s.bytes.Load()
	remedy := "free some there, or delete keys, which is still possible, or set a smaller reserve (store.disk-reserve)"
	if free-overlayFactor*s.overlay() < s.lower {
		remedy = "free some there; not even deletions are taken any more"
	}
	why := fmt.Sprintf("%d MiB are free on the file system of %s; %d MiB are held in reserve and %d MiB for what waits in memory: %s",
		free>>20, s.dir, s.reserve>>20, overlayFactor*s.overlay()>>20, remedy)
	if s.refusing.Swap(&why) == nil {
		s.log.Warn("writes refused", "reason", why)
	}
	return &why
}

// waiting is told when a writer of the raft log has found no room and waits for it, and when that is over.
func (s *space) waiting(waits bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !waits {
		s.blocked--
		return
	}
	s.blocked++
	s.left.Store(0)
	why := fmt.Sprintf("the disk is full: the raft log waits for room on the file system of %s: free some there (%v)", s.dir, err)
	s.refusing.Store(&why)
	s.log.Error("disk full", "reason", why)
}

// run keeps the budget up to date until ctx ends.
func (s *space) run(ctx context.Context) error {
	for ctx.Err() == nil {
		every := spacePoll
		if s.refusing.Load() != nil {
			every = spacePollFull
		}
		pause(ctx, every)
		s.poll()
	}
	return nil
}

func (s *space) poll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.look(); err != nil {
		s.log.Warn("free space of the data dir is not known; writes go on until the budget is used up",
			"dir", s.dir, "err", err)
	}
}

// why is the reason for which writes are refused, empty if they are taken.
func (s *space) why() string {
	if w := s.refusing.Load(); w != nil {
		return *w
	}
	return ""
}
