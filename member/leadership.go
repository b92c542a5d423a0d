package member

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/raftio"

	"holdfast/kv"
)

// leaderWait is how long a call that needs a leader waits for one, from the moment there was none.
const leaderWait = 3 * time.Second

// leadership is what this replica knows about who leads. It is told by the library (LeaderUpdated) and tells whoever
// waits.
type leadership struct {
	clock func() time.Duration
	term  atomic.Uint64 // of now, for who asks often

	mu      sync.Mutex
	now     leaderInfo
	changes uint64        // times that a leader was seen that was not known right before
	lost    time.Duration // when there ceased to be a leader
	changed chan struct{} // closed at the next change
}

type leaderInfo struct {
	replica uint64 // 0 while there is none
	term    uint64
}

func newLeadership(clock func() time.Duration) *leadership {
	return &leadership{clock: clock, lost: clock(), changed: make(chan struct{})}
}

// LeaderUpdated implements raftio.IRaftEventListener.
func (l *leadership) LeaderUpdated(info raftio.LeaderInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now.replica != 0 && info.LeaderID == 0 {
		l.lost = l.clock()
	}
	if info.LeaderID != 0 && info.LeaderID != l.now.replica {
		l.changes++
	}
	l.now = leaderInfo{replica: info.LeaderID, term: info.Term}
	l.term.Store(info.Term)
	close(l.changed)
	l.changed = make(chan struct{})
}

// get returns what is known now and a channel that is closed when it changes.
func (l *leadership) get() (leaderInfo, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now, l.changed
}

// seen is how often there was a new leader.
func (l *leadership) seen() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changes
}

// await returns once there is a leader, or NoLeader when there has been none for leaderWait.
func (l *leadership) await(ctx context.Context) error {
	for {
		l.mu.Lock()
		now, changed, lost := l.now, l.changed, l.lost
		l.mu.Unlock()
		if now.replica != 0 {
			return nil
		}
		left := lost + leaderWait - l.clock() // a system call, which a command with a leader has no use for
		if left <= 0 {
			return noLeader("there has been none for %s", leaderWait)
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return noLeader("the caller gave up waiting: %v", context.Cause(ctx))
		}
		timer.Stop()
	}
}

// electionsMax bounds how long elections put off the end of a call's patience: two that came to nothing, as they do by chance.
const electionsMax = 2 * leaderWait

// patience is for how long a call has been turned away though there was a leader. The waiting for one does not count: what comes
// of an election may be another one.
type patience struct {
	began  time.Time
	since  time.Duration   // after began
	leader <-chan struct{} // closed once it is another leader, or none, than when the call was tried last
}

func (l *leadership) patience() patience {
	_, changed := l.get()
	return patience{began: time.Now(), leader: changed}
}

// by notes that the call is tried with the leader that there is until changed is closed.
func (p *patience) by(changed <-chan struct{}) {
	if changed != p.leader && p.age() < electionsMax {
		p.renew()
	}
	p.leader = changed
}

// renew has the call be tried from now on.
func (p *patience) renew() { p.since = p.age() }

// age is how long ago the call began.
func (p *patience) age() time.Duration { return time.Since(p.began) }

func (p *patience) spent() time.Duration { return p.age() - p.since }

func noLeader(format string, args ...any) *kv.Error {
	e := kv.Errorf(kv.NoLeader, "no leader: "+format+"; nothing was applied: try again, and if it stays so see "+
		"which members of the cluster are up", args...)
	e.RetryAfter = time.Second
	return e
}

// announcer lets many wait for the next time something happens. The zero value is not usable.
type announcer struct {
	mu      sync.Mutex
	waiting bool
	ch      chan struct{}
}

func newAnnouncer() *announcer { return &announcer{ch: make(chan struct{})} }

// next returns a channel that is closed by the next announce.
func (a *announcer) next() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = true
	return a.ch
}

func (a *announcer) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting {
		close(a.ch)
		a.ch = make(chan struct{})
		a.waiting = false
	}
}
