//go:build !linux

package netwatch

import "net/netip"

func router(netip.Addr) string { return "" }
