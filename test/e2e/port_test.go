//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAPromotedProxyIsFoundAtTheUsualPort: a proxy takes any port, as it only dials; as a member it is to be found.
func TestAPromotedProxyIsFoundAtTheUsualPort(t *testing.T) {
	link := newLinks(t, "m,p", "2ms")
	dir := t.TempDir()
	memberDir, proxyDir, token := filepath.Join(dir, "m"), filepath.Join(dir, "p"), filepath.Join(dir, "token")
	member := link.start("m", memberDir)
	if err := os.WriteFile(token, []byte(mustRun(t, memberDir, "token", "create")), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--mode", "proxy", "--join", link.memberIP + ":2380", "--token-file", token}
	proxy := link.start("p", proxyDir, args...)
	proxy.token = token
	eventually(t, startMax, func() string {
		if s := proxy.status(); s.Proxy == nil || s.Proxy.UplinkLost {
			return "the proxy has no uplink"
		}
		return ""
	})

	t.Log("somebody else has the port: the promotion is refused, and says what to do")
	ns := []string{"ip", "netns", "exec", link.name + "-p"}
	other := launchIn(t, ns, filepath.Join(dir, "other"), "127.0.0.1:2389", "--peer-listen", ":2380")
	other.via = overSocket(t, other.dir).Transport
	other.waitReady()
	code, out := proxy.command("promote", "--token-file", token)
	if code == 0 || !strings.Contains(out, ":2380") || !strings.Contains(out, "stop what has the port") {
		t.Fatalf("exit %d: %s", code, out)
	}
	if s := proxy.status(); s.Mode != "proxy" || s.Switch != nil {
		t.Fatalf("it is a %s, %+v", s.Mode, s.Switch)
	}
	other.kill()

	proxy.becomes("promote")
	at := ""
	for _, row := range member.members() {
		for _, url := range row.PeerURLs {
			at += url + " "
		}
	}
	if !strings.Contains(at, "10.77.0.2:2380") {
		t.Errorf("members are at %s, want one of them at 10.77.0.2:2380", at)
	}

	t.Log("the first member dials it there, once it has lost the connection that the other had opened")
	member.kill()
	member = link.start("m", memberDir)
	member.expect(201, "PUT", "/v1/kv/a", "1", "")
	proxy.expect(200, "GET", "/v1/kv/a?consistency=linearizable", "", "1")
	proxy.kill()
	proxy = link.start("p", proxyDir, args...) // as a member, and the port is the same
	proxy.expect(200, "GET", "/v1/kv/a?consistency=linearizable", "", "1")
}
