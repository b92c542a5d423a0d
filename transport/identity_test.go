package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestIdentitySurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadIdentity(dir, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("load from an empty dir: %v", err)
	}
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for _, joined := range []bool{false, true} {
		if joined {
			id = certify(t, id, mustCA(t, "c1"), Grant{Role: Proxy, Scope: []string{"a/"}})
		}
		if err := id.Save(dir, nil); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "node.pem"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
		}
		got, err := LoadIdentity(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.Node() != id.Node() || got.Joined() != joined || got.CAHash() != id.CAHash() || got.derive("x") != id.derive("x") ||
			!got.key.Equal(id.key) || got.Info().String() != id.Info().String() {
			t.Errorf("joined %v: loaded %+v, saved %+v", joined, got.Info(), id.Info())
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDamagedOrReadableIdentityIsRefusedWithARemedy(t *testing.T) {
	id := newIdentity(t, mustCA(t, "c1"), Grant{})
	other := newIdentity(t, mustCA(t, "c1"), Grant{})
	cases := map[string]struct {
		change func(t *testing.T, path string)
		want   string
	}{
		"readable by others": {func(t *testing.T, path string) {
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		}, "run chmod 600"},
		"empty":          {func(t *testing.T, path string) { write(t, path, nil) }, "restore the file from a backup"},
		"cut short":      {func(t *testing.T, path string) { write(t, path, read(t, path)[:300]) }, "cut short"},
		"key of another": {func(t *testing.T, path string) { swapKey(t, path, other) }, "it is for another key"},
		"block not known": {func(t *testing.T, path string) {
			write(t, path, append(read(t, path), "-----BEGIN X-----\n-----END X-----\n"...))
		}, "unknown block"},
		"enormous": {func(t *testing.T, path string) { write(t, path, make([]byte, maxFileBytes+1)) }, "want at most"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := id.Save(dir, nil); err != nil {
				t.Fatal(err)
			}
			tc.change(t, filepath.Join(dir, "node.pem"))
			if _, err := LoadIdentity(dir, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// swapKey puts the key of another identity in front of this one's certificates.
func swapKey(t *testing.T, path string, other *Identity) {
	t.Helper()
	dir := t.TempDir()
	if err := other.Save(dir, nil); err != nil {
		t.Fatal(err)
	}
	const end = "-----END PRIVATE KEY-----\n"
	_, mine, _ := strings.Cut(string(read(t, path)), end)
	theirs, _, _ := strings.Cut(string(read(t, filepath.Join(dir, "node.pem"))), end)
	write(t, path, []byte(theirs+end+mine))
}

func TestCAIsTheSameAfterSavingAndLoading(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadCA(dir, "c1", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("load from an empty dir: %v", err)
	}
	ca := mustCA(t, "c1")
	if err := ca.Save(dir, nil); err != nil {
		t.Fatal(err)
	}
	got, err := LoadCA(dir, "c1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Hash() != ca.Hash() || got.Cluster() != "c1" || len(ca.Hash()) != 64 {
		t.Errorf("loaded %s of %s, saved %s", got.Hash(), got.Cluster(), ca.Hash())
	}
	newIdentity(t, got, Grant{}) // it still issues
	if info, err := os.Stat(filepath.Join(dir, "ca.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestIssueRefusesWhatItShouldNotSign(t *testing.T) {
	ca := mustCA(t, "c1")
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	good := Grant{Node: id.Node(), Role: Proxy, Life: time.Hour}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	with := func(f func(*Grant)) Grant { g := good; f(&g); return g }
	cases := map[string]struct {
		pub  any
		g    Grant
		want string
	}{
		"ed25519":          {id.PublicKey(), good, ""},
		"P-256":            {&p256.PublicKey, good, ""},
		"P-384":            {&p384.PublicKey, good, "want P-256"},
		"RSA":              {&weak.PublicKey, good, "want ed25519 or P-256"},
		"bad node id":      {id.PublicKey(), with(func(g *Grant) { g.Node = "ABC" }), "32 lower-case"},
		"no role":          {id.PublicKey(), with(func(g *Grant) { g.Role = None }), "role"},
		"unknown role":     {id.PublicKey(), with(func(g *Grant) { g.Role = "king" }), "role"},
		"no life":          {id.PublicKey(), with(func(g *Grant) { g.Life = 0 }), "life"},
		"scope of member":  {id.PublicKey(), with(func(g *Grant) { g.Role, g.Scope = Member, []string{"a"} }), "no scope"},
		"scope too wide":   {id.PublicKey(), with(func(g *Grant) { g.Scope = make([]string, MaxScope+1) }), "at most 64"},
		"scope too long":   {id.PublicKey(), with(func(g *Grant) { g.Scope = []string{strings.Repeat("a", MaxScopeBytes+1)} }), "at most 1024"},
		"scope at the max": {id.PublicKey(), with(func(g *Grant) { g.Scope = []string{strings.Repeat("a", MaxScopeBytes)} }), ""},
	}
	for name, tc := range cases {
		_, err := ca.Issue(tc.pub, tc.g, time.Now())
		if (tc.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	if _, err := NewCA("C1"); err == nil {
		t.Error("made a CA for a cluster id in upper case")
	}
}

func TestRequestOfAnotherKeyIsRefused(t *testing.T) {
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := id.Request()
	if err != nil {
		t.Fatal(err)
	}
	csr[len(csr)-1] ^= 1 // the signature
	if _, err := mustCA(t, "c1").IssueCSR(csr, Grant{Node: id.Node(), Role: Member, Life: time.Hour}, time.Now()); err == nil {
		t.Error("issued for a request whose signature is wrong")
	}
}

func TestIdentityTakesNoCertificateOfAnother(t *testing.T) {
	ca := mustCA(t, "c1")
	a, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	grant := Grant{Node: a.Node(), Role: Member, Life: time.Hour}
	mine, err := ca.Issue(a.PublicKey(), grant, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.WithCertificate(mine, ca.Certificate()); err == nil {
		t.Error("took a certificate of another node")
	}
	b.node = a.node
	if _, err := b.WithCertificate(mine, ca.Certificate()); err == nil {
		t.Error("took a certificate for another key")
	}
	if _, err := a.WithCertificate(mine, mustCA(t, "c1").Certificate()); err == nil {
		t.Error("took a certificate of another CA")
	}
	if _, err := a.WithCertificate(mine, ca.Certificate()); err != nil {
		t.Error(err)
	}
}

func FuzzParsePeerURI(f *testing.F) {
	f.Add("holdfast://c1/member/00112233445566778899aabbccddeeff")
	f.Add("holdfast://c1/proxy/00112233445566778899aabbccddeeff?scope=a%2F&scope=%00%FF&scope=")
	f.Add("holdfast://c1/proxy/00112233445566778899aabbccddeeff?scope=a%2f")
	f.Add("holdfast://c1:1/proxy/00112233445566778899aabbccddeeff?scope")
	f.Add("holdfast://u@c1/member/00112233445566778899aabbccddeeff#f")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePeerURI(s)
		if err != nil {
			return
		}
		if err := p.check(); err != nil {
			t.Fatalf("accepted %q: %v", s, err)
		}
		if got := p.uri().String(); got != s {
			t.Fatalf("accepted %q, which is %q", s, got)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	id := newIdentity(f, mustCA(f, "c1"), Grant{})
	dir := f.TempDir()
	if err := id.Save(dir, nil); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "node.pem"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if id, err := parseIdentity(data); err == nil && CheckNodeID(id.Node()) != nil {
			t.Fatalf("accepted node id %q", id.Node())
		}
	})
}
