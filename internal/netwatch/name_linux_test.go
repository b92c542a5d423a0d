package netwatch

import (
	"net/netip"
	"testing"
)

// What a machine with a cable and radio shows, with the words as a little-endian machine has them in memory; another one has them
// the other way round, and so are the tables read there.
const (
	routeTable = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0101A8C0	0003	0	0	100	00000000	0	0	0
eth0	0001A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
wwan0	00000000	00000000	0001	0	0	50	00000000	0	0	0
wlan0	00000000	FE01A8C0	0003	0	0	700	00000000	0	0	0
wlan0	00000000	FD01A8C0	0003	0	0	600	00000000	0	0	0
`
	neighbourTable = `IP address       HW type     Flags       HW address            Mask     Device
192.168.1.1      0x1         0x2         02:00:00:00:00:01     *        eth0
192.168.1.1      0x1         0x0         00:00:00:00:00:00     *        wlan0
192.168.1.253    0x1         0x2         02:00:00:00:00:fd     *        wlan0
`
)

func TestTheDefaultRouterOfALinkIsFound(t *testing.T) {
	swap := func(a netip.Addr) string { // what the table says on a machine whose words lie the other way round
		b := a.As4()
		if netip.AddrFrom4([4]byte{192, 168, 1, 1}) == defaultRouter([]byte(routeTable), "eth0") {
			return a.String()
		}
		return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}).String()
	}
	for link, want := range map[string]string{"eth0": "192.168.1.1", "wlan0": "192.168.1.253", "wwan0": "invalid IP", "eth1": "invalid IP"} {
		got := defaultRouter([]byte(routeTable), link)
		if !got.IsValid() && want == "invalid IP" {
			continue
		}
		if !got.IsValid() || swap(got) != want {
			t.Errorf("behind %s: %s, want %s", link, got, want)
		}
	}
	if got := hardware([]byte(neighbourTable), netip.MustParseAddr("192.168.1.1"), "eth0"); got != "02:00:00:00:00:01" {
		t.Errorf("the router's hardware address is %q", got)
	}
	if got := hardware([]byte(neighbourTable), netip.MustParseAddr("192.168.1.1"), "wlan0"); got != "" {
		t.Errorf("an unanswered question has the hardware address %q", got)
	}
}

func TestNetworksAreToldApart(t *testing.T) {
	home := digest(netip.MustParseAddr("192.168.1.7"), "wlan0 192.168.1.1 02:00:00:00:00:01")
	for what, other := range map[string]string{
		"another router with the same address": digest(netip.MustParseAddr("192.168.1.7"), "wlan0 192.168.1.1 02:00:00:00:00:02"),
		"another address":                      digest(netip.MustParseAddr("192.168.1.8"), "wlan0 192.168.1.1 02:00:00:00:00:01"),
	} {
		if other == home {
			t.Errorf("%s makes the same network", what)
		}
	}
	if again := digest(netip.MustParseAddr("::ffff:192.168.1.7"), "wlan0 192.168.1.1 02:00:00:00:00:01"); again != home || len(home) != 16 {
		t.Errorf("one network has the names %q and %q", home, again)
	}
	one, same, other := netip.MustParseAddr("2001:db8:1:1::7"), netip.MustParseAddr("2001:db8:1:1:aaaa::1"), netip.MustParseAddr("2001:db8:1:2::7")
	if digest(one, "") != digest(same, "x") || digest(one, "") == digest(other, "") {
		t.Error("of IPv6 the first 64 bits are to tell")
	}
	here := netip.MustParseAddr("127.0.0.1")
	if first, second := Name(here), Name(here); first != second || len(first) != 16 {
		t.Errorf("this machine's network has the names %q and %q", first, second)
	}
}
