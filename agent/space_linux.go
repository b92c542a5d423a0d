package agent

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// diskSpace returns the bytes free for this process and the size of the file system that holds path.
func diskSpace(path string) (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	block := int64(st.Bsize) //nolint:unconvert // the field is 32 bits wide on some architectures
	return int64(st.Bavail) * block, int64(st.Blocks) * block, nil
}

// bootTime is CLOCK_BOOTTIME: nobody sets it, and it runs on while the machine is suspended. Each cached read asks, and the call
// never blocks, so that the scheduler need not hear of it, as it does from unix.ClockGettime.
func bootTime() time.Duration {
	var ts unix.Timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 { //nolint:gosec // as unix.ClockGettime does
		panic(errno) // every supported kernel has it
	}
	return time.Duration(ts.Nano())
}

// bootID names the machine's present boot; zero if the kernel does not tell, which is then a boot like any other.
func bootID() (id [16]byte) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err == nil {
		copy(id[:], b)
	}
	return id
}
