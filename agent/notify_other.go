//go:build !linux

package agent

// monotonic is of use to systemd only, which runs on Linux only.
func monotonic() string { return "MONOTONIC_USEC=0" }
