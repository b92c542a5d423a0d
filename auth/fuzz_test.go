package auth

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

// FuzzToken shows text as who asks, as it comes from the network. It is nobody, but for what was given away.
func FuzzToken(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	device := kv.Device{Name: "pump", Verbs: kv.VerbGet, Prefixes: []string{"a"}}
	id, token := NewDevice(&device)
	p := policyOf(f, append(withRoot, addUser("reader"), kv.SetDevice{ID: id, Device: &device}, enable)...)
	signed, err := p.Sign("reader", now, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	given := map[string]string{signed: "reader", token: kv.DevicePrincipal + id}
	g := NewGuard(nil, func() Source { return Source{} }, Options{Now: func() time.Time { return now }})
	for _, s := range []string{signed, token, "Bearer " + token, "bearer " + signed, "Basic " + base64.StdEncoding.EncodeToString([]byte("root:p")), "Basic x", deviceMark, tokenPrefix, tokenPrefix + "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if rest, isBasic := cutFold(s, basic); isBasic {
			if _, err := base64.StdEncoding.DecodeString(rest); err == nil {
				return // would cost a bcrypt each
			}
		}
		shown := s
		if rest, ok := cutFold(s, bearer); ok {
			shown = rest
		}
		by, err := g.verify(t.Context(), p, s, "")
		if want := given[shown]; err == nil && by.Principal != want || err != nil && want != "" {
			// The last letter of base64 without padding has bits that say nothing.
			if err == nil && want == "" && sameBytes(shown, signed) && by.Principal == "reader" {
				return
			}
			t.Fatalf("%q is %+v, %v; want %q", s, by, err, want)
		}
	})
}

// sameBytes reports whether two signed tokens differ only in how their base64 is written.
func sameBytes(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		p, err1 := encoding.DecodeString(x[i])
		q, err2 := encoding.DecodeString(y[i])
		if err1 != nil || err2 != nil || !bytes.Equal(p, q) {
			return false
		}
	}
	return true
}

// FuzzDecode reads a mirrored policy. What can be read says the same once more.
func FuzzDecode(f *testing.F) {
	f.Add(shop(f).Encode())
	f.Add([]byte{mirrorVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(p.Encode())
		if err != nil || !bytes.Equal(again.Encode(), p.Encode()) {
			t.Fatalf("written and read again: %v", err)
		}
		if p.HasKey() {
			t.Fatal("a mirror has a key")
		}
	})
}
