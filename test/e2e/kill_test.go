//go:build e2e

package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast/test/linear"
)

// TestKillsLoseNoAcknowledgedWrite kills the agent at seeded moments under load, some of them while it starts, and after
// each restart reads everything: each key has the last value acknowledged, or a later one that was sent. In the end the
// whole history is read as one watch: every acknowledged write is in it, at its revision, and nothing else is but what
// was sent. Keys that the writers share have linearizable histories.
func TestKillsLoseNoAcknowledgedWrite(t *testing.T) {
	seed, kills := uint64(envInt(t, "SEED", time.Now().UnixNano())), int(envInt(t, "KILLS", 200))
	t.Logf("SEED=%d KILLS=%d", seed, kills)
	rng := rand.New(rand.NewPCG(seed, 0))
	k := &killing{t: t, seed: seed, rng: rng, dir: filepath.Join(t.TempDir(), "data"), addr: freeAddr(t), history: linear.NewHistory()}
	for id := range writers {
		k.writers = append(k.writers, newWriter(id))
	}
	began := time.Now()
	for k.kills < kills {
		k.round++
		if rng.IntN(10) == 0 {
			k.killWhileStarting()
		}
		k.killUnderLoad()
	}
	a := k.start()
	k.verify(a)
	k.replay(a)
	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d when asked to stop", code)
	}
	k.report(time.Since(began))
	if err := k.history.Check(2 * time.Minute); err != nil {
		t.Errorf("%v (seed %d)", err, seed)
	}
}

func envInt(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// killing is a run of that test.
type killing struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	dir     string
	addr    string
	writers []*writer
	history *linear.History
	round   int
	driven  int // the last round with load
	kills   int
	starts  []time.Duration // spawn to ready
}

// args are settings of one start. Short flushes make kills meet the writing of the state file.
func (k *killing) args() []string {
	flush := []string{"100ms", "100ms", "500ms", "30s"}[k.rng.IntN(4)]
	return []string{"--store-flush", flush, "--store-history", "1h"}
}

func (k *killing) start() *agent {
	k.t.Helper()
	a := start(k.t, k.dir, k.addr, k.args()...)
	k.starts = append(k.starts, time.Since(a.spawned))
	return a
}

func (k *killing) killWhileStarting() {
	usual := 300 * time.Millisecond
	if n := len(k.starts); n > 0 {
		usual = k.starts[n-1]
	}
	a := launch(k.t, k.dir, k.addr, k.args()...)
	time.Sleep(time.Duration(k.rng.Int64N(int64(usual))))
	a.kill()
	k.kills++
}

func (k *killing) killUnderLoad() {
	k.t.Helper()
	a := k.start()
	k.verify(a)
	ctx, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	k.driven = k.round
	wg := drive(ctx, k.writers, k.rng, a.url, k.round, k.history)
	time.Sleep(time.Duration(5+k.rng.IntN(200)) * time.Millisecond) // none, one or two flushes
	a.kill()
	k.kills++
	cancel()
	wg.Wait()
	for _, w := range k.writers {
		for _, s := range w.surprises {
			k.t.Errorf("kill %d: %s", k.kills, s)
		}
		w.surprises = nil
	}
	if k.t.Failed() {
		k.t.Fatalf("this is kill %d of SEED=%d; the log:\n%s", k.kills, k.seed, a.logTail())
	}
}

// verify holds all own keys against the ledgers, and reads the shared keys of the round into the history.
func (k *killing) verify(a *agent) {
	k.t.Helper()
	items, revision := a.list("own/")
	found := map[string]item{}
	for _, i := range items {
		found[i.Key] = i
	}
	for _, w := range k.writers {
		for _, l := range w.own {
			i, there := found[l.key]
			delete(found, l.key)
			k.settle(l, i, there, revision)
		}
	}
	for key := range found {
		k.t.Errorf("kill %d: nobody has put %s", k.kills, key)
	}
	for n := range sharedKeys {
		key := fmt.Sprintf("shared/%d/%d", k.driven, n)
		k.writers[0].sharedGet(k.t.Context(), a.url+"/v1/kv/"+key, key, k.history)
	}
	if k.t.Failed() {
		k.replay(a)
		k.t.Fatalf("this is after kill %d of SEED=%d", k.kills, k.seed)
	}
}

// settle judges one key, and takes over what is there: from now on it may not go away.
func (k *killing) settle(l *ledger, i item, there bool, revision int64) {
	k.t.Helper()
	if !there {
		if l.acked > 0 {
			k.t.Errorf("kill %d: %s is gone, acknowledged was value %d at revision %d", k.kills, l.key, l.acked, l.revision)
		}
		return
	}
	n, whole := numberOf(l.key, i.bytes(k.t))
	switch {
	case !whole:
		k.t.Errorf("kill %d: %s is damaged: %.60q", k.kills, l.key, i.bytes(k.t))
	case n < l.acked || n > l.tried:
		k.t.Errorf("kill %d: %s has value %d, acknowledged was %d, tried %d", k.kills, l.key, n, l.acked, l.tried)
	case n == l.acked && i.Mod != l.revision || n > l.acked && i.Mod <= l.revision || i.Mod > revision:
		k.t.Errorf("kill %d: %s has value %d at revision %d of %d, acknowledged was %d at %d", k.kills, l.key, n, i.Mod, revision, l.acked, l.revision)
	}
	l.acked, l.revision = n, i.Mod
}

// replay reads the history from its beginning as one watch, and looks for every acknowledged write in it.
func (k *killing) replay(a *agent) {
	k.t.Helper()
	_, last := a.list("own/")
	at := map[int64]item{}
	seen := int64(1)
	watch(k.t, a.url+"/v1/kv/?watch&prefix&from_revision=2&on_gap=error", func(e item) bool {
		if e.Mod != seen+1 {
			k.t.Errorf("revision %d follows %d in the history: each write takes one", e.Mod, seen)
		}
		seen = e.Mod
		if n, whole := numberOf(e.Key, e.bytes(k.t)); e.Type == "put" && whole {
			e.Value = strconv.Itoa(n)
		}
		at[e.Mod] = e
		return seen < last
	})
	var all []ack
	for _, w := range k.writers {
		all = append(all, w.perRev...)
	}
	slices.SortFunc(all, func(a, b ack) int { return cmp.Compare(a.revision, b.revision) })
	for i, ack := range all {
		e := at[ack.revision]
		if e.Key == ack.key && (ack.n < 0 || e.Value == strconv.Itoa(ack.n)) {
			continue
		}
		k.t.Errorf("acknowledged: %s, value %d at revision %d; history has %q, %.40q. Around it, history and acknowledgements:",
			ack.key, ack.n, ack.revision, e.Key, e.Value)
		for _, before := range all[max(0, i-10):min(len(all), i+10)] {
			e := at[before.revision]
			k.t.Logf("%6d %-6s %-16s %-20.20s | %-16s %d", before.revision, e.Type, e.Key, e.Value, before.key, before.n)
		}
		return
	}
}

// watch reads a stream of NDJSON, and hands over puts and deletes until more says that it has enough.
func watch(t *testing.T, url string, more func(item) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("watch: %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e item
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("watch: %v in %.200q", err, lines.Bytes())
		}
		switch e.Type {
		case "put", "delete":
			if !more(e) {
				return
			}
		case "created", "progress", "synced":
		default:
			t.Fatalf("watch: %.300s", lines.Bytes())
		}
	}
	t.Fatalf("watch: the stream ended: %v", lines.Err())
}

func (k *killing) report(took time.Duration) {
	acked := 0
	for _, w := range k.writers {
		acked += w.acked
	}
	slices.Sort(k.starts)
	k.t.Logf("%d kills in %v: %d writes acknowledged, %d operations on shared keys; start to ready: median %v, longest %v",
		k.kills, took.Round(time.Second), acked, k.history.Len(),
		k.starts[len(k.starts)/2].Round(time.Millisecond), k.starts[len(k.starts)-1].Round(time.Millisecond))
	if least := k.kills * writers; acked < least {
		k.t.Errorf("only %d writes were acknowledged in %d rounds: this proves little", acked, k.kills)
	}
}
