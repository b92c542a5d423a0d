package mvcc

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

// viewer reads a stream step by step.
type viewer struct {
	t       *testing.T
	control chan kv.WatchControl
	next    func() (kv.Batch, error, bool)
	stop    func()
	cancel  context.CancelFunc
	held    []kv.Event
}

// view opens a stream and reads the answers to its first watches.
func view(t *testing.T, s *Store, watches ...kv.Watch) *viewer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	v := &viewer{t: t, control: make(chan kv.WatchControl, 16), cancel: cancel}
	v.next, v.stop = iter.Pull2(watching(ctx, t, s, kv.WatchSpec{Watches: watches, Control: v.control}))
	t.Cleanup(func() { cancel(); v.stop() })
	for _, w := range watches {
		if b := v.batch(); !b.Created || b.WatchID != w.ID || b.Canceled {
			t.Fatalf("got %+v, want watch %d created", b, w.ID)
		}
	}
	return v
}

func (v *viewer) batch() kv.Batch {
	v.t.Helper()
	b, err, ok := v.next()
	if err != nil || !ok {
		v.t.Fatalf("the stream ended: %v", err)
	}
	return b
}

// events reads until n events have come.
func (v *viewer) events(n int) (events []kv.Event) {
	v.t.Helper()
	for len(events) < n {
		b := v.batch()
		if len(b.Events) == 0 {
			v.t.Fatalf("got %+v, want %d more events", b, n-len(events))
		}
		events = append(events, b.Events...)
	}
	if len(events) > n {
		v.t.Fatalf("got %d events, want %d", len(events), n)
	}
	return events
}

// progress asks for progress and reads everything up to the answer.
func (v *viewer) progress() (events []kv.Event, rev int64) {
	v.t.Helper()
	v.control <- kv.WatchControl{Progress: true}
	for {
		b := v.batch()
		if b.Progress {
			return events, b.Revision
		}
		events = append(events, b.Events...)
	}
}

func watchAll(id int64) kv.Watch { return kv.Watch{ID: id, Key: []byte{0}, End: kv.FromKey()} }

func showEvents(es []kv.Event) string {
	var parts []string
	for _, e := range es {
		s := fmt.Sprintf("%s=%s@%d", e.KV.Key, e.KV.Value, e.KV.ModRevision)
		if e.Delete {
			s = fmt.Sprintf("-%s@%d", e.KV.Key, e.KV.ModRevision)
		}
		if e.Prev != nil {
			s += fmt.Sprintf("(%s)", e.Prev.Value)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

func TestWatchSendsChangesAsTheyAreMade(t *testing.T) {
	g := newRig(t, Options{})
	g.put("zero", "0")
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("a"), End: []byte("c"), PrevKV: true}, kv.Watch{ID: 2, Key: []byte("b")})
	g.put("a", "1")
	g.put("z", "1")
	g.do(kv.Txn{Then: []kv.Op{put("a", "2"), put("b", "1"), del("zero", "")}})
	g.do(del("a", "c"))
	got := map[int64][]kv.Event{}
	for len(got[1]) < 5 || len(got[2]) < 2 {
		b := v.batch()
		if b.Revision < b.Events[len(b.Events)-1].KV.ModRevision {
			t.Errorf("a batch at revision %d holds %s", b.Revision, showEvents(b.Events))
		}
		got[b.WatchID] = append(got[b.WatchID], b.Events...)
	}
	if s := showEvents(got[1]); s != "a=1@3 a=2@5(1) b=1@5 -a@6(2) -b@6(1)" {
		t.Errorf("watch 1: got %s", s)
	}
	if s := showEvents(got[2]); s != "b=1@5 -b@6" {
		t.Errorf("watch 2: got %s", s)
	}
	if e := got[1]; !e[0].IsCreate() || e[1].IsCreate() {
		t.Error("the first put makes the key, the second does not")
	}
}

// Whatever happens to the records, a stream sees each event once and in order.
func TestWatchAcrossFlushSweepAndSlowness(t *testing.T) {
	g := newRig(t, Options{RingBytes: 1})
	v := view(t, g.s, watchAll(1))
	var want []string
	for i := range 600 {
		key := fmt.Sprint("key", i%7)
		want = append(want, fmt.Sprintf("%s=%d@%d", key, i, g.put(key, fmt.Sprint(i))))
		switch {
		case i%50 == 20:
			must(t, g.s.Flush())
		case i%50 == 40 && i < 300:
			if got := showEvents(v.events(len(want))); got != strings.Join(want, " ") {
				t.Fatalf("got  %s\nwant %s", got, want)
			}
			want = nil
			g.compact(g.s.Revision() - 5)
			g.sweep()
		}
	}
	must(t, g.s.Flush())
	if got := showEvents(v.events(len(want))); got != strings.Join(want, " ") {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	if events, rev := v.progress(); len(events) > 0 || rev != g.s.Revision() {
		t.Errorf("got %d more events up to revision %d", len(events), rev)
	}
}

func TestWatchFromThePastGoesOnIntoThePresent(t *testing.T) {
	g := newRig(t, Options{RingBytes: 1})
	for i := range 3 * chunkLen {
		g.put("a", fmt.Sprint(i))
		if i == chunkLen || i == 2*chunkLen {
			must(t, g.s.Flush())
		}
	}
	g.s.crash()
	g.open()
	for i := range 3 * chunkLen {
		if i < int(g.s.Applied()) {
			continue
		}
		g.index = uint64(i)
		g.put("a", fmt.Sprint(i))
	}
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("a"), From: 2})
	g.put("a", "new")
	last := int64(1)
	for _, e := range v.events(3*chunkLen + 1) {
		if e.KV.ModRevision != last+1 {
			t.Fatalf("revision %d after %d", e.KV.ModRevision, last)
		}
		last++
	}
}

// Watches in one stream may be far apart; those up to date do not wait for one that replays, and nothing is doubled
// when it has caught up.
func TestWatchAddedBehindOthers(t *testing.T) {
	g := newRig(t, Options{RingBytes: 1})
	for i := range 2000 {
		g.put("a", fmt.Sprint(i))
	}
	must(t, g.s.Flush())
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("a")})
	v.control <- kv.WatchControl{Add: &kv.Watch{ID: 2, Key: []byte("a"), From: 2}}
	future := g.s.Revision() + 3
	v.control <- kv.WatchControl{Add: &kv.Watch{ID: 3, Key: []byte("a"), From: future}}
	for range 5 {
		g.put("a", "new")
	}
	v.control <- kv.WatchControl{Progress: true}
	got := map[int64][]int64{}
	for {
		b := v.batch()
		if b.Progress {
			if b.Revision != g.s.Revision() {
				t.Errorf("progress at %d, want %d", b.Revision, g.s.Revision())
			}
			break
		}
		for _, e := range b.Events {
			got[b.WatchID] = append(got[b.WatchID], e.KV.ModRevision)
		}
	}
	for id, from := range map[int64]int64{1: 2002, 2: 2, 3: future} {
		var want []int64
		for rev := from; rev <= g.s.Revision(); rev++ {
			want = append(want, rev)
		}
		if !slices.Equal(got[id], want) {
			t.Errorf("watch %d: got %d events, want %d from %d on", id, len(got[id]), len(want), from)
		}
	}
}

// A watch that was made while its stream had not looked for long must get what is between.
func TestWatchFromBetweenTheStreamAndThePresent(t *testing.T) {
	g := newRig(t, Options{})
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("quiet")})
	for i := range 10 {
		g.put("a", fmt.Sprint(i))
	}
	v.control <- kv.WatchControl{Add: &kv.Watch{ID: 2, Key: []byte("a"), From: 5}}
	if b := v.batch(); !b.Created || b.WatchID != 2 {
		t.Fatalf("got %+v", b)
	}
	if got := v.events(7); got[0].KV.ModRevision != 5 {
		t.Errorf("got %s", showEvents(got))
	}
}

func TestWatchOfCompactedHistoryIsCanceled(t *testing.T) {
	g := newRig(t, Options{})
	for i := range 10 {
		g.put("a", fmt.Sprint(i))
	}
	g.compact(8)
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("a"), From: 8})
	v.control <- kv.WatchControl{Add: &kv.Watch{ID: 2, Key: []byte("a"), From: 7}}
	if got := showEvents(v.events(4)); got != "a=6@8 a=7@9 a=8@10 a=9@11" {
		t.Errorf("from the compact revision: got %s", got)
	}
	if b := v.batch(); !b.Created || b.WatchID != 2 {
		t.Fatalf("got %+v, want it created first", b)
	}
	b := v.batch()
	if !b.Canceled || b.WatchID != 2 || codeOf(b.Err) != kv.Compacted || b.Err.Revision != 8 {
		t.Errorf("got %+v, want watch 2 canceled", b)
	}
	g.put("a", "on")
	v.events(1)
}

// What a slow stream has not read is read from the file; once that is swept, its watches are told.
func TestSlowWatchIsCanceledOnlyWhenItsHistoryIsGone(t *testing.T) {
	g := newRig(t, Options{RingBytes: 1})
	v := view(t, g.s, watchAll(1))
	for i := range 2 * blockLen {
		g.put("a", fmt.Sprint(i))
	}
	must(t, g.s.Flush())
	for range 2 * blockLen {
		g.put("b", strings.Repeat("x", 1000))
	}
	must(t, g.s.Flush())
	g.compact(g.s.Revision())
	g.sweep()
	b := v.batch()
	if !b.Canceled || codeOf(b.Err) != kv.Compacted || b.Err.Revision != g.s.CompactRevision() {
		t.Fatalf("got %+v", b)
	}
	// The stream lives on, and so does a watch whose keys nobody changes.
	v.control <- kv.WatchControl{Add: &kv.Watch{ID: 2, Key: []byte("quiet")}}
	v.batch()
	for range 2 * blockLen {
		g.put("b", strings.Repeat("x", 1000))
	}
	must(t, g.s.Flush())
	g.compact(g.s.Revision())
	g.sweep()
	g.put("quiet", "1")
	v.events(1)
}

func TestWatchFilters(t *testing.T) {
	g := newRig(t, Options{})
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("a"), NoPuts: true}, kv.Watch{ID: 2, Key: []byte("a"), NoDeletes: true})
	g.put("a", "1")
	g.do(del("a", ""))
	if b := v.batch(); b.WatchID != 2 || showEvents(b.Events) != "a=1@2" {
		t.Errorf("got %+v", b)
	}
	if b := v.batch(); b.WatchID != 1 || showEvents(b.Events) != "-a@3" {
		t.Errorf("got %+v", b)
	}
	if events, _ := v.progress(); len(events) != 0 {
		t.Errorf("got %s", showEvents(events))
	}
}

// All events of a revision come in one batch, unless the watch allows fragments.
func TestWatchKeepsARevisionTogether(t *testing.T) {
	const n = 3*fragmentLen + 10
	g := newRig(t, Options{})
	v := view(t, g.s, watchAll(1), kv.Watch{ID: 2, Key: []byte{0}, End: kv.FromKey(), Fragment: true})
	var ops []kv.Op
	for i := range n {
		ops = append(ops, put(fmt.Sprintf("key%05d", i), "1"))
	}
	g.do(ops...)
	if b := v.batch(); b.WatchID != 1 || len(b.Events) != n || b.Fragment {
		t.Errorf("got %d events for watch %d", len(b.Events), b.WatchID)
	}
	for i := range 4 {
		b := v.batch()
		want := fragmentLen
		if i == 3 {
			want = 10
		}
		if b.WatchID != 2 || len(b.Events) != want || b.Fragment != (i < 3) {
			t.Errorf("fragment %d: got %d events, more %v", i, len(b.Events), b.Fragment)
		}
	}
}

func TestWatchControl(t *testing.T) {
	g := newRig(t, Options{})
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("a")})
	v.control <- kv.WatchControl{Add: &kv.Watch{ID: 1, Key: []byte("b")}}
	if b := v.batch(); !b.Created || !b.Canceled || codeOf(b.Err) != kv.Invalid {
		t.Errorf("an id in use: got %+v", b)
	}
	v.control <- kv.WatchControl{Add: &kv.Watch{ID: 2}}
	if b := v.batch(); b.WatchID != 2 || !b.Canceled || codeOf(b.Err) != kv.Invalid {
		t.Errorf("an empty key: got %+v", b)
	}
	g.put("a", "1")
	v.events(1)
	v.control <- kv.WatchControl{Cancel: 9}
	v.control <- kv.WatchControl{Cancel: 1}
	if b := v.batch(); b.WatchID != 1 || !b.Canceled || b.Err != nil {
		t.Errorf("cancel: got %+v", b)
	}
	g.put("a", "2")
	v.control <- kv.WatchControl{Add: &kv.Watch{ID: 1, Key: []byte("a"), From: 2}}
	v.batch()
	v.events(2)
	close(v.control)
	g.put("a", "3")
	v.events(1)
	v.cancel()
	if b, err, ok := v.next(); ok {
		t.Errorf("after its context: got %+v, %v", b, err)
	}
	if st := g.s.Stats(); st.Streams != 0 || st.Watches != 0 {
		t.Errorf("the ended stream left %+v", st)
	}
}

func TestStreamEndsWithoutWatchesWhenNoneCanCome(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	g.put("a", "2")
	g.compact(3)
	n := 0
	for b, err := range watching(t.Context(), t, g.s, kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: []byte("a"), From: 2}}}) {
		must(t, err)
		if n++; n == 2 && !b.Canceled {
			t.Errorf("got %+v", b)
		}
	}
	if n != 2 {
		t.Errorf("got %d batches, want created and canceled", n)
	}
}

func TestProgressIsAnnouncedToIdleWatchesThatAsk(t *testing.T) {
	g := newRig(t, Options{ProgressEvery: time.Millisecond})
	v := view(t, g.s, kv.Watch{ID: 1, Key: []byte("a"), Progress: true}, kv.Watch{ID: 2, Key: []byte("a")})
	rev := g.put("other", "1")
	for {
		b := v.batch()
		if !b.Progress || b.WatchID != 1 {
			t.Fatalf("got %+v", b)
		}
		if b.Revision == rev {
			break
		}
	}
}

func TestCloseEndsStreams(t *testing.T) {
	g := newRig(t, Options{})
	done := make(chan error, 1)
	created := make(chan struct{})
	go func() {
		for b, err := range watching(t.Context(), t, g.s, kv.WatchSpec{Watches: []kv.Watch{watchAll(1)}}) {
			if b.Created {
				close(created)
			}
			if err != nil {
				done <- err
			}
		}
	}()
	<-created
	must(t, g.s.Close())
	if err := <-done; kv.CodeOf(err) != kv.Stopping {
		t.Errorf("got %v", err)
	}
	if _, err := g.s.Read(kv.Query{Ops: []kv.Op{get("a")}}); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("read: got %v", err)
	}
	if _, err := g.s.Apply([]Entry{{Index: 1}}); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("apply: got %v", err)
	}
}
