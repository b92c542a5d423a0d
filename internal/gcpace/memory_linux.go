package gcpace

import "golang.org/x/sys/unix"

// Memory is how many bytes this machine has; 1 GiB if it does not say.
func Memory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 30
	}
	return uint64(info.Totalram) * uint64(info.Unit) //nolint:unconvert // 32 bits on some machines
}
