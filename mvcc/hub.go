package mvcc

import "sync"

// hub tells streams that there is something for them to read. It hands over no events: a stream reads them from the
// history at its own pace, so a slow one costs no more memory than a fast one and misses nothing.
type hub struct {
	mu       sync.Mutex
	watches  intervals[*watch]
	streams  map[*stream]struct{}
	notified int64 // every change up to this revision has been shown to the watches
}

// notice is what a stream finds when it looks.
type notice struct {
	first    int64 // revision of the first change for it since it last looked, 0 for none
	upTo     int64 // there was nothing else up to here
	replaced bool  // the history is not the one it has followed
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
	h.notified = to
	if h.watches.count == 0 {
		return
	}
	t.from(from+1, to, func(r *record) bool {
		h.watches.each(r.Key, func(w *watch) {
			if wants(&w.Watch, r) {
				w.stream.tell(r.ModRevision)
			}
		})
		return true
	})
}

// tell is called with the hub's mu held.
func (st *stream) tell(rev int64) {
	if st.told.first == 0 {
		st.told.first = rev
		wake(st.wake)
	}
}

// look takes what was told to a stream since it last looked.
func (h *hub) look(st *stream) notice {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := st.told
	n.upTo = h.notified
	st.told = notice{}
	return n
}

// replaced reports whether the history was replaced by another one since st last looked.
func (h *hub) replaced(st *stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return st.told.replaced
}

// add registers a watch and returns the revision after which it will be told of changes.
func (h *hub) add(w *watch) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watches.insert(w.Key, w.End, w)
	return h.notified
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
	return h.notified
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
		st.told.replaced = st.told.replaced || !continues
		st.tell(h.notified + 1)
	}
	h.notified = rev
}

func (h *hub) size() (streams, watches int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(len(h.streams)), int64(h.watches.count)
}
