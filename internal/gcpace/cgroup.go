package gcpace

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitShare of what a control group may have is the limit of the Go runtime; the rest is for stacks of threads, the
// state file's pages that are mapped, and the kernel's own.
const limitShare = 0.85

// Bound tells the collector of the memory limit that the control group of this process has (MemoryMax, MemoryHigh), so that
// it works harder before the kernel kills. It returns the limit, 0 for none. GOMEMLIMIT in the environment goes before.
func Bound() int64 { return bound("/proc/self/cgroup", "/sys/fs/cgroup") }

func bound(self, tree string) int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit := groupLimit(self, tree)
	if limit == math.MaxInt64 {
		return 0
	}
	limit = int64(float64(limit) * limitShare)
	debug.SetMemoryLimit(limit)
	return limit
}

// groupLimit is the least limit of a group and those above it, in the unified tree of cgroups(7); MaxInt64 for none.
func groupLimit(self, tree string) int64 {
	least := int64(math.MaxInt64)
	text, err := os.ReadFile(self)
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
			for _, name := range []string{"memory.max", "memory.high"} {
				value, err := os.ReadFile(filepath.Join(tree, path, name))
				if err != nil {
					continue // the root has none
				}
				if n, err := strconv.ParseInt(strings.TrimSpace(string(value)), 10, 64); err == nil && n > 0 { // else "max"
					least = min(least, n)
				}
			}
			if path == "/" {
				break
			}
		}
	}
	return least
}
