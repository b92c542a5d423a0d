package apitest

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/api"
)

// harness is for a node that f opens. What a Memory holds is all there is of it, so that it restarts as it is.
func harness(open func() api.Backend) Harness {
	return Harness{
		Open:    func(*testing.T) api.Backend { return &cuttable{Backend: open()} },
		Restart: func(_ *testing.T, b api.Backend) api.Backend { return b },
		Isolate: func(_ *testing.T, b api.Backend) func() {
			c := b.(*cuttable)
			c.set(true)
			return func() { c.set(false) }
		},
		IDs:    true,
		Second: second,
	}
}

func TestMemoryKeepsThePromises(t *testing.T) {
	harness(func() api.Backend { return quickMemory() }).Run(t)
}

const second = 50 * time.Millisecond

// quickMemory is a Memory whose leases live twenty times as fast.
func quickMemory() *Memory {
	m := NewMemory()
	m.second = second
	return m
}

// faultVariable names the fault that TestWithAFault is to have. The suite must fail there, so that it runs in a process
// of its own.
const faultVariable = "HOLDFAST_APITEST_FAULT"

func TestWithAFault(t *testing.T) {
	name := os.Getenv(faultVariable)
	if name == "" {
		return // TestEveryPromiseIsSeenBroken runs it
	}
	i := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
	h := harness(func() api.Backend {
		f := &faulty{Memory: quickMemory()}
		faults[i].open(f)
		return f
	})
	h.patience = 300 * time.Millisecond
	switch name {
	case "a restart empties the node":
		h.Restart = func(*testing.T, api.Backend) api.Backend { return NewMemory() }
	case "an isolated node takes itself for fresh":
		open := h.Open
		h.Open = func(t *testing.T) api.Backend {
			c := open(t).(*cuttable)
			c.fresh = true
			return c
		}
	case "an isolated node goes on":
		h.Isolate = func(*testing.T, api.Backend) func() { return func() {} }
	}
	h.Run(t)
}

// A test that has never failed tests nothing. Every fault must break the promises it names, and every promise must be
// broken by some fault.
func TestEveryPromiseIsSeenBroken(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	broken := map[string]string{} // promise to a fault that broke it
	var mu sync.Mutex
	t.Run("faults", func(t *testing.T) {
		for _, f := range faults {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				failed, output := runWith(t, exe, f)
				for _, want := range f.wants {
					if !failed[want] {
						t.Errorf("%q is said to be kept", want)
					}
				}
				if t.Failed() {
					t.Logf("failed: %v\n%s", failed, output)
				}
				mu.Lock()
				defer mu.Unlock()
				for name := range failed {
					broken[name] = f.name
				}
			})
		}
	})
	for _, g := range groups() {
		for _, c := range g.claims {
			if name := g.name + "/" + c.name; broken[name] == "" {
				t.Errorf("no fault breaks %q", name)
			}
		}
	}
}

// runWith runs the groups of promises that a fault should break, and returns those found broken.
func runWith(t *testing.T, exe string, f fault) (failed map[string]bool, output []byte) {
	t.Helper()
	var in []string
	for _, want := range f.wants {
		group, _, _ := strings.Cut(want, "/")
		in = append(in, group)
	}
	pattern := "^TestWithAFault$/^(" + strings.Join(in, "|") + ")$"
	cmd := exec.CommandContext(t.Context(), exe, "-test.run="+pattern, "-test.timeout=60s", "-test.v")
	cmd.Env = append(os.Environ(), faultVariable+"="+f.name)
	output, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the suite passes")
	}
	names := map[string]string{}
	for _, g := range groups() {
		for _, c := range g.claims {
			names[g.name+"/"+strings.ReplaceAll(c.name, " ", "_")] = g.name + "/" + c.name
		}
	}
	failed = map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(output)); lines.Scan(); {
		rest, found := strings.CutPrefix(strings.TrimSpace(lines.Text()), "--- FAIL: TestWithAFault/")
		if !found {
			continue
		}
		name, _, _ := strings.Cut(rest, " ")
		if full, known := names[name]; known {
			failed[full] = true
		}
	}
	return failed, output
}
