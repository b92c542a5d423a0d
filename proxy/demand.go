package proxy

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// demand is the feed's view of the keys that are held one by one. Guarded by feed.mu; which keys there are changes only
// under feed.holding too, together with the cache.
type demand struct {
	leaves map[string]*leaf
	ids    map[int64]*leaf
	last   int64
	fresh  map[*leaf]struct{} // joined and not proven yet
	lost   map[string]*leaf   // whose history is gone: they are asked for anew
	wake   chan struct{}      // something is lost
}

// leaf is one key.
//
//	asked for --the upstream has its watch--> joined --a round--> proven by rounds
//
// Until a round has come behind its watch its age is that of the answer it came with.
type leaf struct {
	key    string
	id     int64
	joined bool // on the present stream
	rounds bool // the feed's rounds speak for it
	at     time.Duration
	proven bool // the answer's age is known: it is from at
}

// start forgets all and takes what the cache has. What a start found on disk is proven by the next round.
func (d *demand) start(held []cache.Span) {
	*d = demand{leaves: map[string]*leaf{}, ids: map[int64]*leaf{}, last: d.last, fresh: map[*leaf]struct{}{}, lost: map[string]*leaf{}, wake: d.wake}
	if d.wake == nil {
		d.wake = make(chan struct{}, 1)
	}
	for _, h := range held {
		d.leaves[string(h.Key)] = &leaf{key: string(h.Key), rounds: true}
	}
}

func (d *demand) len() int { return len(d.leaves) }

// up returns the watches of a new stream for what is held; their ids begin above from.
func (d *demand) up(held []cache.Span, from int64) (watches []kv.Watch) {
	d.ids, d.last = map[int64]*leaf{}, from
	clear(d.fresh)
	clear(d.lost)
	for _, h := range held {
		l := d.leaves[string(h.Key)]
		if l == nil {
			l = &leaf{key: string(h.Key)}
			d.leaves[l.key] = l
		}
		watches = append(watches, d.watch(l, h.Revision))
	}
	return watches
}

// watch gives a leaf an id on the present stream, and says what to ask for.
func (d *demand) watch(l *leaf, revision int64) kv.Watch {
	d.last++
	l.id, l.joined = d.last, false
	d.ids[l.id] = l
	return kv.Watch{ID: l.id, Key: []byte(l.key), From: revision + 1}
}

func (d *demand) down() {
	for _, l := range d.leaves {
		l.joined = false
	}
	clear(d.ids)
	clear(d.fresh)
	clear(d.lost)
}

// prove notes that a round has come: it speaks for all that had joined. It reports whether that is all there is.
func (d *demand) prove(c *cache.Cache) (whole bool) {
	if len(d.fresh) > 0 {
		keys := make([]string, 0, len(d.fresh))
		for l := range d.fresh {
			l.rounds = true
			keys = append(keys, l.key)
		}
		clear(d.fresh)
		c.Keep(keys, true)
	}
	return len(d.lost) == 0
}

// forget takes a key out and returns the watch to cancel, 0 for none.
func (d *demand) forget(key string) (id int64) {
	l := d.leaves[key]
	if l == nil {
		return 0
	}
	delete(d.leaves, key)
	delete(d.fresh, l)
	delete(d.lost, key)
	if d.ids[l.id] != l {
		return 0
	}
	delete(d.ids, l.id)
	return l.id
}

// stands is how a key stands that is held on demand: its age, and whether the next round will speak for it.
func (f *feed) stands(key []byte) (age time.Duration, joined bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.demand.leaves[string(key)]
	if l == nil {
		return kv.AgeUnknown, false
	}
	at, proven := l.at, l.proven
	if l.rounds && f.proven && (!proven || f.provenAt > at) {
		at, proven = f.provenAt, true
	}
	return f.since(at, proven), l.joined
}

// hold lets in the answer to an Ask that was sent at a moment of this node's clock. It reports whether the key is held now.
func (f *feed) hold(a *cache.Ask, page kv.Page, sent time.Duration, v *kv.KeyValue) bool {
	f.holding.Lock()
	defer f.holding.Unlock()
	f.mu.Lock()
	busy := f.control != nil && f.control.full() && f.demand.leaves[a.Key()] == nil
	f.mu.Unlock()
	if busy {
		f.p.cache.Leave(a)
		return false
	}
	held, err := f.p.cache.Hold(a, page.Epoch, v, page.Revision)
	f.drain()
	if err != nil {
		f.p.opts.Log.Error("an answer cannot be kept; the key is asked for again next time", "error", err)
	}
	if held {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.let(a.Key(), page, sent)
	}
	return held
}

// let makes sure that a key which the cache holds has a leaf and a watch. f.mu is held.
func (f *feed) let(key string, page kv.Page, sent time.Duration) {
	l := f.demand.leaves[key]
	if l == nil {
		l = &leaf{key: key}
		f.demand.leaves[key] = l
	}
	if at := sent - page.Age; page.Age >= 0 && (!l.proven || at > l.at) {
		l.at, l.proven = at, true
	}
	delete(f.demand.lost, key)
	if f.control != nil && f.demand.ids[l.id] != l {
		f.control.add(f.demand.watch(l, page.Revision))
	}
}

// release lets a key go.
func (f *feed) release(key []byte) error {
	f.holding.Lock()
	defer f.holding.Unlock()
	err := f.p.cache.Drop(key, nil)
	f.drain()
	return err
}

// evicted cancels the watches of keys that the cache has let go.
func (f *feed) evicted() {
	f.holding.Lock()
	defer f.holding.Unlock()
	f.drain()
}

func (f *feed) drain() {
	gone := f.p.cache.Evicted()
	if len(gone) == 0 {
		return
	}
	f.p.met.evicted.Add(float64(len(gone)))
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range gone {
		if id := f.demand.forget(string(key)); id != 0 && f.control != nil {
			f.control.cancel(id)
		}
	}
}

// demanded applies what came for a key that is held on demand, or was.
func (f *feed) demanded(b kv.Batch) error {
	f.mu.Lock()
	l := f.demand.ids[b.WatchID]
	if l == nil {
		f.mu.Unlock()
		return nil // let go meanwhile
	}
	if b.Created && !b.Canceled {
		l.joined = true
		f.demand.fresh[l] = struct{}{}
	}
	key := []byte(l.key)
	f.mu.Unlock()
	if b.Canceled {
		return f.lose(l, b.Err)
	}
	if len(b.Events) == 0 && !b.Progress {
		return nil
	}
	_, err := f.p.cache.Apply(key, nil, b.Events, b.Revision)
	f.evicted()
	if errors.Is(err, cache.ErrFull) { // nothing but mirrors is left, and those fit
		err = nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signal()
	return err
}

// lose takes note that the upstream has ended a watch. If its history was compacted away the key stays as it is and ages,
// until it has been asked for anew; else it may not be held.
func (f *feed) lose(l *leaf, why *kv.Error) error {
	if why == nil || why.Code != kv.Compacted {
		return f.release([]byte(l.key))
	}
	f.holding.Lock()
	defer f.holding.Unlock()
	f.p.cache.Keep([]string{l.key}, false)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.demand.leaves[l.key] != l {
		return nil
	}
	if l.rounds && f.proven && (!l.proven || f.provenAt > l.at) {
		l.at, l.proven = f.provenAt, true
	}
	l.joined, l.rounds = false, false
	delete(f.demand.ids, l.id)
	delete(f.demand.fresh, l)
	f.demand.lost[l.key] = l
	select {
	case f.demand.wake <- struct{}{}:
	default:
	}
	return nil
}

// refreshKeys is how many keys are asked for anew at a time.
const refreshKeys = 64

// refresh asks anew for what was lost, until ctx ends.
func (f *feed) refresh(ctx context.Context, epoch kv.Epoch) {
	most := refreshKeys
	for {
		keys := f.lostKeys(most)
		if len(keys) == 0 {
			most = refreshKeys
			select {
			case <-f.demand.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := f.anew(ctx, epoch, keys)
		switch {
		case kv.CodeOf(err) == kv.TooLarge && most > 1:
			most /= 2
			continue
		case kv.CodeOf(err) == kv.TooLarge, kv.CodeOf(err) == kv.PermissionDenied:
			for _, k := range keys {
				err = errors.Join(err, f.release([]byte(k)))
			}
		case err == nil:
			continue
		}
		f.p.opts.Log.Debug("keys held on demand are not up to date yet", "keys", len(keys), "error", err)
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (f *feed) lostKeys(most int) (keys []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.demand.lost {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys[:min(most, len(keys))]
}

// anew asks for keys, at one revision. What has not changed since this node saw it costs no bytes of its value.
func (f *feed) anew(ctx context.Context, epoch kv.Epoch, keys []string) error {
	var asks []*cache.Ask
	var was []*kv.KeyValue
	q := kv.Query{By: f.p.opts.Self}
	for _, k := range keys {
		r := kv.Range{Key: []byte(k)}
		found, _, err := f.p.cache.Get(r.Key)
		if err != nil {
			return err
		}
		if found.KV != nil {
			r.MinMod = found.KV.ModRevision + 1
		}
		asks, was, q.Ops = append(asks, f.p.cache.Ask(r.Key)), append(was, found.KV), append(q.Ops, r)
	}
	sent := f.p.opts.Clock()
	var late error
	page, err := f.p.answer(ctx, q)
	if err == nil && (page.Epoch != epoch || len(page.Ops) != len(keys)) {
		err = errors.New("the cluster turned to another history")
	}
	for i, a := range asks {
		if err != nil {
			f.p.cache.Leave(a)
			continue
		}
		v := was[i]
		switch res := page.Ops[i]; {
		case res.Count == 0:
			v = nil
		case len(res.KVs) > 0:
			v = &res.KVs[0]
		}
		if !f.hold(a, page, sent, v) {
			late = errors.New("written here meanwhile, or there is no room")
		}
	}
	if err == nil {
		err = late
	}
	return err
}
