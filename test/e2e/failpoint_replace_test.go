//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// quarry is what a restore and a recovery begin with: the data dir of one of two members that were killed, and a backup.
type quarry struct {
	once   sync.Once
	dir    string // for both, longer than a scenario
	backup string
	member string // a data dir, to be copied
}

// quarryKeys is how many writes were acknowledged before the kill, and are in the backup.
const quarryKeys = 20

func (q *quarry) make(t *testing.T) {
	q.once.Do(func() {
		c := newCluster(t)
		first := c.member()
		q.member, q.backup = filepath.Join(q.dir, "member"), filepath.Join(q.dir, "backup")
		second := start(t, q.member, freeAddr(t), "--mode", "member", "--join", c.peerAddr, "--token-file", c.token("member"))
		first.waitVoters(2, startMax)
		for i := range quarryKeys {
			second.expect(201, "PUT", fmt.Sprintf("/v1/kv/k/%d", i), fmt.Sprint(i), "")
		}
		command(t, 0, "snapshot", "save", q.backup, "--data-dir", q.member)
		second.kill()
		first.kill()
	})
	if _, err := os.Stat(q.backup); err != nil {
		t.Fatal("there is nothing to begin with, see the scenario that made it: ", err)
	}
}

// command runs a command of the binary that dies at the point.
func (c *crash) command(args ...string) {
	c.t.Helper()
	cmd := exec.Command(os.Getenv("AGENT"), args...)
	cmd.Env = cleanEnv(c.t, "FAILPOINT="+c.point)
	if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		c.t.Fatalf("agent %s was not killed at %s: %v\n%s", strings.Join(args, " "), c.point, err, out)
	}
}

// journalled tells whether the next start alone completes a restore or a recovery that died at the point.
func (c *crash) journalled() bool {
	switch c.point {
	case "replace/folder", "replace/identity", "replace/state", "replace/founded":
		return false
	}
	return true
}

// hasAll starts an agent, wants every write in it, stores one more, and wants that after another start too.
func (c *crash) hasAll(dir, addr string) (epoch string) {
	c.t.Helper()
	for n := range 2 {
		a := start(c.t, dir, addr, "--peer-listen", freeUDP(c.t))
		for i := range quarryKeys {
			a.expect(200, "GET", fmt.Sprintf("/v1/kv/k/%d?consistency=linearizable", i), "", fmt.Sprint(i))
		}
		a.expect(201, "PUT", fmt.Sprintf("/v1/kv/new/%d", n), "x", "")
		a.expect(200, "GET", "/v1/kv/new/0?consistency=linearizable", "", "x")
		epoch = a.status().Epoch
		c.stops(a)
	}
	if _, err := os.Stat(filepath.Join(dir, "restore.new")); !os.IsNotExist(err) {
		c.t.Errorf("what was staged is left behind (%v)", err)
	}
	return epoch
}

// restores dies while a backup is restored, and once more while the next start completes that.
func (c *crash) restores() {
	c.quarry.make(c.t)
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	restore := []string{"snapshot", "restore", c.quarry.backup, "--data-dir", dir}
	c.command(restore...)
	if !c.journalled() {
		a := launch(c.t, dir, addr)
		if code := a.waitExit(startMax); code != exitConfig || !strings.Contains(a.logTail(), "agent snapshot restore again") {
			c.t.Fatalf("exit %d, want %d and to be told what to do\n%s", code, exitConfig, a.logTail())
		}
		command(c.t, 0, restore...)
	}
	if c.point == "replace/journalled" {
		again := &crash{t: c.t, point: "replace/renamed"}
		again.dies(launchIn(c.t, again.through(), dir, addr))
	}
	c.hasAll(dir, addr)
}

// recovers dies while one of two members is made a cluster of its own.
func (c *crash) recovers() {
	c.quarry.make(c.t)
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	copyDir(c.t, c.quarry.member, dir)
	recovery := []string{"recover", "--yes", "--data-dir", dir}
	c.command(recovery...)
	if !c.journalled() { // the former member goes on as it was, without the other
		a := start(c.t, dir, addr, "--peer-listen", freeUDP(c.t))
		for i := range quarryKeys {
			a.expect(200, "GET", fmt.Sprintf("/v1/kv/k/%d?consistency=local", i), "", fmt.Sprint(i))
		}
		c.stops(a)
		command(c.t, 0, recovery...)
	}
	c.hasAll(dir, addr)
	if former, err := filepath.Glob(filepath.Join(dir, "retired", "recover-*", "state.db")); err != nil || len(former) != 1 {
		c.t.Errorf("the former member is in %v, %v", former, err)
	}
}

// leavesACluster dies while a member of two leaves with the other's consent, and joins again.
func (c *crash) leavesACluster() {
	cluster := newCluster(c.t)
	first := cluster.member()
	dir, addr := filepath.Join(c.dir, "node"), freeAddr(c.t)
	args := []string{"--peer-listen", freeUDP(c.t), "--join", cluster.peerAddr, "--token-file", cluster.token("any")}
	a := launchIn(c.t, c.through(), dir, addr, args...)
	a.waitReady()
	a.expect(201, "PUT", "/v1/kv/a", "1", "")
	was := c.nodeFile(dir)
	a.command("leave")
	c.dies(a)
	if _, err := os.Stat(filepath.Join(dir, "mode.json")); err == nil {
		a = launch(c.t, dir, addr, args...)
		if code := a.waitExit(startMax); code != exitConfig || !strings.Contains(a.logTail(), "has left its cluster") {
			c.t.Fatalf("exit %d, want %d and to be told\n%s", code, exitConfig, a.logTail())
		}
	}
	first.waitVoters(1, startMax)
	first.expect(200, "PUT", "/v1/kv/a", "2", "")
	a = start(c.t, dir, addr, args...)
	first.waitVoters(2, startMax)
	a.expect(200, "GET", "/v1/kv/a?consistency=linearizable", "", "2")
	if c.nodeFile(dir) == was {
		c.t.Error("it joins anew with the identity it had")
	}
	c.stops(a)
}
