package mvcc

import (
	"sync"
	"sync/atomic"

	"holdfast/kv"
)

// hub tells streams that there is something for them to read. It hands over one event at most: a stream reads the others from
// the history at its own pace, so a slow one costs hardly more memory than a fast one and misses nothing.
type hub struct {
	notified atomic.Int64 // every change up to this revision has been shown to the watches

	mu      sync.Mutex // held while changes are shown, and while watches and streams come and go
	watches intervals[*watch]
	streams map[*stream]struct{}
	turns   turns
}

// notice is what a stream was told since it last looked. It has a lock of its own: a thousand streams that one change
// woke would else stand in line for the hub's, which is held until the last of them is told.
type notice struct {
	mu sync.Mutex
	news
}

type news struct {
	first int64 // revision of the first change for it, 0 for none
	last  int64 // and of the newest

	only *lone  // the change, if it was told of one only and that makes a whole revision
	by   *watch // for which that is
}

// lone is a change that is all of its revision. Whoever has nothing else to read takes the event from here, and need not look
// into the history; a thousand streams share it.
type lone struct {
	revision int64
	events   []kv.Event // that one, without the former value; nobody changes it
}

func newHub() *hub { return &hub{streams: map[*stream]struct{}{}} }

// notify shows the changes after from, up to and including to, which readers see already. It blocks on nobody: a
// stream that was told before is told nothing more until it has looked.
func (h *hub) notify(t *tail, from, to int64) {
	if to == from {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.notified.Store(to) // last: who sees it has been told
	if h.watches.count == 0 {
		return
	}
	var held *record // the next one says whether it is the last of its revision
	first := true    // held is the first of its revision
	t.from(from+1, to, func(r *record) bool {
		if held != nil {
			last := r.ModRevision != held.ModRevision
			h.show(held, first && last)
			first = last
		}
		held = r
		return true
	})
	if held != nil {
		h.show(held, first)
	}
	h.wakeTold()
}

// show tells the streams of a change whose watches want it. It is called with mu held.
func (h *hub) show(r *record, whole bool) {
	var only *lone
	h.watches.each(r.Key, func(w *watch) {
		switch {
		case !wants(&w.Watch, r):
			return
		case whole && only == nil:
			only = &lone{r.ModRevision, []kv.Event{{Delete: r.deleted, KV: r.KeyValue}}}
		}
		if w.stream.tell(r.ModRevision, r.ModRevision, only, w) {
			h.turns.add(w.stream)
		}
	})
}

// tell is called with the hub's mu held, and reports whether the stream is to be woken. Only is nil if what it is told of is more than one change.
func (st *stream) tell(first, last int64, only *lone, by *watch) (fresh bool) {
	st.told.mu.Lock()
	defer st.told.mu.Unlock()
	fresh = st.told.first == 0
	if fresh {
		st.told.first, st.told.only, st.told.by = first, only, by
	} else {
		st.told.only, st.told.by = nil, nil
	}
	st.told.last = last
	return fresh
}

// look takes what a stream was told since it last looked: there is nothing for it before first, and all there is up to last
// it was told of.
func (h *hub) look(st *stream) (n news) {
	upTo := h.notified.Load() // before the rest: what is up to here was told earlier
	st.told.mu.Lock()
	defer st.told.mu.Unlock()
	n, st.told.news = st.told.news, news{}
	n.last = max(n.last, upTo)
	return n
}

// begin is for a stream whose history was replaced: it follows the new one from the revision that is returned.
func (h *hub) begin(st *stream) (from int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st.replaced.Store(false)
	st.told.mu.Lock()
	defer st.told.mu.Unlock()
	st.told.news = news{}
	return h.notified.Load()
}

// add registers a watch and returns the revision after which it will be told of changes.
func (h *hub) add(w *watch) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watches.insert(w.Key, w.End, w)
	return h.notified.Load()
}

func (h *hub) remove(w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watches.remove(w.Key, w.End, w)
}

func (h *hub) open(st *stream) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[st] = struct{}{}
	return h.notified.Load()
}

func (h *hub) close(st *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, st)
}

// reset is for a history that was loaded as a whole. If it continues the one that was there, streams read on in it from
// where they were, else they are told that it is another.
func (h *hub) reset(rev int64, continues bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for st := range h.streams {
		if !continues {
			st.replaced.Store(true)
		}
		st.tell(h.notified.Load()+1, rev, nil, nil)
		st.rouse()
	}
	h.notified.Store(rev)
}

func (h *hub) size() (streams, watches int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(len(h.streams)), int64(h.watches.count)
}
