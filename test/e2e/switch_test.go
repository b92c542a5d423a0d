//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/test/linear"
)

const (
	switchesUsual = 1                      // of each box; HOLDFAST_E2E_SWITCHES sets another number
	gapMax        = 2 * time.Second        // between two acknowledgements of one writer. The target, 1 s, is held to in virtual time (test/cluster); here the machine may be loaded
	runMax        = time.Hour              // of all rounds
	thinking      = 2 * time.Millisecond   // of a writer between two writes
	sharingEvery  = 100 * time.Millisecond // of a writer of shared keys, so that their histories can be checked
)

// boxes is a cluster of which some boxes change their mode: all have the same settings.
type boxes struct {
	*cluster
	token string
}

// start starts a further box.
func (b *boxes) start(name string, args ...string) *agent {
	b.t.Helper()
	return start(b.t, filepath.Join(b.dir, name), freeAddr(b.t), append([]string{"--name", name, "--peer-listen", freeUDP(b.t), "--join", b.peerAddr,
		"--token-file", b.token, "--store-history", "1h", "--proxy-prefixes", "count/", "--queue-prefixes", "count/queued/"}, args...)...)
}

func newBoxes(t *testing.T) (*boxes, *agent) {
	b := &boxes{cluster: newCluster(t)}
	settings := []string{"--name", "first", "--peer-listen", b.peerAddr, "--store-history", "1h", "--proxy-prefixes", "count/", "--queue-prefixes", "count/queued/"}
	first := start(t, b.memberDir(), b.memberAddr, settings...)
	b.token = b.cluster.token("any")
	return b, first
}

// command runs a command of the binary against an agent and returns its exit code and what it printed.
func (a *agent) command(args ...string) (int, string) {
	a.t.Helper()
	return commandAt(a.t, a.dir, args...)
}

func commandAt(t *testing.T, dir string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(os.Getenv("AGENT"), append(args, "--data-dir", dir)...)
	cmd.Env = cleanEnv(t)
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// becomes changes the mode of an agent and wants that to succeed.
func (a *agent) becomes(change string) {
	a.t.Helper()
	args := []string{change}
	if change == "promote" && a.token != "" {
		args = append(args, "--token-file", a.token)
	}
	if code, out := a.command(args...); code != 0 {
		a.t.Fatalf("agent %s: exit %d\n%s\n%s", change, code, out, a.logTail())
	}
	want := map[string]string{"promote": "member", "demote": "proxy"}[change]
	if s := a.status(); s.Mode != want || s.Switch != nil {
		a.t.Errorf("after agent %s it is a %s (%+v), want a %s", change, s.Mode, s.Switch, want)
	}
}

// counter puts 1, 2, 3, ... to one key of its own.
type counter struct {
	key       string
	tried     int
	revisions map[int]int64 // of what was acknowledged as committed
	queued    map[int]bool  // of what was acknowledged as queued
	refused   map[int]bool  // certainly not applied
	unknown   map[int]bool  // applied or not, and if so at any time after
	longest   time.Duration // between two acknowledgements
	surprises []string
}

func newCounter(key string) *counter {
	return &counter{key: key, revisions: map[int]int64{}, queued: map[int]bool{}, refused: map[int]bool{}, unknown: map[int]bool{}}
}

// run counts through one node, which answers until ctx ends.
func (c *counter) run(ctx context.Context, url string) {
	client := &http.Client{Timeout: 20 * time.Second}
	last := time.Now()
	for ctx.Err() == nil {
		acked, err := c.next(ctx, client, url)
		if err != nil {
			c.surprises = append(c.surprises, fmt.Sprintf("PUT %d: %v", c.tried, err))
			return
		}
		if acked {
			c.longest = max(c.longest, time.Since(last))
			last = time.Now()
		}
		time.Sleep(thinking)
	}
}

// next puts the next number and notes what became of it. It is not cut short by ctx; an error is of the connection.
func (c *counter) next(ctx context.Context, client *http.Client, url string) (acked bool, err error) {
	c.tried++
	n := c.tried
	r, err := call(context.WithoutCancel(ctx), client, "PUT", url+"/v1/kv/"+c.key, fmt.Append(nil, n))
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), err == nil && r.status == http.StatusServiceUnavailable:
		c.refused[n] = true
	case err != nil, r.status == http.StatusGatewayTimeout:
		c.unknown[n] = true
	case r.status == http.StatusAccepted:
		c.queued[n] = true
		return true, nil
	case r.status == 200 || r.status == 201:
		var body struct{ Revision int64 }
		if jsonErr := json.Unmarshal(r.body, &body); jsonErr != nil {
			c.surprises = append(c.surprises, string(r.body))
		}
		c.revisions[n] = body.Revision
		return true, nil
	default:
		c.unknown[n] = true
		c.surprises = append(c.surprises, fmt.Sprintf("PUT %d: %d %s", n, r.status, r.body))
	}
	return false, err
}

// verify holds what the cluster has of the key against what was acknowledged: in order, nothing lost, nothing doubled.
func (c *counter) verify(t *testing.T, all []change) {
	t.Helper()
	for _, s := range c.surprises {
		t.Errorf("%s: %s", c.key, s)
	}
	seen, last := map[int]bool{}, 0 // last of those whose order is known
	for _, e := range all {
		if e.Key != c.key {
			continue
		}
		n, err := strconv.Atoi(string(e.Value))
		if err != nil || seen[n] || c.refused[n] {
			t.Errorf("%s: %q at revision %d (%v; there already: %v; refused: %v)", c.key, e.Value, e.Revision, err, seen[n], c.refused[n])
		}
		if at, ok := c.revisions[n]; ok && at != e.Revision {
			t.Errorf("%s: %d is at revision %d, acknowledged was %d", c.key, n, e.Revision, at)
		}
		seen[n] = true
		if c.unknown[n] {
			continue
		}
		if n <= last {
			t.Errorf("%s: %d at revision %d behind %d", c.key, n, e.Revision, last)
		}
		last = n
	}
	for n := 1; n <= c.tried; n++ {
		if _, ok := c.revisions[n]; (ok || c.queued[n]) && !seen[n] {
			t.Errorf("%s: %d was acknowledged and is lost", c.key, n)
		}
	}
}

// follower reads a watch as it comes, so that it is never behind.
type follower struct {
	lines chan string // closed when the watch ends
}

func follow(w *watching) *follower {
	f := &follower{lines: make(chan string, 1<<20)} // more than any run writes
	go func() {                                     // until the body is closed at the end of the test
		defer close(f.lines)
		for w.lines.Scan() {
			f.lines <- w.lines.Text()
		}
	}()
	return f
}

// verify wants exactly the events of the history, in order.
func (f *follower) verify(t *testing.T, name string, all []change) {
	t.Helper()
	deadline := time.After(startMax)
	for i := 0; i < len(all); {
		var line string
		select {
		case l, open := <-f.lines:
			if line = l; !open {
				t.Fatalf("the watch on %s has ended behind event %d of %d", name, i, len(all))
			}
		case <-deadline:
			t.Fatalf("the watch on %s has shown %d of %d events", name, i, len(all))
		}
		var got change
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("the watch on %s, behind event %d: %q", name, i, line)
		}
		switch got.Type {
		case "put", "delete":
		case "stale", "catching-up", "synced", "progress", "created":
			continue
		default:
			t.Fatalf("the watch on %s says, behind event %d: %s", name, i, line)
		}
		want := all[i]
		if i++; got.Revision != want.Revision || got.Key != want.Key || !bytes.Equal(got.Value, want.Value) {
			t.Fatalf("the watch on %s has %s=%s at %d as event %d, the history %s=%s at %d", name, got.Key, got.Value, got.Revision, i,
				want.Key, want.Value, want.Revision)
		}
	}
}

// TestSwitchesUnderLoadLoseNothing promotes and demotes boxes, the leader among them, while devices write through each of
// them and watch. What was acknowledged is there once, in order; each watch, also those on a box that changes, has shown
// every event once; the shared keys are linearizable.
func TestSwitchesUnderLoadLoseNothing(t *testing.T) {
	rounds := int(envInt(t, "HOLDFAST_E2E_SWITCHES", switchesUsual))
	seed := uint64(envInt(t, "HOLDFAST_E2E_SEED", time.Now().UnixNano()))
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	b, first := newBoxes(t)
	second := b.start("second", "--mode", "member")
	third := b.start("third", "--mode", "proxy")
	third.waitSynced()
	first.token = b.token // it was started without one
	nodes := map[string]*agent{"first": first, "second": second, "third": third}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	var counters []*counter
	var sharers []*writer
	watches := map[string]*follower{}
	h := linear.NewHistory()
	for name, a := range nodes {
		watches[name] = follow(openWatch(t, http.DefaultClient, a.url+"/v1/kv/count/?watch&prefix", runMax))
	}
	for name, a := range nodes {
		for _, kind := range []string{"direct", "queued"} {
			c := newCounter("count/" + kind + "/" + name)
			counters = append(counters, c)
			work.Go(func() { c.run(ctx, a.url) })
		}
		w := newWriter(len(sharers))
		sharers = append(sharers, w)
		mine := rand.New(rand.NewPCG(rng.Uint64(), 0))
		work.Go(func() {
			for ctx.Err() == nil {
				w.share(ctx, mine, a.url, fmt.Sprintf("shared/%d", mine.IntN(sharedKeys)), h)
				time.Sleep(sharingEvery)
			}
		})
	}
	for range rounds {
		third.becomes("promote")
		third.becomes("demote")
		second.becomes("demote")
		second.becomes("promote")
		first.becomes("demote") // the founder, and the leader at first
		first.becomes("promote")
	}
	stop()
	work.Wait()
	for _, a := range nodes {
		a.waitDrained(startMax)
	}
	all := history(t, http.DefaultClient, first.url, "count/")
	for _, c := range counters {
		c.verify(t, all)
		t.Logf("%s: %d acknowledged, %d queued, %d refused, longest gap %v", c.key, len(c.revisions), len(c.queued), len(c.refused), c.longest.Round(time.Millisecond))
		if c.longest > gapMax {
			t.Errorf("%s: %v without an acknowledgement, at most %v is allowed", c.key, c.longest, gapMax)
		}
	}
	for name, w := range watches {
		w.verify(t, name, all)
	}
	for _, w := range sharers {
		if len(w.surprises) > 0 {
			t.Error(strings.Join(w.surprises, "\n"))
		}
	}
	t.Logf("%d changes of mode, %d events, %d operations on shared keys", 6*rounds, len(all), h.Len())
	if err := h.Check(time.Minute); err != nil {
		t.Error(err)
	}
}
