package agent

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// monotonic is the line that dates a RELOADING=1, so that the manager can tell it from an older one.
func monotonic() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return "MONOTONIC_USEC=0" // cannot happen: the clock and the pointer are valid
	}
	return "MONOTONIC_USEC=" + strconv.FormatInt(ts.Nano()/1000, 10)
}
