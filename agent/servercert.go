package agent

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
	"fmt"
	"io/fs"
	mrand "math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/enroll"
	"holdfast/internal/servertls"
	"holdfast/transport"
)

// serverCert is the certificate of tls.auto: from the cluster's CA, for the names and addresses of this machine. A member
// that holds the CA's key makes it itself, any other node asks one. It is kept in the data dir, so that a box which
// starts without its cluster serves all the same.
type serverCert struct {
	a       *Agent
	present atomic.Pointer[tls.Certificate]
	names   []string // that the present one is for, or that were asked for: a member may leave some out
}

// serverFile has key and certificate, in PEM, in the folder of the identity.
const serverFile = "server.pem"

// The pauses of a serverCert.
const (
	serverLook  = time.Minute // how often names, life and CA are looked at
	serverFirst = time.Second
	serverMax   = 5 * time.Minute
)

func newServerCert(a *Agent) *serverCert { return &serverCert{a: a} }

// get is for tls.Config.GetCertificate.
func (s *serverCert) get() (*tls.Certificate, error) {
	if c := s.present.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("this node has no certificate for https yet: the cluster's CA has not issued one")
}

// run keeps the certificate until ctx ends.
func (s *serverCert) run(ctx context.Context) {
	if err := s.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.a.opts.Log.Warn("the certificate of https in the data dir is of no use, another one is got", "err", err)
	}
	pause := serverFirst
	for {
		wait := serverLook
		if why := s.due(); why != "" {
			if err := s.issue(ctx, why); err != nil && ctx.Err() == nil {
				level := s.a.opts.Log.Debug
				if pause > 10*serverFirst { // at the start the store has to open and the cluster to have its CA
					level = s.a.opts.Log.Warn
				}
				level("no certificate for https from the cluster's CA yet", "because", why, "err", err, "again_in", pause.String())
				wait = pause/2 + mrand.N(pause/2)
				pause = min(2*pause, serverMax)
			} else {
				pause = serverFirst
			}
		}
		if !pauseFor(ctx, wait) {
			return
		}
	}
}

// due says why another certificate is needed; empty: it is not.
func (s *serverCert) due() string {
	c := s.present.Load()
	id := s.a.net.identity.Load()
	if c == nil {
		return "there is none"
	}
	left := c.Leaf.NotAfter.Sub(s.a.judgedTime())
	switch {
	case left < enroll.CertificateLife/3:
		return "it is due for renewal"
	case id.Joined() && !issuedBy(id, c.Leaf):
		return "the cluster has another CA"
	case !covers(s.names, s.wanted()):
		return "this machine has another name or address"
	}
	return ""
}

// issuedBy reports whether the CA that issues now has signed a certificate.
func issuedBy(id *transport.Identity, leaf *x509.Certificate) bool {
	roots := id.Trust().Roots
	if len(roots) == 0 {
		return true
	}
	first, err := x509.ParseCertificate(roots[0])
	return err != nil || leaf.CheckSignatureFrom(first) == nil
}

func covers(have, want []string) bool {
	return !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(have, w) })
}

// wanted is the names and addresses by which clients reach this machine.
func (s *serverCert) wanted() []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	add := func(more ...string) {
		for _, n := range more {
			n = strings.ToLower(n)
			if n != "" && !slices.Contains(names, n) && len(names) < transport.NamesMax {
				names = append(names, n)
			}
		}
	}
	add(s.a.ownNames()...)
	for _, at := range s.a.peerAddresses() {
		if host, _, err := net.SplitHostPort(at); err == nil && (net.ParseIP(host) == nil && isHostName(host) || net.ParseIP(host) != nil && !net.ParseIP(host).IsUnspecified()) {
			add(host)
		}
	}
	for _, ip := range ownAddresses() {
		add(ip.WithZone("").String())
	}
	return names
}

// ownNames are those by which clients know this machine, as far as it can tell: tls.names, the host's and the node's.
func (a *Agent) ownNames() []string {
	names := slices.Clone(a.cfg.TLS.Names)
	if host, err := os.Hostname(); err == nil && isHostName(host) {
		names = append(names, host)
	}
	if isHostName(a.cfg.Name) {
		names = append(names, a.cfg.Name)
	}
	return names
}

// isHostName reports whether a label may stand in a certificate.
func isHostName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	})
}

// issue gets another certificate and takes it over, once it is on disk.
func (s *serverCert) issue(ctx context.Context, why string) error {
	id := s.a.net.identity.Load()
	if !id.Joined() {
		return errors.New("this node has not joined a cluster yet")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // clients know P-256, some do not know ed25519
	if err != nil {
		return fmt.Errorf("make a key for https: %w", err)
	}
	csr, err := transport.ServerRequest(key)
	if err != nil {
		return err
	}
	names := s.wanted()
	der, err := s.sign(ctx, id, csr, names)
	if err != nil {
		return err
	}
	chain, err := id.Trust().ServerChain(der)
	if err != nil {
		return err
	}
	if err := s.save(key, chain); err != nil {
		return storageError(err)
	}
	if err := s.take(key, chain); err != nil {
		return err
	}
	s.names = names
	s.a.opts.Log.Info("certificate for https from the cluster's CA", "because", why, "names", s.present.Load().Leaf.DNSNames, "addresses", s.present.Load().Leaf.IPAddresses, "until", s.present.Load().Leaf.NotAfter)
	return nil
}

// sign has a member sign: this one, if it holds the key.
func (s *serverCert) sign(ctx context.Context, id *transport.Identity, csr []byte, names []string) ([]byte, error) {
	if r := s.a.roll.Load(); r != nil { // without the CA's key it waits until it is sealed to it
		return r.auth.IssueServer(csr, id.Node(), names, enroll.CertificateLife, r.auth.Time())
	}
	ends, err := s.a.endpoints()
	if err != nil {
		return nil, err
	}
	return enroll.RequestServer(ctx, s.a.net.ep, ends, id, csr, names)
}

// take brings a certificate into force.
func (s *serverCert) take(key crypto.Signer, chain [][]byte) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(leaf.PublicKey) {
		return errors.New("key and certificate do not belong together")
	}
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	s.names = names
	s.present.Store(&tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf})
	return nil
}

func (s *serverCert) path() string { return s.a.dir.join(identityName, serverFile) }

func (s *serverCert) save(key *ecdsa.PrivateKey, chain [][]byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for _, c := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	if out, err = s.a.dir.seal.Close(serverFile, out, nil); err != nil {
		return err
	}
	return writeFile(s.path(), out)
}

func (s *serverCert) load() error {
	if err := servertls.Private(s.path()); err != nil {
		return err
	}
	text, err := os.ReadFile(s.path())
	if err != nil {
		return err
	}
	if text, err = s.a.dir.seal.Open(serverFile, text); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("a key that cannot sign")
	}
	return s.take(key, pair.Certificate)
}
