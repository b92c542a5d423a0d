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
	block := int64(st.Bsize) //nolint:unconvert // the field is 32 bits wide on some architectures
	return int64(st.Bavail) * block, int64(st.Blocks) * block, nil
}

// bootClock is CLOCK_BOOTTIME: nobody sets it, and it runs on while the machine is suspended.
func bootClock() func() time.Duration {
	return func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			panic(err) // every supported kernel has it
		}
		return time.Duration(ts.Nano())
	}
}
