package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// load makes sure that a prefix is covered: by what the cache has, by what differs from that if the history in between is
// gone, or by reading all of it at one revision. A prefix that did not fit is not read again at once: finding that out may
// have cost as many bytes on the link as the cache may have.
func (f *feed) load(ctx context.Context, epoch kv.Epoch, m *mirror) (span cache.Span, err error) {
	if s, ok := f.p.cache.Mirrored(m.key, m.end); ok {
		if !f.behindHistory(m) {
			return s, nil
		}
		s, err := f.resync(ctx, epoch, m, s)
		if !errors.Is(err, errDiffers) {
			return s, err
		}
		f.p.opts.Log.Error("what the cache has of a prefix is not what it was at its revision; all of it is read anew", "prefix", string(m.prefix), "error", err)
		if err := f.drop(m); err != nil {
			return s, err
		}
	}
	span = cache.Span{Key: m.key, End: m.end}
	if time.Now().Before(m.retry) {
		return span, cache.ErrFull
	}
	defer func() {
		f.evicted()
		if errors.Is(err, cache.ErrFull) {
			m.retry = retryAfter(tooLargeRetry)
		}
	}()
	var all []kv.KeyValue
	var size int64
	span.Revision, err = f.pages(ctx, epoch, m, kv.Range{Key: m.key, End: m.end}, func(kvs []kv.KeyValue, left int64) error {
		all = append(all, kvs...)
		for _, v := range kvs {
			size += cache.Weight(v)
		}
		if size+left*cache.WeightMin > f.p.opts.MaxBytes {
			return cache.ErrFull
		}
		return nil
	})
	if err != nil {
		return span, err
	}
	return span, f.p.cache.Load(epoch, span, all)
}

// pages reads a range in pages, all at one revision, which it returns: r.Revision, or the newest. Left is how many keys
// the range has behind the page, those that r's bounds leave out included.
func (f *feed) pages(ctx context.Context, epoch kv.Epoch, m *mirror, r kv.Range, each func(kvs []kv.KeyValue, left int64) error) (revision int64, err error) {
	r.Limit = pageKeys
	for {
		page, err := f.above(ctx, epoch, m, r)
		if kv.CodeOf(err) == kv.TooLarge && r.Limit > 1 {
			r.Limit /= 2 // large values: an answer is bounded
			continue
		}
		if err != nil {
			return r.Revision, err
		}
		if r.Revision == 0 {
			r.Revision = page.Revision
		}
		res := page.Ops[0]
		if err := each(res.KVs, res.Count-int64(len(res.KVs))); err != nil {
			return r.Revision, err
		}
		if !res.More || len(res.KVs) == 0 {
			return r.Revision, nil
		}
		r.Key = append(bytes.Clone(res.KVs[len(res.KVs)-1].Key), 0) // the least key behind the last
	}
}

// above asks the cluster for a mirror.
func (f *feed) above(ctx context.Context, epoch kv.Epoch, m *mirror, ranges ...kv.Range) (kv.Page, error) {
	q := kv.Query{By: f.p.opts.Self}
	for _, r := range ranges {
		q.Ops = append(q.Ops, r)
	}
	page, err := f.p.up.Read(ctx, q)
	switch {
	case err != nil:
		return page, fmt.Errorf("mirror prefix %q: %w", m.prefix, err)
	case page.Epoch != epoch:
		return page, fmt.Errorf("mirror prefix %q: the cluster turned to another history", m.prefix)
	case len(page.Ops) != len(ranges):
		return page, fmt.Errorf("mirror prefix %q: %d answers to %d questions", m.prefix, len(page.Ops), len(ranges))
	}
	return page, nil
}

func retryAfter(d time.Duration) time.Time { return time.Now().Add(d) }
