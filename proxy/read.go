package proxy

import (
	"context"
	"errors"
	"maps"
	"time"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// Read serves from the cache what it covers and what is fresh enough, and forwards the rest.
//
//	                     covered                                          not covered
//	LocalOnly            the cache, whatever its age                      NotCached
//	MaxAge Unlimited     the cache, whatever its age                      forwarded
//	MaxAge d             the cache if proven within d, else after a round forwarded
//	MaxAge 0             the cache after a round sent after the request   forwarded
//
// If no round can be had and StaleIfError allows the age, or it is unknown, the cache answers and says how old it is.
func (p *Proxy) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	r, ok := p.coverable(q)
	if !ok {
		return p.forward(ctx, q)
	}
	if err := p.await(ctx, q); err != nil {
		if page, ferr := p.ahead(ctx, q); ferr == nil {
			return page, nil
		}
		return kv.Page{}, err
	}
	age := p.feed.age()
	if q.LocalOnly || q.MaxAge == kv.Unlimited || q.MaxAge > 0 && age >= 0 && age <= q.MaxAge {
		return p.local(ctx, q, r, age)
	}
	sent, err := p.feed.round(ctx)
	if err == nil {
		p.met.rounds.Inc()
		page, err := p.local(ctx, q, r, p.opts.Clock()-sent)
		if q.MaxAge == 0 {
			page.Age = 0
		}
		return page, err
	}
	return p.degrade(ctx, q, r, err)
}

// degrade answers when no round could be had.
func (p *Proxy) degrade(ctx context.Context, q kv.Query, r kv.Range, cause error) (kv.Page, error) {
	age := p.feed.age()
	switch {
	case q.MaxAge == 0 && q.StaleIfError == 0:
		return kv.Page{}, &kv.Error{Code: kv.UpstreamUnavailable, RetryAfter: time.Second, Err: cause,
			Detail: "a linearizable read needs the cluster, which does not answer: " + cause.Error() + "; ask for consistency=local or auto to get what this node knows"}
	case q.StaleIfError > 0 && age <= q.StaleIfError: // an unknown age is below every bound: what it says is honest
		p.met.stale.Inc()
		return p.local(ctx, q, r, age)
	}
	return kv.Page{}, kv.Errorf(kv.StalenessExceeded, "what this node knows is %s old, the request allows %s, and the cluster does not answer: %v",
		ageText(age), max(q.MaxAge, q.StaleIfError), cause)
}

func ageText(age time.Duration) string {
	if age < 0 {
		return "of unknown age, at least since the last start,"
	}
	return age.Round(time.Millisecond).String()
}

// coverable returns the range of a query that the cache can answer.
func (p *Proxy) coverable(q kv.Query) (kv.Range, bool) {
	if len(q.Ops) != 1 {
		return kv.Range{}, false
	}
	r, ok := q.Ops[0].(kv.Range)
	if !ok {
		return r, false
	}
	span, covered := p.cache.Covered(r.Key, r.End)
	return r, covered && shows(span, r)
}

// shows reports whether a mirror stands where a range is to be read: it knows the newest revision and no other. That is
// enough for the pages of a list while nothing changes, and while the cluster is out of reach nothing does.
func shows(s cache.Span, r kv.Range) bool { return r.Revision == 0 || r.Revision == s.Revision }

// await brings the cache to q.MinRevision, if it has one.
func (p *Proxy) await(ctx context.Context, q kv.Query) error {
	if q.MinRevision == 0 || p.feed.revision() >= q.MinRevision {
		return nil
	}
	wctx, cancel := context.WithTimeout(ctx, q.Wait)
	defer cancel()
	if _, err := p.feed.round(wctx); err == nil && p.feed.revision() >= q.MinRevision {
		return nil
	}
	if p.feed.reach(wctx, q.MinRevision, true) {
		return nil
	}
	return kv.Errorf(kv.RevisionTimeout, "revision %d was not reached in %s; this node is at %d", q.MinRevision, q.Wait, p.feed.revision())
}

// ahead asks the upstream for a revision that the cache does not have yet.
func (p *Proxy) ahead(ctx context.Context, q kv.Query) (kv.Page, error) {
	if q.LocalOnly {
		return kv.Page{}, kv.Errorf(kv.NotCached, "the request forbids asking the cluster")
	}
	return p.forward(ctx, q)
}

// local answers from the cache.
func (p *Proxy) local(ctx context.Context, q kv.Query, r kv.Range, age time.Duration) (kv.Page, error) {
	own := p.ownIn(r.Key, r.End)
	kvs, span, covered, err := p.cache.Range(r.Key, r.End)
	if err != nil {
		p.opts.Log.Error("cache cannot be read; the answer is fetched instead", "error", err)
		return p.forward(ctx, q)
	}
	if !covered || !shows(span, r) { // the cluster turned to another history meanwhile, or went on
		return p.forward(ctx, q)
	}
	epoch, newest := p.seen()
	if r.Revision != 0 {
		maps.DeleteFunc(own, func(_ string, e kv.Event) bool { return e.KV.ModRevision > r.Revision })
	}
	kvs = merge(kvs, own)
	if p.cache.Partial() && (len(r.End) > 0 || len(kvs) == 0) {
		return p.unsure(ctx, q)
	}
	page := kv.Page{Header: kv.Header{Epoch: epoch, Revision: span.Revision}, Source: kv.SourceCache, Age: age,
		Ops: []kv.OpResult{evaluate(r, kvs)}}
	for _, v := range kvs {
		page.Revision = max(page.Revision, v.ModRevision)
	}
	page.Revision = min(page.Revision, max(newest, span.Revision))
	p.met.hits.Inc()
	return page, nil
}

// unsure answers for what the cache has lost with the machine: whether a key exists that it does not have.
func (p *Proxy) unsure(ctx context.Context, q kv.Query) (kv.Page, error) {
	if !q.LocalOnly {
		page, err := p.forward(ctx, q)
		if err == nil {
			return page, nil
		}
	}
	return kv.Page{}, kv.Errorf(kv.NotCached, "the machine went down before the cache was written, and the cluster has not answered since: whether keys are missing here is not known")
}

// forward asks the upstream, which must not be behind what this node has seen.
func (p *Proxy) forward(ctx context.Context, q kv.Query) (kv.Page, error) {
	epoch, newest := p.seen()
	if q.LocalOnly {
		return kv.Page{}, &kv.Error{Code: kv.NotCached, Revision: newest,
			Detail: "this proxy does not mirror the key (proxy.prefixes), and the request forbids asking the cluster"}
	}
	up := q
	if up.MinRevision == 0 && !epoch.IsZero() {
		up.MinRevision, up.Wait = newest, feedWait
	}
	page, err := p.up.Read(ctx, up)
	if errors.Is(err, &kv.Error{Code: kv.RevisionTimeout}) && q.MinRevision == 0 {
		// A member behind us, or another history with smaller revisions: ask who it is.
		if h, herr := p.up.Read(ctx, kv.Query{}); herr == nil && h.Epoch != epoch {
			p.saw(h.Header)
			page, err = p.up.Read(ctx, q)
		}
	}
	if err != nil {
		return kv.Page{}, err
	}
	p.met.misses.Inc()
	p.saw(page.Header)
	page.Source = kv.SourceUpstream
	return page, nil
}
