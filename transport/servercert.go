package transport

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"time"
)

// NamesMax is how many host names and addresses a server's certificate is for, at most.
const NamesMax = 64

// IssueServer signs a certificate by which clients know the https listeners of a node: for host names and IP addresses,
// and for the key of a certificate request in DER, of which nothing else is taken. It names the node for people, and
// proves none: other nodes refuse it as malformed.
func (ca *CA) IssueServer(csr []byte, node string, names []string, life time.Duration, now time.Time) ([]byte, error) {
	if len(names) == 0 || len(names) > NamesMax {
		return nil, fmt.Errorf("issue a server's certificate: %d names: want from one to %d", len(names), NamesMax)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("read the request for a server's certificate: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check the request for a server's certificate: %w", err)
	}
	end := now.Add(life)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	if now.After(end) {
		return nil, fmt.Errorf("issue a server's certificate: the CA itself ended at %s: replace it (agent cert rotate)", rfc3339(end))
	}
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "Holdfast server of " + node},
		NotBefore:             certStart,
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, req.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue a server's certificate: %w", err)
	}
	return der, nil
}

// ServerRequest is the request for IssueServer, for a key that this node has made.
func ServerRequest(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a request for a server's certificate: %w", err)
	}
	return der, nil
}

// ServerChain is a server's certificate with what proves it to clients that know an older CA of the cluster; it is an
// error if none of the CAs of t has issued it.
func (t Trust) ServerChain(der []byte) ([][]byte, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read a server's certificate: %w", err)
	}
	roots, err := parseCAs(t.Roots)
	if err != nil {
		return nil, err
	}
	if path(leaf, nil, roots) == nil {
		return nil, errors.New("the server's certificate is of none of the cluster's CAs")
	}
	chain := [][]byte{der}
	bridges, err := parseCAs(t.Bridges)
	if err != nil {
		return nil, err
	}
	for _, b := range bridges {
		if leaf.CheckSignatureFrom(b) == nil {
			chain = append(chain, b.Raw)
		}
	}
	return chain, nil
}
