package servertls

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const patience = 20 * time.Second

// authority is a CA for tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name)}
	a.cert = sign(t, tmpl, tmpl, a.key, a.key)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) issue(name string, end time.Duration, use x509.ExtKeyUsage) tls.Certificate {
	a.t.Helper()
	a.last++
	key := newKey(a.t)
	c := sign(a.t, &x509.Certificate{SerialNumber: big.NewInt(100 + a.last), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(end), ExtKeyUsage: []x509.ExtKeyUsage{use}}, a.cert, key, a.key)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

func (a *authority) revoke(certs ...tls.Certificate) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(0, 0), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Unix(0, 0)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// rig is a Keeper of files in a folder.
type rig struct {
	t      testing.TB
	dir    string
	ca     *authority
	opts   Options
	keeper *Keeper
	log    bytes.Buffer
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), ca: newAuthority(t, "ca")}
	r.server(r.ca.issue("server", time.Hour, x509.ExtKeyUsageServerAuth))
	r.write("ca.pem", r.ca.pem())
	r.write("crl.pem", r.ca.revoke())
	r.opts = Options{CertFile: r.path("cert.pem"), KeyFile: r.path("key.pem"), ClientCAFile: r.path("ca.pem"), CRLFile: r.path("crl.pem"),
		Log: slog.New(slog.NewTextHandler(&r.log, nil)), Timeout: patience}
	if change != nil {
		change(&r.opts)
	}
	var err error
	if r.keeper, err = Open(r.opts); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name string, text []byte) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), text, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) server(c tls.Certificate) {
	r.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		r.t.Fatal(err)
	}
	r.write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	r.write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// connect has a client shake hands; it returns both ends, and why the server refused.
func (r *rig) connect(change func(*tls.Config)) (client *tls.Conn, server *Conn, err error) {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	roots := x509.NewCertPool()
	roots.AddCert(r.ca.cert)
	cfg := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}}
	change(cfg)
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	_ = near.SetDeadline(time.Now().Add(patience))
	client = tls.Client(near, cfg)
	r.t.Cleanup(func() { _ = client.Close() })
	shaken := make(chan struct{})
	go func() {
		defer close(shaken)
		_ = client.Handshake() // of a refusal the client may learn only when it reads
	}()
	far, err := l.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	server, err = r.keeper.Handshake(context.Background(), far)
	if err != nil {
		_ = far.Close()
	}
	<-shaken
	return client, server, err
}

func with(c tls.Certificate) func(*tls.Config) {
	return func(cfg *tls.Config) {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
}

func TestClientsAreJudged(t *testing.T) {
	r := newRig(t, nil)
	good := r.ca.issue("good", time.Hour, x509.ExtKeyUsageClientAuth)
	revoked := r.ca.issue("revoked", time.Hour, x509.ExtKeyUsageClientAuth)
	r.write("crl.pem", r.ca.revoke(revoked))
	if err := r.keeper.Reload(); err != nil {
		t.Fatal(err)
	}
	other := newAuthority(t, "other")
	namesake := newAuthority(t, "ca")
	for _, c := range []struct {
		name, want string
		change     func(*tls.Config)
	}{
		{"of the CA", "", with(good)},
		{"none", "didn't provide a certificate", func(*tls.Config) {}},
		{"of another CA", "unknown authority", with(other.issue("x", time.Hour, x509.ExtKeyUsageClientAuth))},
		{"of another CA of that name", "unknown authority", with(namesake.issue("x", time.Hour, x509.ExtKeyUsageClientAuth))},
		{"ended", "expired", with(r.ca.issue("x", -time.Minute, x509.ExtKeyUsageClientAuth))},
		{"a server's", "incompatible key usage", with(r.ca.issue("x", time.Hour, x509.ExtKeyUsageServerAuth))},
		{"revoked", "revoked", with(revoked)},
		{"TLS 1.2", "unsupported versions", func(cfg *tls.Config) { with(good)(cfg); cfg.MaxVersion = tls.VersionTLS12 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, server, err := r.connect(c.change)
			if c.want == "" {
				if err != nil || server.Client().Subject.CommonName != "good" {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCertificatesMayBeOptional(t *testing.T) {
	r := newRig(t, func(o *Options) { o.ClientOptional, o.TLS12 = true, true })
	_, server, err := r.connect(func(cfg *tls.Config) { cfg.MaxVersion = tls.VersionTLS12 })
	if err != nil || server.Client() != nil {
		t.Errorf("without one, over TLS 1.2: %v", err)
	}
	if _, _, err := r.connect(with(newAuthority(t, "other").issue("x", time.Hour, x509.ExtKeyUsageClientAuth))); err == nil {
		t.Error("one that is shown and of another CA was taken")
	}
}

func TestBrokenFilesAreRefusedAtTheStart(t *testing.T) {
	r := newRig(t, nil)
	other := newAuthority(t, "other")
	for name, c := range map[string]struct {
		change func()
		want   string
	}{
		"no key": {func() { _ = os.Remove(r.path("key.pem")) }, "no such file"},
		"a key of another": {func() {
			was, _ := os.ReadFile(r.path("cert.pem"))
			r.server(other.issue("x", time.Hour, x509.ExtKeyUsageServerAuth))
			r.write("cert.pem", was)
		}, "private key does not match"},
		"a key for all":         {func() { _ = os.Chmod(r.path("key.pem"), 0o644) }, "chmod 0600"},
		"no CA":                 {func() { r.write("ca.pem", []byte("hello")) }, "no certificate in PEM"},
		"a CA that is none":     {func() { was, _ := os.ReadFile(r.path("cert.pem")); r.write("ca.pem", was) }, "not the certificate of a CA"},
		"a CRL of another CA":   {func() { r.write("crl.pem", other.revoke()) }, "which no CA of clients has signed"},
		"a CRL that is no CRL":  {func() { r.write("crl.pem", []byte("hello")) }, "cannot be read"},
		"a certificate cut off": {func() { was, _ := os.ReadFile(r.path("cert.pem")); r.write("cert.pem", was[:len(was)/2]) }, "failed to find any PEM data"},
	} {
		t.Run(name, func(t *testing.T) {
			r.server(r.ca.issue("server", time.Hour, x509.ExtKeyUsageServerAuth))
			r.write("ca.pem", r.ca.pem())
			r.write("crl.pem", r.ca.revoke())
			_ = os.Chmod(r.path("key.pem"), 0o600)
			c.change()
			if _, err := Open(r.opts); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			_ = os.Remove(r.path("key.pem"))
		})
	}
}

func TestNewFilesAreTakenOverAndBrokenOnesAreNot(t *testing.T) {
	r := newRig(t, nil)
	client := r.ca.issue("client", time.Hour, x509.ExtKeyUsageClientAuth)
	serial := func() *big.Int {
		t.Helper()
		c, _, err := r.connect(with(client))
		if err != nil {
			t.Fatal(err)
		}
		return c.ConnectionState().PeerCertificates[0].SerialNumber
	}
	first := serial()
	second := r.ca.issue("server", 2*time.Hour, x509.ExtKeyUsageServerAuth)
	r.server(second)
	was, err := os.ReadFile(r.path("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	r.write("key.pem", was[:10]) // half written
	if err := r.keeper.Reload(); err == nil {
		t.Fatal("half a key was taken")
	}
	if got := serial(); got.Cmp(first) != 0 {
		t.Error("the former certificate is not in force any more")
	}
	if !strings.Contains(r.log.String(), "stay in force") || r.keeper.Failures() != 1 {
		t.Errorf("nobody was told: %s", r.log.String())
	}
	r.write("key.pem", was)
	if err := r.keeper.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got.Cmp(second.Leaf.SerialNumber) != 0 || !r.keeper.Ends().Equal(second.Leaf.NotAfter) {
		t.Error("the new certificate is not in force")
	}
}

func TestWithdrawnClientsAreCutOffAndCannotResume(t *testing.T) {
	for name, withdraw := range map[string]func(*rig, tls.Certificate){
		"revoked": func(r *rig, c tls.Certificate) { r.write("crl.pem", r.ca.revoke(c)) },
		"with another CA": func(r *rig, _ tls.Certificate) {
			o := newAuthority(r.t, "other")
			r.write("ca.pem", o.pem())
			r.write("crl.pem", o.revoke())
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			client := r.ca.issue("client", time.Hour, x509.ExtKeyUsageClientAuth)
			cache := tls.NewLRUClientSessionCache(1)
			resuming := func(cfg *tls.Config) { with(client)(cfg); cfg.ClientSessionCache = cache }
			ticket := func() (*tls.Conn, *Conn) { // the ticket comes behind the handshake: a byte has it read
				t.Helper()
				c, s, err := r.connect(resuming)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				return c, s
			}
			ticket()
			c, s := ticket()
			if !s.ConnectionState().DidResume {
				t.Fatal("the session was not resumed, so that nothing is tested")
			}
			withdraw(r, client)
			if err := r.keeper.Reload(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the open connection goes on: %v", err)
			}
			if r.keeper.Cut() != 2 {
				t.Errorf("%d connections cut, want 2", r.keeper.Cut())
			}
			if _, _, err := r.connect(resuming); err == nil {
				t.Error("it was let in again")
			}
		})
	}
}

func TestPlainHTTPIsTold(t *testing.T) {
	r := newRig(t, nil)
	near, far := net.Pipe()
	go func() { _, _ = near.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }()
	if _, err := r.keeper.Handshake(t.Context(), far); !errors.Is(err, ErrPlaintext) {
		t.Errorf("got %v", err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		cas, err := parseCAs(text)
		if err != nil {
			cas = nil
		}
		_, _ = parseCRLs(text, cas)
	})
}
