package agent

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/config"
	"holdfast/internal/simnet"
)

// ipHeaders is what IPv4 and UDP add to each packet, in bytes.
const ipHeaders = 28

// perDay is what a link carries in a day, in bytes on the wire, going by what it carries for some time.
func perDay(n *simnet.Net, a, b string, lasts time.Duration) float64 {
	total := func() int { s := n.Link(a, b).Stats(); return s.Bytes + ipHeaders*s.Packets }
	before := total()
	time.Sleep(lasts)
	return float64(total()-before) * float64(24*time.Hour) / float64(lasts)
}

// TestAProxyAtRestCostsHalfAMegabyteADay counts all that whole agents say to each other while nobody asks anything of them: the
// keep-alives of the uplink, and what the two do beside it. The proxy mirrors a prefix and has a queue.
func TestAProxyAtRestCostsHalfAMegabyteADay(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(t, 3)
		n.Link("a", "p").Delay(25 * time.Millisecond)
		member, client := startSimulated(t, n, dir, "a", func(*config.Config) {})
		<-member.Ready()
		token := filepath.Join(dir, "token")
		makeToken(t, client, token)
		proxy, local := startSimulated(t, n, dir, "p", func(c *config.Config) {
			c.Mode, c.Join, c.TokenFile = config.ModeProxy, []string{n.Addr("a")}, token
			c.Proxy.Prefixes = []string{"site/"}
			c.Queue.Prefixes = []config.QueuePrefix{{Prefix: "readings/"}}
		})
		<-proxy.Ready()
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			if s := proxy.Report(); s.Proxy != nil && s.Proxy.Synced && !s.Proxy.UplinkLost {
				break
			} else if time.Since(began) > time.Minute {
				t.Fatalf("not synced: %+v", s.Proxy)
			}
		}
		put(t, local, "http://p/v1/kv/site/1")
		time.Sleep(10 * time.Minute)
		got := perDay(n, "a", "p", 2*time.Hour)
		t.Logf("%.3f MB a day", got/1e6)
		if got > 0.5e6 || got < 0.1e6 {
			t.Errorf("%.3f MB a day at rest, want at most 0.5 (and a keep-alive now and then)", got/1e6)
		}
	})
}

func put(t *testing.T, c *http.Client, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("PUT %s: %s", url, res.Status)
	}
}
