package queue

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/kv"
)

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// What is listed is bounded by number and by bytes: the oldest goes first, for good, with a line in the log.
func TestOfConflictsTheNewestStayListed(t *testing.T) {
	for name, tc := range map[string]struct {
		maxBytes int64
		size     int // of a value
		over     int
		stay     int // those listed in the end
	}{
		"by number": {maxBytesDefault, 1, 5, keptMax},
		"by bytes":  {4 << 20, 64 << 10, 20, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster()
			var log lines
			o := options(t.TempDir())
			o.MaxBytes, o.Log = tc.maxBytes, slog.New(slog.NewTextHandler(&log, nil))
			b := start(t, c, o)
			c.set(false, false)
			n := tc.over
			if tc.stay > 0 {
				n += tc.stay
			}
			ids := make([]string, 0, n+1)
			for i := range n { // one after the other: the first is the oldest
				ids = append(ids, b.mustQueue(fmt.Sprintf("q/%04d", i), strings.Repeat("v", tc.size)))
				c.others(fmt.Sprintf("q/%04d", i), "theirs")
			}
			c.set(true, false)
			eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
			want := ids[tc.over:]
			if tc.stay == 0 { // as many as have room
				b.mu.Lock()
				each := int64(0)
				if len(b.kept) > 0 {
					each = int64(b.kept[0].size)
				}
				b.mu.Unlock()
				if each == 0 {
					t.Fatal("nothing is listed")
				}
				want = ids[n-int(tc.maxBytes/keptShare/each):]
			}
			check := func(when string) {
				t.Helper()
				b.mu.Lock()
				bytes := b.keptBytes
				b.mu.Unlock()
				if bytes > tc.maxBytes/keptShare {
					t.Errorf("%s: %d bytes are listed, more than a quarter of %d", when, bytes, tc.maxBytes)
				}
				if s := b.Status(); s.Kept != len(want) {
					t.Errorf("%s: %d are listed, want %d", when, s.Kept, len(want))
				}
				for i, id := range ids {
					item, found, err := b.Get(id)
					if stays := slices.Contains(want, id); err != nil || found != stays || stays && (item.State != Conflict || len(item.Value) != tc.size) {
						t.Fatalf("%s: %d of %d: found %v, %v, %v; want it found: %v", when, i, n, found, item.State, err, stays)
					}
				}
			}
			check("once drained")
			if got := log.count("queue forgot its oldest conflict"); got != n-len(want) {
				t.Errorf("the log says so %d times, want %d", got, n-len(want))
			}
			if err := b.flushEnds(); err != nil {
				t.Fatal(err)
			}
			b.crash()
			b = start(t, c, o)
			check("after a restart")
			// The next one takes the place of the oldest again, also of those of before.
			c.set(false, false)
			id := b.mustQueue("q/next", strings.Repeat("v", tc.size))
			c.others("q/next", "theirs")
			c.set(true, false)
			eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
			ids, want = append(ids, id), append(slices.Clone(want[1:]), id)
			n++
			check("after a restart and one more")
		})
	}
}

// Of what was given up for want of room the newest stay listed, however many writes end as they should meanwhile.
func TestWhatWasGivenUpStaysListed(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Rules = []Rule{{Prefix: []byte("q/"), Guard: GuardNone, OnFull: OnFullDropOldest, MaxBytes: 10 * (opOverhead + 20)}, {Prefix: []byte("r/"), Guard: GuardNone}}
	b := start(t, c, o)
	c.set(false, false)
	const over = 20
	var ids []string
	for i := range recentMax + over {
		ids = append(ids, b.mustQueue(fmt.Sprint("q/", i%7), "v"))
	}
	listed := func() (dropped []string) {
		for page := b.List(int(Discarded), ""); len(page) > 0; {
			for _, item := range page {
				dropped = append(dropped, item.ID)
			}
			var err error
			if page, err = b.ListAfter(int(Discarded), "", page[len(page)-1].ID); err != nil {
				t.Fatal(err)
			}
		}
		return dropped
	}
	before := listed()
	if n := len(before); n > recentMax || n < recentMax-over || !slices.IsSorted(numbers(t, before)) {
		t.Fatalf("%d are listed of %d", n, len(ids))
	}
	for i := range recentMax + over {
		b.mustQueue(fmt.Sprint("r/", i%7), "v")
	}
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if after := listed(); !slices.Equal(after, before) {
		t.Errorf("%d were listed, and %d are once others have been committed", len(before), len(after))
	}
	if item, found, err := b.Get(before[0]); err != nil || !found || item.State != Discarded || kv.CodeOf(item.Err) != kv.NoSpace {
		t.Errorf("the first of them is %+v, %v, %v", item, found, err)
	}
}

// numbers are those of ids.
func numbers(t *testing.T, ids []string) (all []uint64) {
	t.Helper()
	for _, id := range ids {
		_, n, ok := parseID(id)
		if !ok {
			t.Fatalf("%q is no id", id)
		}
		all = append(all, n)
	}
	return all
}
