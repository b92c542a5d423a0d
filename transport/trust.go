package transport

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Trust is the CAs that a cluster goes by, in DER. There are two while one takes the other's place.
type Trust struct {
	Roots [][]byte `json:"roots"` // by whose certificates nodes are proven
	// Bridges are certificates of a new CA signed by the one before it. A node that knows only the old one takes a peer
	// whose certificate is of the new one, if it shows the bridge.
	Bridges [][]byte `json:"bridges,omitempty"`
}

// maxTrust bounds roots and bridges: one CA replaces one other at a time, and each must fit a handshake.
const maxTrust = 4

// Equal reports whether t and u are the same, in the same order.
func (t Trust) Equal(u Trust) bool {
	return slices.EqualFunc(t.Roots, u.Roots, bytes.Equal) && slices.EqualFunc(t.Bridges, u.Bridges, bytes.Equal)
}

// Trust is what the identity goes by: after WithCertificate, until WithTrust, the CA that issued its certificate.
func (id *Identity) Trust() Trust { return Trust{Roots: raw(id.roots), Bridges: raw(id.bridges)} }

func raw(certs []*x509.Certificate) [][]byte {
	var all [][]byte
	for _, c := range certs {
		all = append(all, c.Raw)
	}
	return all
}

// WithTrust is id that goes by t from now on. Its own certificate stays, even if t has no place for its CA any more.
func (id *Identity) WithTrust(t Trust) (*Identity, error) {
	roots, err := parseCAs(t.Roots)
	if err != nil {
		return nil, fmt.Errorf("take the cluster's CAs: %w", err)
	}
	bridges, err := parseCAs(t.Bridges)
	if err != nil {
		return nil, fmt.Errorf("take the cluster's bridges between CAs: %w", err)
	}
	if len(roots) == 0 {
		return nil, errors.New("take the cluster's CAs: there are none")
	}
	n := *id
	n.roots, n.bridges = roots, bridges
	return &n, nil
}

func parseCAs(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) > maxTrust {
		return nil, fmt.Errorf("%d certificates: at most %d", len(ders), maxTrust)
	}
	var all []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		if !c.IsCA {
			return nil, fmt.Errorf("%s: not the certificate of a CA", subject(c))
		}
		all = append(all, c)
	}
	return all, nil
}

// Times of a certificate that it does not say itself.
type times struct {
	issued    time.Time // zero: not known, the certificate is of a version that did not keep it
	confirmed time.Time // the newest time that the cluster has told
}

// WithTimes is id that knows when its certificate was issued and the newest time that the cluster has told. Both are
// saved along.
func (id *Identity) WithTimes(issued, confirmed time.Time) *Identity {
	n := *id
	n.times = times{issued, confirmed}
	return &n
}

// Issued is when the certificate was issued, zero if that was not kept.
func (id *Identity) Issued() time.Time { return id.times.issued }

// Confirmed is the newest time that the cluster has told this identity, zero if none: its clock cannot be before that.
func (id *Identity) Confirmed() time.Time { return id.times.confirmed }

// PEM block types beside those that every identity has.
const (
	pemRoot   = "HOLDFAST TRUSTED CA"
	pemBridge = "HOLDFAST BRIDGE"
	pemTimes  = "HOLDFAST TIMES" // 16 bytes: issued, confirmed, in seconds since 1970
)

// appendTrust appends to an identity file what WithTrust and WithTimes have brought.
func (id *Identity) appendTrust(out []byte) []byte {
	for _, c := range id.roots {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemRoot, Bytes: c.Raw})...)
	}
	for _, c := range id.bridges {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemBridge, Bytes: c.Raw})...)
	}
	b := binary.BigEndian.AppendUint64(nil, seconds(id.times.issued))
	b = binary.BigEndian.AppendUint64(b, seconds(id.times.confirmed))
	return append(out, pem.EncodeToMemory(&pem.Block{Type: pemTimes, Bytes: b})...)
}

func seconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(t.Unix(), 0))
}

func parseTimes(b []byte) (t times, err error) {
	if len(b) != 16 {
		return t, fmt.Errorf("%s of %d bytes: want 16", pemTimes, len(b))
	}
	for i, at := range []*time.Time{&t.issued, &t.confirmed} {
		if n := binary.BigEndian.Uint64(b[8*i:]); n > 0 && n < 1<<40 {
			*at = time.Unix(int64(n), 0).UTC() //nolint:gosec // bounded
		}
	}
	return t, nil
}

// path finds the root that proves leaf: the one that signed it, or one that signed a bridge to the CA that did. It is nil
// if there is none. Once a root is no longer trusted, neither are bridges from it.
func path(leaf *x509.Certificate, shown, roots []*x509.Certificate) *x509.Certificate {
	for _, r := range roots {
		if leaf.CheckSignatureFrom(r) == nil {
			return r
		}
	}
	for _, b := range shown[:min(len(shown), 2*maxTrust)] {
		if !b.IsCA || leaf.CheckSignatureFrom(b) != nil {
			continue
		}
		for _, r := range roots {
			if b.CheckSignatureFrom(r) == nil {
				return r
			}
		}
	}
	return nil
}

// Prove reads a node's certificate, whatever its time, and says whom it proves if one of the roots of t has signed it.
// The certificate is for VerifyProof.
func Prove(der []byte, t Trust) (PeerInfo, *x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return PeerInfo{}, nil, fmt.Errorf("read the certificate of a node: %w", err)
	}
	roots, err := parseCAs(t.Roots)
	if err != nil {
		return PeerInfo{}, nil, err
	}
	if leaf.IsCA || path(leaf, nil, roots) == nil {
		return PeerInfo{}, nil, &RefusedError{Why: UnknownCA, Detail: subject(leaf)}
	}
	info, err := peerInfo(leaf)
	if err != nil {
		return PeerInfo{}, nil, &RefusedError{Why: Malformed, Detail: err.Error()}
	}
	return info, leaf, nil
}

const proofContext = "holdfast: this node holds its key\x00"

// ProveKey signs what binds a connection (Stream.Binding): it shows the other end that this node holds the key of its
// certificate, over that connection and no other.
func (id *Identity) ProveKey(binding []byte) []byte {
	return ed25519.Sign(id.key, append([]byte(proofContext), binding...))
}

// VerifyProof reports whether a proof was made by the holder of a certificate's key for a connection.
func VerifyProof(cert *x509.Certificate, binding, proof []byte) bool {
	if len(binding) == 0 || cert.PublicKeyAlgorithm != x509.Ed25519 {
		return false
	}
	return cert.CheckSignature(x509.PureEd25519, append([]byte(proofContext), binding...), proof) == nil
}

// Certificate is the node's own certificate in DER, nil before joining.
func (id *Identity) Certificate() []byte {
	if id.cert == nil {
		return nil
	}
	return id.cert.Raw
}

// sealInfo binds a sealed secret to its use.
var sealInfo = []byte("holdfast sealed CA key 1")

// SealingKey is what others seal secrets for this node with (SealTo). It outlives certificates, as the identity does.
func (id *Identity) SealingKey() ([]byte, error) {
	k, err := id.openingKey()
	if err != nil {
		return nil, err
	}
	return k.PublicKey().Bytes(), nil
}

func (id *Identity) openingKey() (*ecdh.PrivateKey, error) {
	seed := id.derive("sealing")
	k, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		return nil, fmt.Errorf("derive the key for sealed secrets: %w", err)
	}
	return k, nil
}

// SealTo seals a secret so that only the node of that sealing key can open it: HPKE (RFC 9180) with X25519,
// HKDF-SHA256 and AES-128-GCM.
func SealTo(sealingKey, secret []byte) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(sealingKey)
	if err != nil {
		return nil, fmt.Errorf("seal a secret: %w", err)
	}
	to, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("seal a secret: %w", err)
	}
	return hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES128GCM(), sealInfo, secret)
}

// OpenSealed opens what SealTo has sealed for this node.
func (id *Identity) OpenSealed(box []byte) ([]byte, error) {
	key, err := id.openingKey()
	if err != nil {
		return nil, err
	}
	k, err := hpke.NewDHKEMPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("open a sealed secret: %w", err)
	}
	secret, err := hpke.Open(k, hpke.HKDFSHA256(), hpke.AES128GCM(), sealInfo, box)
	if err != nil {
		return nil, fmt.Errorf("open a sealed secret: it is not for this node, or damaged: %w", err)
	}
	return secret, nil
}
