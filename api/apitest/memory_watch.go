package apitest

import (
	"context"
	"iter"
	"slices"
	"time"

	"holdfast/kv"
)

const (
	batchMax      = 1000        // events of one batch, but for those of one revision
	progressEvery = time.Second // for watches that ask for progress
)

// Watch streams changes. It reads the kept events and holds no buffer: a slow consumer finds later what is kept then.
func (m *Memory) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		s := &session{m: m, ctx: ctx, yield: func(b kv.Batch) bool { return yield(b, nil) }}
		for _, w := range spec.Watches {
			if !s.add(w) {
				return
			}
		}
		s.run(spec.Control)
	}
}

// session is one stream of watches.
type session struct {
	m       *Memory
	ctx     context.Context
	yield   func(kv.Batch) bool
	watches []*watching // in the order they were added
}

type watching struct {
	kv.Watch
	next int64 // revision of the first event not yet sent
}

func (s *session) run(control <-chan kv.WatchControl) {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for {
		changed, ok := s.drain()
		if !ok || len(s.watches) == 0 && control == nil {
			return
		}
		select {
		case <-s.ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
			ok = s.announce()
		case c, open := <-control:
			if !open {
				control = nil
				break
			}
			ok = s.control(c)
		}
		if !ok {
			return
		}
	}
}

// drain sends all that is new and returns what is closed at the next change.
func (s *session) drain() (changed <-chan struct{}, ok bool) {
	for {
		batches, changed := s.collect()
		if len(batches) == 0 {
			return changed, true
		}
		for _, b := range batches {
			if s.ctx.Err() != nil || !s.yield(b) {
				return nil, false
			}
		}
	}
}

// collect returns one batch for each watch that has something to say.
func (s *session) collect() (batches []kv.Batch, changed <-chan struct{}) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.watches = slices.DeleteFunc(s.watches, func(w *watching) bool {
		if w.next >= s.m.compacted {
			return false
		}
		batches = append(batches, kv.Batch{Header: s.m.header(), WatchID: w.ID, Canceled: true, Err: s.m.errCompacted(w.next)})
		return true
	})
	for _, w := range s.watches {
		if b := s.m.since(w); len(b.Events) > 0 {
			batches = append(batches, b)
		}
	}
	return batches, s.m.changed
}

// since returns the next events of a watch and moves it on; m.mu is held.
func (m *Memory) since(w *watching) kv.Batch {
	b := kv.Batch{Header: m.header(), WatchID: w.ID}
	first, _ := slices.BinarySearchFunc(m.events, w.next, func(e kv.Event, revision int64) int { return int(e.KV.ModRevision - revision) })
	w.next = max(w.next, m.revision+1)
	for _, e := range m.events[first:] {
		if len(b.Events) >= batchMax && e.KV.ModRevision > b.Revision {
			w.next = e.KV.ModRevision
			return b
		}
		if !kv.Contains(w.Key, w.End, e.KV.Key) || e.Delete && w.NoDeletes || !e.Delete && w.NoPuts {
			continue
		}
		if !w.PrevKV {
			e.Prev = nil
		}
		b.Events = append(b.Events, e)
		b.Revision = e.KV.ModRevision
	}
	b.Revision = m.revision
	return b
}

func (s *session) add(w kv.Watch) bool {
	s.m.mu.Lock()
	b := kv.Batch{Header: s.m.header(), WatchID: w.ID, Created: true}
	next := s.m.revision + 1
	if w.From > 0 {
		next = w.From
	}
	switch {
	case slices.ContainsFunc(s.watches, func(o *watching) bool { return o.ID == w.ID }):
		b.Canceled, b.Err = true, kv.Errorf(kv.Invalid, "watch id %d is in use on this stream", w.ID)
	case len(w.Key) == 0:
		b.Canceled, b.Err = true, kv.Errorf(kv.Invalid, "a watch needs a key")
	case next < s.m.compacted:
		b.Canceled, b.Err = true, s.m.errCompacted(next)
	default:
		s.watches = append(s.watches, &watching{w, next})
	}
	s.m.mu.Unlock()
	return s.yield(b)
}

func (s *session) control(c kv.WatchControl) bool {
	switch {
	case c.Add != nil:
		return s.add(*c.Add)
	case c.Progress:
		// What was there when it was asked for comes first.
		if _, ok := s.drain(); !ok {
			return false
		}
		return s.yield(kv.Batch{Header: s.reached(), WatchID: kv.WatchAll, Progress: true})
	default:
		n := len(s.watches)
		s.watches = slices.DeleteFunc(s.watches, func(w *watching) bool { return w.ID == c.Cancel })
		return n == len(s.watches) || s.yield(kv.Batch{Header: s.reached(), WatchID: c.Cancel, Canceled: true})
	}
}

// announce tells the watches that asked for it how far they are.
func (s *session) announce() bool {
	if _, ok := s.drain(); !ok {
		return false
	}
	for _, w := range s.watches {
		if w.Progress {
			if !s.yield(kv.Batch{Header: s.reached(), WatchID: w.ID, Progress: true}) {
				return false
			}
		}
	}
	return true
}

// reached is the header at a revision that every watch has been sent everything up to.
func (s *session) reached() kv.Header {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	h := s.m.header()
	for _, w := range s.watches {
		h.Revision = min(h.Revision, w.next-1)
	}
	return h
}
