package proxy

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// world is a cluster whose history is written down, behind a link that delays and is cut, with a proxy in front that is
// killed now and then.
type world struct {
	*link
	t    *testing.T
	seed uint64

	mu    sync.Mutex
	rand  *rand.Rand
	truth map[string][]state // each key's states, oldest first
	floor map[string]int     // the oldest of them that may still be read: a newer one was read or acknowledged here

	users  chan struct{} // a place for each who uses the proxy; who kills it takes all
	p      *Proxy
	stop   func()             // ends its Run
	killed context.CancelFunc // ends what runs on the present one
	wrong  bool
	alive  context.Context
}

// state is a key between two writes.
type state struct {
	from time.Time
	mod  int64 // 0: it does not exist
	rev  int64 // of the write that began it
}

func (w *world) n(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(n)
}

func (w *world) lag() { time.Sleep(time.Duration(w.n(40)) * time.Millisecond) }

// commit is a write at the cluster, noted in the same instant.
func (w *world) commit(ctx context.Context, c kv.Command) (kv.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	res, err := w.Memory.Do(ctx, c)
	if err != nil {
		return res, err
	}
	for i, op := range c.Ops {
		switch op := op.(type) {
		case kv.Put:
			w.note(string(op.Key), res.Revision, res.Revision)
		case kv.Delete:
			if res.Ops[i].Count > 0 {
				w.note(string(op.Key), 0, res.Revision)
			}
		case kv.Txn:
			w.note(string(op.Then[0].(kv.Put).Key), res.Revision, res.Revision)
		}
	}
	return res, nil
}

func (w *world) note(key string, mod, rev int64) {
	w.truth[key] = append(w.truth[key], state{time.Now(), mod, rev})
}

func (w *world) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	w.lag()
	if down, _ := w.state(); down {
		return kv.Result{}, errCut
	}
	res, err := w.commit(ctx, c)
	w.lag()
	if down, _ := w.state(); down && err == nil {
		return kv.Result{}, kv.Errorf(kv.OutcomeUnknown, "cut while waiting for the answer")
	}
	return res, err
}

func (w *world) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	w.lag()
	page, err := w.link.Read(ctx, q)
	w.lag()
	if down, _ := w.state(); down && err == nil {
		return kv.Page{}, errCut
	}
	return page, err
}

func (w *world) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		for b, err := range w.link.Watch(ctx, spec) {
			if w.n(4) == 0 {
				w.lag()
			}
			if down, _ := w.state(); down {
				yield(kv.Batch{}, errCut)
				return
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// at is the index of a key's state just before a moment: what else happens at that very instant may have come later.
func (w *world) at(key string, when time.Time) int {
	i := 0
	for j, s := range w.truth[key] {
		if s.from.Before(when) {
			i = j
		}
	}
	return i
}

// read reads a key, alone, in a list or in a transaction, and holds the answer against what happened.
func (w *world) read(key string) {
	queries := []kv.Query{{}, {MaxAge: 200 * time.Millisecond}, {MaxAge: kv.Unlimited}, local, auto, {MaxAge: time.Second, StaleIfError: time.Minute}}
	q := queries[w.n(len(queries))]
	defer w.use()()
	w.mu.Lock()
	floors := maps.Clone(w.floor)
	w.mu.Unlock()
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.alive, 3*time.Second)
	defer cancel()
	one := kv.Range{Key: []byte(key)}
	list := kv.Range{Key: []byte(key[:2]), End: kv.PrefixEnd([]byte(key[:2]))}
	if w.n(2) == 0 {
		list.Key, list.End = kv.PrefixRange(nil)
	}
	q.Ops = [][]kv.Op{{one}, {one}, {one}, {one}, {list}, {kv.Txn{Then: []kv.Op{one, list}}}, {one, list}}[w.n(7)]
	page, err := w.p.Read(ctx, q)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := time.Time{}
	switch {
	case q.MaxAge == 0:
		fresh = began
	case page.Age >= 0 && page.Source == kv.SourceCache:
		fresh = began.Add(-page.Age)
	}
	how := fmt.Sprintf("read %T (age %v, from %v, max age %v)", q.Ops[len(q.Ops)-1], page.Age, page.Source, q.MaxAge)
	w.judge(how, q.Ops, page.Ops, fresh, floors)
}

// judge holds answers against what happened: of each key none is older than what was seen of it before, or than fresh.
func (w *world) judge(how string, ops []kv.Op, results []kv.OpResult, fresh time.Time, floors map[string]int) {
	for i, op := range ops {
		if txn, ok := op.(kv.Txn); ok {
			w.judge(how, txn.Then, results[i].Ops, fresh, floors)
			continue
		}
		r := op.(kv.Range)
		mods := map[string]int64{}
		for _, v := range results[i].KVs {
			mods[string(v.Key)] = v.ModRevision
		}
		for key := range w.truth {
			if kv.Contains(r.Key, r.End, []byte(key)) {
				w.judgeKey(how, key, mods[key], fresh, floors[key])
			}
		}
	}
}

func (w *world) judgeKey(how, key string, mod int64, fresh time.Time, floor int) {
	least := floor
	if !fresh.IsZero() {
		least = max(least, w.at(key, fresh))
	}
	for i, s := range w.truth[key] {
		if i >= least && s.mod == mod {
			w.floor[key] = max(w.floor[key], i)
			return
		}
	}
	if w.wrong {
		return // one is enough
	}
	w.wrong = true
	w.t.Errorf("seed %d: at %v %s is at revision %d, %s, though it is said to be from then on, or was read or written here:",
		w.seed, since(time.Now()), key, mod, how)
	for i, s := range w.truth[key] {
		if i >= least-2 {
			w.t.Logf("at %v: %d by revision %d; at least this: %v, it was seen: %v", since(s.from), s.mod, s.rev, i == least, i == floor)
		}
	}
}

// since is the time since the beginning of the bubble.
func since(at time.Time) time.Duration {
	return at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
}

// write writes a key through the proxy. What is acknowledged must be read from then on.
func (w *world) write(key string) {
	op := []kv.Op{
		kv.Put{Key: []byte(key)},
		kv.Put{Key: []byte(key), Value: []byte("v")},
		kv.Delete{Key: []byte(key)},
		kv.Txn{Then: []kv.Op{kv.Put{Key: []byte(key)}}},
	}[w.n(4)]
	defer w.use()()
	ctx, cancel := context.WithTimeout(w.alive, 3*time.Second)
	defer cancel()
	res, err := w.p.Do(ctx, kv.Command{Ops: []kv.Op{op}})
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.truth[key] {
		if s.rev == res.Revision {
			w.floor[key] = max(w.floor[key], i)
		}
	}
}

// use takes a place. A mutex would stop the bubble's clock.
func (w *world) use() (done func()) {
	w.users <- struct{}{}
	return func() { <-w.users }
}

func (w *world) alone() (done func()) {
	for range cap(w.users) {
		w.users <- struct{}{}
	}
	return func() {
		for range cap(w.users) {
			<-w.users
		}
	}
}

// start opens a proxy on dir.
func (w *world) start(dir string) {
	w.p, w.stop = run(w.t, w.link, dir, func(o *Options) {
		o.Upstream, o.Prefixes, o.MaxBytes = w, [][]byte{[]byte("m/")}, 2000
		o.FlushEvery = 700 * time.Millisecond
	})
	w.alive, w.killed = context.WithCancel(context.Background())
}

// end ends it, as a kill does or as one is asked to.
func (w *world) end(dir string, kill bool) (left string) {
	w.killed()
	w.stop()
	left = dir
	if kill {
		left = crash(w.t, dir)
	}
	if err := w.p.Close(); err != nil {
		w.t.Error(err)
	}
	return left
}

// watch follows a prefix across everything and holds what it brings against what happened. What it brings was seen.
func (w *world) watch(ctx context.Context, prefix string) {
	next := int64(0)
	for ctx.Err() == nil {
		done := w.use()
		p, alive := w.p, w.alive
		done()
		spec := under(1, prefix)
		spec.From = next
		for b, err := range p.Watch(alive, kv.WatchSpec{Watches: []kv.Watch{spec}}) {
			if err != nil {
				break
			}
			if b.Canceled {
				next = 0 // compacted: begin anew
				break
			}
			if b.Created && next == 0 {
				next = b.Revision + 1
			}
			for _, e := range b.Events {
				w.mu.Lock()
				for key, states := range w.truth {
					for _, s := range states {
						if key[:2] == prefix && s.rev >= next && s.rev < e.KV.ModRevision {
							w.t.Errorf("seed %d: the watch went from %d to %d past %d", w.seed, next, e.KV.ModRevision, s.rev)
						}
					}
				}
				for i, s := range w.truth[string(e.KV.Key)] {
					if s.rev == e.KV.ModRevision {
						w.floor[string(e.KV.Key)] = max(w.floor[string(e.KV.Key)], i)
					}
				}
				w.mu.Unlock()
				if e.KV.ModRevision < next {
					w.t.Errorf("seed %d: event %d came after %d", w.seed, e.KV.ModRevision, next-1)
				}
				next = e.KV.ModRevision + 1
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// What is read through a proxy is never younger than it says, never goes back, and never older than what was acknowledged
// here, whatever happens to the link and the process.
func TestReadsAreWhatTheySayUnderCutsAndRestarts(t *testing.T) {
	seeds := 3
	base := rand.Uint64()
	if testing.Short() {
		seeds = 1
	}
	if text := os.Getenv("SEED"); text != "" { // one of a failure
		var err error
		if base, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
		seeds = 1
	}
	for i := range seeds {
		seed := base + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { rough(t, seed) })
		})
	}
}

func rough(t *testing.T, seed uint64) {
	w := &world{link: newLink(), t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), truth: map[string][]state{}, floor: map[string]int{}, users: make(chan struct{}, 10)}
	var keys []string
	for i := range 45 {
		keys = append(keys, fmt.Sprintf("k/%02d", i))
	}
	for i := range 4 {
		keys = append(keys, fmt.Sprint("m/", i))
	}
	for _, k := range keys {
		w.truth[k] = []state{{time.Now(), 0, 0}}
	}
	dir := t.TempDir()
	w.start(dir)
	ctx, cancel := context.WithCancel(t.Context())
	var devices sync.WaitGroup
	busy := func(every int, do func()) {
		devices.Go(func() {
			for ctx.Err() == nil {
				do()
				time.Sleep(time.Duration(1+w.n(every)) * time.Millisecond)
			}
		})
	}
	some := func() string {
		if w.n(3) > 0 { // a few are read much more than the others
			return keys[w.n(6)]
		}
		return keys[w.n(len(keys))]
	}
	for range 4 {
		busy(20, func() { w.read(some()) })
	}
	busy(60, func() { w.write(some()) })
	busy(60, func() { // somebody else, at the cluster
		op := []kv.Op{kv.Put{Key: []byte(some())}, kv.Put{Key: []byte(some())}, kv.Delete{Key: []byte(some())}}[w.n(3)]
		if _, err := w.commit(ctx, kv.Command{Ops: []kv.Op{op}}); err != nil {
			t.Error(err)
		}
		if w.n(100) == 0 {
			head, _ := w.Memory.Read(ctx, kv.Query{})
			_, _ = w.Memory.Do(ctx, kv.Command{Ops: []kv.Op{kv.Compact{Revision: head.Revision}}}) // twice at one revision is refused
		}
	})
	devices.Go(func() { w.watch(ctx, "m/") })
	devices.Go(func() { w.watch(ctx, "k/") })
	for range 40 {
		time.Sleep(time.Duration(w.n(2000)) * time.Millisecond)
		switch w.n(4) {
		case 0, 1:
			w.setCut(true)
			time.Sleep(time.Duration(w.n(4000)) * time.Millisecond)
			w.setCut(false)
		default: // the process is killed, or asked to end
			w.killed()
			alone := w.alone()
			dir = w.end(dir, w.n(2) == 0)
			w.start(dir)
			alone()
		}
	}
	cancel()
	w.killed()
	devices.Wait()
	if s := w.p.State(); s.Bytes > 2000 {
		t.Errorf("seed %d: %d bytes are held", seed, s.Bytes)
	}
	w.end(dir, false)
}
