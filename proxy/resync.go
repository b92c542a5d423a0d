package proxy

import (
	"context"
	"errors"
	"slices"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// A resync asks for many ranges at a time, splits one that has lost keys in parts, and lists one that is small enough.
const (
	resyncRanges = 64 // ranges in a question
	resyncParts  = 8
	resyncList   = 24 // keys
)

// errDiffers says that what the cache has cannot have been there at its revision.
var errDiffers = errors.New("the cluster has keys, unchanged since, that the cache lacks")

// resync brings a mirror to the present whose history above is gone: this node was away for longer than that is kept.
//
// What was written since is what has a higher revision, which is asked for. What was deleted since is found by counting:
// what this node has, with what was written since, is all that can be there. So a range with as many keys above as here
// has lost none, and one with fewer is split until it is small enough to be listed. Nothing is hashed: the answer is exact,
// and any member, or proxy in between, can give it (docs/adr/0015). All of it is as of one revision.
//
// Until it is done the cache keeps what it has, with its age, and a killed process begins anew.
func (f *feed) resync(ctx context.Context, epoch kv.Epoch, m *mirror, s cache.Span) (span cache.Span, err error) {
	span = s
	had, err := f.p.cache.Keys(s.Key, s.End)
	if err != nil {
		return span, err
	}
	var changed []kv.KeyValue
	var size, theirs int64
	first := true
	span.Revision, err = f.pages(ctx, epoch, m, kv.Range{Key: s.Key, End: s.End, MinMod: s.Revision + 1}, func(kvs []kv.KeyValue, left int64) error {
		if first {
			first, theirs = false, left+int64(len(kvs))
		}
		changed = append(changed, kvs...)
		for _, v := range kvs {
			size += cache.Weight(v)
		}
		if size > f.p.opts.MaxBytes {
			return cache.ErrFull
		}
		return nil
	})
	if err == nil {
		for _, v := range changed {
			had = append(had, string(v.Key))
		}
		slices.Sort(had)
		d := &deletions{f: f, m: m, epoch: epoch, at: span.Revision, keys: slices.Compact(had)}
		err = d.find(ctx, segment{s.Key, s.End, 0, len(d.keys), theirs})
		if err == nil {
			f.p.met.resynced.Inc()
			f.p.opts.Log.Info("cache has caught up past a compaction", "prefix", string(m.prefix), "from", s.Revision, "to", span.Revision,
				"written", len(changed), "deleted", len(d.gone), "keys", len(d.keys)-len(d.gone))
			err = f.p.cache.Jump(span, changed, d.gone)
		}
	}
	f.evicted()
	if errors.Is(err, cache.ErrFull) {
		if derr := f.drop(m); derr != nil {
			return span, derr
		}
		m.retry = retryAfter(tooLargeRetry)
	}
	if err != nil {
		return span, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.lost = false
	return span, nil
}

// deletions finds which of the keys are gone at a revision.
type deletions struct {
	f     *feed
	m     *mirror
	epoch kv.Epoch
	at    int64
	keys  []string // in order: what may be there
	gone  []string
}

// segment is a range with the keys that may be in it, keys[lo:hi], and how many there are above.
type segment struct {
	key, end []byte
	lo, hi   int
	theirs   int64
}

// find looks into segments with fewer keys above than here, all of one size before the smaller ones.
func (d *deletions) find(ctx context.Context, all segment) error {
	todo := []segment{all}
	for len(todo) > 0 {
		var split, list []segment
		for _, s := range todo {
			switch n := int64(s.hi - s.lo); {
			case s.theirs > n:
				return errDiffers
			case s.theirs == n:
			case s.theirs == 0:
				d.gone = append(d.gone, d.keys[s.lo:s.hi]...)
			case n <= resyncList:
				list = append(list, s)
			default:
				split = append(split, d.parts(s)...)
			}
		}
		if err := d.list(ctx, list); err != nil {
			return err
		}
		if err := d.count(ctx, split); err != nil {
			return err
		}
		todo = split
	}
	return nil
}

// parts divides a segment; where each begins is a key that it may have.
func (d *deletions) parts(s segment) (parts []segment) {
	n := s.hi - s.lo
	for i := range resyncParts {
		p := segment{key: s.key, end: s.end, lo: s.lo + n*i/resyncParts, hi: s.lo + n*(i+1)/resyncParts}
		if i > 0 {
			p.key = []byte(d.keys[p.lo])
		}
		if i < resyncParts-1 {
			p.end = []byte(d.keys[p.hi])
		}
		parts = append(parts, p)
	}
	return parts
}

// count fills in how many keys there are above.
func (d *deletions) count(ctx context.Context, segments []segment) error {
	return d.ask(ctx, segments, kv.Range{CountOnly: true}, func(s *segment, res kv.OpResult) error {
		s.theirs = res.Count
		return nil
	})
}

// list finds what is gone of small segments.
func (d *deletions) list(ctx context.Context, segments []segment) error {
	return d.ask(ctx, segments, kv.Range{KeysOnly: true, Limit: resyncList + 1}, func(s *segment, res kv.OpResult) error {
		i := 0
		for _, k := range d.keys[s.lo:s.hi] {
			if i < len(res.KVs) && string(res.KVs[i].Key) == k {
				i++
				continue
			}
			d.gone = append(d.gone, k)
		}
		if i < len(res.KVs) {
			return errDiffers
		}
		return nil
	})
}

// ask asks the same of all segments.
func (d *deletions) ask(ctx context.Context, segments []segment, like kv.Range, answer func(*segment, kv.OpResult) error) error {
	for some := range slices.Chunk(segments, resyncRanges) {
		ranges := make([]kv.Range, len(some))
		for i, s := range some {
			ranges[i] = like
			ranges[i].Key, ranges[i].End, ranges[i].Revision = s.key, s.end, d.at
		}
		page, err := d.f.above(ctx, d.epoch, d.m, ranges...)
		if err != nil {
			return err
		}
		for i := range some {
			if err := answer(&some[i], page.Ops[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// behindHistory reports whether what a mirror has can no longer be brought to the present by a watch.
func (f *feed) behindHistory(m *mirror) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return m.lost
}

// lost reports whether a span waits for a resync. Meanwhile there are no rounds, though the uplink works.
func (f *feed) lost(s cache.Span) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.mirrors, func(m *mirror) bool { return m.lost && covers(m.key, m.end, s.Key, s.End) })
}
