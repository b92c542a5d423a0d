package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"holdfast/api"
	"holdfast/config"
)

// clientCA is a CA of clients, and one client's certificate.
func clientCA(t *testing.T, cn string) (caPEM []byte, client tls.Certificate) {
	t.Helper()
	issue := func(tmpl, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			parent, by = tmpl, key
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	ca, key := issue(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, leafKey := issue(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: leafKey}
}

// httpsSettings are those of an agent that serves https alone, with a certificate of its cluster.
func httpsSettings(t *testing.T, clientCA []byte) config.Config {
	t.Helper()
	cfg := settings(t)
	cfg.Listen, cfg.MetricsListen = []string{"https://127.0.0.1:0"}, "https://127.0.0.1:0"
	cfg.TLS.Auto, cfg.TLS.Names = true, []string{"box.example"}
	if clientCA != nil {
		cfg.TLS.ClientCAFile = filepath.Join(t.TempDir(), "clients.pem")
		if err := os.WriteFile(cfg.TLS.ClientCAFile, clientCA, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

// trusting is the TLS of a client that trusts the CA of an agent's cluster, once that has issued a certificate.
func trusting(t *testing.T, a *Agent, client ...tls.Certificate) *tls.Config {
	t.Helper()
	deadline := time.Now().Add(patience)
	for a.https.auto.present.Load() == nil {
		if time.Now().After(deadline) {
			t.Fatal("no certificate for https")
		}
		time.Sleep(10 * time.Millisecond)
	}
	roots := x509.NewCertPool()
	for _, ca := range (certificates{a}).Certificate().CAs {
		roots.AppendCertsFromPEM([]byte(ca.PEM))
	}
	return &tls.Config{RootCAs: roots, Certificates: client}
}

func TestAllOfTheAPIIsServedOverHTTPSWithACertificateOfTheCluster(t *testing.T) {
	ca, client := clientCA(t, "pump-7")
	a := serving(t, httpsSettings(t, ca))
	base := a.Addrs()[0]
	if !strings.HasPrefix(base, "https://") {
		t.Fatalf("the listener is %s", base)
	}
	for _, name := range []string{"", "localhost", "box.example"} {
		cfg := trusting(t, a, client)
		cfg.ServerName = name
		for _, h2 := range []bool{false, true} {
			tr := &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: h2}
			c := &http.Client{Transport: tr, Timeout: patience}
			expect(t, c, "PUT", base+"/v1/kv/a", "b", map[bool]int{true: http.StatusCreated, false: http.StatusOK}[name == "" && !h2])
			tr.CloseIdleConnections()
		}
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(base, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(trusting(t, a, client))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")}, grpc.WaitForReady(true))
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "b" {
		t.Errorf("over gRPC: %v, %v", r, err)
	}
	tr := &http.Transport{TLSClientConfig: trusting(t, a, client), ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	expect(t, &http.Client{Transport: tr, Timeout: patience}, "GET", a.MetricsAddr()+"/metrics", "", http.StatusOK)
	if _, err := send(ctx, httpClient(t, nil), "GET", base+"/v1/kv/a", ""); err == nil {
		t.Error("a client that trusts nobody was content")
	}
	got, err := send(ctx, httpClient(t, nil), "GET", "http"+strings.TrimPrefix(base, "https")+"/v1/kv/a", "")
	if err != nil || got.status != http.StatusBadRequest || !strings.Contains(got.body, "https://") {
		t.Errorf("plain http got %+v, %v", got, err)
	}
	without := trusting(t, a)
	tr2 := &http.Transport{TLSClientConfig: without}
	defer tr2.CloseIdleConnections()
	if got, err := send(ctx, &http.Client{Transport: tr2}, "GET", base+"/v1/kv/a", ""); err == nil {
		t.Errorf("a client without a certificate got %d", got.status)
	}
}

func TestTheCallerHasTheCertificateOfItsConnection(t *testing.T) {
	ca, client := clientCA(t, "pump-7")
	cfg := httpsSettings(t, ca)
	cfg.TLS.ClientAuth = "optional"
	a := serving(t, cfg)
	node := curious{make(chan *api.Caller, 8)}
	a.gate.mu.Lock()
	a.gate.backend = node
	a.gate.mu.Unlock()
	for _, want := range []string{"pump-7", ""} {
		tlsConfig := trusting(t, a)
		if want != "" {
			tlsConfig = trusting(t, a, client)
		}
		conn, err := grpc.NewClient(strings.TrimPrefix(a.Addrs()[0], "https://"), grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig.Clone())))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		for name, call := range map[string]func(){
			"gRPC": func() {
				_, _ = pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte("a")}, grpc.WaitForReady(true))
			},
			"REST": func() {
				tr := &http.Transport{TLSClientConfig: tlsConfig.Clone(), ForceAttemptHTTP2: true}
				defer tr.CloseIdleConnections()
				_, _ = send(t.Context(), &http.Client{Transport: tr}, "PUT", a.Addrs()[0]+"/v1/kv/a", "b")
			},
			"gateway": func() {
				tr := &http.Transport{TLSClientConfig: tlsConfig.Clone()}
				defer tr.CloseIdleConnections()
				_, _ = send(t.Context(), &http.Client{Transport: tr}, "POST", a.Addrs()[0]+"/v3/kv/put", `{"key":"YQ=="}`)
			},
		} {
			call()
			select {
			case c := <-node.callers:
				if c == nil || (c.Cert == nil) != (want == "") || c.Cert != nil && c.Cert.Subject.CommonName != want {
					t.Errorf("%s, certificate %q: got %+v", name, want, c)
				}
			case <-time.After(patience):
				t.Fatalf("%s: no call came", name)
			}
		}
	}
}

func TestTheCertificateOfTheClusterSurvivesARestart(t *testing.T) {
	cfg := httpsSettings(t, nil)
	a := serving(t, cfg)
	trusting(t, a)
	was := a.https.auto.present.Load().Leaf.SerialNumber
	halt(t, a)
	again := serving(t, cfg)
	trusting(t, again)
	if got := again.https.auto.present.Load().Leaf.SerialNumber; got.Cmp(was) != 0 {
		t.Error("another certificate was issued without need")
	}
}
