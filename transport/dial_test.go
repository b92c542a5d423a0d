package transport

import (
	"net/netip"
	"slices"
	"testing"
)

func TestAddressesOfAHostTakeTurnsByKind(t *testing.T) {
	for _, tc := range []struct{ in, want []string }{
		{nil, nil},
		{[]string{"192.0.2.1"}, []string{"192.0.2.1"}},
		{[]string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"},
			[]string{"2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"}},
		{[]string{"::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1"}, []string{"::ffff:192.0.2.1", "2001:db8::1", "192.0.2.2"}},
	} {
		var in []netip.Addr
		for _, s := range tc.in {
			in = append(in, netip.MustParseAddr(s))
		}
		var got []string
		for _, ip := range byTurns(in) {
			got = append(got, ip.String())
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%v: got %v, want %v", tc.in, got, tc.want)
		}
	}
}
