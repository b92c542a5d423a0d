package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/kv"
)

// box is a queue in a folder, with its sender running. crash ends it as a power cut does.
type box struct {
	*Queue
	t    *testing.T
	stop context.CancelFunc
	done chan error
}

func options(dir string) Options {
	return Options{Dir: dir, Origin: [16]byte{1}, Rules: []Rule{{Prefix: []byte("q/")}, {Prefix: []byte("q/none/"), Guard: GuardNone, Lane: kv.LaneNormal}},
		Wait: 50 * time.Millisecond, Retry: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
}

func start(t *testing.T, next Next, o Options) *box {
	t.Helper()
	q, err := Open(next, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &box{Queue: q, t: t, stop: stop, done: make(chan error, 1)}
	go func() { b.done <- q.Run(ctx) }()
	t.Cleanup(func() { b.crash() })
	return b
}

// crash stops the sender and forgets everything that is not on disk.
func (b *box) crash() {
	if b.stop == nil {
		return
	}
	b.stop()
	if err := <-b.done; err != nil && b.log.fault() == nil {
		b.t.Error(err)
	}
	b.stop = nil
	if err := b.log.close(); err != nil {
		b.t.Error(err)
	}
}

func (b *box) put(key, value string, w kv.Write) (kv.Result, error) {
	return b.Do(context.Background(), kv.Command{Write: w, Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}})
}

func (b *box) mustQueue(key, value string) string {
	b.t.Helper()
	res, err := b.put(key, value, kv.WriteQueue)
	if err != nil || res.Queued == nil {
		b.t.Fatalf("put %s: got %+v, %v, want a receipt", key, res, err)
	}
	return res.Queued.ID
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestAWriteThatAQuorumTakesInTimeTouchesNoDisk(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Wait = time.Minute // what takes longer goes to the disk, and a busy machine takes long
	b := start(t, c, o)
	if _, err := b.put("q/a", "0", kv.WriteAuto); err != nil { // the first one opens the epoch and sets the mark
		t.Fatal(err)
	}
	before := b.log.commits
	for i := range 500 {
		res, err := b.put("q/a", fmt.Sprint(i), kv.WriteAuto)
		if err != nil || res.Queued != nil || res.Revision == 0 {
			t.Fatalf("put %d: got %+v, %v, want it committed", i, res, err)
		}
	}
	if b.log.commits != before {
		t.Errorf("%d commits to disk for 500 writes that a quorum took, want 0", b.log.commits-before)
	}
}

func TestQueuedWritesSurviveACrashAndApplyOnceInOrder(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	b := start(t, c, options(dir))
	c.set(false, false)
	var want []string
	for i := range 200 {
		v := fmt.Sprint("v", i)
		b.mustQueue(fmt.Sprint("q/", i%7), v)
		want = append(want, v)
	}
	b.crash()
	if got := c.log(); len(got) != 0 {
		t.Fatalf("applied while the link was down: %v", got)
	}
	c.set(true, false)
	b = start(t, c, options(dir))
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, want) {
		t.Errorf("applied\n%v\nwant\n%v", got, want)
	}
	b.crash()
	b = start(t, c, options(dir))
	if _, err := b.put("q/last", "last", kv.WriteQueue); err != nil {
		t.Fatal(err)
	}
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, append(want, "last")) {
		t.Errorf("after another start %d were applied, want %d", len(got), len(want)+1)
	}
}

func TestALostAnswerIsNotAppliedTwice(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	b := start(t, c, options(dir))
	if _, err := b.put("q/a", "first", kv.WriteAuto); err != nil {
		t.Fatal(err)
	}
	c.set(true, true)
	res, err := b.put("q/a", "second", kv.WriteAuto)
	if err != nil || res.Queued == nil {
		t.Fatalf("got %+v, %v, want a receipt", res, err)
	}
	b.crash()
	c.set(true, false)
	b = start(t, c, options(dir))
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("applied %v, want each once", got)
	}
	if k := b.Status().Kept; k != 0 {
		t.Errorf("%d ops ended badly, want 0: %+v", k, b.List(-1, ""))
	}
}

func TestAWriterThatAsksLaterIsToldHowItEnded(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	c.set(false, false)
	id := b.mustQueue("q/a", "v")
	c.set(true, false)
	item, found, err := b.Wait(t.Context(), id)
	if err != nil || !found || item.State != Committed {
		t.Fatalf("wait: %+v, %v, %v", item, found, err)
	}
	item, found, err = b.Get(id)
	if err != nil || !found || item.State != Committed || item.Revision == 0 {
		t.Errorf("later: %+v, %v, %v, want it committed at a revision", item, found, err)
	}
	if _, err := b.Discard(id); err != nil {
		t.Error(err)
	}
}

func TestAWriteWhileTheLinkIsKnownLostIsAcknowledgedAtOnce(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Wait = time.Hour
	b := start(t, c, o)
	c.set(false, false)
	b.mustQueue("q/a", "finds out")
	eventually(t, "the loss is noticed", func() bool { return b.Status().Down != "" })
	res, err := b.put("q/b", "v", kv.WriteAuto)
	if err != nil || res.Queued == nil {
		t.Fatalf("got %+v, %v, want a receipt", res, err)
	}
	if _, err := b.put("q/a", "v", kv.WriteSync); kv.CodeOf(err) != kv.UpstreamUnavailable {
		t.Errorf("sync write on a key with pending writes: got %v, want upstream-unavailable", err)
	}
}

func TestWhatSomebodyElseWroteMeanwhileIsAConflictAndNotOverwritten(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	if _, err := b.put("q/a", "base", kv.WriteAuto); err != nil {
		t.Fatal(err)
	}
	c.set(false, false)
	id := b.mustQueue("q/a", "mine")
	b.mustQueue("q/a", "mine too") // its predecessor conflicts, so does it
	b.mustQueue("q/b", "other")
	b.mustQueue("q/b", "other, again") // its predecessor does not
	c.mu.Lock()
	c.rev++
	c.keys["q/a"] = &stored{value: "theirs", mod: c.rev}
	c.mu.Unlock()
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.keys["q/a"].value; got != "theirs" {
		t.Errorf("q/a is %q, want the newer value kept", got)
	}
	if got := c.keys["q/b"].value; got != "other, again" {
		t.Errorf("q/b is %q, want the second of two", got)
	}
	conflicts := b.List(int(Conflict), "")
	if len(conflicts) != 2 {
		t.Fatalf("%d conflicts, want 2: %+v", len(conflicts), b.List(-1, ""))
	}
	item, ok, err := b.Get(id)
	if err != nil || !ok || string(item.Value) != "mine" || item.State != Conflict || item.Revision == 0 {
		t.Errorf("the conflict does not keep what was lost: %+v, %v, %v", item, ok, err)
	}
	dir := b.opts.Dir
	b.crash()
	b = start(t, c, options(dir))
	if n := len(b.List(int(Conflict), "")); n > 2 {
		t.Errorf("%d conflicts after a restart", n)
	}
}

// others writes a key as somebody else does.
func (c *cluster) others(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rev++
	c.keys[key] = &stored{value: value, mod: c.rev}
}

// handed waits until so many numbers of the normal lane are on their way.
func (b *box) handed(n uint64) {
	b.t.Helper()
	eventually(b.t, "sent", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.lanes[kv.LaneHigh].handed >= n
	})
}

// What was sent while its writer waited may still be on its way when the writer is given a receipt.
func TestAnAttemptThatArrivesLateOverwritesNothingNewer(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	if _, err := b.put("q/a", "base", kv.WriteAuto); err != nil {
		t.Fatal(err)
	}
	c.hang()
	res, err := b.put("q/a", "mine", kv.WriteAuto)
	if err != nil || res.Queued == nil {
		t.Fatalf("got %+v, %v, want a receipt", res, err)
	}
	b.handed(2)
	c.others("q/a", "theirs")
	c.release()
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.keys["q/a"].value; got != "theirs" {
		t.Errorf("q/a is %q, want the newer value kept", got)
	}
	if item, found, err := b.Get(res.Queued.ID); err != nil || !found || item.State != Conflict || string(item.Value) != "mine" {
		t.Errorf("the write is %+v, found %v, %v, want a conflict with its value", item, found, err)
	}
}

// Who waits for a quorum writes as one without a queue does: last, whatever somebody else wrote meanwhile.
func TestAWriterThatWaitsIsTheNewerOne(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Wait = time.Minute
	b := start(t, c, o)
	if _, err := b.put("q/a", "base", kv.WriteAuto); err != nil {
		t.Fatal(err)
	}
	c.hang()
	type answer struct {
		res kv.Result
		err error
	}
	answers := make(chan answer, 2)
	for _, v := range []string{"first", "second"} {
		n := b.lanes[kv.LaneHigh].next
		go func() {
			res, err := b.put("q/a", v, kv.WriteAuto)
			answers <- answer{res, err}
		}()
		eventually(t, "in line", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.lanes[kv.LaneHigh].next > n
		})
	}
	b.handed(2)
	c.others("q/a", "theirs")
	c.release()
	for range 2 {
		if a := <-answers; a.err != nil || a.res.Queued != nil {
			t.Errorf("got %+v, %v, want it committed", a.res, a.err)
		}
	}
	if got := c.log(); len(got) != 3 || c.keys["q/a"].value == "theirs" {
		t.Errorf("applied %q, q/a is %q", got, c.keys["q/a"].value)
	}
	if s := b.Status(); s.Depth != 0 || s.Kept != 0 || b.pendingIn([]byte("q/a"), nil) != 0 {
		t.Errorf("left in line: %+v", s)
	}
}

func TestConflictsAreThereAfterARestartUntilDiscarded(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	b := start(t, c, options(dir))
	c.keys["q/a"] = &stored{mod: 7}
	c.set(false, false)
	id := b.mustQueue("q/a", "mine")
	c.mu.Lock()
	c.keys["q/a"] = &stored{value: "theirs", mod: 9}
	c.mu.Unlock()
	c.set(true, false)
	eventually(t, "conflict", func() bool { return b.Status().Kept == 1 })
	if err := b.flushEnds(); err != nil {
		t.Fatal(err)
	}
	b.crash()
	b = start(t, c, options(dir))
	item, ok, err := b.Get(id)
	if err != nil || !ok || item.State != Conflict || string(item.Value) != "mine" {
		t.Fatalf("after a restart: %+v, %v, %v", item, ok, err)
	}
	if ok, err := b.Discard(id); !ok || err != nil {
		t.Fatal(ok, err)
	}
	b.crash()
	b = start(t, c, options(dir))
	if _, ok, _ := b.Get(id); ok {
		t.Error("a discarded conflict came back")
	}
}

func TestARolledBackDiskIsNeverTakenForAnAcknowledgement(t *testing.T) {
	c := newCluster()
	dir, old := t.TempDir(), t.TempDir()
	b := start(t, c, options(dir))
	if _, err := b.put("q/none/a", "0", kv.WriteAuto); err != nil {
		t.Fatal(err)
	}
	b.crash()
	if err := os.CopyFS(filepath.Join(old, "copy"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	b = start(t, c, options(dir))
	for i := range markStep + 100 { // beyond the mark that the copy has
		if _, err := b.put("q/none/a", fmt.Sprint("new", i), kv.WriteAuto); err != nil {
			t.Fatal(err)
		}
	}
	b.crash()
	b = start(t, c, options(filepath.Join(old, "copy")))
	told := 0
	if _, err := b.put("q/none/a", "from the copy", kv.WriteQueue); kv.CodeOf(err) == kv.OutcomeUnknown {
		told = 1 // before it was on disk
	} else if err != nil {
		t.Fatal(err)
	}
	eventually(t, "settled", func() bool { s := b.Status(); return s.Depth == 0 && s.Down == "" })
	applied := c.log()
	n := 0
	for _, v := range applied {
		if v == "from the copy" {
			n++
		}
	}
	unknown := 0
	for _, i := range b.List(int(Unknown), "") { // the copy may have had the first write too, if its answer was slow
		item, _, err := b.Get(i.ID)
		if err != nil {
			t.Fatal(err)
		}
		if string(item.Value) == "from the copy" {
			unknown++
		}
	}
	if n+unknown+told != 1 {
		t.Errorf("applied %d times, listed as unknown %d times, writer told so: %d; want one of them", n, unknown, told)
	}
}

func TestSegmentsThatNobodyNeedsAreRemoved(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	b := start(t, c, o)
	c.set(false, false)
	big := strings.Repeat("x", 1<<20)
	for i := range 12 {
		b.mustQueue(fmt.Sprint("q/none/", i), big)
	}
	if files, _ := filepath.Glob(filepath.Join(o.Dir, "*.seg")); len(files) < 3 {
		t.Fatalf("%d segments for 12 MiB, want at least 3", len(files))
	}
	c.set(true, false)
	eventually(t, "segments removed", func() bool {
		files, _ := filepath.Glob(filepath.Join(o.Dir, "*.seg"))
		return len(files) == 1
	})
	b.crash()
	b = start(t, c, o)
	if _, err := b.put("q/none/a", "after", kv.WriteQueue); err != nil { // a quorum may have it before this disk does
		t.Fatal(err)
	}
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); len(got) != 13 {
		t.Errorf("%d applied, want 13", len(got))
	}
}

func TestAFullQueueRefusesAndKeepsWhatItHas(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.MaxBytes = 10 * (opOverhead + 100)
	b := start(t, c, o)
	c.set(false, false)
	n := 0
	for ; ; n++ {
		_, err := b.put("q/none/k", strings.Repeat("v", 80), kv.WriteQueue)
		if err != nil {
			if kv.CodeOf(err) != kv.NoSpace || !strings.Contains(err.Error(), "queue.max-bytes") {
				t.Fatalf("got %v, want no-space naming the setting", err)
			}
			break
		}
	}
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := len(c.log()); got != n {
		t.Errorf("%d applied, want the %d that were acknowledged", got, n)
	}
	if _, err := b.put("q/none/k", "room again", kv.WriteQueue); err != nil {
		t.Errorf("after it drained: %v", err)
	}
}

// flaky is a disk whose calls fail on command.
type flaky struct {
	folder
	syncErr, writeErr atomic.Pointer[error]
}

type flakyFile struct {
	file
	d *flaky
}

func (d *flaky) create(path string) (file, error) {
	f, err := d.folder.create(path)
	return flakyFile{f, d}, err
}

func (f flakyFile) Sync() error {
	if e := f.d.syncErr.Load(); e != nil {
		return *e
	}
	return f.file.Sync()
}

func (f flakyFile) Write(b []byte) (int, error) {
	if e := f.d.writeErr.Load(); e != nil {
		n, _ := f.file.Write(b[:len(b)/2]) // a full disk takes a part
		return n, *e
	}
	return f.file.Write(b)
}

func TestAfterAFailedFsyncNothingIsAcknowledged(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	d := &flaky{}
	o.disk = d
	b := start(t, c, o)
	c.set(false, false)
	b.mustQueue("q/none/a", "kept")
	eio := error(syscall.EIO)
	d.syncErr.Store(&eio)
	if res, err := b.put("q/none/b", "lost", kv.WriteQueue); err == nil {
		t.Fatalf("acknowledged without an fsync: %+v", res)
	}
	d.syncErr.Store(nil) // the kernel forgets the error: a second fsync would say that all is well
	if res, err := b.put("q/none/c", "later", kv.WriteQueue); err == nil {
		t.Fatalf("acknowledged after a failed fsync: %+v", res)
	}
}

func TestAFullDiskIsRefusedAndRecoversByItself(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	d := &flaky{}
	o.disk = d
	b := start(t, c, o)
	c.set(false, false)
	b.mustQueue("q/none/a", "one")
	full := error(syscall.ENOSPC)
	d.writeErr.Store(&full)
	if _, err := b.put("q/none/b", "refused", kv.WriteQueue); kv.CodeOf(err) != kv.NoSpace {
		t.Fatalf("got %v, want no-space", err)
	}
	d.writeErr.Store(nil)
	b.mustQueue("q/none/c", "two")
	b.crash()
	o.disk = nil
	b = start(t, c, o)
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("applied %v, want one and two", got)
	}
}

func TestATornEndIsCutOffAndDamageBeforeItIsRefused(t *testing.T) {
	c := newCluster()
	c.set(false, false)
	dir := t.TempDir()
	b := start(t, c, options(dir))
	for i := range 3 {
		b.mustQueue("q/none/k", fmt.Sprint("value-", i))
	}
	end := b.log.bytes()
	b.crash()
	path, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	filled, err := os.ReadFile(path[0])
	if err != nil {
		t.Fatal(err)
	}
	whole := filled[:end]
	for cut := 1; cut < 20; cut++ {
		if err := os.WriteFile(path[0], append(slices.Clone(whole), whole[len(whole)-cut:]...), 0o600); err != nil {
			t.Fatal(err)
		}
		q, err := Open(c, options(dir))
		if err != nil {
			t.Fatalf("%d stray bytes behind the end: %v", cut, err)
		}
		if d := q.Status().Depth; d != 3 {
			t.Fatalf("%d stray bytes: depth %d, want 3", cut, d)
		}
		_ = q.log.close()
	}
	bad := slices.Clone(whole)
	bad[slices.Index(bad, 'v')] ^= 1 // in the first op
	if err := os.WriteFile(path[0], bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c, options(dir)); kv.CodeOf(err) != kv.Corrupt || !strings.Contains(err.Error(), path[0]) {
		t.Errorf("a flipped bit in front of acknowledged writes: got %v, want corrupt, naming the file", err)
	}
}

func TestOnlyPlainWritesUnderAPrefixAreQueued(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	for name, cmd := range map[string]kv.Command{
		"elsewhere": {Ops: []kv.Op{kv.Put{Key: []byte("x"), Value: []byte("v")}}},
		"range":     {Ops: []kv.Op{kv.Delete{Key: []byte("q/"), End: []byte("q0")}}},
		"lease":     {Ops: []kv.Op{kv.Put{Key: []byte("q/a"), Lease: 3}}},
		"two ops":   {Ops: []kv.Op{kv.Put{Key: []byte("q/a")}, kv.Put{Key: []byte("q/b")}}},
	} {
		cmd.Write = kv.WriteQueue
		if _, err := b.Do(t.Context(), cmd); kv.CodeOf(err) != kv.Invalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}

// TestEveryAcknowledgementIsAccountedForOnce is the promise as a whole: writers, a link that comes, goes and loses
// answers, crashes. Each value is unique, so what was applied can be told.
func TestEveryAcknowledgementIsAccountedForOnce(t *testing.T) {
	for round := range 8 {
		seed := uint64(round + 1)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { account(t, seed) })
	}
}

func account(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	c := newCluster()
	dir := t.TempDir()
	var mu sync.Mutex
	acked := map[string][]string{} // per key, in the order of acknowledgement by its one writer
	surelyNot := map[string]bool{}
	for life := range 6 {
		b := start(t, c, options(dir))
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				key := fmt.Sprint("q/none/", w)
				for i := range 40 {
					v := fmt.Sprint(w, ".", life, ".", i)
					_, err := b.put(key, v, []kv.Write{kv.WriteAuto, kv.WriteQueue, kv.WriteSync}[i%3])
					mu.Lock()
					switch {
					case err == nil:
						acked[key] = append(acked[key], v)
					case kv.CodeOf(err) == kv.UpstreamUnavailable:
						surelyNot[v] = true
					case !errors.Is(err, &kv.Error{Code: kv.OutcomeUnknown}):
						t.Errorf("put %s: %v", v, err)
					}
					mu.Unlock()
				}
			})
		}
		for range 10 {
			c.set(rnd.IntN(2) == 0, rnd.IntN(3) == 0)
			time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
		}
		c.set(rnd.IntN(2) == 0, false)
		writers.Wait()
		b.crash()
	}
	c.set(true, false)
	b := start(t, c, options(dir))
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if kept := b.List(-1, ""); len(kept) > 0 {
		t.Errorf("ended badly: %+v", kept)
	}
	times, at := map[string]int{}, map[string]int{}
	for i, v := range c.log() {
		times[v]++
		at[v] = i
	}
	for v, n := range times {
		if n > 1 || surelyNot[v] {
			t.Errorf("%s applied %d times, said not to be applied: %v", v, n, surelyNot[v])
		}
	}
	for key, vs := range acked {
		for i, v := range vs {
			if times[v] != 1 {
				t.Errorf("%s: %s acknowledged and applied %d times", key, v, times[v])
			}
			if i > 0 && at[vs[i-1]] > at[v] {
				t.Errorf("%s: %s applied before %s", key, v, vs[i-1])
			}
		}
	}
}
