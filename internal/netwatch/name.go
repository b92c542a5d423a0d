package netwatch

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
)

// Name tells networks apart that packets leave into from an address of this machine: by that address and the router behind it, with
// its hardware address where there is one, since many networks number alike. Of IPv6 it is the first 64 bits, which no two networks
// share. It is a digest: 16 hexadecimal digits, the same each time, that say nothing of where the machine was. It reads what the
// kernel knows, and sends nothing.
func Name(source netip.Addr) string {
	return digest(source, router(source))
}

func digest(source netip.Addr, router string) string {
	text := source.Unmap().String() + " " + router
	if source.Is6() && !source.Is4In6() && source.IsGlobalUnicast() && !source.IsPrivate() {
		text = netip.PrefixFrom(source.WithZone(""), 64).Masked().String()
	}
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%x", sum[:8])
}
