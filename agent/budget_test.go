package agent

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/config"
	"holdfast/internal/simnet"
)

// TestAUsedUpBudgetStopsTheMirrorAndNoWrite lets somebody change much of what a proxy on a metered link mirrors.
func TestAUsedUpBudgetStopsTheMirrorAndNoWrite(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const budget = 2 << 20
		n := simnet.New(t, 3)
		member, client := startSimulated(t, n, dir, "a", func(*config.Config) {})
		<-member.Ready()
		token := filepath.Join(dir, "token")
		makeToken(t, client, token)
		edit := func(c *config.Config) {
			c.Mode, c.Join, c.TokenFile = config.ModeProxy, []string{n.Addr("a")}, token
			c.Proxy.Prefixes, c.Link.Budget = []string{"site/"}, budget
			c.Queue.Prefixes = []config.QueuePrefix{{Prefix: "readings/"}}
		}
		proxy, local := startSimulated(t, n, dir, "p", edit)
		<-proxy.Ready()
		until := func(what string, ok func() bool) {
			t.Helper()
			for began := time.Now(); !ok(); time.Sleep(100 * time.Millisecond) {
				if time.Since(began) > time.Minute {
					t.Fatalf("not within a minute: %s: %+v, %+v", what, proxy.Report().Proxy, proxy.Report().Budget)
				}
			}
		}
		synced := func() bool { s := proxy.Report(); return s.Proxy != nil && s.Proxy.Synced && !s.Proxy.UplinkLost }
		until("the proxy mirrors", synced)
		link := func() uint64 { s := n.Link("a", "p").Stats(); return uint64(s.Bytes + ipHeaders*s.Packets) }

		big := strings.Repeat("x", 100<<10)
		written := 0
		for ; !proxy.Report().Budget.Spent; written++ {
			if written > budget/len(big)+2 {
				t.Fatalf("the budget is not used up after %d bytes: %+v", link(), proxy.Report().Budget)
			}
			asks(t, client, "PUT", fmt.Sprintf("http://a/v1/kv/site/%d", written), big, 201)
			time.Sleep(6 * time.Second)
		}
		if s, carried := proxy.Report().Budget, link(); uint64(s.UsedBytes) > carried*101/100 || uint64(s.UsedBytes) < carried*99/100 {
			t.Errorf("%d bytes are counted, and the link has carried %d", s.UsedBytes, carried)
		}
		until("the feed is paused", func() bool { return !synced() })
		before := link()
		for i := range 10 {
			asks(t, client, "PUT", fmt.Sprintf("http://a/v1/kv/site/late%d", i), big, 201)
		}
		time.Sleep(time.Minute)
		if took := link() - before; took > 50<<10 {
			t.Errorf("the link carried %d bytes of a mirror for which there is no budget", took)
		}
		for i := range 5 {
			asks(t, local, "PUT", fmt.Sprintf("http://p/v1/kv/other/%d", i), "small", 201)
			asks(t, local, "PUT", fmt.Sprintf("http://p/v1/kv/readings/%d", i), "small", 201)
			asks(t, client, "GET", fmt.Sprintf("http://a/v1/kv/readings/%d?consistency=linearizable", i), "", 200)
		}
		asks(t, local, "GET", "http://p/v1/kv/site/late1?consistency=linearizable", "", 200)
		asks(t, local, "GET", "http://p/v1/kv/site/0", "", 200)
		if line := proxy.Report().Proxy.Mirrors[0].Reason; !strings.Contains(line, "link.budget") {
			t.Errorf("the status says of the mirror %q", line)
		}

		halt(t, proxy)
		again, local := startSimulated(t, n, dir, "p", edit)
		<-again.Ready()
		proxy = again
		until("the uplink is up", func() bool { return !proxy.Report().Proxy.UplinkLost })
		if s := proxy.Report().Budget; !s.Spent || s.UsedBytes < budget {
			t.Errorf("after a restart %+v", s)
		}
		asks(t, local, "PUT", "http://p/v1/kv/other/again", "small", 201)
		time.Sleep(time.Until(proxy.Report().Budget.Until))
		until("the next day has a budget", synced)
		asks(t, local, "GET", "http://p/v1/kv/site/late2", "", 200)
	})
}

// asks makes a request, of which the status is expected.
func asks(t *testing.T, c *http.Client, method, url, body string, want int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		text, _ := io.ReadAll(res.Body)
		t.Fatalf("%s %s: %s, want %d: %s", method, url, res.Status, want, text)
	}
}

func TestRedundancyOffSendsNoCopies(t *testing.T) {
	for redundancy, want := range map[string]bool{"auto": false, "off": true} {
		a := &Agent{cfg: config.Config{Link: config.Link{Redundancy: redundancy}}}
		if got := a.withoutCopies(); got != want {
			t.Errorf("link.redundancy %s: without copies %v, want %v", redundancy, got, want)
		}
	}
}
