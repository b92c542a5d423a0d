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

// Push is Watch for a consumer that does not wait: see kv.WatchPush. It does not go on with the next node: when another has taken the place
// of this one it ends with kv.NoLeader, and who asks again gets the other.
func (p *Pivot) Push(ctx context.Context, spec kv.WatchSpec, to kv.WatchSink) (kv.WatchPush, error) {
	s, err := p.enter(ctx, watches)
	if err != nil {
		return nil, err
	}
	w := &pushed{pivot: p, stand: s, to: to}
	if w.WatchPush, err = relay.Push(ctx, s.Backend, spec, w); err != nil {
		p.leave(s, watches)
		return nil, err
	}
	w.free = context.AfterFunc(s.left, w.Stop)
	return w, nil
}

// pushed is a pushed stream of one node.
type pushed struct {
	kv.WatchPush
	pivot *Pivot
	stand *stand
	to    kv.WatchSink
	free  func() bool // that another node takes the place no longer stops it
}

func (w *pushed) Bring(b kv.Batch) (more bool) {
	return w.pivot.show(w.stand, b.Header) && w.to.Bring(b)
}

func (w *pushed) End(err error) {
	w.free()
	if w.pivot.at.Load() != w.stand {
		err = kv.Errorf(kv.NoLeader, "this node has changed its mode: ask again from where the watch was")
	}
	w.to.End(err)
	w.pivot.leave(w.stand, watches)
}
