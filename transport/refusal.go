package transport

import (
	"crypto/tls"
	"fmt"
)

// Refusal is why a peer was not let in. It crosses the link as TLS alert refusalBase + Refusal, a range that the TLS
// registry leaves unassigned, so the numbers are part of the protocol: add at the end only.
//
// A Refusal is an error: Config.Allowed returns one to tell a refused node more than NotAllowed.
type Refusal uint8

const refusalBase = 224

// Why a peer is refused.
const (
	NoCertificate Refusal = iota + 1
	UnknownCA
	OtherCluster
	Expired
	NotYetValid
	Malformed
	WrongRole
	WrongNode
	Self
	NotAllowed
	Removed
	Revoked
	Starting
	refusalEnd // one past the last; not a reason
)

// Error is the reason and what to do about it, from the side of the node that was refused.
func (r Refusal) Error() string {
	switch r {
	case NoCertificate:
		return "no certificate was shown (join the cluster first)"
	case UnknownCA:
		return "the certificate is not signed by the cluster's CA (wrong cluster, or a join token of another one)"
	case OtherCluster:
		return "the certificate is of another cluster (check the addresses)"
	case Expired:
		return "the certificate has expired (renew it, or check the clocks)"
	case NotYetValid:
		return "the certificate is not valid yet (check the clocks)"
	case Malformed:
		return "the certificate does not name a node as expected (issued by another program or version)"
	case WrongRole:
		return "the certificate's role does not allow this protocol"
	case WrongNode:
		return "another node answers at this address (the address was reused; look the node's address up)"
	case Self:
		return "both ends have the same node id (an address of this node itself, or a copied identity)"
	case NotAllowed:
		return "the node is not allowed in"
	case Removed:
		return "the node has been removed from the cluster"
	case Revoked:
		return "the node has been revoked, for good (a box that is yours joins again with an empty data dir and a new token)"
	case Starting:
		return "the peer is starting and cannot judge yet (try again)"
	}
	return fmt.Sprintf("refused for a reason unknown to this version (%d)", uint8(r))
}

// label names the reason in counters.
func (r Refusal) label() string {
	names := [...]string{"unknown", "no_certificate", "unknown_ca", "other_cluster", "expired", "not_yet_valid", "malformed",
		"wrong_role", "wrong_node", "self", "not_allowed", "removed", "revoked", "starting"}
	if int(r) < len(names) {
		return names[r]
	}
	return names[0]
}

// RefusedError says that one end did not let the other in.
type RefusedError struct {
	Why    Refusal
	Remote bool   // the peer refused this node; else this node refused the peer
	Detail string // what exactly, known only to the side that refused
}

func (e *RefusedError) Error() string {
	if e.Remote {
		return "refused by the peer: " + e.Why.Error()
	}
	if e.Detail == "" {
		return "peer refused: " + e.Why.Error()
	}
	return "peer refused: " + e.Why.Error() + ": " + e.Detail
}

// Unwrap makes errors.Is(err, transport.Expired) and the like work.
func (e *RefusedError) Unwrap() error { return e.Why }

// handshakeError carries a refusal through crypto/tls: of an error returned by VerifyConnection, quic-go sends the first
// tls.AlertError that it finds in the tree.
type handshakeError struct{ *RefusedError }

func (e handshakeError) Unwrap() []error {
	return []error{e.RefusedError, tls.AlertError(refusalBase + uint8(e.Why))}
}
