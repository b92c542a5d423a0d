package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// feed keeps the cache in step with the upstream by one watch, and proves its age by rounds on it.
type feed struct {
	p *Proxy

	mu       sync.Mutex
	control  chan kv.WatchControl // of the present watch, nil while there is none
	err      error                // why there is none
	rev      int64                // every event up to it is in the cache
	provenAt time.Duration        // send time of the newest round whose revision the cache holds
	proven   bool
	current  *wait         // the round under way
	next     *wait         // the round after it: whoever comes now
	changed  chan struct{} // closed when rev changes
	reasons  map[string]string
	again    context.CancelFunc // ends the present watch
}

// wait is a round and those who wait for it.
type wait struct {
	done chan struct{}
	sent time.Duration
	err  error
}

func newFeed(p *Proxy) *feed {
	return &feed{p: p, err: errNoFeed, changed: make(chan struct{}), reasons: map[string]string{}}
}

func (f *feed) run(ctx context.Context) {
	pause := retryFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := f.once(ctx)
		f.down(err)
		if time.Since(began) > retryMax {
			pause = retryFirst
		}
		t := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		pause = min(2*pause, retryMax)
	}
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
	var watches []kv.Watch
	for i, prefix := range f.p.opts.Prefixes {
		span, err := f.mirror(ctx, head.Epoch, prefix)
		if errors.Is(err, cache.ErrFull) {
			f.say(prefix, fmt.Sprintf("larger than proxy.max-bytes allows (%d bytes); reads are forwarded", f.p.opts.MaxBytes))
			continue
		}
		if err != nil {
			return err
		}
		f.say(prefix, "")
		watches = append(watches, kv.Watch{ID: int64(i + 1), Key: span.Key, End: span.End, From: span.Revision + 1})
	}
	// What took a whole prefix over the link is written down at once; what changes later may wait.
	if err := f.p.cache.Flush(); err != nil {
		return err
	}
	return f.watch(ctx, head.Epoch, watches)
}

func (f *feed) say(prefix []byte, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if was := f.reasons[string(prefix)]; was != why && why != "" {
		f.p.opts.Log.Warn("prefix is not mirrored", "prefix", string(prefix), "reason", why)
	}
	f.reasons[string(prefix)] = why
}

func (f *feed) why(prefix []byte) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reasons[string(prefix)]
}

// mirror makes sure that a prefix is covered: by what the cache has, or by reading all of it at one revision.
func (f *feed) mirror(ctx context.Context, epoch kv.Epoch, prefix []byte) (cache.Span, error) {
	key, end := kv.PrefixRange(prefix)
	if s, ok := f.p.cache.Covered(key, end); ok && f.p.cache.Epoch() == epoch {
		return s, nil
	}
	var all []kv.KeyValue
	var size int64
	span := cache.Span{Key: key, End: end}
	from := key
	for {
		page, err := f.p.up.Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: from, End: end, Limit: pageKeys, Revision: span.Revision}}})
		if err != nil {
			return span, fmt.Errorf("mirror prefix %q: %w", prefix, err)
		}
		if page.Epoch != epoch {
			return span, fmt.Errorf("mirror prefix %q: the cluster turned to another history", prefix)
		}
		if span.Revision == 0 {
			span.Revision = page.Revision
		}
		kvs := page.Ops[0].KVs
		all = append(all, kvs...)
		for _, v := range kvs {
			size += int64(len(v.Key) + len(v.Value))
		}
		if size > f.p.opts.MaxBytes {
			return span, cache.ErrFull
		}
		if !page.Ops[0].More || len(kvs) == 0 {
			break
		}
		from = append(bytes.Clone(kvs[len(kvs)-1].Key), 0) // the least key behind the last
	}
	_, err := f.p.cache.Load(epoch, span, all)
	return span, err
}

// watch applies what the stream brings. Rounds are possible from the moment every watch has answered.
func (f *feed) watch(ctx context.Context, epoch kv.Epoch, watches []kv.Watch) error {
	control := make(chan kv.WatchControl, 2)
	created := 0
	if len(watches) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	for b, err := range f.p.up.Watch(ctx, kv.WatchSpec{Watches: watches, Control: control}) {
		if err != nil {
			return err
		}
		if !b.Epoch.IsZero() && b.Epoch != epoch {
			f.p.saw(b.Header)
			return errors.New("the cluster has another history")
		}
		f.p.saw(b.Header)
		switch {
		case b.Canceled:
			return f.canceled(watches, b)
		case b.WatchID == kv.WatchAll:
			f.finish(b)
		default:
			if b.WatchID < 1 || int(b.WatchID) > len(watches) {
				return fmt.Errorf("the upstream answers for watch %d, which nobody asked for", b.WatchID)
			}
			w := watches[b.WatchID-1]
			if len(b.Events) > 0 && !b.Fragment || b.Progress {
				if err := f.p.cache.Apply(w.Key, w.End, b.Events, b.Revision); err != nil {
					return err
				}
				f.advance()
			}
		}
		if b.Created {
			if created++; created == len(watches) {
				f.up(control)
			}
		}
	}
	return errors.New("the watch ended")
}

// canceled lets go of a span whose history is gone, so that it is read anew.
func (f *feed) canceled(watches []kv.Watch, b kv.Batch) error {
	if b.Err != nil && b.Err.Code == kv.Compacted && b.WatchID >= 1 && int(b.WatchID) <= len(watches) {
		w := watches[b.WatchID-1]
		if err := f.p.cache.Drop(w.Key, w.End); err != nil {
			return err
		}
	}
	return fmt.Errorf("the upstream canceled a watch: %w", orEnded(b.Err))
}

func orEnded(e *kv.Error) error {
	if e == nil {
		return errors.New("no reason given")
	}
	return e
}

// up makes rounds possible, and takes the first.
func (f *feed) up(control chan kv.WatchControl) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.control, f.err = control, nil
	if f.next == nil {
		f.next = &wait{done: make(chan struct{})}
	}
	f.ask()
	f.p.opts.Log.Info("cache is fed", "prefixes", len(f.p.opts.Prefixes))
}

// ask sends the next round if none is under way. The caller holds f.mu; control has room, since one at most is under way.
func (f *feed) ask() {
	if f.current != nil || f.next == nil || f.control == nil {
		return
	}
	f.current, f.next = f.next, nil
	f.current.sent = f.p.opts.Clock()
	select {
	case f.control <- kv.WatchControl{Progress: true}:
	default:
		f.end(f.current, errors.New("the upstream takes no more requests"))
		f.current = nil
	}
}

// finish ends the round under way: everything up to its revision is in the cache.
func (f *feed) finish(b kv.Batch) {
	f.mu.Lock()
	w := f.current
	f.current = nil
	if w != nil && b.Err == nil {
		f.provenAt, f.proven = w.sent, true
	}
	f.mu.Unlock()
	if b.Err == nil {
		if f.p.cache.Partial() {
			if err := f.p.cache.Whole(); err != nil {
				f.p.opts.Log.Error("cache cannot be written", "error", err)
			}
		}
		for _, s := range f.p.cache.Spans() {
			if err := f.p.cache.Apply(s.Key, s.End, nil, b.Revision); err != nil {
				f.p.opts.Log.Error("cache cannot be written", "error", err)
			}
		}
		f.advance()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if w != nil {
		f.end(w, errOf(b.Err))
	}
	f.ask()
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

// round waits for a round that is sent after the call, and returns when it was sent.
func (f *feed) round(ctx context.Context) (sent time.Duration, err error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, roundTimeout)
		defer cancel()
	}
	f.mu.Lock()
	if f.control == nil {
		defer f.mu.Unlock()
		return 0, f.err
	}
	if f.next == nil {
		f.next = &wait{done: make(chan struct{})}
	}
	w := f.next
	f.ask()
	f.mu.Unlock()
	select {
	case <-w.done:
		return w.sent, w.err
	case <-ctx.Done():
		return 0, fmt.Errorf("no answer from the cluster: %w", ctx.Err())
	}
}

// advance publishes the revision that every span has reached.
func (f *feed) advance() {
	rev := int64(0)
	for i, s := range f.p.cache.Spans() {
		if i == 0 || s.Revision < rev {
			rev = s.Revision
		}
	}
	f.p.settle(rev)
	f.mu.Lock()
	defer f.mu.Unlock()
	if rev > f.rev {
		f.rev = rev
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// reach waits until every event up to revision is in the cache; patient: also while there is no feed.
func (f *feed) reach(ctx context.Context, revision int64, patient bool) bool {
	for {
		f.mu.Lock()
		rev, changed, up := f.rev, f.changed, f.control != nil
		f.mu.Unlock()
		if rev >= revision {
			return true
		}
		if !up && !patient {
			return false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (f *feed) revision() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev
}

// age is the proven age of the cache, kv.AgeUnknown without proof.
func (f *feed) age() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.proven {
		return kv.AgeUnknown
	}
	if age := f.p.opts.Clock() - f.provenAt; age >= 0 {
		return age
	}
	return kv.AgeUnknown // the clock went back: another boot
}

func (f *feed) state() (up bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.control != nil, f.err
}

// down ends the rounds that wait; the proof stays and ages.
func (f *feed) down(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = errNoFeed
	}
	if f.control != nil {
		f.p.opts.Log.Warn("cache is no longer fed; it ages", "error", err)
	}
	f.control, f.err = nil, err
	for _, w := range []*wait{f.current, f.next} {
		if w != nil {
			f.end(w, err)
		}
	}
	f.current, f.next = nil, nil
}

// restart gives up what is known of the old history: the proof, the revision, the watch.
func (f *feed) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proven, f.rev = false, 0
	if f.again != nil {
		f.again()
	}
}
