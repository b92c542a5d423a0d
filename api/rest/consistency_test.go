package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"holdfast/kv"
)

func TestHowFreshARequestIsUnderstood(t *testing.T) {
	const d, s = 7 * time.Second, 168 * time.Hour
	n := serve(t, func(o *Options) { o.Auto = within(d) })
	var last kv.Query
	n.between.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
		last = q
		return n.store.Read(ctx, q)
	}
	n.put("k", "v")
	for _, c := range []struct {
		query, cacheControl string
		maxAge, stale       time.Duration
		local               bool
		status              int
	}{
		{"", "", d, s, false, 200},
		{"?consistency=auto", "", d, s, false, 200},
		{"?consistency=linearizable", "", 0, 0, false, 200},
		{"", "no-cache", 0, 0, false, 200},
		{"", "max-age=0", 0, 0, false, 200},
		{"?consistency=bounded&max_staleness=5s", "", 5 * time.Second, 0, false, 200},
		{"?consistency=bounded&max_staleness=250ms", "", 250 * time.Millisecond, 0, false, 200},
		{"?consistency=bounded&max_staleness=5", "", 5 * time.Second, 0, false, 200},
		{"?consistency=bounded&max_staleness=0s", "", 0, 0, false, 200},
		{"", "max-age=5", 5 * time.Second, 0, false, 200},
		{"", "Max-Age=5, Stale-If-Error=60", 5 * time.Second, time.Minute, false, 200},
		{"", "stale-if-error=60", d, time.Minute, false, 200},
		{"", "stale-if-error=0", d, 0, false, 200},
		{"?consistency=bounded&max_staleness=5s", "stale-if-error=60", 5 * time.Second, time.Minute, false, 200},
		{"?consistency=local", "", kv.Unlimited, 0, true, 200},
		{"", "only-if-cached", kv.Unlimited, 0, true, 200},
		{"", "only-if-cached, max-age=5", 5 * time.Second, 0, true, 200},
		{"?consistency=linearizable", "only-if-cached", 0, 0, false, 200},
		{"?consistency=auto", "no-cache", d, s, false, 200},
		{"", "no-transform, foo=bar, no-store", d, s, false, 200}, // not for us
		{"", "max-age=99999999999999999999", (1 << 31) * time.Second, 0, false, 200},
		{"", "max-age=5, max-age=9", 9 * time.Second, 0, false, 200},
		{"", "no-cache, only-if-cached", 0, 0, false, 400},
		{"", "max-age=soon", 0, 0, false, 400},
		{"", "max-age", 0, 0, false, 400},
		{"", "max-age=-1", 0, 0, false, 400},
		{"?consistency=eventual", "", 0, 0, false, 400},
		{"?consistency=", "", 0, 0, false, 400},
		{"?consistency=bounded", "", 0, 0, false, 400},
		{"?consistency=bounded&max_staleness=long", "", 0, 0, false, 400},
		{"?consistency=bounded&max_staleness=-5s", "", 0, 0, false, 400},
		{"?max_staleness=5s", "", 0, 0, false, 400},
		{"?consistency=auto&max_staleness=5s", "", 0, 0, false, 400},
		{"?consistency=auto&consistency=local", "", 0, 0, false, 400},
	} {
		for _, path := range []string{"/v1/kv/k" + c.query, "/v1/kv/?prefix&" + trimQuestion(c.query)} {
			r := n.call("GET", path, "", "Cache-Control", c.cacheControl)
			if r.status != c.status {
				t.Errorf("%s with %q: %d, want %d", path, c.cacheControl, r.status, c.status)
				continue
			}
			if c.status != 200 {
				r.refused(t, 400, "invalid")
				continue
			}
			if last.MaxAge != c.maxAge || last.StaleIfError != c.stale || last.LocalOnly != c.local {
				t.Errorf("%s with %q: max age %v, stale if error %v, local %v; want %v, %v, %v", path, c.cacheControl,
					last.MaxAge, last.StaleIfError, last.LocalOnly, c.maxAge, c.stale, c.local)
			}
		}
	}
}

func trimQuestion(s string) string {
	if s == "" {
		return ""
	}
	return s[1:]
}

func TestAnAnswerSaysHowOldItIsAndWhereItIsFrom(t *testing.T) {
	const week = 168 * time.Hour
	for _, c := range []struct {
		name   string
		query  string
		age    time.Duration
		source kv.Source
		want   map[string]string
	}{
		{"fresh", "", 0, kv.SourceMember,
			map[string]string{"Holdfast-Consistency": "linearizable", "Holdfast-Age": "0", "Age": "0", "Holdfast-Source": "member", "Cache-Status": "holdfast; fwd=bypass"}},
		{"bounded by auto", "", 4 * time.Second, kv.SourceCache,
			map[string]string{"Holdfast-Consistency": "bounded", "Holdfast-Age": "4", "Age": "4", "Holdfast-Source": "cache", "Cache-Status": "holdfast; hit"}},
		{"rounded up", "", 1200*time.Millisecond + 1, kv.SourceCache,
			map[string]string{"Holdfast-Consistency": "bounded", "Holdfast-Age": "1.201", "Age": "2"}},
		{"a breath old", "", 1, kv.SourceCache,
			map[string]string{"Holdfast-Consistency": "bounded", "Holdfast-Age": "0.001", "Age": "1"}},
		{"linearizable from the cache", "?consistency=linearizable", 0, kv.SourceCache,
			map[string]string{"Holdfast-Consistency": "linearizable", "Holdfast-Age": "0", "Age": "0", "Holdfast-Source": "cache", "Cache-Status": "holdfast; hit"}},
		{"forwarded, of unknown age", "", kv.AgeUnknown, kv.SourceUpstream,
			map[string]string{"Holdfast-Consistency": "stale", "Holdfast-Age": "unknown", "Age": "", "Holdfast-Source": "upstream"}},
		{"stale", "", week, kv.SourceCache,
			map[string]string{"Holdfast-Consistency": "stale", "Holdfast-Age": "604800", "Age": "604800"}},
		{"of unknown age", "", kv.AgeUnknown, kv.SourceCache,
			map[string]string{"Holdfast-Consistency": "stale", "Holdfast-Age": "unknown", "Age": ""}},
		{"local", "?consistency=local", time.Hour, kv.SourceCache,
			map[string]string{"Holdfast-Consistency": "local", "Holdfast-Age": "3600", "Age": "3600"}},
		{"local of unknown age", "?consistency=local", kv.AgeUnknown, kv.SourceMember,
			map[string]string{"Holdfast-Consistency": "local", "Holdfast-Age": "unknown", "Age": "", "Holdfast-Source": "member"}},
		{"forwarded", "", time.Second, kv.SourceUpstream,
			map[string]string{"Holdfast-Source": "upstream", "Cache-Status": "holdfast; fwd=miss"}},
		{"forwarded as asked", "?consistency=linearizable", 0, kv.SourceUpstream,
			map[string]string{"Holdfast-Source": "upstream", "Holdfast-Consistency": "linearizable", "Holdfast-Age": "0", "Age": "0", "Cache-Status": "holdfast; fwd=miss"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := serve(t, func(o *Options) { o.Auto = within(5 * time.Second) })
			n.between.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
				p, err := n.store.Read(ctx, q)
				p.Age, p.Source, p.Pending = c.age, c.source, 3
				return p, err
			}
			n.put("k", "v")
			c.want["Holdfast-Pending"] = "3"
			c.want["Holdfast-Revision"] = "2"
			n.call("GET", "/v1/kv/k"+c.query, "").want(t, 200).wantHeaders(t, c.want)
			n.call("HEAD", "/v1/kv/k"+c.query, "").want(t, 200).wantHeaders(t, c.want)
			n.call("GET", "/v1/kv/none"+c.query, "").want(t, 404).wantHeaders(t, c.want)
			n.call("GET", "/v1/kv/k"+c.query, "", "If-None-Match", "*").want(t, 304).wantHeaders(t, c.want)
			n.call("GET", "/v1/kv/?prefix&"+trimQuestion(c.query), "").want(t, 200).wantHeaders(t, c.want)
		})
	}
}

func TestTheNextPageOfAListIsNotTheCaches(t *testing.T) {
	n := serve(t)
	n.between.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
		p, err := n.store.Read(ctx, q)
		p.Source = kv.SourceUpstream
		return p, err
	}
	n.put("a", "v")
	n.put("b", "v")
	r := n.call("GET", "/v1/kv/?prefix&limit=1", "").want(t, 200)
	r.wantHeaders(t, map[string]string{"Cache-Status": "holdfast; fwd=miss"})
	var page struct{ Next string }
	if err := json.Unmarshal([]byte(r.body), &page); err != nil {
		t.Fatal(err)
	}
	n.call("GET", "/v1/kv/?prefix&after="+page.Next, "").want(t, 200).wantHeaders(t, map[string]string{"Cache-Status": "holdfast; fwd=bypass"})
}

func TestNothingPendingIsNotMentioned(t *testing.T) {
	n := serve(t)
	n.put("k", "v")
	for _, path := range []string{"/v1/kv/k", "/v1/kv/none", "/v1/kv/?prefix"} {
		if got, there := n.call("GET", path, "").header["Holdfast-Pending"]; there {
			t.Errorf("%s: Holdfast-Pending %q", path, got)
		}
	}
}

func TestAReadWaitsForARevision(t *testing.T) {
	n := serve(t)
	n.put("k", "1")
	n.call("GET", "/v1/kv/k", "", "Holdfast-Min-Revision", "2").want(t, 200)
	done := make(chan reply, 1)
	go func() { done <- n.call("GET", "/v1/kv/k?wait=10s", "", "Holdfast-Min-Revision", "3") }()
	n.put("k", "2")
	if r := (<-done).want(t, 200); r.body != "2" {
		t.Errorf("read %q, want what was waited for", r.body)
	}
	r := n.call("GET", "/v1/kv/k?wait=10ms", "", "Holdfast-Min-Revision", "9")
	p := r.refused(t, 504, "revision-timeout")
	if p["retryable"] != true || r.header.Get("Retry-After") == "" {
		t.Errorf("%v, Retry-After %q", p, r.header.Get("Retry-After"))
	}
	n.call("GET", "/v1/kv/?prefix&wait=10ms", "", "Holdfast-Min-Revision", "9").refused(t, 504, "revision-timeout")
	for _, bad := range []string{"x", "0", "-1", "", "1, 2"} {
		n.call("GET", "/v1/kv/k", "", "Holdfast-Min-Revision", bad).refused(t, 400, "invalid")
	}
	n.call("GET", "/v1/kv/k?wait=5s", "").refused(t, 400, "invalid")
	n.call("GET", "/v1/kv/k?wait=6m", "", "Holdfast-Min-Revision", "1").refused(t, 400, "invalid")
}

func TestTheDefaultAsksForALinearizableAnswerFirst(t *testing.T) {
	n := serve(t)
	var last kv.Query
	n.between.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
		last = q
		return n.store.Read(ctx, q)
	}
	n.put("k", "v")
	n.call("GET", "/v1/kv/k", "").want(t, 200)
	if last.MaxAge != 0 || last.StaleIfError != 168*time.Hour || last.LocalOnly {
		t.Errorf("%+v", last)
	}
}

func FuzzCacheControl(f *testing.F) {
	for _, v := range []string{"", "no-cache", "max-age=5", "only-if-cached,max-age=1", "max-age=\"5\"", "stale-if-error=1", ",,=,"} {
		f.Add(v, "consistency=auto")
	}
	f.Add("max-age=1", "consistency=bounded&max_staleness=1s&wait=3")
	h := New(Options{Backend: &between{}, Reporter: reporter{}})
	f.Fuzz(func(t *testing.T, cacheControl, query string) {
		p, err := parseParams(query)
		if err != nil {
			if kv.CodeOf(err) != kv.Invalid {
				t.Errorf("%q: %v", query, err)
			}
			return
		}
		fresh, err := h.parseFreshness(&p, http.Header{"Cache-Control": {cacheControl}})
		if err != nil {
			if kv.CodeOf(err) != kv.Invalid {
				t.Errorf("%q, %q: %v", cacheControl, query, err)
			}
			return
		}
		if fresh.maxAge < 0 || fresh.staleIfError < 0 || fresh.wait < 0 || fresh.wait > waitMax || fresh.minRevision < 0 {
			t.Errorf("%q, %q: %+v", cacheControl, query, fresh)
		}
		_ = p.done()
	})
}

// within is Options.Auto of a proxy.
func within(maxAge time.Duration) func() (time.Duration, time.Duration) {
	return func() (time.Duration, time.Duration) { return maxAge, StaleIfError }
}
