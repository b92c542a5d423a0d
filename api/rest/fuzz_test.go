package rest

import (
	"strings"
	"testing"
)

// FuzzSmallBodies reads bodies of administration. What passes is within its bounds.
func FuzzSmallBodies(f *testing.F) {
	f.Add([]byte(`{"name":"pump-7","allow":["put","get"],"prefixes":["site/42/"],"ttl":"2160h","rate":10,"share_kib":1024}`))
	f.Add([]byte(`{"role":"any","ttl":"24h","uses":0,"scope":["site/42/"]}`))
	f.Add([]byte(strings.Repeat(`{"a":`, 2000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > deviceBodyMax {
			return
		}
		if d, err := parseDevice(b); err == nil {
			if d.Name == "" || len(d.Name) > deviceNameMax || len(d.Allow) == 0 || len(d.Allow) > 4 || len(d.Prefixes) == 0 || len(d.Prefixes) > devicePrefixMax || d.TTL < 0 || d.TTL > deviceTTLMax || d.Rate > deviceRateMax {
				t.Fatalf("%s passed as %+v", b, d)
			}
		}
		if r, err := parseTokenRequest(b); err == nil {
			if r.Role == "" || r.TTL <= 0 || r.TTL > tokenTTLMax || r.Uses < 0 || r.Uses > tokenUsesMax {
				t.Fatalf("%s passed as %+v", b, r)
			}
		}
	})
}
