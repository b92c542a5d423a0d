package mvcc

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"holdfast/kv"
)

func TestAFullDiskKeepsEverythingAndRecoversByItself(t *testing.T) {
	var full atomic.Bool
	r := &sequenceStore{t: t, path: filepath.Join(t.TempDir(), "s.db")}
	r.open()
	r.s.opts.step = func(string) error {
		if full.Load() {
			return fmt.Errorf("write: %w", syscall.ENOSPC)
		}
		return nil
	}
	put := func(key, value string) {
		r.apply(kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}})
	}
	put("a", "1")
	full.Store(true)
	for i := range 3 { // each finds no space; what came meanwhile waits behind what was frozen first
		put("a", fmt.Sprint(i))
		put(fmt.Sprint("k", i), "v")
		if err := r.s.Flush(); kv.CodeOf(err) != kv.NoSpace {
			t.Fatalf("flush %d on a full disk: %v, want no-space", i, err)
		}
		if got := r.value("a"); got != fmt.Sprint(i) {
			t.Fatalf("read %q after write %d", got, i)
		}
	}
	if d := r.s.Durable(); d != 0 {
		t.Errorf("durable up to %d, but nothing was written", d)
	}
	full.Store(false)
	if err := r.s.Flush(); err != nil {
		t.Fatal(err)
	}
	if d, a := r.s.Durable(), r.s.Applied(); d != a {
		t.Errorf("durable up to %d of %d after there was room", d, a)
	}
	r.log = nil // the file alone has to do
	r.open()
	if a, k := r.value("a"), r.value("k2"); a != "2" || k != "v" {
		t.Errorf("after a restart a=%q k2=%q", a, k)
	}
}
