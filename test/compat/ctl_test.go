package compat

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// needsDest are the scripts that need a second server on each side.
var needsDest = []string{"mirror.ctl"}

func readScripts(t *testing.T, dir string) []*script {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", dir, "*.ctl"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("scripts: %v, %v", paths, err)
	}
	var all []*script
	for _, path := range paths {
		s, err := parseScript(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// TestEtcdctl runs each script on servers of its own.
func TestEtcdctl(t *testing.T) {
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	runScripts(t, "etcdctl", b.ctl)
}

// TestEtcdctlThreeMembers runs what is about users and roles on three members, each row by way of the next one: what one
// was told the others know.
func TestEtcdctlThreeMembers(t *testing.T) {
	t.Parallel()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	known, err := listCommands(t.Context(), b.ctl)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseScript(filepath.Join("testdata", "etcdctl", "auth.ctl"))
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{pair: newThree(t), t: t, script: s, commands: known, gaps: &gapList{}}
	r.run()
}

// TestDebiansEtcdctl does the everyday with the version that distributions ship.
func TestDebiansEtcdctl(t *testing.T) {
	bin := os.Getenv("ETCDCTL34")
	if bin == "" {
		var err error
		if bin, err = exec.LookPath("etcdctl"); err != nil {
			t.Fatalf("etcdctl 3.4 is missing (Debian: apt-get install etcd-client; or set ETCDCTL34): %v", err)
		}
	}
	out, err := exec.CommandContext(t.Context(), bin, "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "etcdctl version: 3.4") {
		t.Fatalf("%s is not etcdctl 3.4: %v\n%s", bin, err, out)
	}
	runScripts(t, "etcdctl-3.4", bin)
}

func runScripts(t *testing.T, dir, ctl string) {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	known, err := listCommands(t.Context(), b.ctl) // those of 3.4 are among them
	if err != nil {
		t.Fatal(err)
	}
	gaps := &gapList{}
	t.Cleanup(func() {
		if list := gaps.String(); list != "" {
			fmt.Printf("What the agent cannot do for %s:\n%s\n", dir, list)
		}
	})
	for _, s := range readScripts(t, dir) {
		for what, why := range s.untested {
			gaps.add(what, why)
		}
		name := filepath.Base(s.name)
		t.Run(strings.TrimSuffix(name, ".ctl"), func(t *testing.T) {
			t.Parallel()
			p := newPairWith(t, ctl)
			if slices.Contains(needsDest, name) {
				p.withDest(t)
			}
			r := &runner{pair: p, t: t, script: s, commands: known, gaps: gaps}
			r.run()
		})
	}
}

// TestEveryCommandAndFlagHasARow compares the scripts with what the help of etcdctl lists.
func TestEveryCommandAndFlagHasARow(t *testing.T) {
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	known, err := listCommands(t.Context(), b.ctl)
	if err != nil {
		t.Fatal(err)
	}
	if len(known) < 50 {
		t.Fatalf("the help lists %d commands, so it was not understood: %v", len(known), slices.Sorted(maps.Keys(known)))
	}
	for _, m := range missing(known, readScripts(t, "etcdctl")) {
		t.Errorf("no row: %s", m)
	}
}

// missing is which commands and flags no row has.
func missing(known commands, scripts []*script) (list []string) {
	seen := map[string]bool{}
	for _, s := range scripts {
		for what := range s.untested {
			seen[what] = true
		}
		for _, r := range s.rows {
			path := known.path(r.words)
			seen[path] = true
			for _, w := range r.words {
				if name, ok := strings.CutPrefix(w, "--"); ok {
					name, _, _ = strings.Cut(name, "=")
					seen[path+" --"+name] = true
				} else if name, ok := strings.CutPrefix(w, "-"); ok {
					seen[path+" -"+name] = true
				}
			}
		}
	}
	for path, flags := range known {
		if !seen[path] {
			list = append(list, path)
			continue
		}
		for _, f := range flags {
			if !seen[path+" --"+f] && !seen[path+" -"+f[:1]] {
				list = append(list, path+" --"+f)
			}
		}
	}
	slices.Sort(list)
	return list
}
