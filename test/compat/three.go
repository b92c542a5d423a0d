package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// members of a cluster.
const members = 3

// startThree starts a cluster of either side. The agent's members are those of test/trio: the shipped parts, put together without
// joining, which the agent cannot do yet.
func startThree(t *testing.T, name string) []*server {
	t.Helper()
	dir, err := os.MkdirTemp("", "compat-") //nolint:usetesting // paths of sockets have to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	all := make([]*server, members)
	for i := range all {
		all[i] = &server{dir: filepath.Join(dir, strconv.Itoa(i+1))}
		if all[i].addr, all[i].peer, err = freeAddrs(); err != nil {
			t.Fatal(err)
		}
	}
	k, err := threeKind(name, dir, all)
	if err != nil {
		t.Fatal(err)
	}
	failed := make([]error, members)
	var wg sync.WaitGroup
	for i, s := range all {
		s.kind = k
		wg.Go(func() { failed[i] = s.run(t.Context()) })
	}
	wg.Wait()
	for i, s := range all {
		if failed[i] != nil {
			t.Error(failed[i])
			continue
		}
		t.Cleanup(func() { s.stop(t) })
	}
	if t.Failed() {
		t.FailNow()
	}
	return all
}

func threeKind(name, dir string, all []*server) (kind, error) {
	b, err := built()
	if err != nil {
		return kind{}, err
	}
	if name != "agent" {
		var cluster []string
		for i, s := range all {
			cluster = append(cluster, fmt.Sprintf("m%d=http://%s", i+1, s.peer))
		}
		return kind{name: name, bin: b.etcd, args: func(s *server) []string {
			peer := "http://" + s.peer
			return []string{
				"--name", "m" + filepath.Base(s.dir), "--data-dir", s.dir,
				"--listen-client-urls", "http://" + s.addr, "--advertise-client-urls", "http://" + s.addr,
				"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", strings.Join(cluster, ","),
			}
		}}, nil
	}
	trio := filepath.Join(filepath.Dir(b.etcd), "trio")
	if err := build(filepath.Join("..", ".."), "./test/trio", trio); err != nil {
		return kind{}, err
	}
	args := []string{"found", dir}
	for _, s := range all {
		args = append(args, s.peer)
	}
	if out, err := exec.Command(trio, args...).CombinedOutput(); err != nil {
		return kind{}, fmt.Errorf("found a cluster: %w\n%s", err, out)
	}
	return kind{name: name, bin: trio, args: func(s *server) []string { return []string{"run", s.dir, s.addr} }}, nil
}

// newThree is a pair of clusters. Its sides' own server is the first member, until they are told to turn.
func newThree(t *testing.T) *pair {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{}
	for _, s := range []struct {
		name string
		into **side
	}{{"etcd", &p.etcd}, {subjectName(), &p.subject}} {
		all := startThree(t, s.name)
		*s.into = &side{server: all[0], ctl: b.ctl, members: all, out: t.TempDir(), vars: map[string]string{}, jobs: map[string]*job{}}
		awaitWrites(t, all)
	}
	return p
}

// turn has a side of several members go on with the next of them.
func (s *side) turn() {
	if i := slices.Index(s.members, s.server); i >= 0 {
		s.server = s.members[(i+1)%len(s.members)]
	}
}

// awaitWrites waits until each member takes a write.
func awaitWrites(t *testing.T, all []*server) {
	t.Helper()
	for _, s := range all {
		c := dial(t, s.addr)
		var err error
		for end := time.Now().Add(startLimit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if _, err = c.Put(t.Context(), "awaited", s.addr); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("%s at %s takes no writes: %v\n%s", s.name, s.addr, err, s.log)
		}
	}
}
