package apitest

import (
	"context"
	"time"

	"holdfast/kv"
)

// watcher is an open stream, read by a goroutine that waits until each batch is taken: a slow consumer is one whose
// test does not take.
type watcher struct {
	n       *node
	control chan kv.WatchControl
	batches chan kv.Batch
	ended   chan struct{} // closed when the iteration is over; err is set before
	err     error
	cancel  context.CancelFunc
	pending map[int64][]kv.Event // events taken while another watch was asked for
}

// open opens a stream; it ends with the claim.
func (n *node) open(watches ...kv.Watch) *watcher {
	ctx, cancel := context.WithCancel(n.ctx)
	w := &watcher{
		n: n, control: make(chan kv.WatchControl), batches: make(chan kv.Batch), ended: make(chan struct{}),
		cancel: cancel, pending: map[int64][]kv.Event{},
	}
	go func() {
		defer close(w.ended)
		for b, err := range n.b.Watch(ctx, kv.WatchSpec{Watches: watches, Control: w.control}) {
			if err != nil {
				w.err = err
				continue // it must be the last
			}
			select {
			case w.batches <- b:
			case <-ctx.Done():
			}
		}
	}()
	n.Cleanup(func() {
		cancel()
		select {
		case <-w.ended:
		case <-time.After(n.h.patience):
			n.Errorf("the stream did not end within %v of its context", n.h.patience)
		}
	})
	return w
}

// watch opens a stream of one watch, with id 0, and waits until it is confirmed.
func (n *node) watch(spec kv.Watch) *watcher {
	n.Helper()
	w := n.open(spec)
	w.created(spec.ID)
	return w
}

// watchAll is a watch of every key of the claim.
func (n *node) watchAll(from int64) kv.Watch {
	all := n.all()
	return kv.Watch{Key: all.Key, End: all.End, From: from}
}

// next returns the next batch.
func (w *watcher) next() kv.Batch {
	w.n.Helper()
	select {
	case b := <-w.batches:
		return b
	case <-w.ended:
		w.n.Fatalf("the stream ended: %v", w.err)
	case <-time.After(w.n.h.patience):
		w.n.Fatalf("no batch within %v", w.n.h.patience)
	}
	return kv.Batch{}
}

// created waits for the confirmation of a watch.
func (w *watcher) created(id int64) kv.Batch {
	w.n.Helper()
	for {
		b := w.next()
		if b.Created && b.WatchID == id {
			if b.Canceled {
				w.n.Fatalf("watch %d was refused: %v", id, b.Err)
			}
			w.keep(b)
			return b
		}
		w.keep(b)
	}
}

func (w *watcher) keep(b kv.Batch) {
	w.pending[b.WatchID] = append(w.pending[b.WatchID], b.Events...)
}

// events waits for count events of a watch and returns exactly so many.
func (w *watcher) events(id int64, count int) []kv.Event {
	w.n.Helper()
	for len(w.pending[id]) < count {
		b := w.next()
		if b.Canceled {
			w.n.Fatalf("watch %d was cancelled behind %d of %d events: %v", b.WatchID, len(w.pending[id]), count, b.Err)
		}
		w.keep(b)
	}
	out := w.pending[id][:count:count]
	w.pending[id] = w.pending[id][count:]
	return out
}

// ask sends a control message.
func (w *watcher) ask(c kv.WatchControl) {
	w.n.Helper()
	for {
		select {
		case w.control <- c:
			return
		case b := <-w.batches: // the stream may be waiting for us to take
			w.keep(b)
		case <-w.ended:
			w.n.Fatalf("the stream ended: %v", w.err)
		case <-time.After(w.n.h.patience):
			w.n.Fatalf("no control message was taken within %v", w.n.h.patience)
		}
	}
}

// progress asks how far the stream is and waits for the answer.
func (w *watcher) progress() int64 {
	w.n.Helper()
	w.ask(kv.WatchControl{Progress: true})
	for {
		b := w.next()
		if b.WatchID == kv.WatchAll {
			if !b.Progress || len(b.Events) > 0 {
				w.n.Errorf("a batch for all watches is %+v, want progress and nothing else", b)
			}
			return b.Revision
		}
		w.keep(b)
	}
}

// silent fails the test if an event comes: by asking for progress, which comes behind all events there are.
func (w *watcher) silent() {
	w.n.Helper()
	w.progress()
	for id, events := range w.pending {
		if len(events) > 0 {
			w.n.Errorf("watch %d got %d events more:%s", id, len(events), showEvents(events))
		}
	}
}

// canceled waits for the end of a watch and returns why.
func (w *watcher) canceled(id int64) *kv.Error {
	w.n.Helper()
	for {
		b := w.next()
		if b.Canceled && b.WatchID == id {
			return b.Err
		}
		w.keep(b)
	}
}

// wantEnd waits for the end of the stream.
func (w *watcher) wantEnd() {
	w.n.Helper()
	for {
		select {
		case b := <-w.batches:
			w.keep(b)
		case <-w.ended:
			return
		case <-time.After(w.n.h.patience):
			w.n.Fatalf("the stream did not end within %v", w.n.h.patience)
		}
	}
}

// wantEvents compares events with what is expected of them.
func (n *node) wantEvents(got []kv.Event, want ...kv.Event) {
	n.Helper()
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = sameEvent(got[i], want[i])
	}
	if !same {
		n.Errorf("events:%s\nwant:%s", showEvents(got), showEvents(want))
	}
}

// putEvent is the event of a put as a read shows its outcome.
func putEvent(item kv.KeyValue) kv.Event { return kv.Event{KV: item} }

func (n *node) deleteEvent(name string, revision int64) kv.Event {
	return kv.Event{Delete: true, KV: kv.KeyValue{Key: n.key(name), ModRevision: revision}}
}
