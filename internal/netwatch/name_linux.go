package netwatch

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// router describes the default router that packets from an IPv4 address of this machine go through; empty if there is none or the
// kernel does not say.
func router(source netip.Addr) string {
	if !source.Unmap().Is4() {
		return ""
	}
	link := linkOf(source.Unmap())
	routes, err := os.ReadFile("/proc/self/net/route")
	if err != nil {
		return link
	}
	at := defaultRouter(routes, link)
	if !at.IsValid() {
		return link
	}
	neighbours, err := os.ReadFile("/proc/self/net/arp")
	if err != nil {
		return link + " " + at.String()
	}
	return link + " " + at.String() + " " + hardware(neighbours, at, link)
}

// linkOf is the name of the interface that has an address.
func linkOf(source netip.Addr) string {
	links, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, l := range links {
		addrs, err := l.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == source {
				return l.Name
			}
		}
	}
	return ""
}

// defaultRouter finds the one on a link with the lowest metric in /proc/net/route: name, destination, gateway, flags, references,
// uses, metric, mask and more; addresses are hexadecimal, as they lie in memory.
func defaultRouter(routes []byte, link string) (best netip.Addr) {
	least := uint64(1 << 32)
	lines := bufio.NewScanner(bytes.NewReader(routes))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 8 || f[0] != link || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		metric, merr := strconv.ParseUint(f[6], 10, 32)
		if err != nil || merr != nil || len(b) != 4 || metric >= least {
			continue
		}
		var at [4]byte
		binary.NativeEndian.PutUint32(at[:], binary.BigEndian.Uint32(b))
		if router := netip.AddrFrom4(at); !router.IsUnspecified() { // a link between two points has none
			least, best = metric, router
		}
	}
	return best
}

// hardware finds a neighbour in /proc/net/arp: address, type, flags, hardware address, mask and device.
func hardware(neighbours []byte, at netip.Addr, link string) string {
	lines := bufio.NewScanner(bytes.NewReader(neighbours))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) == 6 && f[0] == at.String() && f[5] == link && f[2] != "0x0" {
			return f[3]
		}
	}
	return ""
}
