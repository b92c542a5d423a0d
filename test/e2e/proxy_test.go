//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// promptly is how soon an answer has to come that needs nobody else.
const promptly = 100 * time.Millisecond

// isPrompt judges what was measured again and again. A machine with other work or a slow disk makes one answer late, and a wait
// that should not be makes all of them late; so the quickest one counts.
func isPrompt(t *testing.T, what string, took ...time.Duration) {
	t.Helper()
	if quickest := slices.Min(took); quickest > promptly {
		t.Errorf("%s: after %v, want one within %v", what, took, promptly)
	}
}

// TestTheWayOfAPut follows writes from a device over a proxy to the member, first with everything in place, then with
// the member gone, then with the proxy killed too, and counts in the end what has arrived.
func TestTheWayOfAPut(t *testing.T) {
	c := newCluster(t)
	member := c.member()
	member.expect(201, "PUT", "/v1/kv/site/0", "before the proxy", "")
	args := c.proxyArgs(c.file("token", joinToken(t, c.memberDir(), "1h").Token))
	proxyDir, proxyAddr := filepath.Join(c.dir, "proxy"), freeAddr(t)
	proxy := start(t, proxyDir, proxyAddr, args...)
	proxy.waitSynced()

	t.Log("PUT and GET through either, and either's watch sees the other's PUT")
	onMember := openWatch(t, http.DefaultClient, member.url+"/v1/kv/site/?watch&prefix", historyMax)
	onProxy := openWatch(t, http.DefaultClient, proxy.url+"/v1/kv/site/?watch&prefix", historyMax)
	member.expect(201, "PUT", "/v1/kv/site/1", "by the member", "")
	onProxy.sees("site/1", "by the member")
	onMember.sees("site/1", "by the member")
	proxy.expect(200, "GET", "/v1/kv/site/1?consistency=linearizable", "", "by the member")
	proxy.expect(201, "PUT", "/v1/kv/site/2", "by the proxy", "")
	onMember.sees("site/2", "by the proxy")
	onProxy.sees("site/2", "by the proxy")
	member.expect(200, "GET", "/v1/kv/site/2", "", "by the proxy")
	proxy.expect(200, "GET", "/v1/kv/site/2?consistency=local", "", "by the proxy").has(t, "Holdfast-Source", "cache")
	proxy.expect(404, "GET", "/v1/kv/site/3", "", "")
	proxy.expect(201, "PUT", "/v1/kv/q/0", "not queued", "")

	t.Log("the member is gone: what is cached is served with its age, what may be queued is, the rest fails soon")
	member.kill()
	aged := proxy.expect(200, "GET", "/v1/kv/site/1", "", "by the member")
	aged.has(t, "Holdfast-Source", "cache")
	if age, err := strconv.ParseFloat(aged.header.Get("Holdfast-Age"), 64); err != nil || age < 0 || age > 60 {
		t.Errorf("Holdfast-Age: %q, want some seconds", aged.header.Get("Holdfast-Age"))
	}
	found := time.Now()
	proxy.expect(504, "PUT", "/v1/kv/other", "x", "")
	t.Logf("504 after %v", time.Since(found))
	var took []time.Duration
	for range 5 {
		begin := time.Now()
		proxy.expect(503, "PUT", "/v1/kv/other", "x", "")
		took = append(took, time.Since(begin))
	}
	isPrompt(t, "503", took...)
	keyed := func() reply {
		r := proxy.do("PUT", "/v1/kv/q/1", []byte("queued"), "Idempotency-Key", "first")
		if r.status != 202 || r.header.Get("Location") == "" || r.header.Get("Holdfast-Op") == "" {
			t.Errorf("%d %v, want 202 with Location and Holdfast-Op", r.status, r.header)
		}
		return r
	}
	queued := keyed()
	again := func() {
		t.Helper()
		if r := keyed(); r.header.Get("Location") != queued.header.Get("Location") {
			t.Errorf("the same request is %s, it was %s", r.header.Get("Location"), queued.header.Get("Location"))
		}
		if r := proxy.do("PUT", "/v1/kv/q/1", []byte("other"), "Idempotency-Key", "first"); r.status != 422 {
			t.Errorf("another request with its Idempotency-Key: %d, want 422", r.status)
		}
	}
	again()
	proxy.expect(200, "GET", "/v1/kv/site/1", "", "by the member").has(t, "Holdfast-Source", "cache")

	t.Log("the proxy is killed and starts again, still alone")
	proxy.kill()
	proxy = start(t, proxyDir, proxyAddr, args...)
	for key, want := range map[string]string{"site/0": "before the proxy", "site/1": "by the member", "site/2": "by the proxy"} {
		r := proxy.do("GET", "/v1/kv/"+key, nil)
		if r.status != 200 || string(r.body) != want {
			t.Errorf("GET %s after the kill: %d %q, want %q: the proxy has shown it or acknowledged it before", key, r.status, r.body, want)
			continue
		}
		r.has(t, "Holdfast-Source", "cache")
		r.has(t, "Holdfast-Age", "unknown")
	}
	again()
	if s := proxy.status(); s.Queue == nil || s.Queue.Depth != 1 {
		t.Errorf("the queue after the kill: %+v, want one write", s.Queue)
	}

	t.Log("the member is back: the queued write is there, once, and who waited for it is told")
	fate := make(chan string, 1)
	go func() {
		r, err := call(t.Context(), http.DefaultClient, "GET", proxy.url+queued.header.Get("Location")+"?wait=30s", nil)
		fate <- fmt.Sprintf("%d %s %v", r.status, r.body, err)
	}()
	member = c.member()
	proxy.waitDrained(startMax)
	member.expect(200, "GET", "/v1/kv/q/1", "", "queued")
	if told := <-fate; !strings.Contains(told, `"state":"committed"`) {
		t.Errorf("who waited for the queued write is told %s", told)
	}
	arrived := map[string]int{}
	for _, change := range history(t, http.DefaultClient, member.url, "q/") {
		arrived[change.Key+"="+string(change.Value)]++
	}
	if len(arrived) != 2 || arrived["q/0=not queued"] != 1 || arrived["q/1=queued"] != 1 {
		t.Errorf("the history of q/ is %v, want each write once", arrived)
	}
	proxy.waitSynced()
	fresh := proxy.expect(200, "GET", "/v1/kv/site/1?consistency=linearizable", "", "by the member")
	if fresh.header.Get("Holdfast-Age") == "unknown" {
		t.Errorf("the age is unknown after a linearizable read: %v", fresh.header)
	}
	for _, a := range []*agent{proxy, member} {
		if code := a.stop(); code != 0 {
			t.Errorf("exit code %d when asked to stop\n%s", code, a.logTail())
		}
	}
}

// TestWhatWasReadOnceIsThereWithoutTheMember runs a proxy as it is without any setting of its cache.
func TestWhatWasReadOnceIsThereWithoutTheMember(t *testing.T) {
	c := newCluster(t)
	member := c.member()
	member.expect(201, "PUT", "/v1/kv/limit", "42", "")
	args := []string{"--mode", "proxy", "--join", c.peerAddr, "--token-file", c.file("token", joinToken(t, c.memberDir(), "1h").Token)}
	proxyDir, proxyAddr := filepath.Join(c.dir, "proxy"), freeAddr(t)
	proxy := start(t, proxyDir, proxyAddr, args...)
	eventually(t, startMax, func() string {
		if s := proxy.status(); s.Proxy == nil || s.Proxy.UplinkLost {
			return fmt.Sprintf("no uplink: %+v", s.Proxy)
		}
		return ""
	})

	t.Log("a plain GET of a key, and of one that is not there")
	proxy.expect(200, "GET", "/v1/kv/limit", "", "42").has(t, "Holdfast-Source", "upstream")
	proxy.expect(404, "GET", "/v1/kv/none", "", "")
	proxy.expect(200, "GET", "/v1/kv/limit", "", "42").has(t, "Holdfast-Source", "cache")
	member.expect(200, "PUT", "/v1/kv/limit", "43", "")
	proxy.expect(200, "GET", "/v1/kv/limit?consistency=linearizable", "", "43").has(t, "Holdfast-Age", "0")
	proxy.expect(200, "PUT", "/v1/kv/limit", "44", "")
	proxy.expect(200, "GET", "/v1/kv/limit?consistency=local", "", "44").has(t, "Holdfast-Source", "cache")
	if s := proxy.status(); s.Proxy.CacheHeldKeys != 2 {
		t.Errorf("%d keys are held, want 2", s.Proxy.CacheHeldKeys)
	}

	t.Log("the member is killed")
	member.kill()
	aged := proxy.expect(200, "GET", "/v1/kv/limit", "", "44")
	aged.has(t, "Holdfast-Source", "cache")
	if age, err := strconv.ParseFloat(aged.header.Get("Holdfast-Age"), 64); err != nil || age < 0 || age > 60 {
		t.Errorf("Holdfast-Age: %q, want some seconds", aged.header.Get("Holdfast-Age"))
	}
	proxy.expect(404, "GET", "/v1/kv/none", "", "")
	proxy.expect(504, "GET", "/v1/kv/never-read?consistency=local", "", "")

	t.Log("and the proxy too")
	proxy.kill()
	proxy = start(t, proxyDir, proxyAddr, args...)
	for _, path := range []string{"/v1/kv/limit", "/v1/kv/limit?consistency=local"} {
		r := proxy.expect(200, "GET", path, "", "44")
		r.has(t, "Holdfast-Source", "cache")
		r.has(t, "Holdfast-Age", "unknown")
	}
	proxy.expect(404, "GET", "/v1/kv/none", "", "")

	t.Log("the member is back: what is held catches up by itself")
	member = c.member()
	member.expect(200, "PUT", "/v1/kv/limit", "45", "")
	eventually(t, startMax, func() string {
		if r := proxy.do("GET", "/v1/kv/limit?consistency=local", nil); string(r.body) != "45" || r.header.Get("Holdfast-Age") == "unknown" {
			return fmt.Sprintf("%d %s, age %s", r.status, r.body, r.header.Get("Holdfast-Age"))
		}
		return ""
	})
	for _, a := range []*agent{proxy, member} {
		if code := a.stop(); code != 0 {
			t.Errorf("exit code %d when asked to stop\n%s", code, a.logTail())
		}
	}
}
