package relay

import (
	"context"
	"iter"
	"sync"

	"holdfast/kv"
)

// Watcher is what every node is: see api.Backend.
type Watcher interface {
	Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

// Pusher is a node whose watches need nobody that waits for them. Ctx has what is known of who asks, and its end matters to the
// beginning only: Stop ends the stream. The spec has no Control.
type Pusher interface {
	Push(ctx context.Context, w kv.WatchSpec, to kv.WatchSink) (kv.WatchPush, error)
}

// Push begins a pushed stream on a node. For one that is no Pusher a goroutine waits.
func Push(ctx context.Context, node Watcher, spec kv.WatchSpec, to kv.WatchSink) (kv.WatchPush, error) {
	if p, ok := node.(Pusher); ok {
		return p.Push(ctx, spec, to)
	}
	w := &waiting{node: node, spec: spec, to: to, news: make(chan struct{}, 1)}
	w.room.L = &w.mu
	w.ctx, w.stop = context.WithCancel(context.WithoutCancel(ctx))
	return w, nil
}

// asksMax is how many requests to a stream wait for it; who asks for more waits too.
const asksMax = 16

// waiting is a pushed stream with a goroutine that waits, until End.
type waiting struct {
	node Watcher
	spec kv.WatchSpec
	to   kv.WatchSink
	ctx  context.Context
	stop context.CancelFunc
	news chan struct{} // of one slot: look at what follows

	mu     sync.Mutex
	room   sync.Cond // asks got fewer, or the stream is over
	asks   []kv.WatchControl
	closed bool // no more will come
	over   bool
}

func (w *waiting) Start() { go w.run() }

// run is the stream. The sink waits for its end: End is the last that it does.
func (w *waiting) run() {
	control := make(chan kv.WatchControl)
	w.spec.Control = control
	var passing sync.WaitGroup
	passing.Go(func() { w.pass(control) })
	var last error
	for b, err := range w.node.Watch(w.ctx, w.spec) {
		if last = err; err != nil || !w.to.Bring(b) {
			break
		}
	}
	w.stop()
	passing.Wait()
	w.mu.Lock()
	w.over = true
	w.room.Broadcast()
	w.mu.Unlock()
	w.to.End(last)
}

// pass hands on what is asked for, until there will be no more or the stream ends.
func (w *waiting) pass(control chan<- kv.WatchControl) {
	for {
		c, some, more := w.next()
		switch {
		case some:
			select {
			case control <- c:
			case <-w.ctx.Done():
				return
			}
		case !more:
			close(control)
			return
		default:
			select {
			case <-w.news:
			case <-w.ctx.Done():
				return
			}
		}
	}
}

// next takes one of the things that were asked for, if there are some, and tells whether there may be more.
func (w *waiting) next() (c kv.WatchControl, some, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.asks) == 0 {
		return c, false, !w.closed
	}
	c, w.asks = w.asks[0], w.asks[1:]
	w.room.Broadcast()
	return c, true, true
}

func (w *waiting) Ask(c kv.WatchControl) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.asks) >= asksMax && !w.over {
		w.room.Wait()
	}
	w.ask(c)
}

func (w *waiting) Cut(id int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ask(kv.WatchControl{Cancel: id})
}

// ask is called with mu held.
func (w *waiting) ask(c kv.WatchControl) {
	w.asks = append(w.asks, c)
	w.tell()
}

func (w *waiting) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.tell()
}

func (w *waiting) tell() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *waiting) Stop() { w.stop() }
