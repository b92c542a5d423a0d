package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

// Only streams with a watch on a key are woken for it.
func TestOnlyInterestedStreamsAreWoken(t *testing.T) {
	g := newRig(t, Options{})
	var streams []*pump
	for i := range 100 {
		p := newPump(t, g.s)
		key := fmt.Appendf(nil, "site/%02d/", i)
		must(t, p.add(kv.Watch{ID: 1, Key: key, End: kv.PrefixEnd(key)}))
		streams = append(streams, p)
	}
	g.put("site/42/temp", "1")
	for i, st := range streams {
		if woken := len(st.wake) > 0; woken != (i == 42) {
			t.Errorf("stream %d woken: %v", i, woken)
		}
	}
}

// A consumer that stands still costs no memory for what it misses.
func TestSlowWatchHoldsNoMemory(t *testing.T) {
	held := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // the first one leaves what pools hold to the second
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := held() // by whatever ran in this process earlier
	g := newRig(t, Options{FlushBytes: 256 << 10, HardBytes: 512 << 10, RingBytes: 64 << 10})
	v := view(t, g.s, watchAll(1))
	value := strings.Repeat("v", 8<<10)
	const n = 4000 // 32 MB
	for i := range n {
		g.put(fmt.Sprint("key", i%100), value)
	}
	must(t, g.s.Flush())
	if more := held() - before; more > 8<<20 {
		t.Errorf("%d bytes are held for a stream that has read nothing", more)
	}
	if got := g.s.Stats().TailBytes; got > 512<<10 {
		t.Errorf("the tail holds %d bytes", got)
	}
	for i := range n {
		if e := v.events1(); e.KV.ModRevision != int64(i+2) {
			t.Fatalf("event %d is of revision %d", i, e.KV.ModRevision)
		}
	}
}

// events1 reads the events of a stream one at a time.
func (v *viewer) events1() kv.Event {
	v.t.Helper()
	if len(v.held) == 0 {
		v.held = v.batch().Events
	}
	e := v.held[0]
	v.held = v.held[1:]
	return e
}

// Many streams, writers of everything and a store that flushes and sweeps all the time: each stream gets exactly the
// events of its range.
func TestManyStreamsBesideEverything(t *testing.T) {
	const puts = 3000
	g := newRig(t, Options{FlushBytes: 8 << 10, HardBytes: 32 << 10, FlushEvery: time.Millisecond, RingBytes: 4 << 10})
	runStore(t, g.s)
	type result struct {
		id     int
		events []kv.Event
		err    error
	}
	results := make(chan result)
	const streams = 70 // more than are woken at once
	ready := make(chan struct{}, streams)
	for id := range streams {
		go func() {
			r := result{id: id}
			prefix := []byte{byte('a' + id%5)}
			w := kv.Watch{ID: 1, Key: prefix, End: kv.PrefixEnd(prefix), From: 2, PrevKV: id%2 == 0}
			for b, err := range g.s.Watch(t.Context(), kv.WatchSpec{Watches: []kv.Watch{w}}) {
				switch {
				case err != nil:
					r.err = err
				case b.Canceled:
					r.err = b.Err
				case b.Created:
					ready <- struct{}{}
				}
				r.events = append(r.events, b.Events...)
				if r.err != nil || len(r.events) >= puts/5 {
					break
				}
				if id%7 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			results <- r
		}()
	}
	for range streams {
		<-ready
	}
	for i := range puts {
		g.put(fmt.Sprintf("%c%d", 'a'+i%5, i%3), fmt.Sprint(i))
	}
	for range streams {
		r := <-results
		if r.err != nil {
			t.Errorf("stream %d: %v", r.id, r.err)
			continue
		}
		for i, e := range r.events {
			n := i*5 + r.id%5
			if e.KV.ModRevision != int64(n+2) || string(e.KV.Value) != fmt.Sprint(n) {
				t.Errorf("stream %d: event %d is %+v", r.id, i, e)
				break
			}
			if r.id%2 == 0 && n >= 15 && (e.Prev == nil || string(e.Prev.Value) != fmt.Sprint(n-15)) {
				t.Errorf("stream %d: event %d has the former value %+v", r.id, i, e.Prev)
				break
			}
		}
	}
}

// What PrevKV shows depends on the history and the compact revision, not on what happens to be in memory.
func TestPrevKVStopsAtTheCompactRevision(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	rev := g.put("a", "2")
	g.compact(rev)
	g.put("a", "3")
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("a"), From: rev, PrevKV: true})
	if got := showEvents(v.events(2)); got != "a=2@3 a=3@4(2)" {
		t.Errorf("got %s", got)
	}
}

// A tail whose first block begins in the middle of a revision does not have all of it.
func TestTailKnowsWhereItBegins(t *testing.T) {
	tl := newTail(1)
	tl.reset(1)
	for rev := range int64(6) {
		var recs []*record
		for sub := range uint32(blockLen/2 + 7) {
			r := &record{sub: sub}
			r.Key, r.ModRevision = fmt.Appendf(nil, "%d", sub), rev+2
			recs = append(recs, r)
		}
		tl.append(recs)
	}
	for saved := range int64(7) {
		tl.flushed(saved + 1)
		start := tl.blocks.Load().start
		for from := range int64(8) {
			n := 0
			if !tl.from(from, 7, func(*record) bool { n++; return true }) {
				if from > start {
					t.Errorf("saved to %d: the tail starts after %d and has nothing from %d", saved+1, start, from)
				}
				continue
			}
			if want := int(max(0, 8-from)) * (blockLen/2 + 7); n != want {
				t.Errorf("saved to %d: got %d changes from revision %d, want %d", saved+1, n, from, want)
			}
		}
		if start > saved+1 {
			t.Errorf("the tail gave up revision %d, which is not in the file", start)
		}
	}
	if tl.blocks.Load().start < 6 {
		t.Errorf("the tail kept everything from %d on", tl.blocks.Load().start)
	}
}

func TestWatchAcrossARestore(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 1}})
	other := newRig(t, Options{})
	other.do(kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 1}})
	stranger := newRig(t, Options{})
	stranger.do(kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 2}})
	for i := range 50 {
		for _, r := range []*rig{g, other, stranger} {
			r.put(fmt.Sprint("key", i%3), fmt.Sprint(i))
		}
	}
	v := view(t, g.s, watchAll(1), kv.Watch{ID: 2, Key: []byte("key1"), From: 10})
	for range 2 {
		other.put("key1", "newer")
	}
	if events, _ := v.progress(); len(events) == 0 {
		t.Error("nothing was replayed")
	}
	must(t, g.s.Restore(dump(t, other.s), nil))
	if rev := g.s.Revision(); rev != other.s.Revision() {
		t.Fatalf("restored to %d, want %d", rev, other.s.Revision())
	}
	got := map[int64]string{}
	for len(got) < 2 {
		b := v.batch()
		got[b.WatchID] = showEvents(b.Events)
	}
	if want := map[int64]string{1: "key1=newer@52 key1=newer@53", 2: "key1=newer@52 key1=newer@53"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	must(t, g.s.Restore(dump(t, stranger.s), nil))
	for range 2 {
		if b := v.batch(); !b.Canceled || codeOf(b.Err) != kv.Compacted || b.Epoch.Cluster != 2 {
			t.Errorf("another history: got %+v", b)
		}
	}
}

func dump(t testing.TB, s *Store) *bytes.Reader {
	t.Helper()
	sn, err := s.Snapshot()
	must(t, err)
	var buf bytes.Buffer
	must(t, errors.Join(sn.WriteTo(&buf, nil), sn.Close()))
	return bytes.NewReader(buf.Bytes())
}

// pump is a stream whose steps a test takes one by one.
type pump struct {
	*stream
	batches []kv.Batch
}

func newPump(t *testing.T, s *Store) *pump {
	p := &pump{}
	p.stream = &stream{s: s, wake: make(chan struct{}, 1), watches: map[int64]*watch{}, yield: func(b kv.Batch, _ error) bool {
		p.batches = append(p.batches, b)
		return true
	}}
	p.pos = s.hub.open(p.stream)
	p.upTo = p.pos
	t.Cleanup(p.close)
	return p
}

// drain steps until there is nothing more to send.
func (p *pump) drain(t *testing.T) {
	t.Helper()
	for range 1000 {
		idle, err := p.step()
		must(t, err)
		if idle {
			return
		}
	}
	t.Fatal("the stream never comes to rest")
}

func (p *pump) revisions(id int64) (revs []int64) {
	for _, b := range p.batches {
		for _, e := range b.Events {
			if b.WatchID == id {
				revs = append(revs, e.KV.ModRevision)
			}
		}
	}
	return revs
}

// A stream is told nothing of changes made before a watch was added; that watch has to look for them itself, wherever
// the stream is at that moment.
func TestWatchAddedInTheMiddleOfTheStreamMissesNothing(t *testing.T) {
	t.Run("at rest", func(t *testing.T) {
		g := newRig(t, Options{})
		p := newPump(t, g.s)
		must(t, p.add(kv.Watch{ID: 1, Key: []byte("quiet")}))
		p.drain(t)
		for i := range 10 {
			g.put("a", fmt.Sprint(i))
		}
		must(t, p.add(kv.Watch{ID: 2, Key: []byte("a"), From: 5}))
		p.drain(t)
		if got := p.revisions(2); !slices.Equal(got, []int64{5, 6, 7, 8, 9, 10, 11}) {
			t.Errorf("got %v", got)
		}
	})
	t.Run("reading", func(t *testing.T) {
		g := newRig(t, Options{})
		p := newPump(t, g.s)
		must(t, p.add(kv.Watch{ID: 1, Key: []byte("a")}))
		const puts = chunkLen + 100
		for i := range puts {
			g.put("a", fmt.Sprint(i))
		}
		if idle, err := p.step(); idle || err != nil {
			t.Fatalf("the first step sent everything: %v", err)
		}
		for range 3 {
			g.put("b", "1")
		}
		must(t, p.add(kv.Watch{ID: 2, Key: []byte("b"), From: puts}))
		p.drain(t)
		if got := p.revisions(2); !slices.Equal(got, []int64{puts + 2, puts + 3, puts + 4}) {
			t.Errorf("got %v", got)
		}
		if got := len(p.revisions(1)); got != puts {
			t.Errorf("the other watch got %d events", got)
		}
	})
}

// The answer to a request for progress is no older than the request.
func TestProgressIsNotOlderThanItsRequest(t *testing.T) {
	g := newRig(t, Options{})
	p := newPump(t, g.s)
	must(t, p.add(kv.Watch{ID: 1, Key: []byte("a")}))
	for i := range chunkLen + 100 {
		g.put("a", fmt.Sprint(i))
	}
	if idle, err := p.step(); idle || err != nil {
		t.Fatalf("the first step sent everything: %v", err)
	}
	rev := g.put("other", "1")
	must(t, p.obey(kv.WatchControl{Progress: true}, true))
	p.drain(t)
	if b := p.batches[len(p.batches)-1]; !b.Progress || b.Revision != rev {
		t.Errorf("got %+v, want progress at %d", b, rev)
	}
}

// What a stream finds when it looks does not take the place of what it has to know first.
func TestWatchesEndWhenTheHistoryIsReplacedBehindALook(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	p := newPump(t, g.s)
	must(t, p.add(kv.Watch{ID: 1, Key: []byte("a")}))
	g.s.hub.reset(g.s.Revision(), false)
	g.s.hub.look(p.stream)
	p.drain(t)
	if last := p.batches[len(p.batches)-1]; !last.Canceled || kv.CodeOf(last.Err) != kv.Compacted {
		t.Errorf("got %+v, want the watch ended", last)
	}
}

// A stream may look while it is being told of a revision: before the second change of that it has read the whole of it.
func TestAStreamThatLooksWhileItIsToldSendsARevisionOnce(t *testing.T) {
	g := newRig(t, Options{})
	p := newPump(t, g.s)
	must(t, p.add(kv.Watch{ID: 1, Key: []byte("a"), End: []byte("c")}))
	before := g.s.Revision()
	g.do(kv.Txn{Then: []kv.Op{put("a", "1"), put("b", "1")}})
	rev := g.s.Revision()
	g.s.hub.notified.Store(before) // as long as not all are told
	p.drain(t)
	p.drain(t)
	p.tell(rev, rev, nil, nil)
	p.drain(t)
	g.s.hub.notified.Store(rev)
	p.drain(t)
	if got := p.revisions(1); !slices.Equal(got, []int64{rev, rev}) {
		t.Errorf("got %v, want both changes of %d once", got, rev)
	}
}

// A change that a stream is handed reaches the same watches, at the same position, as one that it reads.
func TestAChangeThatIsHandedOverIsLikeOneThatIsRead(t *testing.T) {
	a := kv.Watch{ID: 1, Key: []byte("a")}
	all := kv.Watch{ID: 2, Key: []byte("a"), End: []byte("z")}
	first := kv.Txn{Then: []kv.Op{put("a", "1"), put("q", "1")}} // of which a watch of a wants one only
	for name, c := range map[string]struct {
		watches []kv.Watch
		ops     []kv.Op
		cancel  bool // of watch 1, once the stream was told
		handed  bool
		want    [2][]int64 // revisions for watches 1 and 2
	}{
		"one":                       {watches: []kv.Watch{a}, ops: []kv.Op{put("a", "1")}, handed: true, want: [2][]int64{{2}}},
		"and another watch's":       {watches: []kv.Watch{a, all}, ops: []kv.Op{put("b", "1")}, handed: true, want: [2][]int64{1: {2}}},
		"two of one watch":          {watches: []kv.Watch{a}, ops: []kv.Op{put("a", "1"), put("a", "2")}, want: [2][]int64{{2, 3}}},
		"one for two watches":       {watches: []kv.Watch{a, all}, ops: []kv.Op{put("a", "1")}, want: [2][]int64{{2}, {2}}},
		"one of a transaction":      {watches: []kv.Watch{a}, ops: []kv.Op{first}, want: [2][]int64{{2}}},
		"after a transaction":       {watches: []kv.Watch{{ID: 1, Key: []byte("b")}}, ops: []kv.Op{first, put("b", "1")}, handed: true, want: [2][]int64{{3}}},
		"before a transaction":      {watches: []kv.Watch{{ID: 1, Key: []byte("b")}}, ops: []kv.Op{put("b", "1"), first}, handed: true, want: [2][]int64{{2}}},
		"with what was there":       {watches: []kv.Watch{{ID: 1, Key: []byte("a"), PrevKV: true}}, ops: []kv.Op{put("a", "1")}, handed: true, want: [2][]int64{{2}}},
		"before a watch begins":     {watches: []kv.Watch{{ID: 1, Key: []byte("a"), From: 4}}, ops: []kv.Op{put("a", "1")}, handed: true},
		"to a watch that has ended": {watches: []kv.Watch{a}, ops: []kv.Op{put("a", "1")}, cancel: true, handed: true},
		"not what is not wanted":    {watches: []kv.Watch{{ID: 1, Key: []byte("a"), NoPuts: true}}, ops: []kv.Op{put("a", "1")}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, Options{})
			p := newPump(t, g.s)
			for _, w := range c.watches {
				must(t, p.add(w))
			}
			var batch []Entry // so that the hub sees all of it at once
			for _, op := range c.ops {
				g.index++
				batch = append(batch, Entry{Index: g.index, Command: kv.Command{Ops: []kv.Op{op}}})
			}
			_, err := g.s.Apply(batch)
			must(t, err)
			if handed := p.told.only != nil; handed != c.handed {
				t.Errorf("it was handed the change: %v", handed)
			}
			if c.cancel {
				must(t, p.cancel(p.watches[1], nil))
			}
			p.drain(t)
			for i, want := range c.want {
				if got := p.revisions(int64(i + 1)); !slices.Equal(got, want) {
					t.Errorf("watch %d: got %v, want %v", i+1, got, want)
				}
			}
			if p.pos != g.s.Revision() {
				t.Errorf("the stream is at %d, the store at %d", p.pos, g.s.Revision())
			}
		})
	}
}

// A stream may look when it was told of a change for one of its watches and not yet for another.
func TestAStreamThatLooksWhileItIsToldForgetsNoWatch(t *testing.T) {
	g := newRig(t, Options{})
	p := newPump(t, g.s)
	must(t, p.add(kv.Watch{ID: 1, Key: []byte("a")}))
	must(t, p.add(kv.Watch{ID: 2, Key: []byte("a")}))
	before := g.s.Revision()
	rev := g.put("a", "1")
	page, err := g.s.Read(kv.Query{Ops: []kv.Op{get("a")}})
	must(t, err)
	only := &lone{rev, []kv.Event{{KV: page.Ops[0].KVs[0]}}}
	p.told.news = news{}
	g.s.hub.notified.Store(before) // as long as not all are told
	for id := range int64(2) {
		p.tell(rev, rev, only, p.watches[id+1])
		p.drain(t)
	}
	g.s.hub.notified.Store(rev)
	p.drain(t)
	for id := range int64(2) {
		if got := p.revisions(id + 1); !slices.Equal(got, []int64{rev}) {
			t.Errorf("watch %d: got %v, want %d once", id+1, got, rev)
		}
	}
}
