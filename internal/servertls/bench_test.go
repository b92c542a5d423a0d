package servertls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"testing"
	"time"
)

// BenchmarkHandshake is a whole handshake, both ends of it on one core: what a server can do in a second is somewhat more
// than the inverse.
func BenchmarkHandshake(b *testing.B) {
	for _, c := range []struct {
		name   string
		client bool
	}{{"server", false}, {"mutual", true}} {
		b.Run(c.name, func(b *testing.B) {
			ca := newAuthority(b, "ca")
			server, client := ca.issue("server", time.Hour, x509.ExtKeyUsageServerAuth), ca.issue("client", time.Hour, x509.ExtKeyUsageClientAuth)
			r := &rig{t: b, dir: b.TempDir(), ca: ca}
			r.server(server)
			r.write("ca.pem", ca.pem())
			o := Options{CertFile: r.path("cert.pem"), KeyFile: r.path("key.pem"), Log: slog.New(slog.DiscardHandler)}
			if c.client {
				o.ClientCAFile = r.path("ca.pem")
			}
			k, err := Open(o)
			if err != nil {
				b.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(ca.cert)
			cfg := &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{client}}
			b.ReportAllocs()
			for b.Loop() {
				near, far := net.Pipe()
				go func() { _ = tls.Client(near, cfg).Handshake() }() // its end is the server's
				s, err := k.Handshake(context.Background(), far)
				if err != nil {
					b.Fatal(err)
				}
				k.forget(s)
				_, _ = near.Close(), far.Close()
			}
		})
	}
}
