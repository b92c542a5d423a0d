package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// feed keeps the cache in step with the upstream by one watch stream, and proves its age by rounds on it. The stream
// carries a watch for each mirrored prefix and one for each key held on demand (demand.go); what it brings for a prefix
// goes to this node's own watchers too (tail.go).
type feed struct {
	p *Proxy

	// holding is taken by whoever changes which keys are held on demand, before mu. It may be held over a write to disk.
	holding sync.Mutex

	mu       sync.Mutex
	control  *controls     // of the present stream, nil while there is none
	live     bool          // every watch of it has answered: rounds are possible
	err      error         // why not
	paused   error         // why it is paused, nil if it is not
	provenAt time.Duration // send time of the newest round whose revision the cache holds
	proven   bool
	rounds   uint64        // answered since it is live
	current  *wait         // the round under way
	next     *wait         // the round after it: whoever comes now
	changed  chan struct{} // closed when there is something new: events, a round, the stream up or down
	compact  int64         // the newest compaction that this node has acknowledged
	mirrors  []*mirror
	demand   demand
	again    context.CancelFunc // ends the present stream

	work atomic.Uint64 // see Proxy.Feeding
}

// wait is a round and those who wait for it.
type wait struct {
	done chan struct{}
	sent time.Duration
	at   int64 // revision up to which everything is in the cache
	err  error
}

// mirror is one configured prefix.
type mirror struct {
	prefix, key, end []byte
	tail             *tail     // what it brought of late
	reason           string    // why it is not mirrored
	retry            time.Time // when it is tried again, after it was too large
	lost             bool      // the history behind what it has is gone: see resync
}

func newFeed(p *Proxy) *feed {
	f := &feed{p: p, err: errNoFeed, changed: make(chan struct{})}
	for _, prefix := range p.opts.Prefixes {
		key, end := kv.PrefixRange(prefix)
		f.mirrors = append(f.mirrors, &mirror{prefix: prefix, key: key, end: end, tail: &tail{}})
	}
	f.demand.start(p.cache.Held())
	return f
}

func (f *feed) run(ctx context.Context) {
	pause := retryFirst
	for ctx.Err() == nil {
		if changed, why := f.p.opts.Paused(); f.pause(why) {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		began, reconnected := time.Now(), f.p.opts.Reconnected()
		err := f.unlessPaused(ctx, f.once)
		f.down(err)
		if _, why := f.p.opts.Paused(); why != nil {
			continue
		}
		if time.Since(began) > retryMax {
			pause = retryFirst
		}
		t := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-t.C:
		case <-reconnected:
		case <-ctx.Done():
		}
		t.Stop()
		pause = min(2*pause, retryMax)
	}
}

// pause takes note of whether the feed is paused, and why.
func (f *feed) pause(why error) bool {
	f.mu.Lock()
	f.paused = why
	if why != nil {
		f.err = why
	}
	f.mu.Unlock()
	return why != nil
}

// isPaused reports whether the feed is down because it is not to be up.
func (f *feed) isPaused() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.paused != nil
}

// unlessPaused runs do until it ends or the feed is paused; the error says which.
func (f *feed) unlessPaused(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		for {
			changed, why := f.p.opts.Paused()
			if why != nil {
				cancel(why)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	err := do(ctx)
	if _, why := f.p.opts.Paused(); why != nil {
		return why
	}
	return err
}

// once loads what is not mirrored yet and watches until the stream ends.
func (f *feed) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	f.again = cancel
	f.mu.Unlock()
	head, err := f.p.up.Read(ctx, kv.Query{MaxAge: kv.Unlimited})
	if err != nil {
		return err
	}
	f.p.saw(head.Header)
	if f.p.cache.Epoch() != head.Epoch {
		if err := f.turn(head.Epoch); err != nil {
			return err
		}
	}
	s := &stream{f: f, epoch: head.Epoch, control: newControls(), waiting: map[int64]bool{}}
	for _, m := range f.mirrors {
		span, err := f.load(ctx, head.Epoch, m)
		if errors.Is(err, cache.ErrFull) {
			f.say(m, fmt.Sprintf("larger than proxy.max-bytes allows (%d bytes); its keys are cached on demand", f.p.opts.MaxBytes))
			continue
		}
		if err != nil {
			return err
		}
		f.say(m, "")
		m.tail.resume(head.Epoch, span.Revision)
		s.mirrors = append(s.mirrors, m)
		s.watches = append(s.watches, kv.Watch{ID: int64(len(s.mirrors)), Key: span.Key, End: span.End, From: span.Revision + 1})
	}
	// What took a whole prefix over the link is written down at once; what changes later may wait.
	if err := f.p.cache.Flush(); err != nil {
		return err
	}
	return s.run(ctx)
}

// turn empties the cache for another history.
func (f *feed) turn(epoch kv.Epoch) error {
	f.holding.Lock()
	defer f.holding.Unlock()
	if f.p.cache.Epoch() == epoch {
		return nil
	}
	if err := f.p.cache.Turn(epoch); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.demand.start(nil)
	f.compact = 0
	for _, m := range f.mirrors {
		m.tail.end()
		m.lost = false
	}
	f.proven = false
	return nil
}

func (f *feed) say(m *mirror, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.reason != why && why != "" {
		f.p.opts.Log.Warn("prefix is not mirrored", "prefix", string(m.prefix), "reason", why)
	}
	m.reason = why
}

func (f *feed) why(i int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.paused != nil {
		return f.paused.Error()
	}
	return f.mirrors[i].reason
}

func orEnded(e *kv.Error) error {
	if e == nil {
		return errors.New("no reason given")
	}
	return e
}

// up makes rounds possible, and takes the first.
func (f *feed) up() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live, f.err, f.rounds = true, nil, 0
	if f.next == nil {
		f.next = &wait{done: make(chan struct{})}
	}
	f.ask()
	f.signal()
	f.p.opts.Log.Info("cache is fed", "prefixes", len(f.mirrors), "keys", f.demand.len())
}

// signal wakes those who wait for something new. f.mu is held.
func (f *feed) signal() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// ask sends the next round if none is under way. f.mu is held.
func (f *feed) ask() {
	if f.current != nil || f.next == nil || !f.live {
		return
	}
	f.current, f.next = f.next, nil
	f.current.sent = f.p.opts.Clock()
	f.control.progress()
}

// finish ends the round under way: everything up to its revision is in the cache.
func (f *feed) finish(b kv.Batch) {
	if b.Err == nil {
		f.p.catchUp()
		f.holding.Lock() // no key comes or goes between
		f.p.cache.Progress(b.Revision)
		f.mu.Lock()
		whole := f.demand.prove(f.p.cache)
		f.mu.Unlock()
		f.holding.Unlock()
		if whole && f.p.cache.Partial() {
			if err := f.p.cache.Whole(); err != nil {
				f.p.opts.Log.Error("cache cannot be written", "error", err)
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.current
	f.current = nil
	if b.Err == nil {
		f.rounds++
		for _, m := range f.mirrors {
			m.tail.reach(b.Revision)
		}
	}
	if w != nil && b.Err == nil {
		f.provenAt, f.proven = w.sent, true
		w.at = b.Revision
	}
	if w != nil {
		f.end(w, errOf(b.Err))
	}
	f.ask()
	f.signal()
}

func errOf(e *kv.Error) error {
	if e == nil {
		return nil
	}
	return e
}

func (f *feed) end(w *wait, err error) {
	w.err = err
	close(w.done)
}

// round waits for a round that is sent after the call, and returns when it was sent and the revision that it proves. What was
// held when it was sent is known at that revision; a key that was let go and let in again meanwhile may not be.
func (f *feed) round(ctx context.Context) (sent time.Duration, at int64, err error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, roundTimeout)
		defer cancel()
	}
	f.mu.Lock()
	if !f.live {
		defer f.mu.Unlock()
		return 0, 0, f.err
	}
	if f.next == nil {
		f.next = &wait{done: make(chan struct{})}
	}
	w := f.next
	f.ask()
	f.mu.Unlock()
	select {
	case <-w.done:
		return w.sent, w.at, w.err
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("no answer from the cluster: %w", ctx.Err())
	}
}

// nudge has a round sent that nobody waits for, if there can be one.
func (f *feed) nudge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live && f.next == nil {
		f.next = &wait{done: make(chan struct{})}
		f.ask()
	}
}

// age is the proven age of what is mirrored, kv.AgeUnknown without proof.
func (f *feed) age() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.since(f.provenAt, f.proven)
}

// since is how long ago a proof was, by this node's clock.
func (f *feed) since(at time.Duration, proven bool) time.Duration {
	if !proven {
		return kv.AgeUnknown
	}
	if age := f.p.opts.Clock() - at; age >= 0 {
		return age
	}
	return kv.AgeUnknown // the clock went back: another boot
}

func (f *feed) state() (up bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live, f.err
}

// news returns whether the feed is up, how many rounds it has had since, and what is closed when that or anything else changes.
func (f *feed) news() (up bool, rounds uint64, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live, f.rounds, f.changed
}

// down ends the rounds that wait; the proofs stay and age.
func (f *feed) down(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = errNoFeed
	}
	if f.live {
		f.p.opts.Log.Warn("cache is no longer fed; it ages", "error", err)
	}
	f.control, f.live, f.err = nil, false, err
	f.demand.down()
	for _, w := range []*wait{f.current, f.next} {
		if w != nil {
			f.end(w, err)
		}
	}
	f.current, f.next = nil, nil
	f.signal()
}

// restart gives up what is known of the old history: the proof and the stream. It is called with p.mu held.
func (f *feed) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proven = false
	if f.again != nil {
		f.again()
	}
}

// compacted notes a compaction: whoever asks for what was before it is refused, though the feed may still have it.
func (f *feed) compacted(revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compact = max(f.compact, revision)
}

func (f *feed) compaction() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.compact
}

// overdue reports whether the round under way has been so for long.
func (f *feed) overdue() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current != nil && f.p.opts.Clock()-f.current.sent > slowRound
}
