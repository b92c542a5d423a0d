//go:build !linux

package member

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// diskFree returns the bytes free for this process and the size of the file system that holds path.
func diskFree(path string) (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	block := int64(st.Bsize)
	return int64(st.Bavail) * block, int64(st.Blocks) * block, nil
}

// bootClock is good enough for development here: it may stand still while the machine sleeps.
func bootClock() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
