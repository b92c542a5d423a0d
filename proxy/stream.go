package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"holdfast/internal/failpoint"
	"holdfast/kv"
	"holdfast/proxy/cache"
)

// stream is one upstream watch stream of the feed. Its watches with ids from 1 on are those of the mirrors; the demand
// gives out those above.
type stream struct {
	f       *feed
	epoch   kv.Epoch
	control *controls
	mirrors []*mirror
	watches []kv.Watch
	waiting map[int64]bool // watches asked for at the start that have not answered
}

// run applies what the stream brings until it ends. Rounds are possible once every watch has answered.
func (s *stream) run(ctx context.Context) error {
	f := s.f
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	out := make(chan kv.WatchControl)
	running.Go(func() { s.control.pump(ctx, out) })
	spec := kv.WatchSpec{By: f.p.opts.Self, Watches: append(s.watches, s.demanded()...), Control: out}
	for _, w := range spec.Watches {
		s.waiting[w.ID] = true
	}
	running.Go(func() { f.refresh(ctx, s.epoch) })
	if len(s.waiting) == 0 {
		f.up()
	}
	for b, err := range f.p.up.Watch(ctx, spec) {
		if err != nil {
			return s.refused(err)
		}
		f.p.saw(b.Header)
		if !b.Epoch.IsZero() && b.Epoch != s.epoch {
			return errors.New("the cluster has another history")
		}
		if err := s.take(b); err != nil {
			return err
		}
		if (b.Created || b.Canceled) && s.waiting[b.WatchID] {
			if delete(s.waiting, b.WatchID); len(s.waiting) == 0 {
				f.up()
			}
		}
	}
	return errors.New("the watch ended")
}

// demanded starts the demand on this stream. From here on keys that are let in are added to it.
func (s *stream) demanded() []kv.Watch {
	f := s.f
	f.holding.Lock()
	defer f.holding.Unlock()
	held := f.p.cache.Held()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.control = s.control
	return f.demand.up(held, int64(len(s.watches)))
}

// refused lets go of all held keys if the upstream will have none of the stream because of one of them: this node's scope
// may be another than it was.
func (s *stream) refused(err error) error {
	if code := kv.CodeOf(err); code != kv.PermissionDenied && code != kv.Invalid {
		return err
	}
	for _, h := range s.f.p.cache.Held() {
		if derr := s.f.release(h.Key); derr != nil {
			return errors.Join(err, derr)
		}
	}
	return err
}

// take applies one batch.
func (s *stream) take(b kv.Batch) error {
	s.f.work.Add(1)
	defer s.f.work.Add(1)
	failpoint.Hang(failpoint.FeedLoop)
	switch {
	case b.WatchID == kv.WatchAll:
		if b.Progress {
			s.f.finish(b)
		}
		return nil
	case b.WatchID >= 1 && b.WatchID <= int64(len(s.mirrors)):
		return s.mirrored(s.mirrors[b.WatchID-1], b)
	case b.WatchID < 1:
		return fmt.Errorf("the upstream answers for watch %d, which nobody asked for", b.WatchID)
	}
	return s.f.demanded(b)
}

// mirrored applies what came for a prefix.
func (s *stream) mirrored(m *mirror, b kv.Batch) error {
	f := s.f
	if b.Canceled {
		if b.Err == nil && m.reason != "" {
			return nil // given up, see below
		}
		if b.Err != nil && b.Err.Code == kv.Compacted { // its history is gone: see resync
			m.tail.end()
			f.mu.Lock()
			m.lost = true
			f.mu.Unlock()
		}
		return fmt.Errorf("the upstream canceled the watch of prefix %q: %w", m.prefix, orEnded(b.Err))
	}
	if len(b.Events) == 0 && !b.Progress {
		return nil
	}
	replaced, err := f.p.cache.Apply(m.key, m.end, b.Events, b.Revision)
	f.evicted()
	if errors.Is(err, cache.ErrFull) {
		return s.outgrown(m)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.tail.add(b, replaced)
	f.signal()
	return nil
}

// outgrown gives up a mirror that no longer fits. Its keys are held on demand from now on.
func (s *stream) outgrown(m *mirror) error {
	f := s.f
	if err := f.drop(m); err != nil {
		return err
	}
	m.retry = retryAfter(tooLargeRetry)
	f.say(m, fmt.Sprintf("it has grown beyond what proxy.max-bytes allows (%d bytes); its keys are cached on demand", f.p.opts.MaxBytes))
	for i, one := range s.mirrors {
		if one == m {
			s.control.cancel(int64(i + 1))
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signal()
	return nil
}

// drop gives up a mirror. That is written down at once: a killed process must not come back with what it knew then, since
// newer versions may have been read through it.
func (f *feed) drop(m *mirror) error {
	m.tail.end()
	f.mu.Lock()
	m.lost = false
	f.mu.Unlock()
	if err := f.p.cache.Drop(m.key, m.end); err != nil {
		return err
	}
	return f.p.cache.Flush()
}
