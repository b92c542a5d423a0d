package compat

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func connect(t *testing.T, s *server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + s.addr}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// runs runs a program to its end.
func runs(t *testing.T, bin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(bin), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// scribble writes at random below k/: puts, deletes, transactions of several keys.
func scribble(ctx context.Context, t *testing.T, c *clientv3.Client, rnd *rand.Rand, n int) {
	t.Helper()
	key := func() string { return fmt.Sprintf("k/%02d", rnd.IntN(40)) }
	for range n {
		var err error
		switch rnd.IntN(6) {
		case 0:
			_, err = c.Delete(ctx, key())
		case 1:
			a := key()
			_, err = c.Txn(ctx).Then(clientv3.OpPut(a, "t"), clientv3.OpDelete(a+"x"), clientv3.OpPut(a+"y", fmt.Sprint(rnd.Int()))).Commit()
		case 2:
			_, err = c.Delete(ctx, "k/1", clientv3.WithPrefix())
		default:
			_, err = c.Put(ctx, key(), strings.Repeat(fmt.Sprint(rnd.Int()), rnd.IntN(20)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// on starts an agent on a data dir that is there.
func on(t *testing.T, b binaries, dir string) *server {
	t.Helper()
	s := &server{kind: agentKind(b), dir: dir}
	var err error
	if s.addr, s.peer, err = freeAddrs(); err == nil {
		err = s.run(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(t) })
	return s
}

// prepare is what a test of imports begins with: a time to end by, what to run, and where its choices come from.
func prepare(t *testing.T) (context.Context, binaries, *rand.Rand) {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return ctx, b, rand.New(rand.NewPCG(seed, 0))
}

// TestASnapshotOfEtcdIsRestoredWithItsHistory compares an agent made of a snapshot with the etcd it is of: every revision
// that both still have, every event, every lease.
func TestASnapshotOfEtcdIsRestoredWithItsHistory(t *testing.T) {
	ctx, b, rnd := prepare(t)
	server := etcdKind(b).start(t)
	etcd := connect(t, server)
	scribble(ctx, t, etcd, rnd, 150)
	lease, err := etcd.Grant(ctx, 500)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Put(ctx, "leased", "l", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	scribble(ctx, t, etcd, rnd, 50)
	now, err := etcd.Get(ctx, "k/00")
	if err != nil {
		t.Fatal(err)
	}
	compact := now.Header.Revision / 2
	if _, err := etcd.Compact(ctx, compact, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	scribble(ctx, t, etcd, rnd, 100)
	dir := t.TempDir()
	file := filepath.Join(dir, "e.snap")
	runs(t, b.ctl, "--endpoints", server.addr, "snapshot", "save", file)
	runs(t, b.agent, "snapshot", "verify", file)
	runs(t, b.agent, "snapshot", "restore", file, "--data-dir", filepath.Join(dir, "d"))
	agent := connect(t, on(t, b, filepath.Join(dir, "d")))

	whole, err := etcd.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for rev := compact; rev <= whole.Header.Revision; rev++ {
		var got [2]string
		for i, c := range []*clientv3.Client{etcd, agent} {
			r, err := c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(rev))
			if err != nil {
				t.Fatalf("revision %d: %v", rev, err)
			}
			got[i] = fmt.Sprint(r.Kvs)
		}
		if got[0] != got[1] {
			t.Fatalf("at revision %d:\netcd  %s\nagent %s", rev, got[0], got[1])
		}
	}
	if _, err := agent.Get(ctx, "k/00", clientv3.WithRev(compact-1)); err == nil {
		t.Errorf("revision %d is compacted in etcd and read here", compact-1)
	}
	if e, a := events(ctx, t, etcd, compact, whole.Header.Revision), events(ctx, t, agent, compact, whole.Header.Revision); !slices.Equal(e, a) {
		t.Errorf("events of etcd:\n%s\nof the agent:\n%s", strings.Join(e, "\n"), strings.Join(a, "\n"))
	}
	left, err := agent.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || left.GrantedTTL != 500 || left.TTL < 490 || len(left.Keys) != 1 || string(left.Keys[0]) != "leased" {
		t.Errorf("the lease: %+v, %v", left, err)
	}
	if r, err := agent.Put(ctx, "next", ""); err != nil || r.Header.Revision != whole.Header.Revision+1 {
		t.Errorf("the next revision: %+v, %v", r, err)
	}
}

// events lists what a watch from one revision on brings up to another.
func events(ctx context.Context, t *testing.T, c *clientv3.Client, from, to int64) (all []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range c.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			all = append(all, fmt.Sprint(e.Type, e.Kv))
			if e.Kv.ModRevision == to {
				return all
			}
		}
	}
	t.Fatal("the watch ended early")
	return nil
}

// TestARunningEtcdIsFollowed kills the import while the etcd is written to, goes on, and compares in the end.
// TestASnapshotOfEtcdIsRestoredWithItsUsers has etcd's users log in with the passwords that they had there.
func TestASnapshotOfEtcdIsRestoredWithItsUsers(t *testing.T) {
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	server := etcdKind(b).start(t)
	ctl := func(s string, args ...string) string {
		return runs(t, b.ctl, append([]string{"--endpoints", s}, args...)...)
	}
	for _, args := range [][]string{
		{"put", "site/1", "v"}, {"put", "other", "v"},
		{"user", "add", "root:secret"}, {"user", "grant-role", "root", "root"}, {"role", "add", "site"},
		{"role", "grant-permission", "site", "--prefix=true", "readwrite", "site/"}, {"user", "add", "kim:word"},
		{"user", "grant-role", "kim", "site"}, {"auth", "enable"},
	} {
		ctl(server.addr, args...)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "e.snap")
	ctl(server.addr, "--user", "root:secret", "snapshot", "save", file)
	if out := runs(t, b.agent, "snapshot", "restore", file, "--data-dir", filepath.Join(dir, "d"), "--bump-revision", "1000"); !strings.Contains(out, "authentication  on") {
		t.Errorf("restored:\n%s", out)
	}
	agent := on(t, b, filepath.Join(dir, "d"))
	for _, s := range []string{server.addr, agent.addr} { // what is true of the one is of the other
		if out := ctl(s, "--user", "kim:word", "get", "site/", "--prefix", "--print-value-only"); out != "v\n" {
			t.Errorf("kim reads %q", out)
		}
		ctl(s, "--user", "kim:word", "put", "site/2", "w")
		for _, args := range [][]string{{"--user", "kim:word", "get", "other"}, {"--user", "kim:wrong", "get", "site/1"}, {"get", "site/1"}} {
			cmd := exec.CommandContext(t.Context(), b.ctl, append([]string{"--endpoints", s}, args...)...)
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("%q at %s: %s", args, s, out)
			}
		}
		if out := ctl(s, "--user", "root:secret", "user", "get", "kim", "--detail"); !strings.Contains(out, "[site/, site0) (prefix site/)") {
			t.Errorf("kim's rights at %s:\n%s", s, out)
		}
	}
}

func TestARunningEtcdIsFollowed(t *testing.T) {
	ctx, b, rnd := prepare(t)
	from, to := etcdKind(b).start(t), agentKind(b).start(t)
	etcd, agent := connect(t, from), connect(t, to)
	for i := range 1200 { // more than a page
		if _, err := etcd.Put(ctx, fmt.Sprintf("k/many/%04d", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	scribble(ctx, t, etcd, rnd, 100)
	if _, err := etcd.Put(ctx, "elsewhere", "stays"); err != nil {
		t.Fatal(err)
	}
	args := []string{"kv", "import", "--data-dir", to.dir, "--from", "http://" + from.addr, "--prefix", "k/", "--state", filepath.Join(t.TempDir(), "state"), "--follow"}
	for round := range 4 {
		cmd := exec.CommandContext(ctx, b.agent, args...)
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		scribble(ctx, t, etcd, rnd, 100+rnd.IntN(100))
		if round < 3 {
			time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
			_ = cmd.Process.Kill() // as a power cut
			_ = cmd.Wait()
			scribble(ctx, t, etcd, rnd, 50)
			continue
		}
		want := content(ctx, t, etcd)
		for deadline := time.Now().Add(20 * time.Second); !slices.Equal(content(ctx, t, agent), want); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				got := content(ctx, t, agent)
				at := 0
				for at < min(len(want), len(got)) && want[at] == got[at] {
					at++
				}
				t.Fatalf("it does not become the same: %d keys, want %d; from the %dth on they differ: %.200q, want %.200q\n%s",
					len(got), len(want), at, got[at:min(at+1, len(got))], want[at:min(at+1, len(want))], &said)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "every change up to revision") {
			t.Errorf("interrupted: %v\n%s", err, &said)
		}
	}
	if r, err := agent.Get(ctx, "elsewhere"); err != nil || len(r.Kvs) != 0 {
		t.Errorf("a key outside the prefix: %v, %v", r, err)
	}
}

// content is the keys and values below k/.
func content(ctx context.Context, t *testing.T, c *clientv3.Client) (all []string) {
	t.Helper()
	r, err := c.Get(ctx, "k/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range r.Kvs {
		all = append(all, pairText(k))
	}
	return all
}

func pairText(k *mvccpb.KeyValue) string { return fmt.Sprintf("%s=%s", k.Key, k.Value) }
