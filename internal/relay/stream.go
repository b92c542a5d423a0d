package relay

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"holdfast/kv"
)

// Source is what feeds a stream: a node, or what stands for one.
type Source func(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error]

// Stream is the watch stream of one consumer, which is fed from one source after the other: what it has asked for, and how far
// each watch has come. Each source begins where the one before was, also in the middle of a revision, so that each event
// comes once and in order.
//
//	Feed --the source ends, fails or is left--> Feed, with another source --> ... --> over
//
// One goroutine at a time has it.
type Stream struct {
	spec  kv.WatchSpec
	yield func(kv.Batch, error) bool
	link  kv.WatchState // what the consumer was told of the link above last

	mu       sync.Mutex // the goroutine that passes controls on takes it too
	watches  []*Watch   // in the order in which they were asked for
	refused  []int64    // ids that were asked for twice and not yet refused
	complete bool       // nothing more will be asked for
	owed     bool       // the consumer has asked how far it is
}

// NewStream returns the stream of a consumer that asks for spec and takes what comes by yield, until that returns false.
func NewStream(spec kv.WatchSpec, yield func(kv.Batch, error) bool) *Stream {
	s := &Stream{spec: spec, yield: yield, link: kv.WatchSynced, complete: spec.Control == nil}
	for _, one := range spec.Watches {
		s.add(one)
	}
	return s
}

// Feed has a source feed the stream until the source ends or fails, or look does, which is called with each batch before anything is
// made of it. over: there is nothing left to go on with, since the consumer has had enough or was told the end of all it
// asked for.
//
// A consumer that was told of a lost link hears WatchCatchingUp once the source has all its watches, and WatchSynced once it
// has brought what came meanwhile, unless the source speaks for itself.
func (s *Stream) Feed(ctx context.Context, source Source, look func(kv.Batch) error) (over bool, err error) {
	spec, over := s.open()
	if over {
		return true, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var passing sync.WaitGroup
	defer passing.Wait()
	defer cancel()
	back := s.comeback(spec.Watches)
	if !s.complete || back.ask != nil {
		control := make(chan kv.WatchControl, 1)
		if s.owed { // asked of a source that was left before it answered
			control <- kv.WatchControl{Progress: true}
		}
		spec.Control = control
		ask := back.ask
		passing.Go(func() { s.pass(ctx, control, ask) })
	}
	for b, err := range source(ctx, spec) {
		if err == nil {
			err = look(b)
		}
		if err != nil {
			return false, err
		}
		ours, more := back.before(&b)
		if !more {
			return true, nil
		}
		if nothing := s.note(&b); !nothing && !ours && !s.yield(b, nil) {
			return true, nil
		}
		if !back.after(&b) || len(b.Events) == 0 && s.Over() { // whose watch has events goes on
			return true, nil
		}
	}
	return s.Over(), nil
}

// pass hands on what the consumer asks for until ctx ends or there will be no more of it; then it closes out. What comes by ask
// is how long from then to ask how far the source is, until that is closed; nil: never.
func (s *Stream) pass(ctx context.Context, out chan<- kv.WatchControl, ask <-chan time.Duration) {
	from := s.Control()
	var due <-chan time.Time
	for {
		if from == nil && (ask == nil || s.Over()) {
			close(out)
			return
		}
		var c kv.WatchControl
		select {
		case one, ok := <-from:
			if s.Take(one, ok); !ok {
				from = nil
				continue
			}
			c = one
		case in, ok := <-ask:
			if !ok {
				ask, due = nil, nil
				continue
			}
			due = time.After(in)
			continue
		case <-due:
			due, c = nil, kv.WatchControl{Progress: true}
		case <-ctx.Done():
			return
		}
		select {
		case out <- c:
		case <-ctx.Done():
			return
		}
	}
}

// Control is what the consumer asks for while the stream runs, nil if there will be no more of it.
func (s *Stream) Control() <-chan kv.WatchControl {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.complete {
		return nil
	}
	return s.spec.Control
}

// Take keeps track of what the consumer asks for; ok false: nothing more comes.
func (s *Stream) Take(c kv.WatchControl, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !ok:
		s.complete = true
	case c.Add != nil:
		s.add(*c.Add)
	case c.Progress:
		s.owed = true
	default:
		if one := s.find(c.Cancel); one != nil {
			one.ending = true
		}
	}
}

func (s *Stream) add(one kv.Watch) {
	if s.find(one.ID) != nil {
		s.refused = append(s.refused, one.ID)
		return
	}
	s.watches = append(s.watches, &Watch{Watch: one})
}

func (s *Stream) find(id int64) *Watch {
	for _, one := range s.watches {
		if one.ID == id {
			return one
		}
	}
	return nil
}

func (s *Stream) remove(id int64) {
	s.watches = slices.DeleteFunc(s.watches, func(one *Watch) bool { return one.ID == id })
}

// open is what to ask a source for. Watches that the consumer has given up, ids it gave twice, and watches of no key, which no
// node has, are answered here: with or without a source.
func (s *Stream) open() (spec kv.WatchSpec, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	spec.By = s.spec.By
	for _, id := range s.refused {
		if !s.yield(Refusal(id, kv.Errorf(kv.Invalid, "the watch id %d is in use on this stream", id)), nil) {
			return spec, true
		}
	}
	s.refused = nil
	for _, one := range slices.Clone(s.watches) {
		switch {
		case one.ending:
			s.remove(one.ID)
			if !s.yield(kv.Batch{WatchID: one.ID, Canceled: true}, nil) {
				return spec, true
			}
			continue
		case len(one.Key) == 0: // what a guard does not let through comes as one
			s.remove(one.ID)
			if !s.yield(Refusal(one.ID, kv.Errorf(kv.Invalid, "a watch has a key")), nil) {
				return spec, true
			}
			continue
		}
		one.Begin()
		spec.Watches = append(spec.Watches, one.Watch)
	}
	return spec, s.complete && len(s.watches) == 0
}

// Refusal is the answer to a watch that cannot be.
func Refusal(id int64, why *kv.Error) kv.Batch {
	return kv.Batch{WatchID: id, Created: true, Canceled: true, Err: why}
}

// Answer answers what needs no source: watches given up, ids given twice, watches of no key. over is that of Feed.
func (s *Stream) Answer() (over bool) {
	_, over = s.open()
	return over
}

// note keeps track of what a batch brings, so that the next source begins behind it, and takes out what the consumer has had. It
// reports whether that is all of it.
func (s *Stream) note(b *kv.Batch) (nothing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.WatchID == kv.WatchAll {
		return s.noteLink(b.State)
	}
	one := s.find(b.WatchID)
	if one == nil {
		return false
	}
	if b.Canceled {
		if i := slices.Index(s.refused, b.WatchID); i >= 0 {
			s.refused = slices.Delete(s.refused, i, i+1)
		} else {
			s.remove(b.WatchID)
		}
		return false
	}
	heard := b.Created && one.Created
	one.Created = one.Created || b.Created
	return one.Advance(b) || heard
}

// noteLink notes what the consumer is told of the link above, and reports whether it has heard that last, from whomever.
func (s *Stream) noteLink(state kv.WatchState) (nothing bool) {
	switch state {
	case kv.WatchStale, kv.WatchCatchingUp, kv.WatchSynced:
		nothing, s.link = s.link == state, state
	}
	return nothing
}

// Link is what the consumer was told of the link above last; WatchSynced, if nothing.
func (s *Stream) Link() kv.WatchState { return s.link }

// Tell tells the consumer of the link above, unless it has heard that last. False: the consumer has had enough.
func (s *Stream) Tell(h kv.Header, state kv.WatchState) bool {
	return s.noteLink(state) || s.yield(kv.Batch{Header: h, WatchID: kv.WatchAll, State: state}, nil)
}

// Yield hands the consumer a batch that was accounted for by its Watch. False: the consumer has had enough.
func (s *Stream) Yield(b kv.Batch) bool { return s.yield(b, nil) }

// Fail ends the stream with an error.
func (s *Stream) Fail(err error) { s.yield(kv.Batch{}, err) }

// Owed reports whether the consumer has asked how far it is and was not told.
func (s *Stream) Owed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owed
}

// Told says that the consumer was told how far it is. It reports whether that was owed.
func (s *Stream) Told() (owed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	owed, s.owed = s.owed, false
	return owed
}

// Find returns a watch by its id, nil if there is none.
func (s *Stream) Find(id int64) *Watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(id)
}

// Remove takes a watch out that has ended.
func (s *Stream) Remove(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(id)
}

// Watches are those of the stream, in the order in which they were asked for.
func (s *Stream) Watches() []*Watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.watches)
}

// Over reports whether there is nothing left to go on with.
func (s *Stream) Over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.complete && len(s.watches) == 0 && len(s.refused) == 0
}
