package proxy

import (
	"context"
	"errors"
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
// If no round can be had and StaleIfError allows the age, or it is unknown, the cache answers and says how old it is. The
// answer for a key that was forwarded is held, and the key is covered from then on (demand.go).
func (p *Proxy) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if q.By.Token != "" { // nobody here can tell what it is good for: the member judges, and nothing is served or held beside it
		return p.forward(ctx, q)
	}
	if len(q.Ops) == 0 && q.MaxAge == kv.Unlimited && !q.LocalOnly {
		epoch, newest := p.seen()
		return kv.Page{Header: kv.Header{Epoch: epoch, Revision: newest}, Source: kv.SourceCache, Age: kv.AgeUnknown}, nil
	}
	r, span, ok := p.coverable(q)
	if !ok {
		return p.fetch(ctx, q)
	}
	if q.MinRevision > span.Revision {
		if err := p.await(ctx, q, r); err != nil {
			if page, ferr := p.ahead(ctx, q); ferr == nil {
				return page, nil
			}
			return kv.Page{}, err
		}
	}
	age, joined := p.age(span)
	if q.LocalOnly || q.MaxAge == kv.Unlimited || q.MaxAge > 0 && age >= 0 && age <= q.MaxAge {
		return p.local(ctx, q, r, age, 0)
	}
	if !joined {
		// No round speaks for the key yet, or there are none though the uplink may be fine.
		page, err := p.fetch(ctx, q)
		if err == nil {
			return page, nil
		}
		return p.degrade(ctx, q, r, age, err)
	}
	sent, at, err := p.round(ctx, q)
	if err != nil && q.StaleIfError == 0 && !p.feed.isPaused() && p.revived(ctx) {
		sent, at, err = p.round(ctx, q)
	}
	if err != nil && q.StaleIfError == 0 && p.feed.isPaused() {
		return p.fetch(ctx, q)
	}
	if err == nil {
		p.met.rounds.Inc()
		age := p.opts.Clock() - sent
		if q.MaxAge == 0 {
			age = 0
		}
		return p.local(ctx, q, r, age, at)
	}
	age, _ = p.age(span)
	return p.degrade(ctx, q, r, age, err)
}

// age is how old what the cache has of a span is, by proof. joined: it is worth waiting for a round.
func (p *Proxy) age(s cache.Span) (age time.Duration, joined bool) {
	if len(s.End) > 0 {
		return p.feed.age(), !p.feed.lost(s)
	}
	up, _ := p.feed.state() // if it is not, the uplink may be all the same; who asks is told at once if it is lost
	age, joined = p.feed.stands(s.Key)
	return age, joined && up
}

// round waits for a round. Whoever takes what is at hand too does not wait for one that is overdue.
func (p *Proxy) round(ctx context.Context, q kv.Query) (sent time.Duration, at int64, err error) {
	if q.StaleIfError > 0 {
		if p.feed.overdue() {
			return 0, 0, errOverdue
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, slowRound)
		defer cancel()
	}
	return p.feed.round(ctx)
}

// revived waits for a feed that has ended though the uplink works, as it does when that has moved to another member. If the uplink is
// lost it says so at once.
func (p *Proxy) revived(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, feedWait)
	defer cancel()
	if up, _, _ := p.feed.news(); !up {
		if _, err := p.up.Read(ctx, kv.Query{MaxAge: kv.Unlimited}); err != nil {
			return false
		}
	}
	for {
		up, _, changed := p.feed.news()
		if up {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

var errOverdue = kv.Errorf(kv.UpstreamUnavailable, "nothing has come back from the cluster for %v", slowRound)

// degrade answers when no round could be had.
func (p *Proxy) degrade(ctx context.Context, q kv.Query, r kv.Range, age time.Duration, cause error) (kv.Page, error) {
	switch {
	case q.MaxAge == 0 && q.StaleIfError == 0:
		return kv.Page{}, &kv.Error{Code: kv.UpstreamUnavailable, RetryAfter: time.Second, Err: cause,
			Detail: "a linearizable read needs the cluster, which does not answer: " + cause.Error() + "; ask for consistency=local or auto to get what this node knows"}
	case q.StaleIfError > 0 && age <= q.StaleIfError: // an unknown age is below every bound: what it says is honest
		p.met.stale.Inc()
		return p.local(ctx, q, r, age, 0)
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

// coverable returns the range of a query that the cache can answer, and what of the cache it lies in.
func (p *Proxy) coverable(q kv.Query) (kv.Range, cache.Span, bool) {
	r, ok := single(q)
	if !ok {
		return r, cache.Span{}, false
	}
	span, covered := p.cache.Covered(r.Key, r.End)
	return r, span, covered && shows(span, r)
}

func single(q kv.Query) (r kv.Range, ok bool) {
	if len(q.Ops) == 1 {
		r, ok = q.Ops[0].(kv.Range)
	}
	return r, ok
}

// shows reports whether a span stands where a range is to be read: it knows the newest revision and no other. That is
// enough for the pages of a list while nothing changes, and while the cluster is out of reach nothing does.
func shows(s cache.Span, r kv.Range) bool { return r.Revision == 0 || r.Revision == s.Revision }

// await brings what covers a range to q.MinRevision.
func (p *Proxy) await(ctx context.Context, q kv.Query, r kv.Range) error {
	ctx, cancel := context.WithTimeout(ctx, q.Wait)
	defer cancel()
	asked := false
	for {
		up, _, changed := p.feed.news()
		span, covered := p.cache.Covered(r.Key, r.End)
		if covered && span.Revision >= q.MinRevision {
			return nil
		}
		if up && !asked {
			asked = true
			if _, _, err := p.feed.round(ctx); err == nil {
				continue
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return kv.Errorf(kv.RevisionTimeout, "revision %d was not reached in %s; this node is at %d", q.MinRevision, q.Wait, span.Revision)
		}
	}
}

// ahead asks the upstream for a revision that the cache does not have yet.
func (p *Proxy) ahead(ctx context.Context, q kv.Query) (kv.Page, error) {
	if q.LocalOnly {
		return kv.Page{}, kv.Errorf(kv.NotCached, "the request forbids asking the cluster")
	}
	return p.fetch(ctx, q)
}

// local answers from the cache, if that knows what it is asked for at a revision at least.
func (p *Proxy) local(ctx context.Context, q kv.Query, r kv.Range, age time.Duration, least int64) (kv.Page, error) {
	if len(r.End) == 0 && plain(r) {
		return p.localKey(ctx, q, r, age, least)
	}
	kvs, f, covered, err := p.cache.Range(r.Key, r.End, r.Revision)
	if err != nil {
		p.opts.Log.Error("cache cannot be read; the answer is fetched instead", "error", err)
		return p.forward(ctx, q)
	}
	epoch, _ := p.seen()
	if !covered || f.Span.Revision < least || !shows(f.Span, r) || f.Epoch != epoch { // the cluster turned to another history meanwhile, or went on
		return p.forward(ctx, q)
	}
	if f.Partial && (len(r.End) > 0 || len(kvs) == 0) {
		return p.unsure(ctx, q)
	}
	if f.Ahead > f.Span.Revision && q.MaxAge == 0 && !q.LocalOnly {
		return p.forward(ctx, q) // as of one revision
	}
	// Own writes may be newer than the rest. Who goes on from the revision of the answer must not miss what came between.
	page := kv.Page{Header: kv.Header{Epoch: epoch, Revision: f.Span.Revision}, Source: kv.SourceCache, Age: age,
		Ops: []kv.OpResult{evaluate(r, kvs)}}
	if len(r.End) == 0 && len(kvs) > 0 {
		page.Revision = max(page.Revision, kvs[0].ModRevision)
	}
	p.met.hits.Inc()
	return page, nil
}

// plain reports whether a range asks for a key as it is.
func plain(r kv.Range) bool {
	return r.Revision == 0 && !r.CountOnly && r.MinMod == 0 && r.MaxMod == 0 && r.MinCreate == 0 && r.MaxCreate == 0
}

// localKey is local for one key as it is, which most reads ask for: its answer is one piece of memory, and at hand if it was read before.
func (p *Proxy) localKey(ctx context.Context, q kv.Query, r kv.Range, age time.Duration, least int64) (kv.Page, error) {
	f, covered, err := p.cache.Get(r.Key)
	if err != nil {
		p.opts.Log.Error("cache cannot be read; the answer is fetched instead", "key", string(r.Key), "error", err)
		return p.fetch(ctx, q)
	}
	epoch, _ := p.seen()
	if !covered || f.Span.Revision < least || f.Epoch != epoch {
		return p.fetch(ctx, q)
	}
	if f.Partial && f.KV == nil {
		return p.unsure(ctx, q)
	}
	a := f.Answer
	if r.KeysOnly && f.KV != nil {
		bare := *f.KV
		bare.Value = nil
		a = cache.NewAnswer(&bare)
	}
	if a == nil {
		a = cache.NewAnswer(f.KV)
	}
	page := kv.Page{Header: kv.Header{Epoch: epoch, Revision: f.Span.Revision}, Source: kv.SourceCache, Age: age, Ops: a.Ops()}
	if f.KV != nil {
		page.Revision = max(page.Revision, f.KV.ModRevision) // an own write, or from the journal of a process that was killed
	}
	p.met.hits.Inc()
	return page, nil
}

// unsure answers for what the cache has lost with the machine: whether a key exists that it does not have.
func (p *Proxy) unsure(ctx context.Context, q kv.Query) (kv.Page, error) {
	if !q.LocalOnly {
		page, err := p.fetch(ctx, q)
		if err == nil {
			return page, nil
		}
	}
	return kv.Page{}, kv.Errorf(kv.NotCached, "the machine went down before the cache was written, and the cluster has not answered since: whether keys are missing here is not known")
}

// fetch forwards, and lets in the answer if it is one key as it is now.
func (p *Proxy) fetch(ctx context.Context, q kv.Query) (kv.Page, error) {
	r, ok := single(q)
	if !ok || len(r.End) > 0 || len(r.Key) == 0 || !plain(r) || q.LocalOnly {
		return p.forward(ctx, q)
	}
	ask := p.cache.Ask(r.Key)
	sent := p.opts.Clock()
	page, err := p.answer(ctx, q)
	if err != nil || len(page.Ops) != 1 {
		p.cache.Leave(ask)
		return page, err
	}
	if p.cache.Epoch().IsZero() { // the very first answer, before the feed has come up
		if err := p.feed.turn(page.Epoch); err != nil {
			p.opts.Log.Error("cache cannot be written", "error", err)
		}
		ask = p.cache.Ask(r.Key)
		if _, newest := p.seen(); newest > page.Revision { // what was asked for meanwhile is not known
			p.cache.Leave(ask)
			return page, nil
		}
	}
	var v *kv.KeyValue
	if kvs := page.Ops[0].KVs; len(kvs) > 0 {
		v = &kvs[0]
	}
	if !p.feed.hold(ask, page, sent, v) {
		p.showing(q.Ops, page.Ops, page.Revision)
	}
	return page, nil
}

// forward asks the upstream, and sees to it that what it says of single keys is not read older here.
func (p *Proxy) forward(ctx context.Context, q kv.Query) (kv.Page, error) {
	page, err := p.answer(ctx, q)
	if err == nil {
		p.showing(q.Ops, page.Ops, page.Revision)
	}
	return page, err
}

// answer asks the upstream, which must not be behind what this node has seen.
func (p *Proxy) answer(ctx context.Context, q kv.Query) (kv.Page, error) {
	epoch, newest := p.seen()
	if q.LocalOnly {
		return kv.Page{}, &kv.Error{Code: kv.NotCached, Revision: newest,
			Detail: "this proxy does not hold the key, and the request forbids asking the cluster; it holds what proxy.prefixes names and what was read before"}
	}
	up := q
	if up.MinRevision == 0 && !epoch.IsZero() {
		up.MinRevision, up.Wait = newest, feedWait
	}
	if !p.caughtUp() {
		// A member may be behind what an earlier process of this node has seen. As far as the cluster can tell this one is
		// shown the newest; else it gets what it would take.
		up.MaxAge, up.StaleIfError = 0, max(q.StaleIfError, q.MaxAge)
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
	if up.MaxAge == 0 && page.Age == 0 {
		p.catchUp()
	}
	for _, op := range q.Ops {
		key, end := kv.FromKey(), kv.FromKey()
		if r, ok := op.(kv.Range); ok {
			key, end = r.Key, r.End
		}
		p.cache.Shown(key, end, page.Revision)
	}
	page.Source = kv.SourceUpstream
	return page, nil
}
