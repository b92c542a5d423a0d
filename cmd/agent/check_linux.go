package main

import (
	"fmt"
	"syscall"
)

// timeError is the state TIME_ERROR of adjtimex(2): nobody keeps the clock.
const timeError = 5

// clockSynced asks the kernel whether something keeps the clock right.
func clockSynced() (synced, known bool) {
	state, err := syscall.Adjtimex(new(syscall.Timex))
	return state != timeError, err == nil
}

// diskSpace returns the bytes free for this process and the size of the file system that holds path.
func diskSpace(path string) (free, size int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	block := int64(st.Bsize) //nolint:unconvert // the field is 32 bits wide on some architectures
	return int64(st.Bavail) * block, int64(st.Blocks) * block, nil
}
