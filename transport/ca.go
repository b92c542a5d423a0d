package transport

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/atrest"
)

// CA is the certificate authority of one cluster. The founding member makes it, or takes one that an operator brings
// (ParseCA). One that is made here never expires; its key and those of nodes are ed25519: small, and no randomness is
// needed to sign, which a device just out of its box may not have. A CA is immutable and safe for concurrent use.
type CA struct {
	cluster string
	cert    *x509.Certificate
	key     crypto.Signer
}

// Grant is what a certificate is issued for.
type Grant struct {
	Node  string        // node id
	Role  Role          //
	Scope []string      // key prefixes, for a proxy; see PeerInfo.Scope
	Life  time.Duration // from the judged time of issuing; required
}

const caFile = "ca.pem"

// Certificates start at the epoch. A start says nothing here, and one in the past of the issuer is in the future of a
// box without a clock.
var (
	certStart = time.Unix(0, 0).UTC()
	certNever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // RFC 5280 section 4.1.2.5: no end
)

// NewCA makes the CA of a cluster.
func NewCA(cluster string) (*CA, error) {
	if err := checkClusterID(cluster); err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "Holdfast cluster " + cluster},
		URIs:                  []*url.URL{{Scheme: "holdfast", Host: cluster, Path: "/ca"}},
		NotBefore:             certStart,
		NotAfter:              certNever,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}

// Cluster is the id of the CA's cluster.
func (ca *CA) Cluster() string { return ca.cluster }

// Certificate is the CA's own certificate, in DER. Every node keeps it.
func (ca *CA) Certificate() []byte { return ca.cert.Raw }

// Hash is what a join token pins the CA by: SHA-256 of its public key (SPKI), in hexadecimal.
func (ca *CA) Hash() string { return caHash(ca.cert) }

func caHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Issue signs a certificate for a public key, ed25519 or P-256, and returns it in DER. now is the judged time. The
// caller has decided that the node may have it and, if the key came over a wire, that its holder asked (see IssueCSR).
func (ca *CA) Issue(pub crypto.PublicKey, g Grant, now time.Time) ([]byte, error) {
	info := PeerInfo{Node: g.Node, Cluster: ca.cluster, Role: g.Role, Scope: g.Scope}
	if err := info.check(); err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	if g.Life <= 0 {
		return nil, fmt.Errorf("issue a certificate for node %s: life %v: want more than zero", g.Node, g.Life)
	}
	switch k := pub.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("issue a certificate for node %s: curve %s: want P-256", g.Node, k.Curve.Params().Name)
		}
	default:
		return nil, fmt.Errorf("issue a certificate for node %s: key of type %T: want ed25519 or P-256", g.Node, pub)
	}
	end := now.Add(g.Life)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	if now.After(end) {
		return nil, fmt.Errorf("issue a certificate for node %s: the CA itself ended at %s: replace it (agent cert rotate)", g.Node, rfc3339(end))
	}
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: g.Node},
		URIs:                  []*url.URL{info.uri()},
		NotBefore:             certStart,
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for node %s: %w", g.Node, err)
	}
	return der, nil
}

// IssueCSR is Issue for the key of a certificate request in DER (Identity.Request), whose signature proves that the
// asker holds the key. Nothing but the key is taken from the request.
func (ca *CA) IssueCSR(der []byte, g Grant, now time.Time) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate request of node %s: %w", clip(g.Node), err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check the certificate request of node %s: %w", clip(g.Node), err)
	}
	return ca.Issue(csr.PublicKey, g, now)
}

// Bridge is a certificate for the key of another CA, signed by this one; see Trust.
func (ca *CA) Bridge(to []byte) ([]byte, error) {
	next, err := x509.ParseCertificate(to)
	if err != nil {
		return nil, fmt.Errorf("make a bridge between CAs: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               next.Subject,
		NotBefore:             certStart,
		NotAfter:              ca.cert.NotAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, next.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("make a bridge between CAs: %w", err)
	}
	return der, nil
}

// Marshal is the CA with its private key as PEM, for ParseCA.
func (ca *CA) Marshal() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, fmt.Errorf("save the CA: %w", err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: key})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: ca.cert.Raw})...), nil
}

// ParseCA reads one key and one certificate in PEM: what Marshal wrote, or a CA that an operator brings for the cluster of
// that id. Such a CA may sign for others too: its certificates name the cluster.
func ParseCA(data []byte, cluster string) (*CA, error) {
	if err := checkClusterID(cluster); err != nil {
		return nil, err
	}
	b, err := parsePEM(data)
	if err != nil {
		return nil, err
	}
	if b.key == nil || len(b.certs) != 1 {
		return nil, fmt.Errorf("want one key and one certificate, found %d certificates and %s", len(b.certs), howMany(b.key))
	}
	cert := b.certs[0]
	switch k := b.key.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("key on curve %s: want ed25519 or P-256, which every node can check", k.Curve.Params().Name)
		}
	default:
		return nil, fmt.Errorf("key of type %T: want ed25519 or P-256, which are small enough for a handshake", k)
	}
	pub, ok := b.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(cert.PublicKey) {
		return nil, errors.New("key and certificate do not belong together")
	}
	if !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("the certificate is not that of a CA (basicConstraints CA:TRUE, keyUsage keyCertSign)")
	}
	if named, err := caCluster(cert); err == nil {
		cluster = named
	}
	return &CA{cluster: cluster, cert: cert, key: b.key}, nil
}

func howMany(key crypto.Signer) string {
	if key == nil {
		return "no key"
	}
	return "a key"
}

// Ends is when the CA's own certificate does.
func (ca *CA) Ends() time.Time { return ca.cert.NotAfter }

// CAInfo is the hash that tokens pin a CA by, and the end of its certificate.
func CAInfo(der []byte) (hash string, ends time.Time, err error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("read a CA certificate: %w", err)
	}
	return caHash(c), c.NotAfter, nil
}

// Save writes the CA with its private key to dir/ca.pem, mode 0600, and returns once it is on disk. A nil seal leaves it open.
func (ca *CA) Save(dir string, seal *atrest.Seal) error {
	out, err := ca.Marshal()
	if err != nil {
		return err
	}
	return writeSecret(dir, caFile, out, seal, nil)
}

// RemoveCA removes what Save wrote, once the key is kept elsewhere. It may be gone already.
func RemoveCA(dir string) error {
	if err := os.Remove(filepath.Join(dir, caFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the CA's key: %w", err)
	}
	return syncDir(dir)
}

// LoadCA reads what Save wrote for a cluster. Absent is fs.ErrNotExist: this node does not hold the CA there.
func LoadCA(dir, cluster string, seal *atrest.Seal) (*CA, error) {
	data, err := readSecret(dir, caFile, seal)
	if err != nil {
		return nil, fmt.Errorf("load the CA: %w", err)
	}
	ca, err := ParseCA(data, cluster)
	if err != nil {
		return nil, fmt.Errorf("load the CA from %s/%s: %w", dir, caFile, err)
	}
	return ca, nil
}

// caCluster is the cluster that a CA certificate names in its SAN URI, holdfast://<cluster id>/ca.
func caCluster(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "holdfast" || cert.URIs[0].Path != "/ca" {
		return "", errors.New("not the CA certificate of a Holdfast cluster")
	}
	cluster := cert.URIs[0].Host
	return cluster, checkClusterID(cluster)
}

func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[0] &= 0x7f // positive, RFC 5280 section 4.1.2.2
	b[0] |= 0x40 // and never short
	return new(big.Int).SetBytes(b[:])
}
