//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crash is one run of a program that dies at a point, and its next start.
type crash struct {
	t     *testing.T
	point string // where it dies
	dir   string // for the data dirs of this run
}

// through is the command by which an agent is started that dies at the point.
func (c *crash) through() []string { return []string{"env", "FAILPOINT=" + c.point} }

// dies waits until the agent has killed itself.
func (c *crash) dies(a *agent) {
	c.t.Helper()
	code := a.waitExit(startMax)
	if s, ok := a.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGKILL {
		c.t.Fatalf("it ended with %d (%v) and not by its own hand at %s: the point was not hit\n%s", code, a.cmd.ProcessState, c.point, a.logTail())
	}
	a.killed = true
}

// nodeFile is the key in the identity of a data dir, empty for none.
func (c *crash) nodeFile(dir string) string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "identity", "node.pem"))
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	key, _, _ := strings.Cut(string(b), "-----END PRIVATE KEY-----") // what follows, the certificate, may change
	return key
}

// buildFailpoints builds the program that can die, once, and has launch start it.
func buildFailpoints(t *testing.T) (points []string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "agent")
	build := exec.Command("go", "build", "-trimpath", "-tags", "failpoints", "-o", binary, "holdfast/cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with failpoints: %v\n%s", err, out)
	}
	t.Setenv("AGENT", binary)
	out, err := exec.Command(binary, "failpoints").Output()
	if err != nil {
		t.Fatalf("agent failpoints: %v", err)
	}
	if points = strings.Fields(string(out)); len(points) == 0 {
		t.Fatal("the program lists no failpoint")
	}
	return points
}

// TestEveryFailpointIsSurvived kills an agent at each point that its binary lists, and wants the next start to complete or
// undo what was under way, with everything acknowledged before.
func TestEveryFailpointIsSurvived(t *testing.T) {
	points := buildFailpoints(t)
	cluster := newCluster(t)
	token := ""
	kinds := map[string]func(*crash){
		"identity":  (*crash).bootstraps,
		"bootstrap": (*crash).bootstraps,
		"proxy": func(c *crash) {
			if token == "" {
				cluster.member()
				token = cluster.file("token", joinToken(t, cluster.memberDir(), "1h").Token)
			}
			c.joinsAsProxy(cluster.peerAddr, token)
		},
	}
	for _, point := range points {
		kind, _, _ := strings.Cut(point, "/")
		t.Run(point, func(t *testing.T) {
			run, known := kinds[kind]
			if !known {
				t.Fatalf("no scenario comes to %s: write one", point)
			}
			run(&crash{t: t, point: point, dir: t.TempDir()})
		})
	}
}

// bootstraps dies while a cluster of one is founded.
func (c *crash) bootstraps() {
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	args := []string{"--peer-listen", freeUDP(c.t)}
	c.dies(launchIn(c.t, c.through(), dir, addr, args...))
	drawn := c.nodeFile(dir)
	a := start(c.t, dir, addr, args...)
	if now := c.nodeFile(dir); drawn != "" && now != drawn {
		c.t.Error("the node has another identity than before the kill")
	}
	a.expect(201, "PUT", "/v1/kv/a", "1", "")
	if code := a.stop(); code != 0 {
		c.t.Errorf("exit %d, want 0", code)
	}
	a = start(c.t, dir, addr, args...)
	a.expect(200, "GET", "/v1/kv/a", "", "1")
}

// joinsAsProxy dies while a proxy joins and a device writes to it.
func (c *crash) joinsAsProxy(join, token string) {
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	prefix := "q/" + c.point + "/"
	args := []string{"--peer-listen", freeUDP(c.t), "--mode", "proxy", "--join", join, "--token-file", token, "--queue-prefixes", "q/"}
	a := launchIn(c.t, c.through(), dir, addr, args...)
	ctx, stop := context.WithCancel(c.t.Context())
	acknowledged := make(chan int, 1)
	go func() { acknowledged <- count(ctx, a.url+"/v1/kv/"+prefix) }()
	c.dies(a)
	stop()
	n := <-acknowledged
	a = start(c.t, dir, addr, args...)
	a.waitDrained(startMax)
	eventually(c.t, startMax, func() string {
		if s := a.status(); s.Proxy == nil || !s.Proxy.Joined || s.Proxy.UplinkLost {
			return fmt.Sprintf("it is not joined: %+v", s.Proxy)
		}
		return ""
	})
	a.expect(201, "PUT", "/v1/kv/"+prefix+"after", "x", "")
	for i := range n {
		a.expect(200, "GET", fmt.Sprintf("/v1/kv/%s%d?consistency=linearizable", prefix, i), "", fmt.Sprint(i))
	}
	if code := a.stop(); code != 0 {
		c.t.Errorf("exit %d, want 0", code)
	}
}

// count writes numbers below a path until ctx ends or one is not acknowledged by a node that has answered before, and
// returns how many were.
func count(ctx context.Context, url string) (n int) {
	client := &http.Client{Timeout: 10 * time.Second}
	for ctx.Err() == nil {
		r, err := call(ctx, client, "PUT", fmt.Sprint(url, n), fmt.Append(nil, n))
		if err == nil && r.status < 300 {
			n++
		} else {
			time.Sleep(time.Millisecond) // not up yet, or gone
		}
	}
	return n
}
