package api

import (
	"net/netip"
	"testing"
)

func TestAClientIsWhereItsNetworkIs(t *testing.T) {
	for _, c := range []struct {
		caller Caller
		want   string
		device string
	}{
		{Caller{Addr: netip.MustParseAddrPort("192.0.2.7:1000")}, "192.0.2.7/32", "192.0.2.7"},
		{Caller{Addr: netip.MustParseAddrPort("[2001:db8:1:2:3::4]:1000")}, "2001:db8:1:2::/64", "2001:db8:1:2::/64"},
		{Caller{Addr: netip.MustParseAddrPort("[fe80::1%eth0]:1000")}, "fe80::/64", "fe80::/64"},
		{Caller{Process: &Process{UID: 7}}, "uid:7", "uid:7"},
		{Caller{}, "", ""},
	} {
		if got := c.caller.Place(); got != c.want {
			t.Errorf("%v is at %q, want %q", c.caller, got, c.want)
		}
		if got := c.caller.Device(); got != c.device {
			t.Errorf("the share of %v is that of %q, want %q", c.caller, got, c.device)
		}
	}
}
