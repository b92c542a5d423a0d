//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/api"
)

// cluster is a lone member and the proxies in front of it, each on a data dir of its own.
type cluster struct {
	t          *testing.T
	dir        string
	memberAddr string // for devices
	peerAddr   string // for nodes
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	return &cluster{t: t, dir: t.TempDir(), memberAddr: freeAddr(t), peerAddr: freeUDP(t)}
}

func (c *cluster) memberDir() string { return filepath.Join(c.dir, "member") }

// member starts the member and waits until it serves.
func (c *cluster) member() *agent {
	c.t.Helper()
	return start(c.t, c.memberDir(), c.memberAddr, "--peer-listen", c.peerAddr, "--store-history", "1h")
}

// launchMember is member without the wait.
func (c *cluster) launchMember() *agent {
	c.t.Helper()
	return launch(c.t, c.memberDir(), c.memberAddr, "--peer-listen", c.peerAddr, "--store-history", "1h")
}

// proxyArgs are the settings of a proxy that mirrors site/ and queues q/.
func (c *cluster) proxyArgs(tokenFile string) []string {
	return []string{"--mode", "proxy", "--join", c.peerAddr, "--token-file", tokenFile, "--proxy-prefixes", "site/", "--queue-prefixes", "q/"}
}

// file writes a file that a test hands to an agent.
func (c *cluster) file(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// freeUDP returns an address that no node has taken.
func freeUDP(t *testing.T) string {
	t.Helper()
	for {
		l, err := net.ListenPacket("udp", "127.0.0.1:0") //nolint:noctx // returns at once
		if err != nil {
			t.Fatal(err)
		}
		addr := l.LocalAddr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, taken := givenOut.LoadOrStore("udp "+addr, true); !taken {
			return addr
		}
	}
}

// overSocket is a client of the administration socket of an agent, in whatever network namespace that runs.
func overSocket(t *testing.T, dir string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "agent.sock"))
	}
	tr := &http.Transport{DialContext: dial}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// joinToken makes a token for proxies on the member whose data dir is dir.
func joinToken(t *testing.T, dir, ttl string) api.CreatedToken {
	t.Helper()
	r, err := call(t.Context(), overSocket(t, dir), "POST", "http://member/v1/tokens",
		fmt.Appendf(nil, `{"role":"proxy","ttl":%q,"scope":[""]}`, ttl))
	if err != nil {
		t.Fatal(err)
	}
	var made api.CreatedToken
	if err := json.Unmarshal(r.body, &made); err != nil || made.Token == "" {
		t.Fatalf("POST /v1/tokens: %d %s (%v)", r.status, r.body, err)
	}
	return made
}

// expect sends a request and fails if the answer has another status, or another body where one is given.
func (a *agent) expect(status int, method, path, body, want string) reply {
	a.t.Helper()
	r := a.do(method, path, []byte(body))
	if r.status != status || want != "" && string(r.body) != want {
		a.t.Fatalf("%s %s: %d %q, want %d %q\n%s", method, path, r.status, r.body, status, want, a.logTail())
	}
	return r
}

// has fails if a reply has another value of a header.
func (r reply) has(t *testing.T, header, want string) {
	t.Helper()
	if got := r.header.Get(header); got != want {
		t.Errorf("%s: %q, want %q", header, got, want)
	}
}

// waitSynced waits until a proxy mirrors all it is to mirror.
func (a *agent) waitSynced() {
	a.t.Helper()
	eventually(a.t, startMax, func() string {
		if s := a.status(); s.Proxy == nil || !s.Proxy.Synced || s.Proxy.UplinkLost {
			return fmt.Sprintf("the proxy is not synced: %+v\n%s", s.Proxy, a.logTail())
		}
		return ""
	})
}

func (a *agent) status() (s api.Status) {
	a.t.Helper()
	if r := a.do("GET", "/v1/status", nil); json.Unmarshal(r.body, &s) != nil {
		a.t.Fatalf("GET /v1/status: %d %s", r.status, r.body)
	}
	return s
}

// waitDrained waits until nothing is left in the queue of a node.
func (a *agent) waitDrained(within time.Duration) {
	a.t.Helper()
	eventually(a.t, within, func() string {
		if s := a.status(); s.Queue == nil || s.Queue.Depth > 0 || s.Queue.Kept > 0 {
			return fmt.Sprintf("the queue is not empty: %+v\n%s", s.Queue, a.logTail())
		}
		return ""
	})
}

// change is a line of a watch.
type change struct {
	Type     string `json:"type"`
	Key      string `json:"key"`
	Value    []byte `json:"value"`
	Revision int64  `json:"mod_revision"`
}

// watching is a watch that is open.
type watching struct {
	t     *testing.T
	lines *bufio.Scanner
}

// openWatch opens a watch that ends after a while, and returns once it is answered, so that whatever is put afterwards is
// seen.
func openWatch(t *testing.T, client *http.Client, url string, limit time.Duration) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/x-ndjson")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("watch %s: %s %s", url, resp.Status, body)
	}
	w := &watching{t: t, lines: bufio.NewScanner(resp.Body)}
	w.lines.Buffer(nil, 4<<20)
	return w
}

// next returns the next put or delete.
func (w *watching) next() change {
	w.t.Helper()
	for w.lines.Scan() {
		var c change
		if err := json.Unmarshal(w.lines.Bytes(), &c); err != nil {
			w.t.Fatalf("%v in %s", err, w.lines.Bytes())
		}
		switch c.Type {
		case "put", "delete":
			return c
		case "error", "end", "compacted", "slow-consumer", "resync":
			w.t.Fatalf("the watch says %s", w.lines.Bytes())
		}
	}
	w.t.Fatalf("the watch ended: %v", w.lines.Err())
	return change{}
}

// sees fails unless the next change is this put.
func (w *watching) sees(key, value string) {
	w.t.Helper()
	if c := w.next(); c.Type != "put" || c.Key != key || string(c.Value) != value {
		w.t.Fatalf("the watch shows %s %s = %q, want put %s = %q", c.Type, c.Key, c.Value, key, value)
	}
}

// historyMax is how long a history may take to be read.
const historyMax = 2 * time.Minute

// history returns every change under a prefix, oldest first, up to a marker that it puts.
func history(t *testing.T, client *http.Client, url, prefix string) (all []change) {
	t.Helper()
	marker := prefix + "the end of the history"
	path := url + "/v1/kv/" + strings.ReplaceAll(marker, " ", "%20")
	if r, err := call(t.Context(), client, "PUT", path, nil); err != nil || r.status/100 != 2 || r.status == http.StatusAccepted {
		t.Fatalf("PUT of the marker: %d %s %v", r.status, r.body, err)
	}
	w := openWatch(t, client, url+"/v1/kv/"+prefix+"?watch&prefix&from_revision=1", historyMax)
	for {
		c := w.next()
		if c.Key == marker {
			return all
		}
		all = append(all, c)
	}
}
