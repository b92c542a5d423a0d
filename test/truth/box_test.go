package truth

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/api/uplink"
	"holdfast/client"
	"holdfast/internal/bridge"
	"holdfast/internal/simnet"
	"holdfast/kv"
	"holdfast/proxy"
	"holdfast/queue"
	"holdfast/transport"
)

// running is something that runs until it is stopped.
type running struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func begin() (context.Context, *running) {
	ctx, stop := context.WithCancel(context.Background())
	return ctx, &running{stop: stop}
}

func (r *running) part(ctx context.Context, t *testing.T, f func(context.Context) error) {
	r.wg.Go(func() {
		if err := f(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("a part failed: %v", err)
		}
	})
}

func (r *running) end() {
	r.stop()
	r.wg.Wait()
}

// place is where nodes run: a network and who they are on it.
type place struct {
	t   *testing.T
	net *simnet.Net
	ca  *transport.CA
	ids map[string]*transport.Identity
}

func newPlace(t *testing.T, seed uint64) *place {
	ca, err := transport.NewCA("c1")
	if err != nil {
		t.Fatal(err)
	}
	return &place{t: t, net: simnet.New(t, seed), ca: ca, ids: map[string]*transport.Identity{}}
}

func (p *place) identity(name string, role transport.Role) *transport.Identity {
	if id := p.ids[name]; id != nil {
		return id
	}
	id, err := transport.NewIdentity()
	if err != nil {
		p.t.Fatal(err)
	}
	g := transport.Grant{Node: id.Node(), Role: role, Life: 1000 * time.Hour}
	if role == transport.Proxy {
		g.Scope = []string{""}
	}
	cert, err := p.ca.Issue(id.PublicKey(), g, time.Now())
	if err == nil {
		id, err = id.WithCertificate(cert, p.ca.Certificate())
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.ids[name] = id
	return id
}

// endpoint opens a node's endpoint; part of r.
func (p *place) endpoint(ctx context.Context, name string, role transport.Role, r *running) *transport.Endpoint {
	id := p.identity(name, role)
	conn := p.net.Node(name)
	ep, err := transport.New(transport.Config{Conn: conn, Identity: func() *transport.Identity { return id }, EarlyData: true, Resolve: p.net.Resolve})
	if err != nil {
		p.t.Fatal(err)
	}
	r.part(ctx, p.t, func(ctx context.Context) error {
		defer func() { _ = conn.Close() }()
		return ep.Run(ctx)
	})
	return ep
}

// member runs a replica behind an endpoint.
func (p *place) member(name string, r *replica) *running {
	ctx, run := begin()
	bridge.Serve(p.endpoint(ctx, name, transport.Member, run), uplink.New(r, nil))
	if r.late {
		run.part(ctx, p.t, func(ctx context.Context) error { r.follow(ctx); return nil })
	}
	return run
}

// box is a proxy with a queue. Its disk is a folder that survives it, or a copy of it.
type box struct {
	w    *world
	name string
	dir  string
	life int

	users chan struct{} // a place for each who uses it; who ends it takes all
	run   *running
	alive context.Context // ends with this life
	p     *proxy.Proxy
	q     *queue.Queue

	slept atomic.Int64 // what its clock is ahead: it counts what the machine was asleep

	mu     sync.Mutex
	floors map[string]map[string]int // by history and key: the oldest state that may still be read
	acks   []*ack
	ended  map[string]queue.State // by value: what was listed
	again  map[string]bool        // by value: what an operator has retried; a disk that is rolled back lists it again
}

// ack is a write and what its writer was told.
type ack struct {
	key, value string
	life       int
	order      int
	at         time.Time
	committed  bool   // 200
	queued     string // the id of a 202
	refused    bool   // surely not applied
	retry      [16]byte
	exempt     bool // the disk went back behind it
}

func (b *box) start() {
	ctx, run := begin()
	b.run = run
	b.life++
	ep := b.w.place.endpoint(ctx, b.name, transport.Proxy, run)
	up, err := client.New(client.Options{Dial: bridge.Dial(ep), Endpoints: []string{b.w.place.net.Addr("m1"), b.w.place.net.Addr("m2")}})
	if err != nil {
		b.w.t.Fatal(err)
	}
	boot := time.Now()
	b.slept.Store(int64(b.w.n(1000)) * int64(time.Second)) // a reboot begins another clock
	o := proxy.Options{Upstream: up, Path: filepath.Join(b.dir, "cache.db"), Prefixes: [][]byte{[]byte("m/"), []byte("q/")}, MaxBytes: 1 << 20,
		FlushEvery: 7 * time.Second, Clock: func() time.Duration { return time.Duration(b.slept.Load()) + time.Since(boot) }}
	o.Boot[0] = byte(b.life)
	if b.p, err = proxy.New(o); err != nil {
		b.w.t.Fatal(err)
	}
	origin, err := kv.ParseNodeID(ep.Node())
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.q, err = queue.Open(b.p, queue.Options{Dir: filepath.Join(b.dir, "queue"), Origin: origin,
		Rules: []queue.Rule{{Prefix: []byte("q/")}, {Prefix: []byte("s/"), Guard: queue.GuardNone, Lane: kv.LaneNormal},
			{Prefix: []byte("e/"), Guard: queue.GuardNone, Lane: kv.LaneBulk, Expires: 20 * time.Second}}})
	if err != nil {
		b.w.t.Fatal(err)
	}
	for _, f := range []func(context.Context) error{up.Run, b.p.Run, b.q.Run} {
		run.part(ctx, b.w.t, f)
	}
	b.alive = ctx
}

// end stops the box once nobody uses it; a kill leaves behind what is on disk in that instant.
func (b *box) end(kill bool) {
	b.run.end()
	old := b.dir
	if kill {
		b.dir = b.copy()
	}
	if err := b.q.Close(); err != nil {
		b.w.t.Error(err)
	}
	if err := b.p.Close(); err != nil {
		b.w.t.Error(err)
	}
	if kill {
		_ = os.RemoveAll(old)
	}
}

func (b *box) copy() string {
	b.w.copies++
	to := filepath.Join(b.w.t.TempDir(), fmt.Sprint(b.w.copies))
	if err := os.CopyFS(to, os.DirFS(b.dir)); err != nil {
		b.w.t.Fatal(err)
	}
	return to
}

// use takes a place. A mutex would stop the bubble's clock.
func (b *box) use() (done func()) {
	b.users <- struct{}{}
	return func() { <-b.users }
}

func (b *box) alone() (done func()) {
	for range cap(b.users) {
		b.users <- struct{}{}
	}
	return func() {
		for range cap(b.users) {
			<-b.users
		}
	}
}

// write writes a key and notes what was said.
func (b *box) write(key string) {
	defer b.use()()
	w := b.w
	w.mu.Lock()
	w.values++
	a := &ack{key: key, value: fmt.Sprintf("%s.%d", b.name, w.values), order: w.values, life: b.life}
	w.mu.Unlock()
	mode := []kv.Write{kv.WriteAuto, kv.WriteAuto, kv.WriteQueue, kv.WriteSync}[w.n(4)]
	if key[0] == 'm' {
		mode = kv.WriteSync
	}
	if key[0] != 'm' && w.n(3) == 0 {
		a.retry = [16]byte{byte(a.order), byte(a.order >> 8), byte(a.order >> 16), 1}
	}
	ctx, cancel := context.WithTimeout(b.alive, 8*time.Second)
	defer cancel()
	res, err := b.q.Do(ctx, a.command(mode))
	a.at = time.Now()
	switch code := kv.CodeOf(err); {
	case err == nil && res.Queued != nil:
		a.queued = res.Queued.ID
	case err == nil:
		a.committed = true
		b.raise(res.Epoch, key, func(s state) bool { return s.rev == res.Revision })
	case code == kv.OutcomeUnknown:
	case code == kv.UpstreamUnavailable, code == kv.NoLeader, code == kv.RateLimited, code == kv.NoSpace, code == kv.PreconditionFailed:
		a.refused = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acks = append(b.acks, a)
}

func (a *ack) command(mode kv.Write) kv.Command {
	return kv.Command{ID: kv.ID{Key: a.retry}, Write: mode, Ops: []kv.Op{kv.Put{Key: []byte(a.key), Value: []byte(a.value)}}}
}

// repeat sends a request with a retry key again whose write waits in the queue, as a device does whose 202 was lost.
func (b *box) repeat() {
	defer b.use()()
	var all []*ack
	b.mu.Lock()
	for _, a := range b.acks {
		if a.retry != [16]byte{} && a.queued != "" {
			all = append(all, a)
		}
	}
	b.mu.Unlock()
	waits := func(a *ack) bool { // a disk that went back may have given the id to another
		item, found, err := b.q.Get(a.queued)
		return err == nil && found && !item.State.Ended() && string(item.Value) == a.value
	}
	for _, a := range all {
		if !waits(a) {
			continue
		}
		ctx, cancel := context.WithTimeout(b.alive, 8*time.Second)
		res, err := b.q.Do(ctx, a.command([]kv.Write{kv.WriteAuto, kv.WriteQueue}[b.w.n(2)]))
		cancel()
		switch {
		case err == nil && res.Queued != nil && res.Queued.ID == a.queued:
			b.w.happened("same receipt")
		case waits(a):
			b.w.complain("%s: %s = %s waits as %s, and the same request was answered with %+v, %v", b.name, a.key, a.value, a.queued, res.Queued, err)
		default: // it has ended; a restore may make the repetition another write
			b.mu.Lock()
			b.again[a.value] = true
			b.mu.Unlock()
		}
	}
}

// look does what an operator does: whatever needs a look is written down and discarded, and, if it may be, retried now and then.
func (b *box) look(retry bool) {
	defer b.use()()
	for _, s := range []queue.State{queue.Conflict, queue.Unknown, queue.Rejected, queue.Expired} {
		for _, listed := range b.q.List(int(s), "") {
			item, found, err := b.q.Get(listed.ID)
			if err != nil {
				b.w.t.Error(err)
			}
			if !found || err != nil {
				continue
			}
			b.mu.Lock()
			b.ended[string(item.Value)] = s
			b.mu.Unlock()
			b.w.happened(s.String())
			if retry && s == queue.Conflict && b.w.n(2) == 0 {
				if _, found, err := b.q.Retry(b.alive, listed.ID); found && err == nil {
					b.w.happened("retried")
					b.mu.Lock()
					delete(b.ended, string(item.Value))
					b.again[string(item.Value)] = true
					b.mu.Unlock()
				}
				continue
			}
			if _, err := b.q.Discard(listed.ID); err != nil {
				b.w.t.Error(err)
			}
		}
	}
}

// raise notes that a key was seen at a state here, or written: from now on nothing older may be read.
func (b *box) raise(e kv.Epoch, key string, is func(state) bool) {
	h := b.w.cluster.historyOf(e)
	if h == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range h.keys[key] {
		if is(s) {
			if b.floors[e.String()] == nil {
				b.floors[e.String()] = map[string]int{}
			}
			b.floors[e.String()][key] = max(b.floors[e.String()][key], i+1)
		}
	}
}

// before is how many states a key had before a moment: what happens at that very instant may have come later. The state
// without an entry, number 0, is that it does not exist.
func before(states []state, when time.Time) (n int) {
	for i, s := range states {
		if s.from.Before(when) {
			n = i + 1
		}
	}
	return n
}

var queries = []kv.Query{{}, {MaxAge: 200 * time.Millisecond}, {MaxAge: kv.Unlimited}, {MaxAge: kv.Unlimited, LocalOnly: true},
	{MaxAge: 5 * time.Second, StaleIfError: 100 * time.Hour}, {MaxAge: time.Second, StaleIfError: time.Minute}}

// read reads a key, alone, in a list or in a transaction, and holds the answer against what happened.
func (b *box) read(key string) {
	defer b.use()()
	w := b.w
	q := queries[w.n(len(queries))]
	b.mu.Lock()
	floors := map[string]map[string]int{}
	for e, keys := range b.floors {
		floors[e] = maps.Clone(keys)
	}
	b.mu.Unlock()
	one, list := kv.Range{Key: []byte(key)}, kv.Range{Key: []byte(key[:2]), End: kv.PrefixEnd([]byte(key[:2]))}
	if w.n(3) == 0 {
		list.Key, list.End = kv.PrefixRange(nil)
	}
	q.Ops = [][]kv.Op{{one}, {one}, {one}, {one}, {list}, {kv.Txn{Then: []kv.Op{list, one}}}}[w.n(6)]
	began := time.Now()
	ctx, cancel := context.WithTimeout(b.alive, 4*time.Second)
	defer cancel()
	page, err := b.q.Read(ctx, q)
	if r, ok := q.Ops[0].(kv.Range); ok && (len(r.End) == 0 || w.plant == plantMixed) {
		page, err = w.tamper(b, key, page, err)
	}
	if err != nil {
		return
	}
	h := w.cluster.historyOf(page.Epoch)
	if h == nil {
		w.complain("%s: %s was read in a history that never was, %v", b.name, key, page.Epoch)
		return
	}
	v := view{b: b, h: h, floors: floors[page.Epoch.String()], how: fmt.Sprintf("%T at %v (age %v, from %v, max age %v)", q.Ops[0], since(began), page.Age, page.Source, q.MaxAge)}
	switch {
	case q.MaxAge == 0:
		v.fresh = began
	case page.Age >= 0 && page.Source == kv.SourceCache:
		v.fresh = began.Add(-page.Age)
	}
	if !v.fresh.IsZero() && !h.ended.IsZero() && h.ended.Before(v.fresh) {
		w.complain("%s: %s is of a history that ended at %v", b.name, v.how, since(h.ended))
		return
	}
	v.judge(q.Ops, page.Ops)
	if r, ok := q.Ops[0].(kv.Range); ok && len(r.End) > 0 {
		v.judgeList(r, page)
	}
}

// judgeList holds a list against what there was at the revision that it says. What this box has written since may be in it.
func (v view) judgeList(r kv.Range, page kv.Page) {
	mods := map[string]int64{}
	for _, one := range page.Ops[0].KVs {
		mods[string(one.Key)] = one.ModRevision
	}
	for key, states := range v.h.keys {
		if !kv.Contains(r.Key, r.End, []byte(key)) {
			continue
		}
		was, own := int64(0), false
		for _, s := range states {
			if s.rev <= page.Revision {
				was = s.mod
			} else if s.mod == mods[key] && strings.HasPrefix(s.what, v.b.name+".") {
				own = true
			}
		}
		if mods[key] != was && !own {
			v.b.w.complain("%s: %s as of %d has %s at revision %d, which was at %d then: %v", v.b.name, v.how, page.Revision, key, mods[key], was, states)
		}
	}
}

// view is an answer that is held against what happened: none of its keys may be older than what was seen of it before, or
// than fresh.
type view struct {
	b      *box
	h      *history
	floors map[string]int
	fresh  time.Time
	how    string
}

func (v view) judge(ops []kv.Op, results []kv.OpResult) {
	for i, op := range ops {
		if txn, ok := op.(kv.Txn); ok {
			v.judge(txn.Then, results[i].Ops)
			continue
		}
		r := op.(kv.Range)
		mods := map[string]int64{}
		for _, one := range results[i].KVs {
			mods[string(one.Key)] = one.ModRevision
			if len(v.h.keys[string(one.Key)]) == 0 {
				v.b.w.complain("%s: %s has %s, which nobody wrote", v.b.name, v.how, one.Key)
			}
		}
		for key := range v.h.keys {
			if kv.Contains(r.Key, r.End, []byte(key)) {
				v.judgeKey(key, mods[key])
			}
		}
	}
}

func (v view) judgeKey(key string, mod int64) {
	states := v.h.keys[key]
	least := v.floors[key]
	if !v.fresh.IsZero() {
		least = max(least, before(states, v.fresh))
	}
	for i := least; i <= len(states); i++ {
		if i == 0 && mod == 0 || i > 0 && states[i-1].mod == mod {
			v.b.raise(v.h.epoch, key, func(s state) bool { return i > 0 && s == states[i-1] })
			return
		}
	}
	v.b.w.complain("%s: %s has %s at revision %d; at least state %d of %d, seen here before %d: %v",
		v.b.name, v.how, key, mod, least, len(states), v.floors[key], states[max(least-2, 0):min(least+2, len(states))])
}

// watch follows a prefix across everything and holds what it brings against what happened.
func (b *box) watch(ctx context.Context, prefix string) {
	next, epoch := int64(0), kv.Epoch{}
	for ctx.Err() == nil {
		done := b.use()
		q, alive := b.q, b.alive
		done()
		key, end := kv.PrefixRange([]byte(prefix))
		for batch, err := range q.Watch(alive, kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: key, End: end, From: next}}}) {
			if err != nil {
				break
			}
			if batch.Canceled || !batch.Epoch.IsZero() && !epoch.IsZero() && batch.Epoch != epoch {
				next, epoch = 0, kv.Epoch{} // compacted, or restored: begin anew
				break
			}
			if batch.Created {
				epoch = batch.Epoch
				if next == 0 {
					next = batch.Revision + 1
				}
			}
			next = b.events(prefix, epoch, next, batch)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (b *box) events(prefix string, epoch kv.Epoch, next int64, batch kv.Batch) int64 {
	w := b.w
	if len(batch.Events) > 0 && w.plant == plantGap && w.n(20) == 0 {
		return next
	}
	for _, e := range batch.Events {
		if h := w.cluster.historyOf(epoch); h != nil {
			for key, states := range h.keys {
				for _, s := range states {
					if key[:len(prefix)] == prefix && s.rev >= next && s.rev < e.KV.ModRevision {
						w.complain("%s: the watch of %s went from %d to %d past %d", b.name, prefix, next, e.KV.ModRevision, s.rev)
					}
				}
			}
		}
		if e.KV.ModRevision < next {
			w.complain("%s: the watch of %s brings %d after %d", b.name, prefix, e.KV.ModRevision, next-1)
		}
		next = e.KV.ModRevision + 1
		b.raise(epoch, string(e.KV.Key), func(s state) bool { return s.rev == e.KV.ModRevision })
	}
	return next
}

// since is the time since the beginning of the bubble.
func since(at time.Time) time.Duration {
	return at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
}
