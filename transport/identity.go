package transport

import (
	"bytes"
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
)

// Identity is who this node is: its id, its key, a secret of its own, and, once it has joined, its certificate and the
// cluster's CA. It survives every mode switch. An Identity is immutable and safe for concurrent use; a renewed
// certificate makes a new one.
type Identity struct {
	node   string
	key    ed25519.PrivateKey
	secret [32]byte // random; what must survive a restart is derived from it

	cert, ca *x509.Certificate // both nil before joining
	info     PeerInfo          // of cert
}

const identityFile = "node.pem"

// PEM block types of identity and CA files. The node block holds id and secret: 16 and 32 bytes.
const (
	pemKey  = "PRIVATE KEY" // PKCS #8
	pemCert = "CERTIFICATE"
	pemNode = "HOLDFAST NODE"
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

// CAHash is the hash that join tokens pin the cluster's CA by; empty before joining.
func (id *Identity) CAHash() string {
	if id.ca == nil {
		return ""
	}
	return caHash(id.ca)
}

// CACertificate is the cluster's CA in DER; nil before joining.
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
	n.cert, n.ca, n.info = leaf, root, info
	return &n, nil
}

// Save writes the identity to dir/node.pem, mode 0600, in one step, and returns once it is on disk.
func (id *Identity) Save(dir string) error {
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
	}
	if err := writeFile(dir, identityFile, out); err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	return nil
}

// LoadIdentity reads what Save wrote. Absent is os.ErrNotExist: this node has no identity yet.
func LoadIdentity(dir string) (*Identity, error) {
	data, err := readSecret(dir, identityFile)
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
	key, certs, node, err := parsePEM(data)
	if err != nil {
		return nil, err
	}
	if key == nil || len(node) != 16+32 || (len(certs) != 0 && len(certs) != 2) {
		return nil, fmt.Errorf("want a key, a node block of 48 bytes and no or two certificates, found %d bytes and %d certificates",
			len(node), len(certs))
	}
	id := &Identity{node: hex.EncodeToString(node[:16]), key: key, secret: [32]byte(node[16:])}
	if len(certs) == 0 {
		return id, nil
	}
	return id.with(certs[0], certs[1])
}

// parsePEM reads the blocks that identity and CA files are made of, each kind optional.
func parsePEM(data []byte) (key ed25519.PrivateKey, certs []*x509.Certificate, node []byte, err error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			if len(bytes.TrimSpace(data)) > 0 {
				return nil, nil, nil, fmt.Errorf("%d bytes that are no whole PEM block: the file was cut short or edited", len(data))
			}
			return key, certs, node, nil
		}
		switch block.Type {
		case pemKey:
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, nil, err
			}
			ed, ok := k.(ed25519.PrivateKey)
			if !ok || key != nil {
				return nil, nil, nil, fmt.Errorf("key of type %T: want one ed25519 key", k)
			}
			key = ed
		case pemCert:
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, nil, err
			}
			certs = append(certs, c)
		case pemNode:
			node = block.Bytes
		default:
			return nil, nil, nil, fmt.Errorf("unknown block %q", clip(block.Type))
		}
		data = rest
	}
}

// derive makes a key that is the same after a restart, one per purpose.
func (id *Identity) derive(purpose string) [32]byte {
	mac := hmac.New(sha256.New, id.secret[:])
	mac.Write([]byte(purpose))
	return [32]byte(mac.Sum(nil))
}

// tlsCertificate is what is shown to peers. With withCA the CA goes along, for a peer that knows its hash only.
func (id *Identity) tlsCertificate(withCA bool) tls.Certificate {
	chain := [][]byte{id.cert.Raw}
	if withCA {
		chain = append(chain, id.ca.Raw)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: id.key, Leaf: id.cert}
}
