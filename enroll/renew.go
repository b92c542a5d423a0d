package enroll

import (
	"bufio"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/transport"
)

// RenewGrace is how long after its end a certificate can still be renewed: the key that it names proves the node as well
// as before, and boxes are switched off for a season. Afterwards the node joins again with a token.
const RenewGrace = 365 * 24 * time.Hour

// RenewAt is when an identity's certificate is due: at two thirds of its life.
func RenewAt(id *transport.Identity) time.Time {
	end := id.Info().NotAfter
	life := CertificateLife
	if issued := id.Issued(); !issued.IsZero() && issued.Before(end) {
		life = end.Sub(issued)
	}
	return end.Add(-life / 3)
}

// renewal is what a node asks for a new certificate with.
type renewal struct {
	Certificate []byte `json:"certificate"` // the present one, ended or not
	Proof       []byte `json:"proof"`       // see transport.Identity.ProveKey
}

// Renew asks the cluster behind any of addrs for a new certificate. The present one may have ended, up to RenewGrace ago.
// A *Refused is final, other errors are worth trying again.
func Renew(ctx context.Context, d Dialer, addrs []string, id *transport.Identity) (Joined, error) {
	a, err := prove(ctx, d, addrs, id, request{})
	if err != nil {
		return Joined{}, fmt.Errorf("renew the certificate: %w", err)
	}
	got, err := a.joined(id)
	if err != nil {
		return Joined{}, fmt.Errorf("renew the certificate: %w", err)
	}
	return got, nil
}

// ErrNoSeat says that a node is not one that may become a member with its own certificate: it needs a token.
var ErrNoSeat = errors.New("the cluster does not let this node become a member by its certificate alone")

// TakeSeat asks the cluster behind any of addrs to take in a node that has joined already as the member that it wishes to
// be, which its present certificate proves as for Renew. Besides what Renew returns it fails with ErrFull and ErrNoSeat.
func TakeSeat(ctx context.Context, d Dialer, addrs []string, id *transport.Identity, w Wish) (Joined, error) {
	a, err := prove(ctx, d, addrs, id, request{Name: w.Name, Role: transport.Member, Addresses: w.Addresses, ClientURLs: w.ClientURLs})
	switch {
	case kv.CodeOf(err) == kv.Unsupported:
		return Joined{}, ErrNoSeat
	case err != nil:
		return Joined{}, fmt.Errorf("take a seat: %w", err)
	case a.Full:
		return Joined{}, ErrFull
	case a.Admission == nil: // of a version that only renews
		return Joined{}, ErrNoSeat
	}
	got, err := a.joined(id)
	if err != nil {
		return Joined{}, fmt.Errorf("take a seat: %w", err)
	}
	got.Admission = a.Admission
	return got, nil
}

// StepBack asks for the certificate of a proxy of every key, for a node that is recorded as a member and has no seat any
// more. While it has one it is refused.
func StepBack(ctx context.Context, d Dialer, addrs []string, id *transport.Identity) (Joined, error) {
	a, err := prove(ctx, d, addrs, id, request{Role: transport.Proxy})
	if err != nil {
		return Joined{}, fmt.Errorf("ask for the certificate of a proxy: %w", err)
	}
	got, err := a.joined(id)
	if err != nil {
		return Joined{}, fmt.Errorf("ask for the certificate of a proxy: %w", err)
	}
	return got, nil
}

// Depart has the cluster forget a node that leaves it. While the node has a seat among the members it is refused.
func Depart(ctx context.Context, d Dialer, addrs []string, id *transport.Identity) error {
	if _, err := prove(ctx, d, addrs, id, request{Depart: true}); err != nil {
		return fmt.Errorf("take this node off the list of nodes: %w", err)
	}
	return nil
}

// prove asks for something that the node's certificate and its key entitle it to.
func prove(ctx context.Context, d Dialer, addrs []string, id *transport.Identity, q request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	st, err := call(ctx, d, addrs, "")
	if err != nil {
		return answer{}, err
	}
	defer st.end()
	q.Node, q.Renew = id.Node(), &renewal{id.Certificate(), id.ProveKey(st.Binding())}
	b, err := json.Marshal(q)
	if err != nil {
		return answer{}, err
	}
	return exchange(st, b)
}

// exchange sends a request and returns its answer. An answer that says no is an error.
func exchange(st io.ReadWriteCloser, q []byte) (answer, error) {
	if err := errors.Join(wire.WriteFrame(st, q), st.Close()); err != nil {
		return answer{}, err
	}
	frame, err := wire.ReadFrame(bufio.NewReader(io.LimitReader(st, answerMax)))
	if err != nil {
		return answer{}, fmt.Errorf("no answer: %w", err)
	}
	var a answer
	if err := json.Unmarshal(frame, &a); err != nil {
		return answer{}, fmt.Errorf("the answer cannot be read: %w", err)
	}
	if a.Error == "" {
		return a, nil
	}
	e := &kv.Error{Code: a.Code, Detail: a.Error}
	switch a.Code {
	case kv.NoLeader, kv.Busy, kv.Stopping, kv.OutcomeUnknown, kv.NoSpace, kv.PreconditionFailed, kv.Internal:
		return answer{}, e
	}
	return answer{}, &Refused{e}
}

// joined is the identity with what an answer brought.
func (a answer) joined(id *transport.Identity) (Joined, error) {
	got, err := id.WithCertificate(a.Certificate, a.CA)
	if err != nil {
		return Joined{}, err
	}
	if a.Trust != nil {
		if got, err = got.WithTrust(*a.Trust); err != nil {
			return Joined{}, err
		}
	}
	return Joined{Identity: got.WithTimes(a.Now, a.Now), Endpoints: a.Endpoints}, nil
}

// renew judges a node by its former certificate and its record, and issues the next one. Role and scope are those of the
// record.
func (d *Desk) renew(ctx context.Context, q request, binding []byte) (answer, error) {
	trust := d.trust()
	info, cert, err := transport.Prove(q.Renew.Certificate, trust)
	if err != nil {
		return answer{}, kv.Errorf(kv.Unauthenticated, "the certificate is not of a CA that this cluster trusts, or of one that was replaced while this node was away: %w; join again with a new token and an empty data dir", err)
	}
	if !transport.VerifyProof(cert, binding, q.Renew.Proof) {
		return answer{}, kv.Errorf(kv.Unauthenticated, "the node does not prove the key of its certificate")
	}
	if err := d.barred(ctx, info.Node); err != nil {
		return answer{}, err
	}
	now := d.Now()
	if end := info.NotAfter.Add(RenewGrace); now.After(end) {
		return answer{}, kv.Errorf(kv.Unauthenticated, "the certificate ended at %s, more than %d days ago; join again with a new token and an empty data dir",
			info.NotAfter.UTC().Format(time.RFC3339), RenewGrace/(24*time.Hour))
	}
	n, found, err := node(ctx, d.Store, info.Node)
	if err != nil {
		return answer{}, err
	}
	if found && n.Key == info.Key {
		switch {
		case q.Server != nil:
			return d.server(ctx, n, *q.Server, now)
		case q.Depart:
			return answer{}, d.forget(ctx, n)
		case q.Role == transport.Member:
			return d.promote(ctx, q, n, cert.PublicKey, now)
		case q.Role == transport.Proxy && n.Role == transport.Member:
			if err := d.vacant(n); err != nil {
				return answer{}, err
			}
			n.Role, n.Scope, n.Seal, n.Seat = transport.Proxy, []string{""}, nil, true
		}
		return d.reissue(ctx, n, cert.PublicKey, now)
	}
	if q.Depart {
		return answer{}, nil // it is gone already
	}
	return answer{}, kv.Errorf(kv.PermissionDenied, "the cluster does not know node %s any more, or under another key; join again with a new token and an empty data dir", info.Node)
}

// promote gives a node that may have one a seat among the members, and the certificate for it.
func (d *Desk) promote(ctx context.Context, q request, n NodeRecord, key crypto.PublicKey, now time.Time) (answer, error) {
	if err := q.check(); err != nil {
		return answer{}, err
	}
	if n.Role != transport.Member && !n.Seat {
		return answer{}, kv.Errorf(kv.Unsupported, "node %s has joined as a proxy only: to become a member it needs a token, or to be promoted on a member", n.ID)
	}
	if r, ok := d.CA.(interface{ Ready() error }); ok && r.Ready() != nil {
		return answer{}, r.Ready()
	}
	q.Fallback = false
	a, err := d.seat(ctx, &q, TokenRecord{})
	if err != nil || a.Full {
		return a, err
	}
	admission := a.Admission
	n.Role, n.Scope, n.Seat = transport.Member, nil, true
	if a, err = d.reissue(ctx, n, key, now); err != nil {
		return answer{}, err
	}
	a.Admission = admission
	return a, nil
}

// forget deletes the record of a node that leaves.
func (d *Desk) forget(ctx context.Context, n NodeRecord) error {
	if n.Role == transport.Member {
		if err := d.vacant(n); err != nil {
			return err
		}
	}
	if err := set(ctx, d.Store, nodeRecords+n.ID, nil, n.version); err != nil {
		return err
	}
	d.Log.Info("node has left the cluster", "node", n.ID, "name", n.Name)
	return nil
}

// vacant refuses what a node that still has a seat among the members may not ask for.
func (d *Desk) vacant(n NodeRecord) error {
	if d.Seated == nil || !d.Seated(n.ID) {
		return nil
	}
	return kv.Errorf(kv.Busy, "node %s still has a seat among the members: see agent members ls", n.ID)
}

// reissue records the new certificate, then gives it out.
func (d *Desk) reissue(ctx context.Context, n NodeRecord, key crypto.PublicKey, now time.Time) (answer, error) {
	der, err := d.CA.Issue(key, transport.Grant{Node: n.ID, Role: n.Role, Scope: n.Scope, Life: d.life()}, now)
	if err != nil {
		return answer{}, cannotIssue(err)
	}
	a := d.answer(der)
	is := n
	is.CA, is.Until, is.Issued = hashOf(a.CA), now.Add(d.life()).UTC().Truncate(time.Second), now.UTC().Truncate(time.Second)
	if err := set(ctx, d.Store, nodeRecords+n.ID, is, n.version); err != nil {
		return answer{}, err
	}
	return a, nil
}

// cannotIssue is why a certificate was asked for and not made.
func cannotIssue(err error) error {
	if _, ok := errors.AsType[*kv.Error](err); ok {
		return err // the CA's key is elsewhere
	}
	return kv.Errorf(kv.Invalid, "no certificate can be made: %v", err)
}

func hashOf(ca []byte) string {
	hash, _, err := transport.CAInfo(ca)
	if err != nil {
		return ""
	}
	return hash
}

// barred refuses a node that was revoked.
func (d *Desk) barred(ctx context.Context, node string) error {
	revoked, err := records(ctx, d.Store, revokedRecords+node, func(*RevokedRecord, int64) {}) // no id begins another
	if err != nil || len(revoked) == 0 {
		return err
	}
	return kv.Errorf(kv.PermissionDenied, "node %s was revoked at %s, for good; a box that is yours joins again with an empty data dir and a new token", node, revoked[0].At.UTC().Format(time.RFC3339))
}

// answer is the admission of a node that has this certificate.
func (d *Desk) answer(cert []byte) answer {
	trust := d.trust()
	return answer{Certificate: cert, CA: d.CA.Certificate(), Trust: &trust, Now: d.Now().UTC().Truncate(time.Second), Endpoints: d.Endpoints()}
}

// trust is what the node shall go by.
func (d *Desk) trust() transport.Trust {
	if a, ok := d.CA.(interface{ Trust() TrustRecord }); ok {
		return a.Trust().Trust()
	}
	return transport.Trust{Roots: [][]byte{d.CA.Certificate()}}
}

func (d *Desk) life() time.Duration {
	if d.Life > 0 {
		return d.Life
	}
	return CertificateLife
}
