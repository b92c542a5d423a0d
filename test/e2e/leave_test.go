//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAMemberThatStopsFailsNoRequestOfAProxy stops, under load, the member that a proxy is connected to, and again the next one. What
// was sent to it is answered there, what comes later goes elsewhere: nothing fails, and each write is there once.
func TestAMemberThatStopsFailsNoRequestOfAProxy(t *testing.T) {
	c, boxes, token, _ := threeBoxes(t)
	for _, b := range boxes {
		b.expect(200, "GET", "/v1/kv/?prefix", "", "")
	}
	at, home := followerOf(t, boxes)
	proxy := start(t, filepath.Join(c.dir, "proxy"), freeAddr(t), "--mode", "proxy", "--join", home, "--token-file", token, "--proxy-prefixes", "w/")
	proxy.waitSynced()
	eventually(t, startMax, func() string {
		if s := proxy.status(); s.Proxy == nil || s.Proxy.Upstream == "" {
			return "no uplink"
		}
		return ""
	})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []string
	written := 0
	for w := range 8 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				r, err := call(context.WithoutCancel(ctx), http.DefaultClient, "PUT", fmt.Sprintf("%s/v1/kv/w/%d/%d", proxy.url, w, n), []byte("x"))
				mu.Lock()
				if written++; err != nil || r.status != 201 {
					failed = append(failed, fmt.Sprintf("PUT %d/%d: %d %s %v", w, n, r.status, r.body, err))
				}
				mu.Unlock()
				r, err = call(context.WithoutCancel(ctx), http.DefaultClient, "GET", fmt.Sprintf("%s/v1/kv/w/%d/%d?consistency=linearizable", proxy.url, w, n), nil)
				mu.Lock()
				if err != nil || r.status != 200 {
					failed = append(failed, fmt.Sprintf("GET %d/%d: %d %s %v", w, n, r.status, r.body, err))
				}
				mu.Unlock()
			}
		})
	}
	time.Sleep(500 * time.Millisecond) // under load, which has no moment of its own
	was := proxy.status().Proxy.Upstream
	if code := boxes[at].stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	time.Sleep(500 * time.Millisecond)
	stop()
	wg.Wait()
	if len(failed) > 0 {
		t.Errorf("%d of %d writes or their reads failed: %s", len(failed), written, strings.Join(failed[:min(len(failed), 5)], "\n"))
	}
	if now := proxy.status().Proxy.Upstream; now == was || now == "" {
		t.Errorf("the proxy is connected to %q, as before", now)
	}
	arrived := 0
	for _, change := range history(t, http.DefaultClient, boxes[(at+1)%3].url, "w/") {
		if change.Type == "put" {
			arrived++
		}
	}
	if arrived != written {
		t.Errorf("%d puts of %d writes", arrived, written)
	}
	t.Logf("%d writes", written)
}

// followerOf picks a member that does not lead, by where it serves clients, and says where nodes reach it.
func followerOf(t *testing.T, boxes []*agent) (i int, addr string) {
	t.Helper()
	var list struct {
		Members []struct {
			Leader     bool
			PeerURLs   []string `json:"peer_urls"`
			ClientURLs []string `json:"client_urls"`
		}
	}
	r := boxes[0].do("GET", "/v1/members", nil)
	if err := json.Unmarshal(r.body, &list); err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Members {
		i = slices.IndexFunc(boxes, func(b *agent) bool { return slices.Contains(m.ClientURLs, b.url) })
		if !m.Leader && i >= 0 && len(m.PeerURLs) > 0 {
			return i, strings.TrimPrefix(m.PeerURLs[0], "quic://")
		}
	}
	t.Fatalf("no follower in %s", r.body)
	return 0, ""
}
