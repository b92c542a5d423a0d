package member

import (
	"log/slog"
	"sync"
	"time"

	"holdfast/kv"
)

// A disk may hold back a write for seconds, as a flash card does that tidies up, or for ever. The library writes the raft
// log from the loop that gives heartbeats and hears the others. So a member whose disk holds back falls silent: if it led,
// the others elect another one after an election timeout, as if it had died. (Entries that it has sent before are on their
// disks, and count.) What this file adds is that the member says so, and refuses what it could not answer.
const (
	// stallAfter is how long a write of the raft log may take before it is called held back: one election timeout.
	stallAfter = electionTicks * tickMillis * time.Millisecond
	// StallBelieved is for how long a write that is held back is taken for the disk's fault. A restart does not help a disk,
	// and a process that waits for one cannot even be killed.
	StallBelieved = 15 * time.Minute
)

// stall watches the writes of the raft log, which come one after another.
type stall struct {
	log *slog.Logger

	mu      sync.Mutex
	timer   *time.Timer   // fires when the write under way is late; nil before the first
	since   time.Time     // when the write under way began; zero: none is
	late    bool          // it was called held back
	count   uint64        // of those
	changed chan struct{} // closed when late changes, then replaced
}

func newStall(log *slog.Logger) *stall {
	return &stall{log: log, changed: make(chan struct{})}
}

// begin is called before a write.
func (s *stall) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
	if s.timer == nil {
		s.timer = time.AfterFunc(stallAfter, s.fire)
		return
	}
	s.timer.Reset(stallAfter)
}

// end is called after it.
func (s *stall) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	took := time.Since(s.since)
	s.since = time.Time{}
	s.timer.Stop()
	if s.late {
		s.flip()
		s.log.Warn("the disk writes the raft log again: this member takes part in the cluster", "held_back", took.Round(time.Millisecond))
	}
}

func (s *stall) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() || s.late || time.Since(s.since) < stallAfter { // the timer was of an earlier write
		return
	}
	s.flip()
	s.count++
	s.log.Warn("the disk holds back a write of the raft log: this member takes no part in the cluster until it is done, and if "+
		"it led the others elect another one; if this goes on, or comes again, see the kernel's log about the disk", "for", stallAfter)
}

func (s *stall) flip() {
	s.late = !s.late
	close(s.changed)
	s.changed = make(chan struct{})
}

// get is for how long the write under way has been held back, 0 if it is not late, and a channel that is closed when that
// begins or ends.
func (s *stall) get() (held time.Duration, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late {
		held = time.Since(s.since)
	}
	return held, s.changed
}

func (s *stall) held() time.Duration {
	held, _ := s.get()
	return held
}

func (s *stall) stalls() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// refuse is NoLeader while the disk has held back a write for longer than a leader is waited for. Until then a call goes
// on: most disks are back by then, and a lone member has nobody else to ask.
func (s *stall) refuse() error {
	if held := s.held(); held >= leaderWait {
		return errHeld(held)
	}
	return nil
}

// errHeld is for what certainly was not sent.
func errHeld(held time.Duration) *kv.Error {
	return noLeader("the disk of this member has held back a write of the raft log for %s", held.Round(100*time.Millisecond))
}
