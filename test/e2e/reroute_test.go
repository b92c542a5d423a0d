//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// followMax is how soon news reach a proxy whose address has changed while it was at rest. It is some round trips of 40 ms; the next
// packet that would tell the member by itself is a keep-alive, up to 25 s later.
const followMax = 5 * time.Second

// TestALinkAtRestFollowsWhenTheCableIsPulled gives a proxy two ways to its member: a cable, and radio behind it. The cable is pulled.
func TestALinkAtRestFollowsWhenTheCableIsPulled(t *testing.T) {
	link := newLinks(t, "m,p", "20ms")
	dir := t.TempDir()
	memberDir, proxyDir, token := filepath.Join(dir, "m"), filepath.Join(dir, "p"), filepath.Join(dir, "token")
	member := link.start("m", memberDir)
	if err := os.WriteFile(token, []byte(joinToken(t, memberDir, "1h").Token), 0o600); err != nil {
		t.Fatal(err)
	}
	link.ip("p", "link add cable type veth peer name cable netns "+link.name+"-m")
	for host, address := range map[string]string{"m": "10.78.0.1/30", "p": "10.78.0.2/30"} {
		link.ip(host, "addr add "+address+" dev cable")
		link.ip(host, "link set cable up")
	}
	link.ip("p", "route add "+link.memberIP+"/32 via 10.78.0.1 dev cable")
	proxy := link.start("p", proxyDir, "--mode", "proxy", "--join", link.memberIP+":2380", "--token-file", token, "--proxy-prefixes", "a/")
	proxy.waitSynced()
	watch := openWatch(t, overSocket(t, proxyDir), proxy.url+"/v1/kv/a/?watch&prefix", time.Minute)
	from := func() string {
		for _, l := range member.status().Links {
			if l.Protocol == "holdfast-uplink/1" {
				return l.Address
			}
		}
		return ""
	}
	if at := from(); !strings.HasPrefix(at, "10.78.0.2:") {
		t.Fatalf("the proxy came from %q, want over the cable", at)
	}

	link.ip("p", "link del cable")
	pulled := time.Now()
	member.expect(201, "PUT", "/v1/kv/a/1", "news", "")
	watch.sees("a/1", "news")
	if took := time.Since(pulled); took > followMax {
		t.Errorf("the proxy heard of it after %v, want at most %v", took, followMax)
	}
	eventually(t, followMax, func() string {
		if at := from(); !strings.HasPrefix(at, "10.77.0.2:") {
			return fmt.Sprintf("the member speaks to %q", at)
		}
		return ""
	})
	proxy.expect(200, "PUT", "/v1/kv/a/1", "and back", "")
}

// TestALinkAtRestFollowsWhenAnAddressIsReplaced takes the only address of a proxy's machine away and gives it another one, as a lease
// of DHCP that was not renewed.
func TestALinkAtRestFollowsWhenAnAddressIsReplaced(t *testing.T) {
	link := newLinks(t, "m,p", "2ms")
	dir := t.TempDir()
	memberDir, proxyDir, token := filepath.Join(dir, "m"), filepath.Join(dir, "p"), filepath.Join(dir, "token")
	link.ip("p", "link add cable type veth peer name cable netns "+link.name+"-m")
	for host, address := range map[string]string{"m": "10.78.0.1/24", "p": "10.78.0.2/24"} {
		link.ip(host, "link set eth0 down")
		link.ip(host, "addr add "+address+" dev cable")
		link.ip(host, "link set cable up")
	}
	member := link.start("m", memberDir)
	if err := os.WriteFile(token, []byte(joinToken(t, memberDir, "1h").Token), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := link.start("p", proxyDir, "--mode", "proxy", "--join", "10.78.0.1:2380", "--token-file", token, "--proxy-prefixes", "a/")
	proxy.waitSynced()
	watch := openWatch(t, overSocket(t, proxyDir), proxy.url+"/v1/kv/a/?watch&prefix", time.Minute)

	link.ip("p", "addr del 10.78.0.2/24 dev cable")
	member.expect(201, "PUT", "/v1/kv/a/1", "while nobody is there", "")
	link.ip("p", "addr add 10.78.0.9/24 dev cable")
	back := time.Now()
	watch.sees("a/1", "while nobody is there")
	if took := time.Since(back); took > followMax {
		t.Errorf("the proxy heard of it after %v, want at most %v", took, followMax)
	}
	proxy.expect(200, "PUT", "/v1/kv/a/1", "and back", "")
}

// ip runs ip in a namespace.
func (l *badLink) ip(host, args string) {
	l.t.Helper()
	out, err := exec.CommandContext(l.t.Context(), "ip", append([]string{"-n", l.name + "-" + host}, strings.Fields(args)...)...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("ip %s in %s: %v\n%s", args, host, err, out)
	}
}
