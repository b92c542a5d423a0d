package gcpace

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestTheLeastLimitAboveCounts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	self := write("self", "1:name=x:/other\n0::/system.slice/holdfast.service\n")
	if got := groupLimit(self, dir); got != math.MaxInt64 {
		t.Errorf("without any: %d", got)
	}
	write("system.slice/holdfast.service/memory.max", "max\n")
	write("system.slice/holdfast.service/memory.high", "200000000\n")
	write("system.slice/memory.max", "100000000\n")
	if got := groupLimit(self, dir); got != 100000000 {
		t.Errorf("the slice has the least, and it is %d", got)
	}
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "")
	if got := bound(self, dir); got != 85000000 || debug.SetMemoryLimit(-1) != got {
		t.Errorf("the limit is %d, and in force %d", got, debug.SetMemoryLimit(-1))
	}
	t.Setenv("GOMEMLIMIT", "50MiB")
	if got := bound(self, dir); got != 0 {
		t.Errorf("GOMEMLIMIT does not win: %d", got)
	}
}
