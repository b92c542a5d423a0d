package proxy

import (
	"bytes"
	"context"
	"math"
	"time"

	"holdfast/kv"
)

const (
	// feedLag is how long an event that a consumer's own upstream watch has brought waits for the feed to bring it too, so that a key
	// held here need not be let go. Mostly that has been faster.
	feedLag = 100 * time.Millisecond
	// shownMax bounds the keys that an answer hides one by one. Beyond it its whole range is hidden.
	shownMax = 32
)

// showing sees to it that what is about to be shown past the cache is not read older from it: what the cache has of those keys
// is taken out of sight until the feed has come as far. Results are those of ops as of a revision.
func (p *Proxy) showing(ops []kv.Op, results []kv.OpResult, revision int64) {
	if p.hide(ops, results, revision) {
		p.feed.nudge()
	}
}

func (p *Proxy) hide(ops []kv.Op, results []kv.OpResult, revision int64) (behind bool) {
	for i, op := range ops[:min(len(ops), len(results))] {
		switch op := op.(type) {
		case kv.Txn:
			branch := op.Else
			if results[i].Succeeded {
				branch = op.Then
			}
			behind = p.hide(branch, results[i].Ops, revision) || behind
		case kv.Range:
			behind = p.hideRange(op, results[i], revision) || behind
		}
	}
	return behind
}

func (p *Proxy) hideRange(r kv.Range, res kv.OpResult, revision int64) (behind bool) {
	if r.Revision > 0 {
		revision = r.Revision
	}
	p.cache.Shown(r.Key, r.End, revision)
	end, known := told(r, res)
	older, most, err := p.cache.Older(r.Key, end, res.KVs, known, revision)
	if err != nil {
		p.opts.Log.Error("cache cannot be read; what it has of a range that was answered above is hidden", "error", err)
	}
	if err != nil || len(older) > shownMax {
		return p.feed.touch(r.Key, r.End, max(most, revision))
	}
	for _, o := range older {
		behind = p.feed.touch(o.Key, nil, o.Revision) || behind
	}
	return behind
}

// told is the part of a range of which an answer says all: what it does not list there is not there. Known is false if there
// is none.
func told(r kv.Range, res kv.OpResult) (end []byte, known bool) {
	switch {
	case r.MinMod != 0 || r.MaxMod != 0 || r.MinCreate != 0 || r.MaxCreate != 0:
		return r.End, false
	case r.CountOnly:
		return r.End, res.Count == 0
	case !res.More:
		return r.End, true
	case len(res.KVs) == 0 || r.Sort != kv.TargetKey || r.Order == kv.OrderDescend:
		return r.End, false
	}
	return append(bytes.Clone(res.KVs[len(res.KVs)-1].Key), 0), true
}

// showingEvents is showing for what a consumer's own upstream watch has brought, which may be ahead of the feed.
func (p *Proxy) showingEvents(ctx context.Context, b kv.Batch) {
	if len(b.Events) == 0 {
		return
	}
	if epoch, _ := p.seen(); b.Epoch == epoch { // so that nobody who is behind that is asked from now on
		p.saw(b.Header)
	}
	var late *time.Timer
	defer func() {
		if late != nil {
			late.Stop()
		}
	}()
	for _, e := range b.Events {
		p.cache.Shown(e.KV.Key, nil, e.KV.ModRevision)
		for {
			up, _, changed := p.feed.news()
			older, err := p.cache.OlderKey(e)
			if !older && err == nil {
				break
			}
			if up && err == nil {
				if late == nil {
					late = time.NewTimer(feedLag)
				}
				select {
				case <-changed:
					continue
				case <-late.C:
					late.Reset(0) // for the other events of the batch too
				case <-ctx.Done():
				}
			}
			if p.feed.touch(e.KV.Key, nil, e.KV.ModRevision) {
				p.feed.nudge()
			}
			break
		}
	}
}

// refused takes note of a precondition that failed: who was told the present revision of a key must not read an older one
// here, and try with that again and again.
func (p *Proxy) refused(c kv.Command, e *kv.Error) {
	if e.Code != kv.PreconditionFailed || len(c.Guards) != 1 || len(c.Guards[0].End) > 0 {
		return
	}
	key := c.Guards[0].Key
	if e.Revision > 0 {
		p.showing([]kv.Op{kv.Range{Key: key}}, []kv.OpResult{{Count: 1, KVs: []kv.KeyValue{{Key: key, ModRevision: e.Revision}}}}, e.Revision)
		return
	}
	// It does not exist. If it does here, it was deleted after that, so the cluster is further at least by one. How far the
	// refusal does not say, so no answer that is under way is held.
	p.cache.Shown(key, nil, math.MaxInt64)
	f, covered, err := p.cache.Get(key)
	if err == nil && covered && f.KV != nil && p.feed.touch(key, nil, max(f.Span.Revision, f.KV.ModRevision)+1) {
		p.feed.nudge()
	}
}
