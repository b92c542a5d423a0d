package queue

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"holdfast/kv"
)

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

// slow is a disk whose fsyncs wait, once it is armed.
type slow struct {
	folder
	armed      atomic.Bool
	asked, let chan struct{}
}

type slowFile struct {
	file
	d *slow
}

func (d *slow) create(path string) (file, error) {
	f, err := d.folder.create(path)
	return slowFile{f, d}, err
}

func (f slowFile) Sync() error {
	if f.d.armed.Swap(false) {
		close(f.d.asked)
		<-f.d.let
	}
	return f.file.Sync()
}

// Who writes does not wait for the queue's end: what ends the file must not cut off what is put behind it meanwhile.
func TestTheEndWaitsForAWriteUnderWay(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	d := &slow{asked: make(chan struct{}), let: make(chan struct{})}
	o.disk = d
	q, err := Open(c, o)
	if err != nil {
		t.Fatal(err)
	}
	c.set(false, false)
	write := func(key string) (kv.Result, error) {
		return q.Do(t.Context(), kv.Command{Write: kv.WriteQueue, Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte("v")}}})
	}
	if _, err := write("q/none/a"); err != nil {
		t.Fatal(err)
	}
	d.armed.Store(true)
	wrote, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := write("q/none/b")
		wrote <- err
	}()
	<-d.asked
	go func() { closed <- q.Close() }()
	eventually(t, "the end is waited for", func() bool {
		q.log.mu.Lock()
		defer q.log.mu.Unlock()
		return q.log.ended
	})
	if _, err := write("q/none/c"); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("a write behind the end: %v, want stopping", err)
	}
	select {
	case err := <-closed:
		t.Fatalf("closed (%v) beside a write", err)
	default:
	}
	close(d.let)
	if err := <-wrote; err != nil {
		t.Errorf("the write under way: %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	o.disk = nil
	b := start(t, c, o)
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, []string{"v", "v"}) {
		t.Errorf("applied %v, want both that were acknowledged", got)
	}
}
