//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestAProxyThatIsNotLetInSaysWhatToDo shows the proxy one bad token after the other. Each start ends with the exit
// code of configuration that refuses, and with a line for the person who made the token or copied it.
func TestAProxyThatIsNotLetInSaysWhatToDo(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	c.member()
	other.member()
	good, foreign := joinToken(t, c.memberDir(), "1h"), joinToken(t, other.memberDir(), "1h")
	expired := joinToken(t, c.memberDir(), "1s")
	revoked := joinToken(t, c.memberDir(), "1h")
	if r, err := call(t.Context(), overSocket(t, c.memberDir()), "DELETE", "http://member/v1/tokens/"+revoked.ID, nil); err != nil || r.status/100 != 2 {
		t.Fatalf("revoke: %d %s %v", r.status, r.body, err)
	}
	time.Sleep(time.Until(expired.Expires.Add(100 * time.Millisecond))) // its end is what is tested
	used := strings.TrimSpace(mustRun(t, c.memberDir(), "token", "create", "--role", "proxy", "--uses", "1"))
	start(t, filepath.Join(c.dir, "first"), freeAddr(t), c.proxyArgs(c.file("used", used))...).waitSynced()
	secret := good.Token[strings.LastIndex(good.Token, ".")+1:]
	for _, tc := range []struct {
		name, token string
		says        []string
	}{
		{"wrong secret", strings.TrimSuffix(good.Token, secret) + flipped(secret), []string{"does not know this token", "agent token create"}},
		{"expired", expired.Token, []string{"expired at 20[0-9-]+T", "agent token create"}},
		{"revoked", revoked.Token, []string{"revoked", "agent token create"}},
		{"replayed by a second box", used, []string{"was made for 1 boxes and has been used by as many", "agent token create"}},
		{"of another cluster", foreign.Token, []string{"another cluster|other cluster|CA", "agent token create|--join|token"}},
		{"of another CA", "HF1" + flipped(good.Token[3:67]) + good.Token[67:], []string{"CA", "agent token create|--join|token"}},
		{"cut short", good.Token[:len(good.Token)-5], []string{"copied whole", "agent token create"}},
		{"not a token", "swordfish", []string{"HF1", "agent token create"}},
		{"empty", "", []string{"nothing in it", "agent token create"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := c.file("token", tc.token+"\n")
			proxy := launch(t, filepath.Join(t.TempDir(), "p"), freeAddr(t), c.proxyArgs(file)...)
			if code := proxy.waitExit(20 * time.Second); code != exitConfig {
				t.Errorf("exit code %d, want %d", code, exitConfig)
			}
			log := proxy.logTail()
			for _, want := range tc.says {
				if !regexp.MustCompile(want).MatchString(log) {
					t.Errorf("it does not say %q", want)
				}
			}
			if strings.Contains(log, secret) {
				t.Error("it shows the secret")
			}
			if strings.Contains(log, "goroutine ") {
				t.Error("it shows a stack")
			}
			t.Logf("it says:\n%s", log)
		})
	}
}

// flipped changes the first of some hexadecimal digits.
func flipped(digits string) string {
	if digits[0] == '0' {
		return "1" + digits[1:]
	}
	return "0" + digits[1:]
}

// TestATokenForAProxyMakesNoMember shows a token for proxies where one for a member is wanted, by a box without an identity and
// by one that has joined as a proxy.
func TestATokenForAProxyMakesNoMember(t *testing.T) {
	c := newCluster(t)
	c.member()
	token := c.file("token", joinToken(t, c.memberDir(), "1h").Token)
	box := launch(t, filepath.Join(t.TempDir(), "d"), freeAddr(t), "--mode", "member", "--join", c.peerAddr, "--token-file", token)
	if code := box.waitExit(startMax); code != exitConfig || !strings.Contains(box.logTail(), "--role") {
		t.Errorf("as a member: exit code %d\n%s", code, box.logTail())
	}
	dir := filepath.Join(c.dir, "proxy")
	proxy := start(t, dir, freeAddr(t), c.proxyArgs(token)...)
	proxy.waitSynced()
	if _, said, code := cli(t, dir, "promote"); code == 0 {
		t.Errorf("a proxy that joined as one was promoted: %s", said)
	} else {
		t.Logf("exit code %d: %s", code, said)
	}
	if s := proxy.status(); s.Mode != "proxy" {
		t.Errorf("it is %s now", s.Mode)
	}
}

func TestAProxyNeedsAClusterAndAToken(t *testing.T) {
	for _, tc := range []refusal{
		{name: "no cluster", args: []string{"--mode=proxy"}, code: exitConfig, says: []string{"--join", "--token-file"}},
		{name: "no token", args: []string{"--mode=proxy", "--join=192.0.2.1:2380"}, code: exitConfig, says: []string{"agent token create", "--token-file"}},
		{name: "token file that is not there", args: []string{"--mode=proxy", "--join=192.0.2.1:2380", "--token-file=/nonexistent/token"},
			code: exitConfig, says: []string{"/nonexistent/token"}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.check(t) })
	}
}

// TestAProxyServesAndQueuesBeforeItHasJoined starts a proxy while there is nobody to join.
func TestAProxyServesAndQueuesBeforeItHasJoined(t *testing.T) {
	c := newCluster(t)
	member := c.member()
	args := c.proxyArgs(c.file("token", joinToken(t, c.memberDir(), "1h").Token))
	member.kill()

	dir, addr := filepath.Join(c.dir, "proxy"), freeAddr(t)
	proxy := start(t, dir, addr, args...)
	const writes = 5
	var took []time.Duration
	for i := range writes {
		begin := time.Now()
		proxy.expect(202, "PUT", fmt.Sprintf("/v1/kv/q/%d", i%2), fmt.Sprint(i), "")
		took = append(took, time.Since(begin))
	}
	isPrompt(t, "202", took...)
	proxy.expect(503, "PUT", "/v1/kv/other", "x", "") // it may wait for the first attempt to join
	for _, fails := range []struct {
		status       int
		method, path string
	}{{503, "PUT", "/v1/kv/other"}, {503, "GET", "/v1/kv/other"}, {504, "GET", "/v1/kv/site/1?consistency=local"}} {
		var took []time.Duration
		for range 5 {
			begin := time.Now()
			proxy.expect(fails.status, fails.method, fails.path, "x", "")
			took = append(took, time.Since(begin))
		}
		isPrompt(t, fmt.Sprint(fails), took...)
	}
	if s := proxy.status(); s.Proxy == nil || s.Proxy.Joined || !s.Proxy.UplinkLost || s.Queue == nil || s.Queue.Depth != writes {
		t.Errorf("status: %+v, queue %+v, want a proxy that has not joined and %d queued writes", s.Proxy, s.Queue, writes)
	}

	proxy.kill()
	proxy = start(t, dir, addr, args...)
	proxy.expect(202, "PUT", "/v1/kv/q/1", fmt.Sprint(writes), "")

	member = c.member()
	proxy.waitDrained(startMax)
	last := map[string]string{}
	var order []string
	for _, change := range history(t, http.DefaultClient, member.url, "q/") {
		last[change.Key] = string(change.Value)
		order = append(order, string(change.Value))
	}
	if got := strings.Join(order, " "); got != "0 1 2 3 4 5" {
		t.Errorf("the member got the writes as %s, want each once and in order", got)
	}
	if last["q/0"] != "4" || last["q/1"] != "5" {
		t.Errorf("the last values are %v", last)
	}
	proxy.waitSynced()
	if s := proxy.status(); !s.Proxy.Joined {
		t.Errorf("status: %+v, want joined", s.Proxy)
	}
}
