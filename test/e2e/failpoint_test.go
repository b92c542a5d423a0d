//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/api"
)

// crash is one run of a program that dies at a point, and its next start.
type crash struct {
	t      *testing.T
	point  string // where it dies
	dir    string // for the data dirs of this run
	quarry *quarry
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

// failpointsProgram builds the program that can die and hang.
func failpointsProgram(t *testing.T) (path string) {
	t.Helper()
	path, err := builtFailpoints()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// builtFailpoints is that program, linked once for all tests. TestMain removes its folder.
var builtFailpoints = sync.OnceValues(func() (path string, err error) {
	dir, err := os.MkdirTemp("", "agent-failpoints-")
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "agent")
	leftBehind = append(leftBehind, dir)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace,failpoints", "-o", path, "holdfast/cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build with failpoints: %w\n%s", err, out)
	}
	return path, nil
})

// buildFailpoints builds that program, once, and has launch start it.
func buildFailpoints(t *testing.T) (points []string) {
	t.Helper()
	binary := failpointsProgram(t)
	usual := os.Getenv("AGENT")
	if err := os.Setenv("AGENT", binary); err != nil { //nolint:usetesting // t.Setenv would forbid to run them side by side
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Setenv("AGENT", usual) }) //nolint:usetesting // as above
	out, err := exec.Command(binary, "failpoints").Output()
	if err != nil {
		t.Fatalf("agent failpoints: %v", err)
	}
	if points = strings.Fields(string(out)); len(points) == 0 {
		t.Fatal("the program lists no failpoint")
	}
	return points
}

// scenario is an operation that comes to failpoints: those it names, or whose group it names.
type scenario struct {
	name string
	at   []string
	run  func(*crash)
}

var scenarios = []scenario{
	{"found a cluster", []string{"identity", "bootstrap", "member"}, (*crash).founds},
	{"join as a proxy", []string{"join/admitted", "join/certified", "proxy"}, (*crash).joinsAsProxy},
	{"join as a member", []string{"join", "member"}, (*crash).joinsAsMember},
	{"fall back to a proxy", []string{"join/admitted", "join/certified", "proxy"}, (*crash).fallsBack},
	{"promote", []string{"promote", "join/admitted", "join/certified", "join/staged", "member/renamed", "member/made"}, (*crash).promotes},
	{"promote in vain", []string{"refused"}, (*crash).isRefused},
	{"demote", []string{"demote"}, (*crash).demotes},
	{"leave by force", []string{"leave"}, (*crash).leaves},
	{"leave", []string{"leave"}, (*crash).leavesACluster},
	{"restore", []string{"replace/folder", "replace/identity", "replace/state", "replace/founded", "replace/journalled", "replace/renamed", "replace/recorded"}, (*crash).restores},
	{"recover", []string{"replace/folder", "replace/state", "replace/founded", "replace/journalled", "replace/retired", "replace/renamed", "replace/recorded"}, (*crash).recovers},
	{"seal the keys", []string{"seal"}, (*crash).sealsItsKeys},
	{"seal the keys with another secret", []string{"seal"}, (*crash).resealsItsKeys},
	{"prepare an image", []string{"image"}, (*crash).becomesAnImage},
}

// atOnce is how many scenarios run at a time: they wait more than they work.
const atOnce = 4

// TestEveryFailpointIsSurvived kills an agent at each point that its binary lists, in each operation that comes there, and
// wants the next start to complete or undo what was under way, with everything acknowledged before. A point that nothing
// comes to is a failure.
func TestEveryFailpointIsSurvived(t *testing.T) {
	points := buildFailpoints(t)
	places, quarry := make(chan struct{}, atOnce), &quarry{dir: t.TempDir()}
	for _, point := range points {
		group, _, _ := strings.Cut(point, "/")
		known := false
		for _, s := range scenarios {
			if !slices.Contains(s.at, point) && !slices.Contains(s.at, group) {
				continue
			}
			known = true
			t.Run(s.name+" "+point, func(t *testing.T) {
				t.Parallel()
				places <- struct{}{}
				defer func() { <-places }()
				s.run(&crash{t: t, point: point, dir: t.TempDir(), quarry: quarry})
			})
		}
		if !known {
			t.Errorf("no scenario comes to %s: write one", point)
		}
	}
}

// joins runs an agent that dies while it joins a cluster and a device writes to it, and starts it again.
func (c *crash) joins(args []string, prefix string) (again *agent) {
	c.t.Helper()
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	args = append([]string{"--peer-listen", freeUDP(c.t), "--queue-prefixes", "q/"}, args...)
	a := launchIn(c.t, c.through(), dir, addr, args...)
	ctx, stop := context.WithCancel(c.t.Context())
	acknowledged := make(chan int, 1)
	go func() { acknowledged <- count(ctx, a.url+"/v1/kv/"+prefix) }()
	c.dies(a)
	stop()
	n := <-acknowledged
	a = start(c.t, dir, addr, args...)
	a.waitDrained(startMax)
	eventually(c.t, startMax, func() string { // a proxy may still be joining
		if r := a.do("PUT", "/v1/kv/"+prefix+"after?write=sync", []byte("x")); r.status != 201 {
			return fmt.Sprintf("PUT: %d %s", r.status, r.body)
		}
		return ""
	})
	for i := range n {
		a.expect(200, "GET", fmt.Sprintf("/v1/kv/%s%d?consistency=linearizable", prefix, i), "", fmt.Sprint(i))
	}
	return a
}

// joinsAsProxy dies while a proxy joins.
func (c *crash) joinsAsProxy() {
	cluster := newCluster(c.t)
	cluster.member()
	a := c.joins([]string{"--mode", "proxy", "--join", cluster.peerAddr, "--token-file", cluster.token("proxy")}, "q/")
	eventually(c.t, startMax, func() string {
		if s := a.status(); s.Proxy == nil || !s.Proxy.Joined || s.Proxy.UplinkLost {
			return fmt.Sprintf("it is not joined: %+v", s.Proxy)
		}
		return ""
	})
	c.stops(a)
}

// joinsAsMember dies while a box becomes a voter.
func (c *crash) joinsAsMember() {
	cluster := newCluster(c.t)
	first := cluster.member()
	first.expect(201, "PUT", "/v1/kv/before", "1", "")
	a := c.joins([]string{"--join", cluster.peerAddr, "--token-file", cluster.token("member")}, "q/")
	if s := a.status(); s.Member == nil {
		c.t.Errorf("it is a %s", s.Mode)
	}
	a.expect(200, "GET", "/v1/kv/before", "", "1")
	c.stops(a)
}

// fallsBack dies while a box becomes a proxy because no member is wanted.
func (c *crash) fallsBack() {
	cluster := newCluster(c.t)
	start(c.t, cluster.memberDir(), cluster.memberAddr, "--peer-listen", cluster.peerAddr, "--cluster-voters", "1")
	a := c.joins([]string{"--join", cluster.peerAddr, "--token-file", cluster.token("any")}, "q/")
	if s := a.status(); s.Proxy == nil {
		c.t.Errorf("it is a %s", s.Mode)
	}
	c.stops(a)
}

// changes dies while a node changes its mode, with a device writing to it, and wants it to be what it was to become, or was,
// soon after the next start.
func (c *crash) changes(change, want string, args ...string) {
	c.t.Helper()
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	args = append([]string{"--peer-listen", freeUDP(c.t), "--queue-prefixes", "q/", "--proxy-prefixes", "site/"}, args...)
	a := start(c.t, dir, addr, args...)
	eventually(c.t, startMax, func() string {
		if r := a.do("PUT", "/v1/kv/site/a?write=sync", []byte("1")); r.status != 201 {
			return fmt.Sprintf("PUT: %d %s", r.status, r.body)
		}
		return ""
	})
	c.stops(a)

	a = launchIn(c.t, c.through(), dir, addr, args...)
	a.waitReady()
	ctx, stop := context.WithCancel(c.t.Context())
	queued, sync := make(chan int, 1), make(chan int, 1)
	go func() { queued <- count(ctx, a.url+"/v1/kv/q/") }()
	go func() { sync <- count(ctx, a.url+"/v1/kv/site/") }()
	a.command(change, "--wait", "20s") // it may be cut off
	c.dies(a)
	stop()
	a = start(c.t, dir, addr, args...)
	eventually(c.t, startMax, func() string {
		if s := a.status(); s.Mode != want || s.Switch != nil || s.Proxy != nil && s.Proxy.UplinkLost {
			return fmt.Sprintf("it is a %s, %+v, %+v; want a %s\n%s", s.Mode, s.Switch, s.Proxy, want, a.logTail())
		}
		return ""
	})
	a.waitDrained(startMax)
	a.expect(200, "GET", "/v1/kv/site/a?consistency=linearizable", "", "1")
	for prefix, n := range map[string]int{"q/": <-queued, "site/": <-sync} {
		for i := range n {
			a.expect(200, "GET", fmt.Sprintf("/v1/kv/%s%d?consistency=linearizable", prefix, i), "", fmt.Sprint(i))
		}
	}
	for _, name := range map[string][]string{"proxy": {"member", "member.new"}, "member": {"proxy", "member.new"}}[want] {
		if _, err := os.Stat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			c.t.Errorf("%s/ is left behind (%v)", name, err)
		}
	}
	c.stops(a)
	c.stops(start(c.t, dir, addr, args...))
}

func (c *crash) promotes() {
	cluster := newCluster(c.t)
	cluster.member()
	c.changes("promote", "member", "--mode", "proxy", "--join", cluster.peerAddr, "--token-file", cluster.token("any"))
}

func (c *crash) demotes() {
	cluster := newCluster(c.t)
	cluster.member()
	c.changes("demote", "proxy", "--mode", "member", "--join", cluster.peerAddr, "--token-file", cluster.token("any"))
}

func (c *crash) isRefused() {
	cluster := newCluster(c.t)
	start(c.t, cluster.memberDir(), cluster.memberAddr, "--peer-listen", cluster.peerAddr, "--cluster-voters", "1")
	c.changes("promote", "proxy", "--mode", "proxy", "--join", cluster.peerAddr, "--token-file", cluster.token("any"))
}

// becomesAnImage dies while the identity of a box that has not joined is taken out of its dir.
func (c *crash) becomesAnImage() {
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	cluster := newCluster(c.t)
	first := cluster.member()
	token := cluster.token("proxy")
	first.kill()
	c.stops(start(c.t, dir, addr, "--mode", "proxy", "--join", cluster.peerAddr, "--token-file", token))
	c.command("prepare-image", "--data-dir", dir)
	if code, out := commandAt(c.t, dir, "prepare-image"); code != 0 {
		c.t.Fatalf("again: exit %d, %s", code, out)
	}
	if c.nodeFile(dir) != "" {
		c.t.Error("the identity is still there")
	}
}

// leaves dies while a lone member leaves by force.
func (c *crash) leaves() {
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	args := []string{"--peer-listen", freeUDP(c.t)}
	a := launchIn(c.t, c.through(), dir, addr, args...)
	a.waitReady()
	a.expect(201, "PUT", "/v1/kv/a", "1", "")
	was := c.nodeFile(dir)
	a.command("leave", "--force")
	c.dies(a)
	if _, err := os.Stat(filepath.Join(dir, "mode.json")); err == nil { // the next start completes it and says so
		a = launch(c.t, dir, addr, args...)
		if code := a.waitExit(startMax); code != 78 || !strings.Contains(a.logTail(), "has left its cluster") {
			c.t.Fatalf("exit %d, want 78 and to be told\n%s", code, a.logTail())
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "left", "*", "member", "state.db"))
	if err != nil || len(left) != 1 {
		c.t.Errorf("its data is in %v, %v", left, err)
	}
	a = start(c.t, dir, addr, args...)
	a.expect(404, "GET", "/v1/kv/a", "", "")
	if c.nodeFile(dir) == was {
		c.t.Error("it begins anew with the identity it had")
	}
	c.stops(a)
}

func (c *crash) stops(a *agent) {
	c.t.Helper()
	if code := a.stop(); code != 0 {
		c.t.Errorf("exit %d, want 0", code)
	}
}

// token makes a join token for a role, in a file.
func (c *cluster) token(role string) (file string) {
	c.t.Helper()
	r, err := call(c.t.Context(), overSocket(c.t, c.memberDir()), "POST", "http://member/v1/tokens", fmt.Appendf(nil, `{"role":%q}`, role))
	if err != nil {
		c.t.Fatal(err)
	}
	var made api.CreatedToken
	if err := json.Unmarshal(r.body, &made); err != nil || made.Token == "" {
		c.t.Fatalf("POST /v1/tokens: %d %s (%v)", r.status, r.body, err)
	}
	return c.file("token-"+role, made.Token)
}

// founds dies while a cluster of one is founded.
func (c *crash) founds() {
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
