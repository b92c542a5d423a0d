//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOneTokenMakesMachinesACluster is TestOneTokenMakesThreeBoxesACluster on machines of their own, as far as a network
// tells: namespaces with an address each, joined by links of 5 ms, and default ports. Nobody is told its own address.
func TestOneTokenMakesMachinesACluster(t *testing.T) {
	dir, ip := t.TempDir(), func(n int) string { return fmt.Sprintf("10.77.0.%d", n) }
	l := newLinks(t, "a,b,c,d,e", "5ms")
	data := func(host string) string { return filepath.Join(dir, host) }
	first := l.start("a", data("a"))
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(mustRun(t, data("a"), "token", "create")), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	boxes := map[string]*agent{"a": first}
	for _, host := range []string{"b", "c"} {
		boxes[host] = l.launch(host, data(host), "--join", ip(1)+":2380", "--token-file", token)
	}
	first.waitVoters(3, startMax)
	for _, b := range boxes {
		b.waitReady()
	}
	took := time.Since(began)
	t.Logf("three voters and all ready after %v", took)
	if took > 10*time.Second {
		t.Errorf("it took %v, want less than 10 s", took)
	}
	fourth := l.start("d", data("d"), "--join", ip(2)+":2380", "--token-file", token)
	eventually(t, startMax, func() string {
		if s := fourth.status(); s.Mode != "proxy" || s.Proxy.UplinkLost {
			return fmt.Sprintf("the fourth box is a %s: %+v", s.Mode, s.Proxy)
		}
		return ""
	})
	fourth.expect(201, "PUT", "/v1/kv/a", "1", "")
	for host, b := range boxes {
		b.expect(200, "GET", "/v1/kv/a?consistency=linearizable", "", "1")
		var list struct {
			Members []struct {
				PeerURLs []string `json:"peer_urls"`
			}
		}
		if r := b.do("GET", "/v1/members", nil); json.Unmarshal(r.body, &list) != nil {
			t.Fatalf("%d %s", r.status, r.body)
		}
		for i, m := range list.Members {
			if len(m.PeerURLs) == 0 || !strings.Contains(m.PeerURLs[0], "10.77.0.") {
				t.Errorf("%s lists member %d at %v", host, i, m.PeerURLs)
			}
		}
	}

	// The third machine gets another address, as from DHCP: the others find it, and it finds them.
	boxes["c"].kill()
	c := l.start("e", data("c"))
	c.expect(200, "PUT", "/v1/kv/a", "2", "")
	boxes["b"].kill() // now the one that moved is needed
	eventually(t, startMax, func() string {
		if r := first.do("PUT", "/v1/kv/a", []byte("3")); r.status != 200 {
			return fmt.Sprintf("%d %s\n%s", r.status, r.body, c.logTail())
		}
		return ""
	})
	c.expect(200, "GET", "/v1/kv/a?consistency=linearizable", "", "3")
}
