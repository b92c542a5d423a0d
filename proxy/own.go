package proxy

import (
	"context"

	"holdfast/kv"
)

// remember keeps what this node has acknowledged from being read older here. A simple write to a covered key is kept until
// the feed brings it. Of other shapes it is not known what the keys are now: those held on demand are let go, and what a
// mirror has of them is not shown until the feed has brought the write. A round makes that happen soon; it is waited for,
// so that who writes and then reads is served here.
func (p *Proxy) remember(ctx context.Context, c kv.Command, res kv.Result) {
	ops, results := flatten(c, res)
	behind := false
	touch := func(key, end []byte, revision int64) {
		behind = p.feed.touch(key, end, revision) || behind
	}
	for i, op := range ops {
		rev := results[i].revision
		switch op := op.(type) {
		case kv.Put:
			v := kv.KeyValue{Key: op.Key, Value: op.Value, ModRevision: rev, Lease: op.Lease}
			if op.IgnoreValue || op.IgnoreLease || !p.own(kv.Event{KV: v}, results[i].created) {
				touch(op.Key, nil, rev)
			}
		case kv.Delete:
			e := kv.Event{Delete: true, KV: kv.KeyValue{Key: op.Key, ModRevision: rev}}
			// One that found nothing says that there is nothing, which may be news here.
			if len(op.End) > 0 || !p.own(e, false) {
				touch(op.Key, op.End, rev)
			}
		case kv.Txn:
			written(op, func(key, end []byte) { touch(key, end, rev) })
		case kv.Compact:
			p.feed.compacted(op.Revision)
		case kv.LeaseRevoke: // deletes keys that nobody names
			touch(kv.FromKey(), kv.FromKey(), rev)
		}
	}
	if behind {
		ctx, cancel := context.WithTimeout(ctx, feedWait)
		defer cancel()
		_, _, _ = p.feed.round(ctx) // see above
	}
}

// written calls each range that either branch of a transaction may write.
func written(t kv.Txn, each func(key, end []byte)) {
	for _, ops := range [][]kv.Op{t.Then, t.Else} {
		for _, op := range ops {
			switch op := op.(type) {
			case kv.Put:
				each(op.Key, nil)
			case kv.Delete:
				each(op.Key, op.End)
			case kv.Txn:
				written(op, each)
			}
		}
	}
}

// done is what a remembered op needs to know of its result.
type done struct {
	revision int64
	created  bool
}

// flatten lists the ops of a command, or of the commands in a batch, that were applied.
func flatten(c kv.Command, res kv.Result) (ops []kv.Op, results []done) {
	if len(res.Ops) != len(c.Ops) {
		return nil, nil
	}
	for i, op := range c.Ops {
		e, batch := op.(kv.Each)
		if !batch {
			r := res.Ops[i]
			ops, results = append(ops, op), append(results, done{res.Revision, r.Created})
			continue
		}
		for j, out := range res.Ops[i].Each[:min(len(res.Ops[i].Each), len(e.Commands))] {
			if out.Err == nil {
				o, r := flatten(e.Commands[j], out.Result)
				ops, results = append(ops, o...), append(results, r...)
			}
		}
	}
	return ops, results
}

// own remembers one write; it reports false if it cannot.
func (p *Proxy) own(e kv.Event, created bool) bool {
	known, err := p.cache.Own(e, created)
	if err != nil {
		p.opts.Log.Error("own write is not kept for the case of a crash; the feed will bring it", "error", err)
	}
	return known
}

// touch lets held keys in a range go, which this node has written; it reports whether a mirror that has some is behind.
func (f *feed) touch(key, end []byte, revision int64) (behind bool) {
	f.holding.Lock()
	defer f.holding.Unlock()
	behind, err := f.p.cache.Touch(key, end, revision)
	f.drain()
	if err != nil {
		f.p.opts.Log.Error("cache cannot be written", "error", err)
	}
	return behind
}
