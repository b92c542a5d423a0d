//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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

	link.shows(member, "proxy", "nodes")

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
	link.shows(member, "voter", "members", "ls")

	t.Log("the first member dials it there, once it has lost the connection that the other had opened")
	member.kill()
	member = link.start("m", memberDir)
	member.answers("PUT", "/v1/kv/a", "1")
	proxy.answers("GET", "/v1/kv/a?consistency=linearizable", "")
	proxy.kill()
	proxy = link.start("p", proxyDir, args...) // as a member, and the port is the same
	proxy.answers("GET", "/v1/kv/a?consistency=linearizable", "")
}

// answers wants a call to succeed, once there is a leader again.
func (a *agent) answers(method, path, body string) {
	a.t.Helper()
	eventually(a.t, startMax, func() string {
		if r := a.do(method, path, []byte(body)); r.status/100 != 2 {
			return fmt.Sprintf("%s %s: %d %s", method, path, r.status, r.body)
		}
		return ""
	})
}

// linkCells are what a table says of a link that carries something: round trip, loss, way, bytes both ways.
var linkCells = regexp.MustCompile(`\s\d+\.\dms\s+\d+\.\d%\s+udp\s+\d[\d.]*[KM]?i?B\s+\d[\d.]*[KM]?i?B\s`)

// shows wants a line with a word, and a link in it, in the table that a command prints.
func (l *badLink) shows(a *agent, word string, command ...string) {
	l.t.Helper()
	code, out := a.command(command...)
	for line := range strings.Lines(out) {
		if code == 0 && strings.Contains(line, word) && linkCells.MatchString(line) {
			l.t.Logf("%s", line)
			return
		}
	}
	l.t.Errorf("agent %s: exit %d, no line of a %s with its link:\n%s", strings.Join(command, " "), code, word, out)
}
