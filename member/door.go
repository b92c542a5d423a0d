package member

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"holdfast/kv"
)

// A leader that hands over drops the commands that reach it, and those that another member has passed on to it without a
// word: whoever sent one does not know what became of it, and may not send it again. So before it hands over it has every
// member hold back what comes, and wait for what is under way. They go on as soon as somebody else leads.

const (
	// holdMax is how long commands are held back if nobody takes over.
	holdMax = time.Second
	// emptyWait is how long a hand-over waits for the commands under way: those that take longer may end with an unknown
	// outcome. holdAsk is for asking a member to wait for them.
	emptyWait = 250 * time.Millisecond
	holdAsk   = 500 * time.Millisecond
)

// door is where commands pass on their way to raft. The leadership's mutex is taken with its own held, never the other way.
type door struct {
	leader *leadership
	clock  func() time.Duration

	mu     sync.Mutex
	inside int           // commands that have passed and are not back
	calm   chan struct{} // closed when nothing is inside; made by who waits for that
	shut   chan struct{} // closed when the door is opened by hand; nil: it is open
	while  leaderInfo    // shut as long as this one leads
	until  time.Duration // and not longer than this
}

func newDoor(l *leadership, clock func() time.Duration) *door { return &door{leader: l, clock: clock} }

// enter waits until the door is open, and counts the command until leave.
func (d *door) enter(ctx context.Context, stopping <-chan struct{}) error {
	for {
		d.mu.Lock()
		now, changed := d.leader.get()
		shut, left := d.shut, time.Duration(0)
		if shut != nil {
			left = d.until - d.clock()
		}
		if left <= 0 || now != d.while {
			d.shut = nil
			d.inside++
			d.mu.Unlock()
			return nil
		}
		d.mu.Unlock()
		timer := time.NewTimer(left)
		select {
		case <-shut:
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return noLeader("the leadership is being handed over, and the caller gave up waiting: %v", context.Cause(ctx))
		case <-stopping:
			timer.Stop()
			return errStopping()
		}
		timer.Stop()
	}
}

func (d *door) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	if d.inside == 0 && d.calm != nil {
		close(d.calm)
		d.calm = nil
	}
}

// hold shuts the door for as long as a leader leads, and holdMax at most, and returns once nothing is inside, or after
// emptyWait. It does nothing if another one leads.
func (d *door) hold(ctx context.Context, who leaderInfo) {
	d.mu.Lock()
	if now, _ := d.leader.get(); now != who {
		d.mu.Unlock()
		return
	}
	if d.shut == nil {
		d.shut = make(chan struct{})
	}
	d.while, d.until = who, d.clock()+holdMax
	if d.inside == 0 {
		d.mu.Unlock()
		return
	}
	if d.calm == nil {
		d.calm = make(chan struct{})
	}
	calm := d.calm
	d.mu.Unlock()
	timer := time.NewTimer(emptyWait)
	defer timer.Stop()
	select {
	case <-calm:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// open ends a hold early.
func (d *door) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut != nil {
		close(d.shut)
		d.shut = nil
	}
}

// isShut reports whether commands that come now wait.
func (d *door) isShut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, _ := d.leader.get()
	return d.shut != nil && now == d.while && d.clock() < d.until
}

// holdMark begins what a leader asks before it hands over: its replica id and term follow. See questionMark.
const (
	holdMark = "\x00h"
	holdSize = len(holdMark) + 16
)

// holdAll shuts the doors of all members, and returns when nothing is under way behind them, or it took too long. A member
// that does not answer is none that anybody could wait for; one of an older version does not know the question.
func (m *Member) holdAll(ctx context.Context, who leaderInfo) {
	request := binary.BigEndian.AppendUint64([]byte(holdMark), who.replica)
	request = binary.BigEndian.AppendUint64(request, who.term)
	ctx, cancel := context.WithTimeout(ctx, holdAsk)
	defer cancel()
	var asking sync.WaitGroup
	for _, s := range m.Roster().Seats {
		if s.Replica != m.id.Replica {
			asking.Go(func() {
				if _, err := m.net.net.Ask(ctx, s.Node, request); err != nil {
					m.cfg.Log.Debug("a member was not asked to hold back its commands", "replica", s.Replica, "err", err)
				}
			})
		}
	}
	m.door.hold(ctx, who)
	asking.Wait()
}

// answerHold does what a leader asks that is about to hand over.
func (m *Member) answerHold(ctx context.Context, request []byte) []byte {
	numbers := request[len(holdMark):]
	m.door.hold(ctx, leaderInfo{replica: binary.BigEndian.Uint64(numbers), term: binary.BigEndian.Uint64(numbers[8:])})
	return m.answerStanding()
}

func isHold(request []byte) bool {
	return len(request) == holdSize && string(request[:len(holdMark)]) == holdMark
}

// repeatable reports whether a command may be applied by the state machine only once, however often it comes.
func repeatable(c *kv.Command) bool {
	if !c.ID.IsZero() {
		return true
	}
	if len(c.Ops) != 1 {
		return false
	}
	each, ok := c.Ops[0].(kv.Each)
	for i := range each.Commands {
		ok = ok && !each.Commands[i].ID.IsZero()
	}
	return ok
}
