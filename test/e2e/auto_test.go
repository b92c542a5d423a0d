//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestAProxyServesHTTPSByTheClustersCA has a proxy get its certificate from a member, for its own names and for none of another
// node's, and serve with it while it is cut off.
func TestAProxyServesHTTPSByTheClustersCA(t *testing.T) {
	c := newCluster(t)
	member := start(t, c.memberDir(), c.memberAddr, "--peer-listen", c.peerAddr, "--name", "front.example")
	at := freeAddr(t)
	args := append(c.proxyArgs(c.file("token", joinToken(t, c.memberDir(), "1h").Token)),
		"--listen", "https://"+at, "--tls-auto", "--tls-names", "box.example,front.example")
	dir := filepath.Join(c.dir, "proxy")
	proxy := start(t, dir, freeAddr(t), args...)
	proxy.waitSynced()
	roots := x509.NewCertPool()
	if ca := mustRun(t, dir, "cert", "ca"); !roots.AppendCertsFromPEM([]byte(ca)) {
		t.Fatalf("agent cert ca printed %s", ca)
	}
	as := func(name string) error {
		conn, err := tls.Dial("tcp", at, &tls.Config{RootCAs: roots, ServerName: name})
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	eventually(t, startMax, func() string {
		if err := as("box.example"); err != nil {
			return fmt.Sprintf("the proxy has no certificate for its name: %v", err)
		}
		return ""
	})
	if err := as("front.example"); err == nil || !strings.Contains(err.Error(), "front.example") {
		t.Errorf("the proxy poses as the member: %v", err)
	}
	if err := as("localhost"); err != nil {
		t.Errorf("localhost: %v", err)
	}
	if r, err := asks("https://"+at, &tls.Config{RootCAs: x509.NewCertPool()}); err == nil {
		t.Errorf("a client that does not trust the cluster's CA was answered %d", r.status)
	}
	if r, err := asks("https://"+at, &tls.Config{RootCAs: roots}); err != nil || r.status != 200 {
		t.Errorf("a client was answered %d, %v", r.status, err)
	}
	member.kill()
	proxy.kill()
	proxy = start(t, dir, freeAddr(t), args...)
	if r, err := asks("https://"+at, &tls.Config{RootCAs: roots}); err != nil || r.status == 0 {
		t.Errorf("cut off, after a restart: %d, %v", r.status, err)
	}
	if code := proxy.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
