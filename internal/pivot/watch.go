package pivot

import (
	"context"
	"errors"
	"iter"

	"holdfast/internal/relay"
	"holdfast/kv"
)

// Watch passes w on, to one node after the other: on each the watches begin where the one before was.
func (p *Pivot) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		w := relay.NewStream(spec, yield)
		for again := true; again; {
			s, err := p.enter(ctx, watches)
			if err != nil {
				w.Fail(err)
				return
			}
			again = p.feed(ctx, w, s)
			p.leave(s, watches)
		}
	}
}

// errMoved says that another node has taken the place of one: what that brings comes again from the next one.
var errMoved = errors.New("the node has left")

// feed runs a stream on one node. again: another has taken its place, and there is something left to watch.
func (p *Pivot) feed(ctx context.Context, w *relay.Stream, s *stand) (again bool) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.left, cancel)()
	over, err := w.Feed(inner, s.Watch, func(b kv.Batch) error {
		if !p.show(s, b.Header) {
			return errMoved
		}
		return nil
	})
	switch {
	case over:
	case ctx.Err() == nil && p.at.Load() != s:
		return !w.Over()
	case err != nil:
		w.Fail(err)
	}
	return false
}
