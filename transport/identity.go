package transport

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strconv"

	"holdfast/internal/atrest"
)

// Identity is who this node is: its id, its key, a secret of its own, and, once it has joined, its certificate and the
// cluster's CA. It survives every mode switch. An Identity is immutable and safe for concurrent use; a renewed
// certificate makes a new one.
type Identity struct {
	node   string
	key    ed25519.PrivateKey
	secret [32]byte // random; what must survive a restart is derived from it

	cert, ca *x509.Certificate   // both nil before joining; ca has issued cert
	info     PeerInfo            // of cert
	roots    []*x509.Certificate // what peers are judged by; see Trust
	bridges  []*x509.Certificate
	times    times
}

const identityFile = "node.pem"

// PEM block types of identity and CA files. The node block holds id and secret: 16 and 32 bytes.
const (
	pemKey   = "PRIVATE KEY" // PKCS #8
	pemECKey = "EC PRIVATE KEY"
	pemCert  = "CERTIFICATE"
	pemNode  = "HOLDFAST NODE"
)

// NewIdentity draws a node id, a key and a secret. The identity can join a cluster and nothing else until
// WithCertificate.
func NewIdentity() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	id := &Identity{node: NewNodeID(), key: key}
	_, _ = rand.Read(id.secret[:])
	return id, nil
}

// Node is the node id.
func (id *Identity) Node() string { return id.node }

// Joined reports whether the identity has a certificate.
func (id *Identity) Joined() bool { return id.cert != nil }

// Info is what the identity's certificate proves; before joining it has the node id only.
func (id *Identity) Info() PeerInfo {
	if id.cert == nil {
		return PeerInfo{Node: id.node}
	}
	return id.info.clone()
}

// CAHash is the hash that join tokens pin the CA of the certificate by; empty before joining.
func (id *Identity) CAHash() string {
	if id.ca == nil {
		return ""
	}
	return caHash(id.ca)
}

// CACertificate is the CA of the certificate in DER; nil before joining.
func (id *Identity) CACertificate() []byte {
	if id.ca == nil {
		return nil
	}
	return id.ca.Raw
}

// PublicKey is what a certificate for this identity is issued for, by a member that holds the CA itself.
func (id *Identity) PublicKey() ed25519.PublicKey { return id.key.Public().(ed25519.PublicKey) }

// Request is a certificate request in DER, for CA.IssueCSR. It proves that this node holds its key.
func (id *Identity) Request() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, id.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return der, nil
}

// WithCertificate is id with a certificate and the CA that issued it, both in DER. It refuses a certificate for another
// key or node, or of another CA. It does not judge the time: a peer does.
func (id *Identity) WithCertificate(cert, ca []byte) (*Identity, error) {
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("take a certificate: %w", err)
	}
	root, err := x509.ParseCertificate(ca)
	if err != nil {
		return nil, fmt.Errorf("take a CA certificate: %w", err)
	}
	return id.with(leaf, root)
}

func (id *Identity) with(leaf, root *x509.Certificate) (*Identity, error) {
	info, err := peerInfo(leaf)
	if err != nil {
		return nil, fmt.Errorf("take a certificate: %w", err)
	}
	if info.Node != id.node {
		return nil, fmt.Errorf("take a certificate: it is for node %s, this is node %s", info.Node, id.node)
	}
	if !id.PublicKey().Equal(leaf.PublicKey) {
		return nil, errors.New("take a certificate: it is for another key")
	}
	if err := leaf.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("take a certificate: not issued by the CA %s: %w", caHash(root), err)
	}
	n := *id
	n.cert, n.ca, n.info, n.times = leaf, root, info, times{}
	n.roots, n.bridges = []*x509.Certificate{root}, nil
	return &n, nil
}

// Save writes the identity to dir/node.pem, mode 0600, in one step, and returns once it is on disk. A nil seal leaves it open.
func (id *Identity) Save(dir string, seal *atrest.Seal) error {
	key, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	raw, err := hex.DecodeString(id.node)
	if err != nil {
		return fmt.Errorf("save the identity: node id: %w", err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: key})
	out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemNode, Bytes: append(raw, id.secret[:]...)})...)
	if id.cert != nil {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: id.cert.Raw})...)
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: id.ca.Raw})...)
		out = id.appendTrust(out)
	}
	labels := map[string]string{labelNode: id.node, labelJoined: strconv.FormatBool(id.Joined())}
	if err := writeSecret(dir, identityFile, out, seal, labels); err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	return nil
}

// The labels of a sealed identity.
const (
	labelNode   = "Node"
	labelJoined = "Joined"
)

// Sealed is what a sealed identity shows to those who do not have its secret. It proves nothing.
type Sealed struct {
	Node   string
	Joined bool
}

// LookAtSealed is for a dir whose identity is sealed; nil for one that is not, or that has none.
func LookAtSealed(dir string) (*Sealed, error) {
	data, err := readPrivate(dir, identityFile)
	if errors.Is(err, os.ErrNotExist) || err == nil && !atrest.IsSealed(data) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at the identity: %w", err)
	}
	l := atrest.Labels(data)
	if _, err := hex.DecodeString(l[labelNode]); err != nil || len(l[labelNode]) != 32 {
		return nil, fmt.Errorf("look at the identity: %s/%s does not say whose it is: restore the file from a backup", dir, identityFile)
	}
	return &Sealed{Node: l[labelNode], Joined: l[labelJoined] == strconv.FormatBool(true)}, nil
}

// LoadIdentity reads what Save wrote, sealed with that seal or not at all. Absent is os.ErrNotExist: this node has no identity
// yet. One that does not open is atrest.ErrNoSeal or atrest.ErrWrongSeal.
func LoadIdentity(dir string, seal *atrest.Seal) (*Identity, error) {
	data, err := readSecret(dir, identityFile, seal)
	if errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("load the identity: %w", err)
	}
	id, err := parseIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("load the identity from %s/%s: %w (restore the file from a backup, or move it away and join again as a new node)",
			dir, identityFile, err)
	}
	return id, nil
}

func parseIdentity(data []byte) (*Identity, error) {
	b, err := parsePEM(data)
	if err != nil {
		return nil, err
	}
	key, ok := b.key.(ed25519.PrivateKey)
	if !ok || len(b.node) != 16+32 || (len(b.certs) != 0 && len(b.certs) != 2) {
		return nil, fmt.Errorf("want an ed25519 key, a node block of 48 bytes and no or two certificates, found a %T, %d bytes and %d certificates",
			b.key, len(b.node), len(b.certs))
	}
	id := &Identity{node: hex.EncodeToString(b.node[:16]), key: key, secret: [32]byte(b.node[16:])}
	if len(b.certs) == 0 {
		return id, nil
	}
	if id, err = id.with(b.certs[0], b.certs[1]); err != nil {
		return nil, err
	}
	id.times = b.times
	if len(b.roots) > 0 {
		id.roots, id.bridges = b.roots, b.bridges
	}
	return id, nil
}

// blocks is what identity and CA files are made of, each kind optional.
type blocks struct {
	key            crypto.Signer
	certs          []*x509.Certificate
	node           []byte
	roots, bridges []*x509.Certificate
	times          times
}

func parsePEM(data []byte) (b blocks, err error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			if len(bytes.TrimSpace(data)) > 0 {
				return b, fmt.Errorf("%d bytes that are no whole PEM block: the file was cut short or edited", len(data))
			}
			return b, nil
		}
		if err := b.add(block); err != nil {
			return b, err
		}
		data = rest
	}
}

func (b *blocks) add(block *pem.Block) (err error) {
	switch block.Type {
	case pemKey, pemECKey:
		if b.key != nil {
			return errors.New("more than one key")
		}
		b.key, err = parseKey(block)
	case pemCert:
		b.certs, err = addCert(b.certs, block)
	case pemRoot:
		b.roots, err = addCert(b.roots, block)
	case pemBridge:
		b.bridges, err = addCert(b.bridges, block)
	case pemNode:
		b.node = block.Bytes
	case pemTimes:
		b.times, err = parseTimes(block.Bytes)
	default:
		return fmt.Errorf("unknown block %q: if a newer version wrote it, run that version or a newer one", clip(block.Type))
	}
	return err
}

func addCert(all []*x509.Certificate, block *pem.Block) ([]*x509.Certificate, error) {
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return all, err
	}
	return append(all, c), nil
}

// parseKey reads a private key: PKCS #8, or the form that openssl ecparam writes.
func parseKey(block *pem.Block) (crypto.Signer, error) {
	var k any
	var err error
	if block.Type == pemECKey {
		k, err = x509.ParseECPrivateKey(block.Bytes)
	} else {
		k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, err
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", k)
	}
	return s, nil
}

// derive makes a key that is the same after a restart, one per purpose.
func (id *Identity) derive(purpose string) [32]byte {
	mac := hmac.New(sha256.New, id.secret[:])
	mac.Write([]byte(purpose))
	return [32]byte(mac.Sum(nil))
}

// tlsCertificate is what is shown to peers: the certificate, bridges to its CA while there are any, and with withCA the
// CAs too, for a peer that knows one by its hash only.
func (id *Identity) tlsCertificate(withCA bool) tls.Certificate {
	chain := [][]byte{id.cert.Raw}
	for _, b := range id.bridges {
		if bytes.Equal(b.RawSubjectPublicKeyInfo, id.ca.RawSubjectPublicKeyInfo) {
			chain = append(chain, b.Raw)
		}
	}
	if withCA {
		chain = append(chain, id.ca.Raw)
		for _, r := range id.roots {
			if !r.Equal(id.ca) {
				chain = append(chain, r.Raw)
			}
		}
	}
	return tls.Certificate{Certificate: chain, PrivateKey: id.key, Leaf: id.cert}
}
