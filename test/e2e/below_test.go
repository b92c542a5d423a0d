//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/api"
)

// chain is a cluster, a proxy that talks to it for a site, and a box behind that.
type chain struct {
	*cluster
	boxPeer, tillPeer string // where each takes others
	boxDir, tillDir   string
	boxAddr, tillAddr string
	boxArgs, tillArgs []string
}

func newChain(t *testing.T) *chain {
	t.Helper()
	c := newCluster(t)
	return &chain{cluster: c, boxPeer: freeUDP(t), tillPeer: freeUDP(t), boxDir: filepath.Join(c.dir, "box"), tillDir: filepath.Join(c.dir, "till"),
		boxAddr: freeAddr(t), tillAddr: freeAddr(t)}
}

// box starts the site's proxy, till the one behind it. Each joins at its first start.
func (s *chain) box() *agent {
	if s.boxArgs == nil {
		s.boxArgs = append(s.proxyArgs(s.file("box-token", joinToken(s.t, s.memberDir(), "1h").Token)), "--peer-listen", s.boxPeer, "--name", "box")
	}
	return start(s.t, s.boxDir, s.boxAddr, s.boxArgs...)
}

func (s *chain) till() *agent {
	if s.tillArgs == nil {
		s.tillArgs = append(s.proxyArgs(s.file("till-token", joinToken(s.t, s.memberDir(), "1h").Token)), "--name", "till", "--peer-listen", s.tillPeer)
		for i, a := range s.tillArgs {
			if a == s.peerAddr { // what it is told to join
				s.tillArgs[i] = "proxy:" + s.boxPeer
			}
		}
	}
	return start(s.t, s.tillDir, s.tillAddr, s.tillArgs...)
}

// TestABoxBehindTheBoxOfItsSite has a proxy join, read, write, watch and queue through another one, and be revoked.
func TestABoxBehindTheBoxOfItsSite(t *testing.T) {
	s := newChain(t)
	member := s.member()
	member.expect(201, "PUT", "/v1/kv/site/0", "first", "")
	box := s.box()
	box.waitSynced()
	till := s.till()
	till.waitSynced()

	t.Log("it reads and writes, and the cluster knows it")
	till.expect(200, "GET", "/v1/kv/site/0?consistency=linearizable", "", "first")
	till.expect(201, "PUT", "/v1/kv/site/1", "of the till", "")
	member.expect(200, "GET", "/v1/kv/site/1", "", "of the till")
	box.expect(200, "GET", "/v1/kv/site/1?consistency=linearizable", "", "of the till").has(t, "Holdfast-Source", "cache")
	member.expect(200, "PUT", "/v1/kv/site/1", "of the member", "")
	till.expect(200, "GET", "/v1/kv/site/1?consistency=linearizable", "", "of the member").has(t, "Holdfast-Source", "cache")
	eventually(t, startMax, func() string {
		if n := nodesOf(t, s.memberDir())["till"]; n.State != api.NodeConnected || !strings.Contains(n.Address, "through") {
			return fmt.Sprintf("the list of nodes has %+v", n)
		}
		return ""
	})
	before := certOf(t, s.tillDir)
	mustRun(t, s.tillDir, "cert", "renew")
	if after := certOf(t, s.tillDir); after.Serial == before.Serial {
		t.Error("the certificate was not renewed through the box")
	}

	t.Log("the way to the member is cut, and the box is killed in between: each write arrives once")
	till.expect(201, "PUT", "/v1/kv/q/warm", "x", "")
	pause(t, member)
	stopped := time.Now()
	const writes = 40
	for i := range writes {
		if r := till.do("PUT", fmt.Sprintf("/v1/kv/q/%d", i), []byte(strconv.Itoa(i))); r.status != 202 && r.status/100 != 2 {
			t.Fatalf("PUT %d: %d %s", i, r.status, r.body)
		}
	}
	aged := till.expect(200, "GET", "/v1/kv/site/1", "", "of the member")
	if age, err := strconv.ParseFloat(aged.header.Get("Holdfast-Age"), 64); err != nil || age < time.Since(stopped).Seconds()-3 {
		t.Errorf("Holdfast-Age: %q, %v after the member was stopped", aged.header.Get("Holdfast-Age"), time.Since(stopped))
	}
	if r := till.do("GET", "/v1/kv/site/1?consistency=linearizable", nil); r.status != 503 {
		t.Errorf("a linearizable read %v after the member was stopped: %d %v", time.Since(stopped), r.status, r.header)
	}
	box.kill()
	resume(t, member)
	box = s.box()
	till.kill()
	till = s.till()
	till.waitDrained(startMax)
	arrived := map[string]int{}
	for _, change := range history(t, http.DefaultClient, member.url, "q/") {
		arrived[change.Key]++
	}
	for i := range writes {
		if n := arrived[fmt.Sprintf("q/%d", i)]; n != 1 {
			t.Errorf("q/%d was written %d times, want once", i, n)
		}
	}

	t.Log("a box with no mark on its --join is told about it")
	args := s.proxyArgs(s.file("other-token", joinToken(t, s.memberDir(), "1h").Token))
	args[3] = s.boxPeer
	other := launch(t, filepath.Join(s.dir, "other"), freeAddr(t), args...)
	eventually(t, startMax, func() string {
		if !strings.Contains(other.logTail(), "proxy:") {
			return "its log does not name proxy:\n" + other.logTail()
		}
		return ""
	})
	other.kill()
	args[3] = "proxy:" + s.tillPeer
	third := launch(t, filepath.Join(s.dir, "third"), freeAddr(t), args...)
	eventually(t, startMax, func() string {
		if !strings.Contains(till.logTail(), "itself behind another") {
			return "the till does not say that it takes none:\n" + till.logTail()
		}
		return ""
	})
	third.kill()

	t.Log("it is revoked")
	till.waitSynced()
	mustRun(t, s.memberDir(), "nodes", "revoke", "till")
	eventually(t, 5*time.Second, func() string {
		if r := till.do("GET", "/v1/kv/site/1?consistency=linearizable", nil); r.status != 503 {
			return fmt.Sprintf("it still reads: %d %s", r.status, r.body)
		}
		return ""
	})
	box.expect(200, "GET", "/v1/kv/site/1?consistency=linearizable", "", "of the member")
	box.kill()
	member.kill() // the box alone remembers
	s.box()
	till.kill()
	till = s.till()
	time.Sleep(time.Second) // what must not happen has no moment: it would be at once
	if r := till.status(); r.Proxy == nil || !r.Proxy.UplinkLost {
		t.Errorf("a revoked box is connected again: %+v", r.Proxy)
	}
}

func pause(t *testing.T, a *agent) {
	t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func resume(t *testing.T, a *agent) {
	t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
