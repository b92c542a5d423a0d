package transport

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// successor is the CA that takes the place of the world's, and what nodes go by while both count.
func (w *world) successor() (*CA, Trust) {
	w.t.Helper()
	next := mustCA(w.t, "c1")
	bridge, err := w.ca.Bridge(next.Certificate())
	if err != nil {
		w.t.Fatal(err)
	}
	return next, Trust{Roots: [][]byte{next.Certificate(), w.ca.Certificate()}, Bridges: [][]byte{bridge}}
}

func (n *node) trust(t *testing.T, trust Trust) {
	t.Helper()
	id, err := n.id.WithTrust(trust)
	if err != nil {
		t.Fatal(err)
	}
	n.become(id)
}

func TestNodesMeetWhileOneCATakesThePlaceOfAnother(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		a.Listen(Raft, echo)
		b.Listen(Raft, echo)
		meet := func(when string) {
			t.Helper()
			for _, way := range []struct {
				from *node
				to   string
			}{{a, "b"}, {b, "a"}} {
				c, err := way.from.Dial(t.Context(), Raft, w.target(way.to))
				if err != nil {
					t.Fatalf("%s, to %s: %v", when, way.to, err)
				}
				c.CloseWithError(CodeDone, "")
			}
		}
		next, both := w.successor()
		a.trust(t, both)
		meet("one knows of the new CA")
		a.become(certify(t, a.id, next, Grant{}))
		a.trust(t, both)
		meet("one has a certificate of the new CA, the other does not know of it")
		b.trust(t, both)
		meet("both know it")
		b.become(certify(t, b.id, next, Grant{}))
		b.trust(t, both)
		c := w.dial(a, "b", Raft)
		a.trust(t, Trust{Roots: [][]byte{next.Certificate()}})
		b.trust(t, Trust{Roots: [][]byte{next.Certificate()}})
		meet("the old one is dropped")
		if n := a.Recheck() + b.Recheck(); n != 0 || c.Err() != nil {
			t.Errorf("%d connections closed that the new CA proves: %v", n, c.Err())
		}
	})
}

func TestADroppedCAProvesNothingAnyMore(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, echo)
		c := w.dial(a, "b", Raft)
		next, both := w.successor()
		b.become(certify(t, b.id, next, Grant{}))
		b.trust(t, Trust{Roots: [][]byte{next.Certificate()}, Bridges: both.Bridges})
		if n := b.Recheck(); n != 1 {
			t.Errorf("%d connections closed, want the one proven by the dropped CA", n)
		}
		<-c.Context().Done()
		if _, err := a.Dial(t.Context(), Raft, w.target("b")); !errors.Is(err, UnknownCA) {
			t.Errorf("a certificate of the dropped CA: %v", err)
		}
		// What the dropped CA signs as a bridge helps nobody who does not trust it.
		rogue := mustCA(t, "c1")
		bridge, err := w.ca.Bridge(rogue.Certificate())
		if err != nil {
			t.Fatal(err)
		}
		a.become(certify(t, a.id, rogue, Grant{}))
		a.trust(t, Trust{Roots: [][]byte{next.Certificate(), rogue.Certificate()}, Bridges: [][]byte{bridge}})
		if _, err := a.Dial(t.Context(), Raft, w.target("b")); !errors.Is(err, UnknownCA) {
			t.Errorf("a bridge from the dropped CA: %v", err)
		}
	})
}

func TestATokenOfTheOldCAJoinsWhileItIsTrusted(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.stranger("new")
		member, joiner := w.start("m"), w.start("new")
		member.Listen(Join, echo)
		next, both := w.successor()
		member.become(certify(t, member.id, next, Grant{}))
		for _, tc := range []struct {
			trust Trust
			pin   *CA
			ok    bool
		}{{both, w.ca, true}, {both, next, true}, {Trust{Roots: both.Roots[:1]}, w.ca, false}, {Trust{Roots: both.Roots[:1]}, next, true}} {
			member.trust(t, tc.trust)
			c, err := joiner.Dial(t.Context(), Join, Target{Addrs: []string{"m:2380"}, CAHash: tc.pin.Hash()})
			if (err == nil) != tc.ok || !tc.ok && !errors.Is(err, UnknownCA) {
				t.Errorf("%d roots, pinned to the old CA %v: %v, want ok %v", len(tc.trust.Roots), tc.pin == w.ca, err, tc.ok)
			}
			if err == nil {
				c.CloseWithError(CodeDone, "")
			}
		}
	})
}

func TestTrustAndTimesSurviveARestart(t *testing.T) {
	w := &world{t: t, ca: mustCA(t, "c1")}
	_, both := w.successor()
	id, err := newIdentity(t, w.ca, Grant{}).WithTrust(both)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	id = id.WithTimes(at, at.Add(time.Hour))
	dir := t.TempDir()
	if err := id.Save(dir, nil); err != nil {
		t.Fatal(err)
	}
	got, err := LoadIdentity(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Trust().Equal(both) || !got.Issued().Equal(at) || !got.Confirmed().Equal(at.Add(time.Hour)) {
		t.Errorf("got %d roots, %d bridges, %v, %v", len(got.Trust().Roots), len(got.Trust().Bridges), got.Issued(), got.Confirmed())
	}
	if _, err := id.WithTrust(Trust{}); err == nil {
		t.Error("an identity that trusts nobody")
	}
	if _, err := id.WithTrust(Trust{Roots: [][]byte{id.Certificate()}}); err == nil {
		t.Error("a node's certificate as a CA")
	}
}

func TestAProofOfTheKeyIsGoodForOneConnection(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		type got struct{ binding, proof []byte }
		seen := make(chan got, 2)
		b.Listen(Join, func(ctx context.Context, c *Conn) {
			s, err := c.AcceptStream(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			proof := make([]byte, 64)
			if _, err := s.Read(proof); err != nil {
				t.Error(err)
			}
			seen <- got{s.Binding(), proof}
		})
		var all []got
		for range 2 {
			c, err := a.Dial(t.Context(), Join, Target{Addrs: []string{"b:2380"}, CAHash: w.ca.Hash()})
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.OpenStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(a.id.ProveKey(s.Binding())); err != nil {
				t.Fatal(err)
			}
			all = append(all, <-seen)
		}
		info, cert, err := Prove(a.id.Certificate(), a.id.Trust())
		if err != nil || info.Node != a.id.Node() || len(info.Key) != 64 {
			t.Fatalf("prove: %v, %v", info, err)
		}
		for i, g := range all {
			if !VerifyProof(cert, g.binding, g.proof) {
				t.Errorf("proof %d does not hold", i)
			}
		}
		if VerifyProof(cert, all[0].binding, all[1].proof) || VerifyProof(cert, nil, all[0].proof) {
			t.Error("a proof was good for another connection")
		}
		if _, _, err := Prove(newIdentity(t, mustCA(t, "c1"), Grant{}).Certificate(), a.id.Trust()); !errors.Is(err, UnknownCA) {
			t.Errorf("a certificate of another CA: %v", err)
		}
	})
}

func TestASealedSecretOpensOnItsNodeOnly(t *testing.T) {
	a, b := newIdentity(t, mustCA(t, "c1"), Grant{}), newIdentity(t, mustCA(t, "c1"), Grant{})
	key, err := a.SealingKey()
	if err != nil {
		t.Fatal(err)
	}
	box, err := SealTo(key, []byte("the CA's key"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := a.OpenSealed(box); err != nil || string(got) != "the CA's key" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.OpenSealed(box); err == nil || strings.Contains(string(box), "key") {
		t.Errorf("another node opened it, or it is not sealed: %v", err)
	}
	box[len(box)-1] ^= 1
	if _, err := a.OpenSealed(box); err == nil {
		t.Error("opened although damaged")
	}
	if _, err := SealTo([]byte("short"), nil); err == nil {
		t.Error("sealed to no key")
	}
}

func TestAnOperatorsCAIsTakenIfEveryNodeCanUseIt(t *testing.T) {
	pemOf := func(key any, pub any, change func(*x509.Certificate)) []byte {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Example Corp Edge CA"}, NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		change(tmpl)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		p8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	same := func(*x509.Certificate) {}
	good := pemOf(p256, p256.Public(), same)
	ca, err := ParseCA(good, "c1")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca}
	id := newIdentity(t, ca, Grant{Life: 100 * time.Hour})
	if end := id.Info().NotAfter; end.After(ca.Ends()) {
		t.Errorf("a certificate until %v of a CA until %v", end, ca.Ends())
	}
	if _, err := ca.Issue(id.PublicKey(), Grant{Node: id.Node(), Role: Member, Life: time.Hour}, ca.Ends().Add(time.Second)); err == nil || !strings.Contains(err.Error(), "cert rotate") {
		t.Errorf("issued by a CA that has ended: %v", err)
	}
	w.successor() // it signs bridges too
	ed, err := mustCA(t, "c1").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	edKey, _, _ := bytes.Cut(ed, []byte("-----BEGIN CERT"))
	key, cert, _ := bytes.Cut(good, []byte("-----END PRIVATE KEY-----\n"))
	for name, tc := range map[string]struct {
		pem  []byte
		says string
	}{
		"P-384":          {pemOf(p384, p384.Public(), same), "P-384"},
		"RSA":            {pemOf(rsaKey, rsaKey.Public(), same), "want ed25519 or P-256"},
		"no CA":          {pemOf(p256, p256.Public(), func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 }), "CA:TRUE"},
		"may not sign":   {pemOf(p256, p256.Public(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "keyCertSign"},
		"no key":         {cert, "no key"},
		"key of another": {slices.Concat(edKey, cert), "belong together"},
		"cut short":      {key, "cut short"},
	} {
		if _, err := ParseCA(tc.pem, "c1"); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}

func TestAServiceNameStandsForItsHosts(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		asked := ""
		a, b := w.start("a", func(c *Config) {
			c.ResolveService = func(_ context.Context, name string) ([]*net.SRV, error) {
				asked = name
				if strings.HasSuffix(name, "none") {
					return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
				}
				return []*net.SRV{{Target: "gone.", Port: 2380}, {Target: "b.", Port: 2380}}, nil
			}
		}), w.start("b")
		b.Listen(Raft, echo)
		for name, want := range map[string]string{"srv:example.com": "_holdfast._udp.example.com", "srv:_x._udp.example.com": "_x._udp.example.com"} {
			c, err := a.Dial(t.Context(), Raft, Target{Addrs: []string{name}})
			if err != nil || asked != want {
				t.Errorf("%s: asked for %q, %v", name, asked, err)
				continue
			}
			c.CloseWithError(CodeDone, "")
		}
		if _, err := a.Dial(t.Context(), Raft, Target{Addrs: []string{"srv:none"}}); err == nil || !strings.Contains(err.Error(), "SRV record _holdfast._udp.none") {
			t.Errorf("a name without a record: %v", err)
		}
	})
}
