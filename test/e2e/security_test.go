//go:build e2e

package e2e

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
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pki is a CA with files in a folder.
type pki struct {
	t      *testing.T
	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newPKI(t *testing.T, name string) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir(), serial: 1}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name)}
	p.cert, p.key = p.sign(tmpl, nil)
	p.write("ca.pem", "CERTIFICATE", p.cert.Raw)
	return p
}

func (p *pki) sign(tmpl, parent *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	by := p.key
	if parent == nil {
		parent, by = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return c, key
}

func (p *pki) write(name, kind string, der []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// issue makes NAME.pem and NAME.key.
func (p *pki) issue(name string, life time.Duration, use x509.ExtKeyUsage) *x509.Certificate {
	p.t.Helper()
	p.serial++
	c, key := p.sign(&x509.Certificate{SerialNumber: big.NewInt(p.serial), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(life),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{use}}, p.cert)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name+".pem", "CERTIFICATE", c.Raw)
	p.write(name+".key", "PRIVATE KEY", der)
	return c
}

func (p *pki) revoke(certs ...*x509.Certificate) {
	p.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, p.cert, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("crl.pem", "X509 CRL", der)
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

// client trusts p; of is whose certificate it shows, by name, nil and "" for none.
func (p *pki) client(of *pki, name string) *tls.Config {
	p.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(p.cert)
	cfg := &tls.Config{RootCAs: roots}
	if of != nil {
		pair, err := tls.LoadX509KeyPair(of.path(name+".pem"), of.path(name+".key"))
		if err != nil {
			p.t.Fatal(err)
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return cfg
}

// asks makes one request on a connection of its own.
func asks(url string, cfg *tls.Config) (reply, error) {
	tr := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	return call(context.Background(), &http.Client{Transport: tr, Timeout: 20 * time.Second}, "GET", url+"/v1/kv/?prefix", nil)
}

// revokedWithin is how long who is revoked may stay connected: what the threat model says.
const revokedWithin = 5 * time.Second

// TestHTTPSLetsInWhoBelongsAndNobodyElse refuses from outside, with the files that an operator has.
func TestHTTPSLetsInWhoBelongsAndNobodyElse(t *testing.T) {
	p, other := newPKI(t, "ours"), newPKI(t, "theirs")
	p.issue("server", time.Hour, x509.ExtKeyUsageServerAuth)
	p.issue("good", time.Hour, x509.ExtKeyUsageClientAuth)
	p.issue("ended", -time.Minute, x509.ExtKeyUsageClientAuth)
	stolen := p.issue("stolen", time.Hour, x509.ExtKeyUsageClientAuth)
	other.issue("stranger", time.Hour, x509.ExtKeyUsageClientAuth)
	p.revoke()
	at := freeAddr(t)
	url := "https://" + at
	a := start(t, filepath.Join(t.TempDir(), "d"), freeAddr(t), "--listen", url, "--tls-cert-file", p.path("server.pem"), "--tls-key-file", p.path("server.key"),
		"--tls-client-ca-file", p.path("ca.pem"), "--tls-crl-file", p.path("crl.pem"))

	for _, name := range []string{"good", "stolen"} {
		if r, err := asks(url, p.client(p, name)); err != nil || r.status != 200 {
			t.Errorf("%s: %d, %v", name, r.status, err)
		}
	}
	old := p.client(p, "good")
	old.MaxVersion = tls.VersionTLS12
	for name, cfg := range map[string]*tls.Config{
		"no certificate":      p.client(nil, ""),
		"one that has ended":  p.client(p, "ended"),
		"one of another CA":   p.client(other, "stranger"),
		"a server's":          p.client(p, "server"),
		"TLS 1.2":             old,
		"trusting another CA": other.client(p, "good"),
	} {
		if r, err := asks(url, cfg); err == nil {
			t.Errorf("%s: answered %d", name, r.status)
		}
	}
	etcdctl := func(within string, more ...string) ([]byte, error) {
		cmd := exec.Command("etcdctl", append([]string{"--endpoints", url, "--cacert", p.path("ca.pem"), "--command-timeout", within}, more...)...)
		cmd.Env = cleanEnv(t, "ETCDCTL_API=3")
		return cmd.CombinedOutput()
	}
	if _, err := exec.LookPath("etcdctl"); err == nil {
		if out, err := etcdctl("30s", "--cert", p.path("good.pem"), "--key", p.path("good.key"), "put", "a", "b"); err != nil || !bytes.Contains(out, []byte("OK")) {
			t.Errorf("etcdctl: %s, %v", out, err)
		}
		if out, err := etcdctl("3s", "put", "a", "b"); err == nil {
			t.Errorf("etcdctl without a certificate: %s", out)
		}
	}
	out := mustExec(t, os.Getenv("AGENT"), "kv", "put", "k", "v", "--endpoint", url, "--cacert", p.path("ca.pem"), "--cert", p.path("good.pem"), "--key", p.path("good.key"))
	t.Logf("agent kv put: %s", out)

	// The stolen one is connected when it is revoked, and nobody tells the agent that a file has changed.
	conn, err := tls.Dial("tcp", at, p.client(p, "stolen"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /v1/kv/a?watch HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	revoked := time.Now()
	p.revoke(stolen)
	_ = conn.SetReadDeadline(revoked.Add(revokedWithin))
	for { // until it is cut off; the deadline is an error of another kind
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the revoked client is still connected after %v", revokedWithin)
			}
			break
		}
	}
	t.Logf("cut off after %v", time.Since(revoked).Round(time.Millisecond))
	if r, err := asks(url, p.client(p, "stolen")); err == nil {
		t.Errorf("the revoked client was answered %d", r.status)
	}
	next := p.issue("server", 2*time.Hour, x509.ExtKeyUsageServerAuth)
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	serves := func(want *x509.Certificate) string {
		t.Helper()
		c, err := tls.Dial("tcp", at, p.client(p, "good"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := c.ConnectionState().PeerCertificates[0]; got.SerialNumber.Cmp(want.SerialNumber) != 0 {
			return fmt.Sprintf("served certificate %v, want %v", got.SerialNumber, want.SerialNumber)
		}
		return ""
	}
	eventually(t, startMax, func() string { return serves(next) })
	if err := os.WriteFile(p.path("server.pem"), []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, startMax, func() string {
		if text, _ := os.ReadFile(a.log); !bytes.Contains(text, []byte("not taken over")) {
			return "nobody was told of the broken file"
		}
		return ""
	})
	if fault := serves(next); fault != "" {
		t.Error(fault)
	}
	if code := a.stop(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// mustExec runs a command to its end.
func mustExec(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = cleanEnv(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestOldTLSIsRefusedAsFarAsItIsWeak comes with older versions and ciphers to a listener that allows TLS 1.2.
func TestOldTLSIsRefusedAsFarAsItIsWeak(t *testing.T) {
	p := newPKI(t, "ours")
	p.issue("server", time.Hour, x509.ExtKeyUsageServerAuth)
	url := "https://" + freeAddr(t)
	start(t, filepath.Join(t.TempDir(), "d"), freeAddr(t), "--listen", url, "--tls-cert-file", p.path("server.pem"), "--tls-key-file", p.path("server.key"), "--tls-min-version", "tls1.2")
	for _, tc := range []struct {
		name     string
		from, to uint16
		suite    uint16 // of TLS 1.2 and before; 0: Go's
		in       bool
	}{
		{"TLS 1.3", tls.VersionTLS13, tls.VersionTLS13, 0, true},
		{"TLS 1.2", tls.VersionTLS12, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, true},
		{"TLS 1.2 without authenticated encryption", tls.VersionTLS12, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, false},
		{"TLS 1.2 with RC4", tls.VersionTLS12, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA, false},
		{"TLS 1.2 without forward secrecy", tls.VersionTLS12, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, false},
		{"TLS 1.1", tls.VersionTLS11, tls.VersionTLS11, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, false},
		{"TLS 1.0", tls.VersionTLS10, tls.VersionTLS10, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, false},
	} {
		cfg := p.client(nil, "")
		cfg.MinVersion, cfg.MaxVersion = tc.from, tc.to
		if tc.suite != 0 {
			cfg.CipherSuites = []uint16{tc.suite}
		}
		r, err := asks(url, cfg)
		if tc.in != (err == nil && r.status == http.StatusOK) {
			t.Errorf("%s: %d, %v", tc.name, r.status, err)
		}
		if _, alert := errors.AsType[*net.OpError](err); !tc.in && !alert {
			t.Errorf("%s: %v, want an alert of the server", tc.name, err)
		}
	}
}

func TestPlaintextBeyondThisMachineIsRefusedOrLoud(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	cmd := exec.Command(os.Getenv("AGENT"), "run", "--data-dir", dir, "--listen", "http://0.0.0.0:0", "--peer-listen", freeUDP(t))
	cmd.Env = cleanEnv(t)
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 78 || !bytes.Contains(out, []byte("--insecure")) {
		t.Errorf("exit %d: %s", cmd.ProcessState.ExitCode(), out)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a data dir was made all the same")
	}
	a := start(t, dir, freeAddr(t), "--listen", "http://0.0.0.0:0", "--insecure")
	text, err := os.ReadFile(a.log)
	if err != nil || !bytes.Contains(text, []byte("PLAINTEXT BEYOND THIS MACHINE")) {
		t.Errorf("the log says nothing of it: %v\n%s", err, text)
	}
}
