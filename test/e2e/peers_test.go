//go:build e2e

package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"holdfast/transport"
)

// A peer that is not let in is told why by the number of a TLS alert, and over QUIC by this much more (RFC 9001, 4.8).
const (
	quicAlerts          = 0x100
	refusalAlerts       = 224
	certificateRequired = 116 // TLS has a number of its own for that
)

// peer is somebody at the port for nodes, with a certificate and without any program of ours.
type peer struct {
	proto    transport.Protocol
	cert     []byte // DER; nil: none
	key      crypto.Signer
	cas      [][]byte
	refusal  transport.Refusal // 0: is let in
	anything bool              // or refused in any other way
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// knock connects and waits until it is certain that it was let in or not.
func (p peer) knock(ctx context.Context, addr string) error {
	cfg := &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // whoever wants in does not care who answers
		NextProtos:         []string{string(p.proto)},
		MinVersion:         tls.VersionTLS13,
	}
	if p.cert != nil {
		cfg.Certificates = []tls.Certificate{{Certificate: append([][]byte{p.cert}, p.cas...), PrivateKey: p.key}}
	}
	conn, err := quic.DialAddr(ctx, addr, cfg, &quic.Config{EnableDatagrams: true, InitialPacketSize: 1200})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseWithError(0, "") }()
	// For this end the handshake is complete before the other has judged; a refusal then ends the connection.
	wait := 20 * time.Second
	if p.refusal == 0 && !p.anything {
		wait = time.Second // nothing says that one was let in, but that it stays
	}
	select {
	case <-conn.Context().Done():
		return context.Cause(conn.Context())
	case <-time.After(wait):
		return nil
	}
}

// TestPeersLetInWhoBelongsAndNobodyElse knocks at the port for nodes of a member with certificates that the CA of the
// cluster has signed, brought by the operator and known to the test, and with others.
func TestPeersLetInWhoBelongsAndNobodyElse(t *testing.T) {
	pki, c := newPKI(t, "an operator"), newCluster(t)
	der, err := x509.MarshalPKCS8PrivateKey(pki.key)
	if err != nil {
		t.Fatal(err)
	}
	text := slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pki.cert.Raw}))
	start(t, c.memberDir(), c.memberAddr, "--peer-listen", c.peerAddr, "--cluster-ca-file", c.file("ca.pem", string(text)))
	id, err := transport.LoadIdentity(filepath.Join(c.memberDir(), "identity"), nil)
	if err != nil {
		t.Fatal(err)
	}
	cluster := id.Info().Cluster
	theirs, err := transport.NewCA(cluster)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := transport.ParseCA(text, cluster)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := transport.ParseCA(text, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	with := func(by *transport.CA, proto transport.Protocol, role transport.Role, from time.Time, why transport.Refusal) peer {
		key := newKey(t)
		g := transport.Grant{Node: transport.NewNodeID(), Role: role, Life: time.Hour}
		if role == transport.Proxy {
			g.Scope = []string{""}
		}
		cert, err := by.Issue(key.Public(), g, from)
		if err != nil {
			t.Fatal(err)
		}
		return peer{proto: proto, cert: cert, key: key, cas: [][]byte{by.Certificate()}, refusal: why}
	}
	now := time.Now()
	good := with(ca, transport.Uplink, transport.Proxy, now, 0)
	stolen := good
	stolen.key, stolen.anything = newKey(t), true
	selfSigned := with(theirs, transport.Uplink, transport.Proxy, now, transport.UnknownCA)
	selfSigned.cas = [][]byte{ca.Certificate(), theirs.Certificate()} // shows the right CA too
	site := good                                                      // knows clients, not nodes
	csr, err := transport.ServerRequest(site.key)
	if err != nil {
		t.Fatal(err)
	}
	if site.cert, err = ca.IssueServer(csr, id.Node(), []string{"box.example"}, time.Hour, now); err != nil {
		t.Fatal(err)
	}
	site.refusal = transport.Malformed
	stranger := with(ca, "holdfast-raft/0", transport.Member, now, 0)
	stranger.anything = true
	for name, p := range map[string]peer{
		"a proxy":                                       good,
		"a proxy's certificate without its key":         stolen,
		"a proxy as a member":                           with(ca, transport.Raft, transport.Proxy, now, transport.WrongRole),
		"a proxy as a member's further way":             with(ca, transport.Path, transport.Proxy, now, transport.WrongRole),
		"a proxy as a member's snapshot":                with(ca, transport.Bulk, transport.Proxy, now, transport.WrongRole),
		"a proxy of another cluster with the same CA":   with(elsewhere, transport.Uplink, transport.Proxy, now, transport.OtherCluster),
		"a member of another cluster with the same CA":  with(elsewhere, transport.Raft, transport.Member, now, transport.OtherCluster),
		"a proxy of another CA of the same name":        with(theirs, transport.Uplink, transport.Proxy, now, transport.UnknownCA),
		"a member of another CA of the same name":       with(theirs, transport.Raft, transport.Member, now, transport.UnknownCA),
		"another CA that shows the right one beside it": selfSigned,
		"a proxy whose certificate has ended":           with(ca, transport.Uplink, transport.Proxy, now.Add(-2*time.Hour), transport.Expired),
		"a member whose certificate has ended":          with(ca, transport.Raft, transport.Member, now.Add(-2*time.Hour), transport.Expired),
		"nobody, at the uplink":                         {proto: transport.Uplink, refusal: transport.NoCertificate},
		"nobody, at raft":                               {proto: transport.Raft, refusal: transport.NoCertificate},
		"nobody, where boxes join":                      {proto: transport.Join},
		"a version that is not spoken":                  stranger,
		"the certificate of an https listener":          site,
		"nobody, where boxes behind a proxy join":       {proto: transport.Relay, anything: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := p.knock(ctx, c.peerAddr)
			t.Logf("%v", err)
			switch broken, ok := errors.AsType[*quic.TransportError](err); {
			case p.anything:
				if err == nil {
					t.Error("it was let in")
				}
			case p.refusal == 0:
				if err != nil {
					t.Errorf("it was refused: %v", err)
				}
			case p.refusal == transport.NoCertificate && ok && broken.ErrorCode == quicAlerts+certificateRequired:
			case !ok || !broken.Remote || broken.ErrorCode != quic.TransportErrorCode(quicAlerts+refusalAlerts+int(p.refusal)):
				t.Errorf("it met %v, want to be refused because %v", err, p.refusal)
			}
		})
	}
}
