//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// command runs a command of the binary to its end.
func command(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv("AGENT"), args...)
	var out, complaints bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = cleanEnv(t), t.TempDir(), &out, &complaints
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("agent %s: exit code %d, want %d (%v)\n%s%s", strings.Join(args, " "), got, code, err, &out, &complaints)
	}
	return out.String(), complaints.String()
}

// restored is what a restore or a recovery says with -o json.
type restored struct {
	Cluster, Epoch, Node string
	Revision, Keys       int64
	Retired              string
}

func parse(t *testing.T, text string) (r restored) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return r
}

// cutter is a link to addr that is cut after so many bytes have come back, each time anew.
func cutter(t *testing.T, addr string, after int64) (front string, cuts *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed with the test
	if err != nil {
		t.Fatal(err)
	}
	cuts = &atomic.Int32{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", addr) //nolint:noctx // on this machine
			if err != nil {
				_ = c.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(up, c) // until either end is closed
			}()
			if n, _ := io.CopyN(c, up, after); n == after {
				cuts.Add(1)
			}
			_, _ = c.Close(), up.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String(), cuts
}

// TestABackupIsTakenOverALinkThatIsCutAndBecomesAnotherCluster is the whole way: a backup while keys are written, the link
// cut again and again, the file verified, two clusters made of it, which another box joins and which refuse each other.
func TestABackupIsTakenOverALinkThatIsCutAndBecomesAnotherCluster(t *testing.T) {
	dir := t.TempDir()
	a := start(t, filepath.Join(dir, "a"), freeAddr(t))
	noise := make([]byte, 64<<10)
	_, _ = rand.Read(noise) // never fails
	for i := range 40 {
		a.expect(201, "PUT", fmt.Sprintf("/v1/kv/k/%d", i), string(noise), "")
	}
	a.expect(201, "PUT", "/v1/kv/last", "before", "")
	front, cuts := cutter(t, strings.TrimPrefix(a.url, "http://"), 1<<20)
	file := filepath.Join(dir, "backup")
	command(t, 0, "snapshot", "save", file, "--endpoint", "http://"+front)
	a.expect(200, "PUT", "/v1/kv/last", "after", "")
	if cuts.Load() < 2 {
		t.Errorf("the link was cut %d times only", cuts.Load())
	}
	if left, err := filepath.Glob(file + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	out, _ := command(t, 0, "snapshot", "verify", file, "-o", "json")
	if v := parse(t, out); v.Keys != 41 || v.Revision != 42 || v.Epoch != a.status().Epoch {
		t.Errorf("the backup holds %s", out)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+"-cut", whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, 78, "snapshot", "restore", file+"-cut", "--data-dir", filepath.Join(dir, "cut"))
	command(t, 75, "snapshot", "restore", file, "--data-dir", a.dir)

	var nodes []*agent
	var tokens, peers []string
	for _, name := range []string{"b", "c"} {
		at := filepath.Join(dir, name)
		out, _ := command(t, 0, "snapshot", "restore", file, "--data-dir", at, "-o", "json")
		peer := freeUDP(t)
		n := start(t, at, freeAddr(t), "--peer-listen", peer, "--peer-advertise", peer)
		if r := parse(t, out); r.Epoch != n.status().Epoch || r.Epoch == a.status().Epoch || r.Revision != 42 {
			t.Errorf("restored as %s, serves epoch %s; the backup is of %s", out, n.status().Epoch, a.status().Epoch)
		}
		n.expect(200, "GET", "/v1/kv/last", "", "before")
		n.expect(200, "GET", "/v1/kv/k/39", "", string(noise))
		token, _ := command(t, 0, "token", "create", "--data-dir", at)
		nodes, tokens = append(nodes, n), append(tokens, strings.TrimSpace(token))
		peers = append(peers, peer)
	}
	if nodes[0].status().Epoch == nodes[1].status().Epoch {
		t.Error("two restores of one backup have one epoch")
	}
	// A box that joins the one gets what was in the backup, which no log ever held.
	path := filepath.Join(dir, "token")
	if err := os.WriteFile(path, []byte(tokens[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	joiner := launch(t, filepath.Join(dir, "d"), freeAddr(t), "--mode", "member", "--join", peers[0], "--token-file", path)
	joiner.waitReady()
	joiner.expect(200, "GET", "/v1/kv/k/39?consistency=local", "", string(noise))
	joiner.expect(200, "GET", "/v1/kv/last", "", "before")
	// With that token the other one is a stranger: its CA is another.
	stranger := launch(t, filepath.Join(dir, "e"), freeAddr(t), "--mode", "proxy", "--join", peers[1], "--token-file", path)
	if code := stranger.waitExit(startMax); code != 78 || !strings.Contains(stranger.logTail(), "CA") {
		t.Errorf("exit code %d, and it says:\n%s", code, stranger.logTail())
	}
}

// TestOneMemberLeftOfThreeIsRecovered loses two of three members for good.
func TestOneMemberLeftOfThreeIsRecovered(t *testing.T) {
	dir := t.TempDir()
	peer := freeUDP(t)
	addrs := []string{freeAddr(t), freeAddr(t), freeAddr(t)}
	first := start(t, filepath.Join(dir, "0"), addrs[0], "--peer-listen", peer, "--peer-advertise", peer)
	token, _ := command(t, 0, "token", "create", "--data-dir", first.dir)
	path := filepath.Join(dir, "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	members := []*agent{first}
	for i := 1; i < 3; i++ {
		own := freeUDP(t)
		members = append(members, start(t, filepath.Join(dir, fmt.Sprint(i)), addrs[i], "--mode", "member", "--join", peer, "--token-file", path, "--peer-listen", own, "--peer-advertise", own))
	}
	for i := range 20 {
		first.expect(201, "PUT", fmt.Sprintf("/v1/kv/k/%d", i), "v", "")
	}
	survivor := members[2]
	eventually(t, startMax, func() string {
		if r := survivor.do("GET", "/v1/kv/k/19?consistency=local", nil); r.status != 200 {
			return fmt.Sprintf("%d %s", r.status, r.body)
		}
		return ""
	})
	was := survivor.status()
	for _, m := range members {
		m.kill() // what is in the log and not in the state file has to be saved too
	}
	out, _ := command(t, 0, "recover", "--data-dir", survivor.dir, "--dry-run", "-o", "json")
	var loss struct {
		Others []int64
		Keys   int64
		Epoch  string
	}
	if err := json.Unmarshal([]byte(out), &loss); err != nil || len(loss.Others) != 2 || loss.Keys != 20 || loss.Epoch != was.Epoch {
		t.Errorf("%v in %s", err, out)
	}
	out, said := command(t, 0, "recover", "--data-dir", survivor.dir, "--yes", "-o", "json")
	if !strings.Contains(said, "whatever the others committed behind index") {
		t.Errorf("it does not say what may be lost: %s", said)
	}
	r := parse(t, out)
	if _, err := os.Stat(filepath.Join(r.Retired, "state.db")); err != nil {
		t.Errorf("there is no way back: %v", err)
	}
	again := start(t, survivor.dir, addrs[2])
	for i := range 20 {
		again.expect(200, "GET", fmt.Sprintf("/v1/kv/k/%d", i), "", "v")
	}
	again.expect(201, "PUT", "/v1/kv/new", "v", "")
	if s := again.status(); s.Epoch != r.Epoch || s.Epoch == was.Epoch || s.NodeID != was.NodeID {
		t.Errorf("%+v was recovered, now %s %s, before %s %s", r, s.Epoch, s.NodeID, was.Epoch, was.NodeID)
	}
	// One that was thought lost comes back: it finds no quorum, and the new cluster takes nothing from it.
	old := launch(t, members[1].dir, addrs[1])
	time.Sleep(2 * time.Second)
	if r := old.do("PUT", "/v1/kv/old", []byte("v")); r.status != 503 {
		t.Errorf("a member of the cluster that is no more answers %d %s", r.status, r.body)
	}
	again.expect(404, "GET", "/v1/kv/old", "", "")
	if s := again.status(); s.Member == nil || s.Member.Leader != s.Member.ReplicaID {
		t.Errorf("the new cluster does not lead itself: %+v", s.Member)
	}
}

// TestAProxyFindsARestoredCluster puts a member back to a backup, under the identity that it had: the proxy comes back by
// itself, shows what was restored, and its queue goes on, although the cluster has forgotten what it had last.
func TestAProxyFindsARestoredCluster(t *testing.T) {
	c := newCluster(t)
	member := c.member()
	args := c.proxyArgs(c.file("token", joinToken(t, c.memberDir(), "1h").Token))
	proxy := start(t, filepath.Join(c.dir, "proxy"), freeAddr(t), args...)
	proxy.waitSynced()
	proxy.expect(201, "PUT", "/v1/kv/site/1", "before", "")
	proxy.expect(201, "PUT", "/v1/kv/q/1", "before", "")
	file := filepath.Join(c.dir, "backup")
	command(t, 0, "snapshot", "save", file, "--data-dir", c.memberDir())
	proxy.expect(200, "PUT", "/v1/kv/site/1", "after", "")
	for i := range 5 {
		proxy.expect(201, "PUT", fmt.Sprintf("/v1/kv/q/after/%d", i), "after", "")
	}
	was := member.status().Epoch
	member.kill()
	pending := proxy.expect(202, "PUT", "/v1/kv/q/2", "pending", "")
	if err := os.Rename(c.memberDir(), c.memberDir()+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.memberDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(c.memberDir()+".old", "identity"), filepath.Join(c.memberDir(), "identity")); err != nil {
		t.Fatal(err)
	}
	command(t, 0, "snapshot", "restore", file, "--data-dir", c.memberDir())
	member = c.member()
	if now := member.status().Epoch; now == was {
		t.Errorf("the epoch is still %s", now)
	}
	eventually(t, startMax, func() string {
		r := proxy.do("GET", "/v1/kv/site/1?consistency=linearizable", nil)
		if r.status != 200 || string(r.body) != "before" {
			return fmt.Sprintf("the proxy answers %d %s", r.status, r.body)
		}
		return ""
	})
	// What was in line may have been sent to the cluster that is no more: it is committed in the new one, or listed.
	fate := proxy.do("GET", pending.header.Get("Location")+"?wait=30s", nil)
	committed := strings.Contains(string(fate.body), `"state":"committed"`)
	if !committed && !strings.Contains(string(fate.body), `"state":"unknown"`) {
		t.Errorf("what was in line: %d %s", fate.status, fate.body)
	}
	if committed {
		member.expect(200, "GET", "/v1/kv/q/2", "", "pending")
	}
	member.expect(404, "GET", "/v1/kv/q/after/1", "", "")
	if r := proxy.do("PUT", "/v1/kv/q/3", []byte("new")); r.status != 201 && r.status != 202 {
		t.Errorf("a new write: %d %s", r.status, r.body)
	}
	eventually(t, startMax, func() string {
		if r := member.do("GET", "/v1/kv/q/3", nil); string(r.body) != "new" {
			return fmt.Sprintf("a new write does not arrive: %d %s", r.status, r.body)
		}
		return ""
	})
}
