package transport

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"
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

// TestANameWithAnAddressThatLeadsNowhereIsReachedByTheOther is a host with IPv6 and IPv4 of which one gets no packet through, as where
// a network announces IPv6 and does not route it: the other one is tried 250 ms later (RFC 8305), over UDP and over TCP.
func TestANameWithAnAddressThatLeadsNowhereIsReachedByTheOther(t *testing.T) {
	const rtt = 40 * time.Millisecond
	v6 := netip.MustParseAddr("2001:db8::1") // which nobody has
	for _, tc := range []struct {
		name     string
		v4First  bool
		noUDP    bool
		way      Way
		min, max time.Duration
	}{
		{"IPv6 first", false, false, OverUDP, dialStagger, dialStagger + 3*rtt},
		{"IPv4 first", true, false, OverUDP, 0, 3 * rtt},
		{"IPv6 first, UDP blocked", false, true, OverTCP, dialStagger + tcpAfter, dialStagger + tcpAfter + 6*rtt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world) {
				resolve := func(ctx context.Context, host string) ([]netip.Addr, error) {
					v4, err := w.net.Resolve(ctx, host)
					if tc.v4First {
						return append(v4, v6), err
					}
					return append([]netip.Addr{v6}, v4...), err
				}
				a, b := w.pair(rtt, func(c *Config) { c.Resolve = resolve })
				if tc.noUDP {
					w.net.Cut("a", "b")
				}
				start := time.Now()
				c, err := a.Dial(t.Context(), Uplink, Target{Addrs: []string{"b:2380"}, Node: b.id.Node()})
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < tc.min || took > tc.max || c.Way() != tc.way {
					t.Errorf("connected over %s after %v, want over %s within %v to %v", c.Way(), took, tc.way, tc.min, tc.max)
				}
				wantEcho(t, c, "hello")
			})
		})
	}
}
