//go:build !linux

package agent

import (
	"errors"
	"time"
)

var started = time.Now()

// diskSpace is not known here; the write itself will tell.
func diskSpace(string) (free, size int64, err error) {
	return 0, 0, errors.ErrUnsupported
}

// bootTime counts from the start of the process, without suspend: enough to develop with.
func bootTime() time.Duration { return time.Since(started) }

// bootID is not known here.
func bootID() [16]byte { return [16]byte{} }
