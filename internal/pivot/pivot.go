// Package pivot is a Backend in front of one that can be exchanged while it is used, as a node's is when it becomes a
// member or a proxy. Whoever asks notices nothing but a short wait:
//
//   - A request that is under way when the exchange happens ends where it began.
//   - What has been shown here is not unseen: before the new one answers anybody it has reached every revision that the
//     old one has shown.
//   - A watch goes on where it was, each event once and in order. One that is pushed ends, and who asks again goes on.
package pivot

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// Node is a Backend that can be told how far it has to be.
type Node struct {
	api.Backend
	// Reach returns once nothing it answers is older than a header that was shown before; it may wait for that until ctx
	// ends. Nil: it always is.
	Reach func(ctx context.Context, h kv.Header) error
}

const (
	// holdMax is how long a request waits for an exchange before it is refused, certainly not applied.
	holdMax = 5 * time.Second
	// quietMax is how long an exchange waits for requests under way, so that few end behind it.
	quietMax = 250 * time.Millisecond
	// lateMax is how long an answer that comes from the old one, after the exchange, waits until the new one is as far.
	lateMax = 5 * time.Second
)

// Pivot is a Backend. Its methods may be called concurrently.
type Pivot struct {
	turning sync.Mutex            // held by Turn, before mu
	at      atomic.Pointer[stand] // nil before the first Turn
	shown   atomic.Pointer[shown] // nil before anything was

	mu   sync.Mutex    // guards the counts of every stand
	hold chan struct{} // requests wait until it is closed; nil: they do not
}

// stand is a node in its turn.
type stand struct {
	Node
	left    context.Context // ended by leave, when another has taken its place
	leave   context.CancelFunc
	calls   int // under way
	watches int
	changed chan struct{} // closed when a count falls to 0; made by who waits for that
}

// shown is the highest revision of a history that anybody has been shown.
type shown struct {
	epoch    kv.Epoch
	revision atomic.Int64
}

// New returns a Pivot on which requests wait for the first Turn.
func New() *Pivot { return &Pivot{hold: make(chan struct{})} }

// Turn puts next in the place of what stands there. Requests that come meanwhile wait for it, those under way end where
// they are, watches move. It returns once next answers; if next does not reach what was shown nothing has changed, and the
// error says so. Drained waits for what still runs on the node that left until ctx ends, and returns how much that is then.
func (p *Pivot) Turn(ctx context.Context, next Node) (drained func(ctx context.Context) int, err error) {
	p.turning.Lock()
	defer p.turning.Unlock()
	p.mu.Lock()
	if p.hold == nil {
		p.hold = make(chan struct{})
	}
	p.mu.Unlock()
	old, now := p.at.Load(), &stand{Node: next}
	now.left, now.leave = context.WithCancel(context.Background())
	if old == nil {
		p.at.Store(now)
		p.release()
		return func(context.Context) int { return 0 }, nil
	}
	defer p.release()
	quiet, cancel := context.WithTimeout(ctx, quietMax)
	defer cancel()
	p.await(quiet, old, false)
	if err := next.reach(ctx, p.highest()); err != nil {
		return nil, err
	}
	// From here on what ends on the old one waits for the new one itself; see leave. What ended before is made up for.
	p.at.Store(now)
	for h := p.highest(); ; {
		if err := next.reach(ctx, h); err != nil {
			p.at.Store(old)
			return nil, err
		}
		again := p.highest()
		if again == h {
			break
		}
		h = again
	}
	old.leave()
	return func(ctx context.Context) int { return p.await(ctx, old, true) }, nil
}

func (n Node) reach(ctx context.Context, h kv.Header) error {
	if n.Reach == nil {
		return nil
	}
	if err := n.Reach(ctx, h); err != nil {
		return fmt.Errorf("reach revision %d, which was shown here: %w", h.Revision, err)
	}
	return nil
}

// release lets the requests go on that wait for a turn.
func (p *Pivot) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.hold)
	p.hold = nil
}

// await waits until no call, or nothing at all, runs on s, or ctx ends. It returns how much that is then.
func (p *Pivot) await(ctx context.Context, s *stand, all bool) int {
	for {
		p.mu.Lock()
		n := s.calls
		if all {
			n += s.watches
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		p.mu.Unlock()
		if n == 0 {
			return 0
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return n
		}
	}
}

// enter returns who answers now, and counts the request in one of its counts until leave.
func (p *Pivot) enter(ctx context.Context, count func(*stand) *int) (*stand, error) {
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		p.mu.Lock()
		hold := p.hold
		if hold == nil {
			s := p.at.Load()
			*count(s)++
			p.mu.Unlock()
			return s, nil
		}
		p.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(holdMax)
		}
		select {
		case <-hold:
			continue
		case <-ctx.Done():
		case <-timer.C:
		}
		err := kv.Errorf(kv.NoLeader, "this node is changing its mode and has not begun with the request: try again")
		err.RetryAfter = time.Second
		return nil, err
	}
}

func calls(s *stand) *int   { return &s.calls }
func watches(s *stand) *int { return &s.watches }

func (p *Pivot) leave(s *stand, count func(*stand) *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := count(s)
	if *n--; *n == 0 && s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// show notes what somebody is about to be shown, and reports whether s is still the one that answers.
func (p *Pivot) show(s *stand, h kv.Header) bool {
	if h.Revision > 0 && !h.Epoch.IsZero() {
		p.note(h)
	}
	return p.at.Load() == s
}

func (p *Pivot) note(h kv.Header) {
	for {
		was := p.shown.Load()
		if was == nil || was.epoch != h.Epoch {
			now := &shown{epoch: h.Epoch}
			now.revision.Store(h.Revision)
			if p.shown.CompareAndSwap(was, now) {
				return
			}
			continue
		}
		rev := was.revision.Load()
		if rev >= h.Revision || was.revision.CompareAndSwap(rev, h.Revision) {
			return
		}
	}
}

func (p *Pivot) highest() (h kv.Header) {
	if s := p.shown.Load(); s != nil {
		h.Epoch, h.Revision = s.epoch, s.revision.Load()
	}
	return h
}

// ended is called with an answer that s gave. If another one answers by now, that is given the time to get as far: whoever
// is told of the revision may ask there next. The answer stands in any case.
func (p *Pivot) ended(ctx context.Context, s *stand, h kv.Header) {
	if p.show(s, h) || h.Revision == 0 {
		return
	}
	late, cancel := context.WithTimeout(ctx, lateMax)
	defer cancel()
	_ = p.at.Load().reach(late, h) // see above
}

// Do passes c on.
func (p *Pivot) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	s, err := p.enter(ctx, calls)
	if err != nil {
		return kv.Result{}, err
	}
	defer p.leave(s, calls)
	res, err := s.Do(ctx, c)
	p.ended(ctx, s, res.Header)
	return res, err
}

// Read passes q on.
func (p *Pivot) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	s, err := p.enter(ctx, calls)
	if err != nil {
		return kv.Page{}, err
	}
	defer p.leave(s, calls)
	page, err := s.Read(ctx, q)
	p.ended(ctx, s, page.Header)
	return page, err
}
