//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/api"
)

const (
	cutDefault = 30 * time.Second
	cutEvery   = 20 * time.Millisecond // start of one PUT to the start of the next: 50 a second
	cutKeys    = 7
)

// TestACutLinkLosesAndRepeatsNothing lets a device put 50 values a second on a proxy while the link to the member is
// cut, for as long as CUT says, and the proxy is killed twice meanwhile. Afterwards the member's history is held against
// what the device was told.
func TestACutLinkLosesAndRepeatsNothing(t *testing.T) {
	lasts := cutDefault
	if text := os.Getenv("CUT"); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("CUT: %v", err)
		}
	}
	link := newLink(t)
	dir := t.TempDir()
	memberDir, proxyDir, token := filepath.Join(dir, "m"), filepath.Join(dir, "p"), filepath.Join(dir, "token")
	member := link.start("m", memberDir, "--peer-listen", ":2380", "--store-history", "24h")
	if err := os.WriteFile(token, []byte(joinToken(t, memberDir, "1h").Token), 0o600); err != nil {
		t.Fatal(err)
	}
	proxyArgs := []string{"--mode", "proxy", "--join", link.memberIP + ":2380", "--token-file", token, "--proxy-prefixes", "q/", "--queue-prefixes", "q/"}
	proxy := link.start("p", proxyDir, proxyArgs...)
	proxy.waitSynced()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	told := make(chan []told, 1)
	go func() { told <- putSteadily(ctx, overSocket(t, proxyDir)) }()

	time.Sleep(3 * time.Second) // of a link that works
	t.Logf("cut for %v: first the answers, so that a write is there and the proxy does not know it, then all", lasts)
	cut := time.Now()
	link.badlink("partition", "m>p")
	waitAnswerLost(t, proxy, member)
	link.badlink("partition", "m-p")
	for i := range 2 {
		time.Sleep(time.Until(cut.Add(time.Duration(i+1) * lasts / 3)))
		proxy.kill()
		proxy = link.start("p", proxyDir, proxyArgs...)
		t.Logf("%v after the cut: proxy killed and started, queue %+v", time.Since(cut).Round(time.Millisecond), proxy.status().Queue)
	}
	time.Sleep(time.Until(cut.Add(lasts)))
	link.badlink("heal")
	healed := time.Now()
	eventually(t, 2*time.Minute, func() string {
		if s := proxy.status(); s.Proxy.UplinkLost {
			return "the uplink is not back: " + s.Proxy.UplinkError
		}
		return ""
	})
	t.Logf("uplink up %v after the link was healed", time.Since(healed).Round(time.Millisecond))
	time.Sleep(3 * time.Second) // the queue drains while the device goes on
	stop()
	device := <-told
	proxy.waitDrained(2 * time.Minute)

	t.Log(summary(device))
	for _, fault := range audit(device, history(t, &http.Client{Transport: member.via}, member.url, "q/")) {
		t.Error(fault)
	}
}

// waitAnswerLost waits until the first write in the queue of a proxy has reached the member.
func waitAnswerLost(t *testing.T, proxy, member *agent) {
	t.Helper()
	eventually(t, 10*time.Second, func() string {
		var list struct{ Items []api.QueueItem }
		var first api.QueueItem
		if r := proxy.do("GET", "/v1/queue?prefix=q/", nil); json.Unmarshal(r.body, &list) != nil || len(list.Items) == 0 {
			return fmt.Sprintf("nothing is queued: %d %s", r.status, r.body)
		}
		if r := proxy.do("GET", "/v1/queue/"+list.Items[0].ID, nil); json.Unmarshal(r.body, &first) != nil || len(first.Value) == 0 {
			return fmt.Sprintf("the first queued write has no value: %d %s", r.status, r.body)
		}
		if r := member.do("GET", "/v1/kv/"+first.Key, nil); string(r.body) != string(first.Value) {
			return fmt.Sprintf("%s = %s is queued, and the member has %s", first.Key, first.Value, r.body)
		}
		return ""
	})
}

// told is one PUT of the device and what it was told: a status, or 0 for no answer.
type told struct {
	n      int
	key    string
	status int
	took   time.Duration
	detail string
}

// putSteadily puts the numbers from 1 on, one after the other, until ctx ends.
func putSteadily(ctx context.Context, client *http.Client) (all []told) {
	tick := time.NewTicker(cutEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return all
		}
		begin, key := time.Now(), fmt.Sprintf("q/%d", n%cutKeys)
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		r, err := call(within, client, "PUT", "http://proxy/v1/kv/"+key, []byte(strconv.Itoa(n)))
		cancel()
		at := told{n: n, key: key, status: r.status, took: time.Since(begin), detail: string(r.body)}
		if err != nil {
			at.status, at.detail = 0, err.Error()
		}
		all = append(all, at)
	}
}

func summary(device []told) string {
	count := map[int]int{}
	var slowest time.Duration
	for _, p := range device {
		count[p.status]++
		slowest = max(slowest, p.took)
	}
	return fmt.Sprintf("%d PUTs, by status %v (0: no answer), the slowest took %v", len(device), count, slowest.Round(time.Millisecond))
}

// audit holds a history against what a device was told, and returns what does not agree: a number acknowledged that is
// not there, one there twice or that was refused or never sent, and one out of order, on its key or among the queued.
func audit(device []told, changes []change) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	arrived := map[int]int{}
	lastOfKey, lastQueued := map[string]int{}, 0
	for _, c := range changes {
		n, err := strconv.Atoi(string(c.Value))
		if err != nil || n < 1 || n > len(device) || device[n-1].key != c.Key || c.Type != "put" {
			fault("revision %d is no PUT of the device: %s %s = %q", c.Revision, c.Type, c.Key, c.Value)
			continue
		}
		arrived[n]++
		if n < lastOfKey[c.Key] {
			fault("revision %d: %s = %d after %d", c.Revision, c.Key, n, lastOfKey[c.Key])
		}
		lastOfKey[c.Key] = n
		if device[n-1].status == http.StatusAccepted {
			if n < lastQueued {
				fault("revision %d: %d, which was queued, after %d, which was queued later", c.Revision, n, lastQueued)
			}
			lastQueued = n
		}
	}
	for _, p := range device {
		switch got := arrived[p.n]; {
		case got > 1:
			fault("PUT %d of %s (%d) is there %d times", p.n, p.key, p.status, got)
		case p.status == 200 || p.status == 201 || p.status == 202:
			if got != 1 {
				fault("PUT %d of %s was acknowledged with %d and is not there", p.n, p.key, p.status)
			}
		case p.status == 503 && got != 0:
			fault("PUT %d of %s was refused and is there: %s", p.n, p.key, p.detail)
		case p.status != 0 && p.status != 503:
			fault("PUT %d of %s: %d %s", p.n, p.key, p.status, p.detail)
		}
	}
	return faults
}

func TestTheAuditFindsWhatIsWrong(t *testing.T) {
	device := []told{{n: 1, key: "q/1", status: 201}, {n: 2, key: "q/2", status: 202}, {n: 3, key: "q/1", status: 202}, {n: 4, key: "q/2"}, {n: 5, key: "q/1", status: 503}}
	of := func(numbers ...int) (all []change) {
		for i, n := range numbers {
			c := change{Type: "put", Key: "q/1", Value: []byte(strconv.Itoa(n)), Revision: int64(i + 2)}
			if n == 2 || n == 4 {
				c.Key = "q/2"
			}
			all = append(all, c)
		}
		return all
	}
	for _, tc := range []struct {
		name    string
		history []change
		finds   string
	}{
		{"right", of(1, 2, 3), ""},
		{"an unanswered one arrived", of(1, 2, 3, 4), ""},
		{"acknowledged and lost", of(1, 3), "PUT 2 of q/2 was acknowledged with 202 and is not there"},
		{"twice", of(1, 2, 2, 3), "PUT 2 of q/2 (202) is there 2 times"},
		{"a key out of order", of(3, 2, 1), "q/1 = 1 after 3"},
		{"the queue out of order", of(1, 3, 2), "2, which was queued, after 3"},
		{"refused and there", of(1, 2, 3, 5), "PUT 5 of q/1 was refused and is there"},
		{"never sent", of(1, 2, 3, 9), "is no PUT of the device"},
	} {
		got := strings.Join(audit(device, tc.history), "; ")
		if tc.finds == "" && got != "" || !strings.Contains(got, tc.finds) {
			t.Errorf("%s: found %q, want %q", tc.name, got, tc.finds)
		}
	}
}

// badLink is network namespaces of machines, joined by links that badlink carries.
type badLink struct {
	t        *testing.T
	bin      string
	name     string
	memberIP string // of the first
}

// newLink makes the namespaces m and p, joined by a link of 10 ms each way.
func newLink(t *testing.T) *badLink {
	t.Helper()
	return newLinks(t, "m,p", "10ms")
}

// newLinks builds badlink and makes namespaces, with addresses from 10.77.0.1 on; where that is impossible the test fails.
func newLinks(t *testing.T, hosts, delay string) *badLink {
	t.Helper()
	l := &badLink{t: t, bin: filepath.Join(t.TempDir(), "badlink"), name: fmt.Sprintf("hf%04x", rand.N(1<<16)), memberIP: "10.77.0.1"}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", l.bin, "../badlink").CombinedOutput(); err != nil {
		t.Fatalf("build badlink: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command(l.bin, "-i", l.name, "down").CombinedOutput(); err != nil { //nolint:noctx // t.Context has ended
			t.Errorf("badlink down: %v\n%s", err, out)
		}
	})
	l.badlink("up", "--hosts", hosts, "--prefix", l.name+"-", "--subnet", "10.77.0.0/24", "--delay", delay)
	return l
}

func (l *badLink) badlink(args ...string) {
	l.t.Helper()
	out, err := exec.CommandContext(l.t.Context(), l.bin, append([]string{"-i", l.name}, args...)...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("badlink %s (it wants root, /dev/net/tun and iproute2): %v\n%s", strings.Join(args, " "), err, out)
	}
}

// start starts an agent in one of the namespaces and waits until it is ready. It is reached over its socket.
func (l *badLink) start(host, dir string, args ...string) *agent {
	l.t.Helper()
	a := l.launch(host, dir, args...)
	a.waitReady()
	return a
}

// launch is start without the wait.
func (l *badLink) launch(host, dir string, args ...string) *agent {
	l.t.Helper()
	a := launchIn(l.t, []string{"ip", "netns", "exec", l.name + "-" + host}, dir, "127.0.0.1:2379", args...)
	a.via = overSocket(l.t, dir).Transport
	return a
}
