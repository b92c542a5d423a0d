package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// verifier judges the certificate of the other end of one connection, or of all connections that one protocol serves.
// It runs in tls.Config.VerifyConnection, so resumed sessions pass through it too.
type verifier struct {
	protocol Protocol
	serving  bool // the other end dialed

	self    string               // own node id
	roots   []*x509.Certificate  // one of which must prove the peer's certificate; none: pin decides
	pin     string               // CAHash of a CA not known yet, for Join
	cluster string               // required cluster; with a pin: the one that the pinned CA is for
	expect  string               // required node; empty: any
	proxies bool                 // a proxy may serve
	now     func() time.Time     // judged time
	allowed func(PeerInfo) error // membership and revocation; nil: everybody
}

func (v verifier) verify(cs tls.ConnectionState) error {
	if _, _, err := v.judge(cs.PeerCertificates); err != nil {
		return handshakeError{err}
	}
	return nil
}

// judge returns who the peer is and the CA it is proven by.
func (v verifier) judge(chain []*x509.Certificate) (PeerInfo, *x509.Certificate, *RefusedError) {
	refuse := func(why Refusal, format string, args ...any) (PeerInfo, *x509.Certificate, *RefusedError) {
		return PeerInfo{}, nil, &RefusedError{Why: why, Detail: fmt.Sprintf(format, args...)}
	}
	if len(chain) == 0 {
		if v.serving && v.protocol.mayDial(None) {
			return PeerInfo{}, nil, nil
		}
		return refuse(NoCertificate, "protocol %s", v.protocol)
	}
	leaf := chain[0]
	roots, err := v.authorities(chain)
	if err != nil {
		return refuse(UnknownCA, "%v", err)
	}
	if v.pin != "" {
		v.cluster, _ = caCluster(roots[0]) // a CA that an operator brought names none
	}
	claim, claimErr := peerInfo(leaf)
	ca := path(leaf, chain[1:], roots)
	if ca == nil {
		// The claim is not proven, but an honest mistake is to be in the wrong cluster.
		if claimErr == nil && v.cluster != "" && claim.Cluster != v.cluster {
			return refuse(OtherCluster, "it says cluster %s, this is %s, and another CA signed it", claim.Cluster, v.cluster)
		}
		return refuse(UnknownCA, "%s", subject(leaf))
	}
	switch {
	case claimErr != nil:
		return refuse(Malformed, "%v", claimErr)
	case leaf.IsCA || len(leaf.UnhandledCriticalExtensions) > 0:
		return refuse(Malformed, "%s: not the certificate of a node", subject(leaf))
	case v.cluster != "" && claim.Cluster != v.cluster:
		return refuse(OtherCluster, "%s of cluster %s, this is %s", claim, claim.Cluster, v.cluster)
	}
	now := v.now()
	switch {
	case now.Before(leaf.NotBefore):
		return refuse(NotYetValid, "%s: valid from %s, judged at %s", claim, rfc3339(leaf.NotBefore), rfc3339(now))
	case now.After(leaf.NotAfter):
		return refuse(Expired, "%s: valid until %s, judged at %s", claim, rfc3339(leaf.NotAfter), rfc3339(now))
	case v.serving && !v.protocol.mayDial(claim.Role), !v.serving && !v.protocol.mayServe(claim.Role, v.proxies):
		return refuse(WrongRole, "%s over %s", claim, v.protocol)
	case claim.Node == v.self:
		return refuse(Self, "%s", claim)
	case v.expect != "" && claim.Node != v.expect:
		return refuse(WrongNode, "wanted %s, found %s", v.expect, claim.Node)
	}
	if v.allowed == nil {
		return claim, ca, nil
	}
	if err := v.allowed(claim.clone()); err != nil {
		why, ok := errors.AsType[Refusal](err)
		if !ok || why == 0 || why >= refusalEnd {
			why = NotAllowed
		}
		if err == why { //nolint:errorlint // the text says nothing more
			return refuse(why, "%s", claim)
		}
		return refuse(why, "%s: %v", claim, err)
	}
	return claim, ca, nil
}

// authorities are the CAs to judge by: those that are trusted, or the one in the chain that has the pinned hash.
func (v verifier) authorities(chain []*x509.Certificate) ([]*x509.Certificate, error) {
	if v.pin == "" {
		if len(v.roots) == 0 {
			return nil, errors.New("this node knows no CA")
		}
		return v.roots, nil
	}
	for _, c := range chain[1:] {
		if c.IsCA && caHash(c) == v.pin {
			return []*x509.Certificate{c}, nil
		}
	}
	return nil, fmt.Errorf("none of the %d certificates shown has the pinned hash %s", len(chain), v.pin)
}

func subject(c *x509.Certificate) string { return clip(c.Subject.String()) }

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
