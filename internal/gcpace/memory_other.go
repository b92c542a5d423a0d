//go:build !linux

package gcpace

// Memory is how many bytes this machine is taken to have.
func Memory() uint64 { return 1 << 30 }
