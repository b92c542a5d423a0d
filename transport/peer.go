package transport

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Limits on what a certificate may name. They keep a certificate within two packets of a handshake.
const (
	MaxScope      = 64   // prefixes in one certificate
	MaxScopeBytes = 1024 // sum of their escaped lengths
	maxClusterLen = 63   // a label of a host name
)

// Role is what a certificate entitles its node to be.
type Role string

// The roles. A connection without a certificate (Join only) has the role None.
const (
	None   Role = ""
	Member Role = "member" // a raft replica
	Proxy  Role = "proxy"  // a caching, forwarding node
)

// PeerInfo is what a certificate proves about a node.
//
// In the certificate it is the one SAN URI of scheme holdfast, readable with any tool:
//
//	holdfast://<cluster id>/<role>/<node id>?scope=<prefix>&scope=<prefix>
//
// where each prefix is escaped as in a URL query.
type PeerInfo struct {
	Node     string    // 128 bits as 32 lower-case hexadecimal digits
	Cluster  string    // id of the cluster: up to 63 of 0-9, a-z and dash
	Role     Role      //
	Scope    []string  // key prefixes a proxy may touch; none: nothing, the empty prefix: everything. Members have none
	Key      string    // SHA-256 of its public key (SPKI), in hexadecimal
	Serial   string    // of the certificate, in hexadecimal
	NotAfter time.Time // end of the certificate
}

// Anonymous reports whether the peer showed no certificate, as a node that joins does.
func (p PeerInfo) Anonymous() bool { return p.Node == "" }

// String names the peer in logs: role and node id.
func (p PeerInfo) String() string {
	if p.Anonymous() {
		return "anonymous"
	}
	return string(p.Role) + " " + p.Node
}

// NewNodeID draws a random node id.
func NewNodeID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// CheckNodeID says what is wrong with a node id, if anything.
func CheckNodeID(id string) error {
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("node id %q: want 32 lower-case hexadecimal digits", clip(id))
	}
	return nil
}

func checkClusterID(id string) error {
	if id == "" || len(id) > maxClusterLen || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz-") != "" ||
		id[0] == '-' || id[len(id)-1] == '-' {
		return fmt.Errorf("cluster id %q: want 1 to %d of 0-9, a-z and dash", clip(id), maxClusterLen)
	}
	return nil
}

func (p PeerInfo) check() error {
	if err := CheckNodeID(p.Node); err != nil {
		return err
	}
	if err := checkClusterID(p.Cluster); err != nil {
		return err
	}
	if p.Role != Member && p.Role != Proxy {
		return fmt.Errorf("role %q: want %s or %s", clip(string(p.Role)), Member, Proxy)
	}
	if p.Role == Member && len(p.Scope) > 0 {
		return errors.New("a member has no scope: it holds every key")
	}
	if len(p.Scope) > MaxScope {
		return fmt.Errorf("scope of %d prefixes: at most %d", len(p.Scope), MaxScope)
	}
	total := 0
	for _, s := range p.Scope {
		total += len(url.QueryEscape(s))
	}
	if total > MaxScopeBytes {
		return fmt.Errorf("scope of %d bytes once escaped: at most %d", total, MaxScopeBytes)
	}
	return nil
}

// uri is the SAN URI that carries p. p has passed check.
func (p PeerInfo) uri() *url.URL {
	var q strings.Builder
	for i, s := range p.Scope {
		if i > 0 {
			q.WriteByte('&')
		}
		q.WriteString("scope=" + url.QueryEscape(s))
	}
	return &url.URL{Scheme: "holdfast", Host: p.Cluster, Path: "/" + string(p.Role) + "/" + p.Node, RawQuery: q.String()}
}

// parsePeerURI is the inverse of uri. It accepts exactly what uri writes, so that one identity has one spelling.
func parsePeerURI(s string) (PeerInfo, error) {
	u, err := url.Parse(s)
	if err != nil {
		return PeerInfo{}, fmt.Errorf("identity %q: %w", clip(s), err)
	}
	if u.Scheme != "holdfast" {
		return PeerInfo{}, fmt.Errorf("identity %q: want scheme holdfast", clip(s))
	}
	role, node, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	p := PeerInfo{Node: node, Cluster: u.Host, Role: Role(role)}
	if u.RawQuery != "" {
		pairs := strings.Split(u.RawQuery, "&")
		if len(pairs) > MaxScope {
			return PeerInfo{}, fmt.Errorf("identity of node %q: scope of %d prefixes: at most %d", clip(node), len(pairs), MaxScope)
		}
		for _, pair := range pairs {
			v, ok := strings.CutPrefix(pair, "scope=")
			if !ok {
				return PeerInfo{}, fmt.Errorf("identity %q: unknown field %q", clip(s), clip(pair))
			}
			prefix, err := url.QueryUnescape(v)
			if err != nil {
				return PeerInfo{}, fmt.Errorf("identity %q: scope: %w", clip(s), err)
			}
			p.Scope = append(p.Scope, prefix)
		}
	}
	if err := p.check(); err != nil {
		return PeerInfo{}, fmt.Errorf("identity %q: %w", clip(s), err)
	}
	if p.uri().String() != s {
		return PeerInfo{}, fmt.Errorf("identity %q: not in canonical form", clip(s))
	}
	return p, nil
}

// peerInfo reads the identity in a certificate. It proves nothing: the caller has checked the signature, or uses the
// result for the text of an error only.
func peerInfo(cert *x509.Certificate) (PeerInfo, error) {
	var names []string
	for _, u := range cert.URIs {
		if u.Scheme == "holdfast" {
			names = append(names, u.String())
		}
	}
	if len(names) != 1 {
		return PeerInfo{}, fmt.Errorf("certificate %x names %d holdfast identities: want 1", cert.SerialNumber, len(names))
	}
	p, err := parsePeerURI(names[0])
	if err != nil {
		return PeerInfo{}, err
	}
	p.Serial, p.NotAfter, p.Key = fmt.Sprintf("%x", cert.SerialNumber), cert.NotAfter, caHash(cert)
	return p, nil
}

// clone makes a copy that shares nothing, to hand out.
func (p PeerInfo) clone() PeerInfo {
	p.Scope = slices.Clone(p.Scope)
	return p
}

// clip bounds a text that came from outside before it goes into an error or a log.
func clip(s string) string {
	const limit = 96
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
