package mvcc

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"holdfast/kv"
)

// A watch that allows fragments gets the events of one revision in batches of at most so many or so many bytes.
const (
	fragmentLen   = 1024
	fragmentBytes = 1 << 20
)

// Watch streams changes until ctx ends, the consumer stops, or the last watch is gone and no more can be added; then it
// ends without an error. It ends with kv.Stopping when the store is closed, and with another error if the file cannot be
// read. All of it runs in the goroutine of the consumer.
//
// A consumer may take as long as it likes: its stream remembers a revision and reads on from the history, in memory or
// from the file, so nothing is skipped and nothing piles up. It is cancelled with kv.Compacted when the history it
// has not read yet is compacted away and is no longer in memory.
func (s *Store) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		st := &stream{
			s: s, yield: yield, control: spec.Control,
			wake: make(chan struct{}, 1), watches: map[int64]*watch{},
		}
		defer st.close()
		if err := st.run(ctx, spec.Watches); err != nil && !errors.Is(err, errStopped) {
			yield(kv.Batch{}, asError(err))
		}
	}
}

var (
	errStopped  = errors.New("the consumer stopped")
	errReplaced = errors.New("the history was replaced by another one")
)

// watch is one range on a stream.
//
//	behind --caught up with the stream's position--> synced
//
// A synced watch has been sent all that is for it up to the position of the stream, from next on.
type watch struct {
	kv.Watch
	stream *stream
	next   int64
	since  int64 // the stream is told of changes after this revision
	behind bool
	busy   bool // had events since the last progress announcement
	gone   bool // no longer on its stream
	events []kv.Event
}

// stream is a running Watch.
type stream struct {
	s       *Store
	yield   func(kv.Batch, error) bool
	control <-chan kv.WatchControl
	wake    chan struct{} // of one slot: it was told something, its context has ended, or the store is closed
	push    *pushed       // the stream is part of that, which needs no wake; nil: it is not
	hubbed  bool          // the hub has it
	told    notice
	inLine  atomic.Bool // it will be woken when it is its turn

	replaced atomic.Bool // the history is not the one it has followed

	watches map[int64]*watch
	ranges  intervals[*watch]
	behind  int   // watches that are
	pos     int64 // synced watches have everything up to here
	upTo    int64 // changes up to here may be for them, and were told of
	asked   bool  // progress was asked for and is not answered yet
	fresh   bool  // upTo is from after that
	ticker  *time.Ticker

	// Room that a step leaves to the next one.
	recs    []*record
	hits    []hit
	touched []*watch
}

// hit is that a watch is to have a change.
type hit struct {
	w *watch
	i int // of the change
}

// kept is how much room a step leaves to the next.
const kept = 16

func (st *stream) run(ctx context.Context, watches []kv.Watch) error {
	st.enter()
	defer context.AfterFunc(ctx, st.rouse)()
	for _, w := range watches {
		if err := st.add(w); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		if st.s.isClosed() {
			return errClosed()
		}
		idle, err := st.step()
		if err != nil {
			return err
		}
		if st.control == nil && len(st.watches) == 0 {
			return nil
		}
		if err := st.wait(idle); err != nil {
			return err
		}
	}
	return nil
}

// enter has the hub tell the stream of changes from here on.
func (st *stream) enter() {
	st.hubbed = true
	st.pos = st.s.hub.open(st)
	st.upTo = st.pos
}

// rouse has the stream look around. It may be called with the hub's mu held.
func (st *stream) rouse() {
	if st.push != nil {
		st.push.rouse()
		return
	}
	wake(st.wake)
}

// wait takes one request, and waits for something to happen if there is nothing else to do.
func (st *stream) wait(idle bool) error {
	if !idle {
		select {
		case c, ok := <-st.control:
			return st.obey(c, ok)
		default:
			return nil
		}
	}
	var tick <-chan time.Time
	if st.ticker != nil {
		tick = st.ticker.C
	}
	select {
	case <-st.wake:
	case c, ok := <-st.control:
		return st.obey(c, ok)
	case <-tick:
		return st.announce()
	}
	return nil
}

func (st *stream) obey(c kv.WatchControl, ok bool) error {
	switch {
	case !ok:
		st.control = nil
		return nil
	case c.Add != nil:
		return st.add(*c.Add)
	case c.Progress:
		st.asked, st.fresh = true, false
		return nil
	}
	if w := st.watches[c.Cancel]; w != nil {
		return st.cancel(w, nil)
	}
	return nil
}

func (st *stream) add(spec kv.Watch) error {
	refused := CheckWatch(spec)
	if refused == nil && st.watches[spec.ID] != nil {
		refused = kv.Errorf(kv.Invalid, "the watch id %d is in use on this stream", spec.ID)
	}
	if refused != nil {
		h := st.s.header()
		return st.send(kv.Batch{Header: h, WatchID: spec.ID, Created: true, Canceled: true, Err: refused})
	}
	w := &watch{Watch: spec, stream: st, next: spec.From}
	st.watches[w.ID] = w
	st.ranges.insert(w.Key, w.End, w)
	w.since = st.s.hub.add(w)
	if w.next == 0 {
		w.next = w.since + 1
	}
	if w.behind = w.next <= w.since; w.behind {
		st.behind++
	}
	switch {
	case !w.Progress:
	case st.push != nil:
		st.push.announces()
	case st.ticker == nil:
		st.ticker = time.NewTicker(st.s.opts.ProgressEvery)
	}
	compact := st.s.CompactRevision()
	if err := st.batch(w, w.since, kv.Batch{Created: true}); err != nil {
		return err
	}
	if w.behind && w.next < compact {
		return st.cancel(w, compacted(w.next, compact))
	}
	return nil
}

// cancel ends a watch, with a reason unless it was asked to.
func (st *stream) cancel(w *watch, why *kv.Error) error {
	st.drop(w)
	return st.batch(w, st.s.Revision(), kv.Batch{Canceled: true, Err: why})
}

func (st *stream) drop(w *watch) {
	st.s.hub.remove(w)
	st.ranges.remove(w.Key, w.End, w)
	delete(st.watches, w.ID)
	w.gone = true
	if w.behind {
		st.behind--
	}
}

func (st *stream) close() {
	for _, w := range st.watches {
		st.drop(w)
	}
	st.s.hub.close(st)
	if st.ticker != nil {
		st.ticker.Stop()
	}
}

// step sends a bounded amount, and reports whether it has sent all there is.
func (st *stream) step() (idle bool, err error) {
	if st.replaced.Load() {
		return false, st.cancelAll()
	}
	if st.pos == st.upTo {
		n := st.s.hub.look(st)
		// Never back: it may have been told of the first change of a revision, have read all of that, and be told of the second.
		st.upTo, st.fresh = max(st.upTo, n.last), true
		nothing := n.last // up to here
		if n.first > 0 {
			nothing = n.first - 1
		}
		st.pos = max(st.pos, nothing)
		// With more watches it may not have been told yet that another one wants the same change.
		if n.only != nil && len(st.watches) == 1 && st.pos < n.only.revision && n.by.takes(n.only) && !st.replaced.Load() {
			err = st.deliverOnly(n)
		}
	}
	if st.pos < st.upTo && err == nil {
		err = st.advance()
	}
	if st.behind > 0 && err == nil {
		err = st.catchUp()
	}
	if errors.Is(err, errReplaced) {
		return false, nil
	}
	if st.pos < st.upTo || st.behind > 0 || st.asked && !st.fresh {
		return false, err
	}
	if st.asked {
		st.asked = false
		h := st.s.header()
		h.Revision = st.pos
		err = st.send(kv.Batch{Header: h, WatchID: kv.WatchAll, Progress: true})
	}
	return true, err
}

// takes reports whether a watch gets a change as it is.
func (w *watch) takes(only *lone) bool {
	return !w.gone && !w.behind && !w.PrevKV && w.next <= only.revision
}

// deliverOnly sends a watch the one change that there is for this stream up to upTo, which moves the position there.
func (st *stream) deliverOnly(n news) error {
	n.by.busy = true
	st.pos = st.upTo
	return st.batch(n.by, st.upTo, kv.Batch{Events: n.only.events})
}

// advance moves the position, and the synced watches with it.
func (st *stream) advance() error {
	recs, end, err := st.s.history(st.recs, st.pos+1, st.upTo)
	defer func() { st.recs = emptied(recs) }()
	if errors.Is(err, errPassed) {
		return st.passed()
	}
	if err != nil {
		return err
	}
	if err := st.deliver(recs, end, false); err != nil {
		return err
	}
	st.pos = end
	return nil
}

// catchUp brings the watches that are behind nearer to the position.
func (st *stream) catchUp() error {
	from := st.pos + 1
	for _, w := range st.watches {
		if w.behind {
			from = min(from, w.next)
		}
	}
	if compact := st.s.CompactRevision(); from < compact {
		return st.passed()
	}
	if from > st.pos {
		st.settle(st.pos)
		return nil
	}
	recs, end, err := st.s.history(st.recs, from, st.pos)
	defer func() { st.recs = emptied(recs) }()
	if errors.Is(err, errPassed) {
		return st.passed()
	}
	if err != nil {
		return err
	}
	if err := st.deliver(recs, end, true); err != nil {
		return err
	}
	st.settle(end)
	return nil
}

// settle notes that the watches behind have everything up to end. One stays behind until the position covers what the
// stream was not told of because it came before the watch.
func (st *stream) settle(end int64) {
	for _, w := range st.watches {
		if !w.behind {
			continue
		}
		w.next = max(w.next, end+1)
		if w.next > st.pos && st.pos >= w.since {
			w.behind = false
			st.behind--
		}
	}
}

// passed cancels the watches that a compaction has overtaken: those behind that need what it gave up, and those for
// which there may have been something in what the stream was about to read.
func (st *stream) passed() error {
	compact := st.s.CompactRevision()
	for _, w := range st.sorted() {
		next := w.next
		if !w.behind {
			next = max(next, st.pos+1)
		}
		if next < compact && (w.behind || next <= st.upTo) {
			if err := st.cancel(w, compacted(next, compact)); err != nil {
				return err
			}
		}
	}
	st.pos = min(max(st.pos, compact-1), st.upTo)
	return nil
}

// cancelAll ends all watches because the store holds another history now.
func (st *stream) cancelAll() error {
	from := st.s.hub.begin(st)
	st.pos, st.upTo = from, from
	for _, w := range st.sorted() {
		e := kv.Errorf(kv.Compacted, "the store was replaced by another history, epoch %v: read again from the start", st.s.Epoch())
		e.Revision = st.s.CompactRevision()
		if err := st.cancel(w, e); err != nil {
			return err
		}
	}
	return nil
}

func (st *stream) sorted() []*watch {
	ws := slices.Collect(maps.Values(st.watches))
	slices.SortFunc(ws, func(a, b *watch) int { return cmp.Compare(a.ID, b.ID) })
	return ws
}

// deliver sends each watch its share of the changes, which are all there are up to revision end.
func (st *stream) deliver(recs []*record, end int64, behind bool) error {
	st.hits, st.touched = emptied(st.hits), emptied(st.touched)
	var replaced []int // changes whose former value is wanted
	for i, r := range recs {
		prev := false
		st.ranges.each(r.Key, func(w *watch) {
			if w.behind == behind && r.ModRevision >= w.next && wants(&w.Watch, r) {
				st.hits = append(st.hits, hit{w, i})
				prev = prev || w.PrevKV
			}
		})
		if prev {
			replaced = append(replaced, i)
		}
	}
	prev, err := st.s.previous(recs, replaced)
	if err != nil {
		return err
	}
	if st.replaced.Load() {
		return errReplaced // and what was read may be of the other one
	}
	for _, h := range st.hits {
		if len(h.w.events) == 0 {
			st.touched = append(st.touched, h.w)
		}
		r := recs[h.i]
		e := kv.Event{Delete: r.deleted, KV: r.KeyValue}
		if h.w.PrevKV {
			e.Prev = prev[h.i]
		}
		h.w.events = append(h.w.events, e)
	}
	for _, w := range st.touched {
		if err := st.sendEvents(w, end); err != nil {
			return err
		}
	}
	return nil
}

// emptied is a list to use again, which keeps neither what was in it nor much room.
func emptied[T any](list []T) []T {
	if cap(list) > kept {
		return nil
	}
	clear(list)
	return list[:0]
}

// sendEvents sends the events of a watch, in fragments if it allows them.
func (st *stream) sendEvents(w *watch, end int64) error {
	events := w.events
	w.events, w.busy = nil, true
	for w.Fragment {
		n := fragment(events)
		if n == len(events) {
			break
		}
		rev := events[n-1].KV.ModRevision
		b := kv.Batch{Events: events[:n:n], Fragment: rev == events[n].KV.ModRevision}
		if err := st.batch(w, rev, b); err != nil {
			return err
		}
		events = events[n:]
	}
	return st.batch(w, end, kv.Batch{Events: events})
}

// fragment returns how many of the events go into one batch.
func fragment(events []kv.Event) int {
	size := 0
	for i, e := range events {
		if size += len(e.KV.Key) + len(e.KV.Value); i > 0 && (i == fragmentLen || size > fragmentBytes) {
			return i
		}
	}
	return len(events)
}

// announce tells idle watches that ask for it how far they are.
func (st *stream) announce() error {
	if idle, err := st.step(); !idle || err != nil {
		return err
	}
	for _, w := range st.sorted() {
		if w.Progress && !w.busy {
			if err := st.batch(w, st.pos, kv.Batch{Progress: true}); err != nil {
				return err
			}
		}
		w.busy = false
	}
	return nil
}

func (st *stream) batch(w *watch, rev int64, b kv.Batch) error {
	b.Epoch, b.Revision, b.WatchID = st.s.Epoch(), rev, w.ID
	return st.send(b)
}

func (st *stream) send(b kv.Batch) error {
	if !st.yield(b, nil) {
		return errStopped
	}
	return nil
}
