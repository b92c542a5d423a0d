package proxy

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// metered is a link that counts what reads cost on it, as the uplink encodes them, and can fail one of them.
type metered struct {
	*link
	mu      sync.Mutex
	wire    int
	reads   int
	failAt  int   // the read that fails, 0 for none
	fail    error // with this
	tooMany int64 // keys in an answer, which fails too; 0 for none
	before  func(kv.Query)
}

func (m *metered) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	m.mu.Lock()
	m.reads++
	n, err, before := m.reads, m.fail, m.before
	fails := n == m.failAt
	m.mu.Unlock()
	if before != nil {
		before(q)
	}
	if fails {
		return kv.Page{}, err
	}
	page, err := m.link.Read(ctx, q)
	if m.tooMany > 0 && err == nil && len(page.Ops) > 0 && int64(len(page.Ops[0].KVs)) > m.tooMany {
		return kv.Page{}, m.fail
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wire += len(wire.AppendQuery(nil, q)) + len(wire.AppendPage(nil, page))
	return page, err
}

// cost returns what has been read since it was last called.
func (m *metered) cost() (bytes, reads int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bytes, reads = m.wire, m.reads
	m.wire, m.reads = 0, 0
	return bytes, reads
}

// many changes a store in commands of fifty ops.
func many(t *testing.T, l *link, ops ...kv.Op) {
	t.Helper()
	for some := range slices.Chunk(ops, 50) {
		if _, err := l.Memory.Do(t.Context(), kv.Command{Ops: some}); err != nil {
			t.Fatal(err)
		}
	}
}

func compactAll(t *testing.T, l *link) {
	t.Helper()
	head, err := l.Memory.Read(t.Context(), kv.Query{})
	if err == nil {
		_, err = l.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Compact{Revision: head.Revision}}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func item(i int, value string) kv.Op {
	return kv.Put{Key: fmt.Appendf(nil, "a/%05d", i), Value: append([]byte(value), bytes.Repeat([]byte("."), 100)...)}
}

// sameAs holds what the proxy has of a/ against the store.
func sameAs(t *testing.T, p *Proxy, l *link) {
	t.Helper()
	key, end := kv.PrefixRange([]byte("a/"))
	q := kv.Query{Ops: []kv.Op{kv.Range{Key: key, End: end}}}
	want, err := l.Memory.Read(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	q.MaxAge, q.LocalOnly = kv.Unlimited, true
	got, err := p.Read(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if got.Revision != want.Revision {
		t.Errorf("the mirror is at revision %d, the store at %d", got.Revision, want.Revision)
	}
	have := map[string]int64{}
	for _, v := range got.Ops[0].KVs {
		have[string(v.Key)] = v.ModRevision
	}
	for _, v := range want.Ops[0].KVs {
		if have[string(v.Key)] != v.ModRevision {
			t.Errorf("%s is at %d here and at %d there", v.Key, have[string(v.Key)], v.ModRevision)
		}
		delete(have, string(v.Key))
	}
	for _, k := range slices.Sorted(maps.Keys(have)) {
		t.Errorf("%s is here and not there", k)
	}
}

// A mirror that was away for longer than history is kept reads what differs, and not all there is.
func TestAResyncCostsWhatHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 10_000
		l := &metered{link: newLink()}
		var ops []kv.Op
		for i := range keys {
			ops = append(ops, item(i, "old"))
		}
		many(t, l.link, ops...)
		p, shut := openWith(t, l.link, t.TempDir(), func(o *Options) { o.Upstream, o.Prefixes = l, [][]byte{[]byte("a/")} })
		defer shut()
		synctest.Wait()
		sameAs(t, p, l.link)
		whole, _ := l.cost()
		l.setCut(true)
		time.Sleep(time.Minute)
		ops = nil
		for i := range 80 { // one in a hundred, all over the place
			ops = append(ops, item(i*keys/80, "new"))
		}
		for i := range 10 {
			ops = append(ops, kv.Delete{Key: fmt.Appendf(nil, "a/%05d", 7+i*keys/10)}, item(keys+i, "added"))
		}
		many(t, l.link, ops...)
		compactAll(t, l.link)
		l.setCut(false)
		time.Sleep(10 * time.Second)
		sameAs(t, p, l.link)
		if s := p.State(); !s.Synced || s.Age > 10*time.Second {
			t.Errorf("synced %v, age %v, %v", s.Synced, s.Age, s.Err)
		}
		part, reads := l.cost()
		t.Logf("a full load has %d bytes, the resync %d in %d reads", whole, part, reads)
		if part > whole/25 {
			t.Errorf("the resync cost %d bytes on the link, a full load %d", part, whole)
		}
	})
}

// Whatever has changed, deletions included, and wherever it is cut short or the process killed: the mirror ends as the store
// is, and what was read here does not go back.
func TestAResyncEndsAsTheStoreIs(t *testing.T) {
	base := rand.Uint64()
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if base, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(12) {
		seed := base + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { resyncOnce(t, rand.New(rand.NewPCG(seed, 3))) })
		})
	}
}

func resyncOnce(t *testing.T, r *rand.Rand) {
	n := 1 + r.IntN(600)
	l := &metered{link: newLink(), fail: errCut}
	var ops []kv.Op
	for i := range n {
		if r.IntN(3) > 0 {
			ops = append(ops, item(i, "old"))
		}
	}
	ops = append(ops, kv.Put{Key: []byte("b"), Value: []byte("other")})
	many(t, l.link, ops...)
	dir := t.TempDir()
	start := func() (*Proxy, func()) {
		return run(t, l.link, dir, func(o *Options) { o.Upstream, o.Prefixes = l, [][]byte{[]byte("a/")} })
	}
	p, stop := start()
	time.Sleep(time.Second)
	l.setCut(true)
	ops = nil
	for _, i := range r.Perm(n)[:r.IntN(n+1)] { // each key once in a command
		if r.IntN(2) == 0 {
			ops = append(ops, item(i, "new"))
		} else {
			ops = append(ops, kv.Delete{Key: fmt.Appendf(nil, "a/%05d", i)})
		}
	}
	many(t, l.link, ops...)
	many(t, l.link, kv.Put{Key: []byte("b"), Value: []byte("again")})
	many(t, l.link, kv.Put{Key: []byte("b"), Value: []byte("and again")})
	compactAll(t, l.link)
	l.cost()
	l.mu.Lock()
	l.failAt = 1 + r.IntN(6)
	l.mu.Unlock()
	restarts := r.IntN(3)
	l.setCut(false)
	for i := range restarts {
		time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
		stop()
		if i%2 == 0 {
			dir = crash(t, dir)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p, stop = start()
	}
	time.Sleep(30 * time.Second)
	sameAs(t, p, l.link)
	many(t, l.link, item(1, "live"), kv.Delete{Key: []byte("a/00002")})
	time.Sleep(time.Second)
	sameAs(t, p, l.link)
	stop()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// While it lasts what is mirrored is there with its age, and a read that wants better is answered above.
func TestReadsDuringAResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &metered{link: newLink()}
		many(t, l.link, item(1, "old"), item(2, "old"))
		p, shut := openWith(t, l.link, t.TempDir(), func(o *Options) { o.Upstream, o.Prefixes = l, [][]byte{[]byte("a/")} })
		defer shut()
		time.Sleep(time.Second)
		l.setCut(true)
		many(t, l.link, item(1, "newer"))
		many(t, l.link, item(1, "new"), kv.Delete{Key: []byte("a/00002")})
		compactAll(t, l.link)
		time.Sleep(time.Minute)
		hold := make(chan struct{})
		l.mu.Lock()
		l.before = func(q kv.Query) {
			if r, ok := single(q); ok && r.MinMod > 0 {
				<-hold
			}
		}
		l.mu.Unlock()
		l.setCut(false)
		time.Sleep(10 * time.Second)
		page, v, err := get(p, "a/00001", local)
		if err != nil || v[:3] != "old" || page.Age < time.Minute {
			t.Errorf("local: %q, age %v, %v, want old, more than a minute old", v, page.Age, err)
		}
		if _, v, err := get(p, "a/00001", kv.Query{}); err != nil || v[:3] != "new" {
			t.Errorf("linearizable: %q, %v, want new", v, err)
		}
		if _, v, err := get(p, "a/00001", local); kv.CodeOf(err) != kv.NotCached {
			t.Errorf("what was read newer is read as %q, %v, want not-cached", v, err)
		}
		close(hold)
		time.Sleep(time.Second)
		sameAs(t, p, l.link)
	})
}

// A cache with fewer keys than there are above is not what it was at its revision: all of it is read.
func TestAMirrorThatLacksAKeyIsReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &metered{link: newLink()}
		for i := range 100 {
			many(t, l.link, item(i, "old"))
		}
		p, shut := openWith(t, l.link, t.TempDir(), func(o *Options) { o.Upstream, o.Prefixes = l, [][]byte{[]byte("a/")} })
		defer shut()
		time.Sleep(time.Second)
		l.setCut(true)
		if err := p.cache.Jump(p.cache.Spans()[0], nil, []string{"a/00042"}); err != nil {
			t.Fatal(err)
		}
		many(t, l.link, item(1, "newer"))
		many(t, l.link, item(2, "newer"))
		compactAll(t, l.link)
		l.setCut(false)
		time.Sleep(10 * time.Second)
		sameAs(t, p, l.link)
	})
}

func TestAMirrorThatGrewTooLargeMeanwhileIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &metered{link: newLink()}
		many(t, l.link, item(1, "old"))
		p, shut := openWith(t, l.link, t.TempDir(), func(o *Options) {
			o.Upstream, o.Prefixes, o.MaxBytes = l, [][]byte{[]byte("a/")}, 4000
		})
		defer shut()
		time.Sleep(time.Second)
		l.setCut(true)
		for i := range 30 {
			many(t, l.link, item(i, "new"))
		}
		compactAll(t, l.link)
		l.setCut(false)
		time.Sleep(10 * time.Second)
		if m := p.State().Mirrors[0]; m.Covered || m.Reason == "" {
			t.Errorf("it is covered: %v, because %q", m.Covered, m.Reason)
		}
		if _, v, err := get(p, "a/00001", kv.Query{}); err != nil || v[:3] != "new" {
			t.Errorf("read %q, %v", v, err)
		}
	})
}

// An answer has a bound in bytes: a prefix of large values is read in smaller pages.
func TestAPrefixOfLargeValuesIsMirrored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &metered{link: newLink(), fail: kv.Errorf(kv.TooLarge, "ask for fewer")}
		l.tooMany = 30
		for i := range 100 {
			many(t, l.link, item(i, "one"))
		}
		p, shut := openWith(t, l.link, t.TempDir(), func(o *Options) { o.Upstream, o.Prefixes = l, [][]byte{[]byte("a/")} })
		defer shut()
		time.Sleep(10 * time.Second)
		sameAs(t, p, l.link)
	})
}
