package agent

import (
	"context"
	"encoding/pem"
	"time"

	"holdfast/api"
	"holdfast/enroll"
	"holdfast/kv"
	"holdfast/transport"
)

// certificates shows this node's certificate to the servers.
type certificates struct{ a *Agent }

var _ api.Certificates = certificates{}

// Certificate describes the certificate and what is trusted.
func (c certificates) Certificate() api.CertificateInfo {
	id := c.a.net.identity.Load()
	info := id.Info()
	out := api.CertificateInfo{Node: id.Node(), Joined: id.Joined(), Judged: c.a.judgedTime().UTC().Truncate(time.Second)}
	if !id.Joined() {
		return out
	}
	out.Cluster, out.Role, out.Scope, out.Serial, out.Issuer = info.Cluster, string(info.Role), info.Scope, info.Serial, id.CAHash()
	out.Until, out.Renewal, out.Issued = timeOf(info.NotAfter), timeOf(enroll.RenewAt(id)), timeOf(id.Issued())
	r := c.a.roll.Load()
	for _, der := range id.Trust().Roots {
		hash, ends, err := transport.CAInfo(der)
		if err != nil {
			continue // the identity was checked when it was loaded
		}
		ca := api.CAInfo{Hash: hash, Ends: ends, PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
		if r != nil {
			ca.KeyHeld = r.auth.Holds(hash)
			for _, rec := range r.auth.Trust().CAs {
				if rec.Hash == hash {
					ca.Dropped = timeOf(rec.Until)
				}
			}
		}
		out.CAs = append(out.CAs, ca)
	}
	return out
}

// timeOf is a time to show, nil for none.
func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// Renew gets a new certificate: a member's is of its own making, a proxy asks for one.
func (c certificates) Renew(ctx context.Context) (api.CertificateInfo, error) {
	a := c.a
	if r := a.roll.Load(); r != nil {
		err := r.auth.Renew(ctx)
		return c.Certificate(), err
	}
	if !a.net.identity.Load().Joined() {
		return api.CertificateInfo{}, kv.Errorf(kv.Invalid, "this node has no certificate to renew: it has not joined yet")
	}
	ends, err := a.endpoints()
	if err != nil {
		return api.CertificateInfo{}, kv.Errorf(kv.Invalid, "%w", err)
	}
	if err := a.renew(ctx, ends); err != nil {
		if kv.CodeOf(err) == kv.Internal {
			err = &kv.Error{Code: kv.UpstreamUnavailable, Detail: err.Error(), Err: err}
		}
		return api.CertificateInfo{}, err
	}
	return c.Certificate(), nil
}

func (c certificates) authority() (*enroll.Authority, error) {
	if r := c.a.roll.Load(); r != nil {
		return r.auth, nil
	}
	return nil, kv.Errorf(kv.Unsupported, "the CA is replaced on a member; this node is a proxy, or its store is not open yet")
}

// Rotate has another CA take the place of the present one.
func (c certificates) Rotate(ctx context.Context, r api.CARotation) (api.CertificateInfo, error) {
	auth, err := c.authority()
	if err != nil {
		return api.CertificateInfo{}, err
	}
	rot := enroll.Rotation{Overlap: r.Overlap}
	if r.PEM != nil {
		cluster := c.a.net.identity.Load().Info().Cluster
		if rot.Next, err = transport.ParseCA(r.PEM, cluster); err != nil {
			return api.CertificateInfo{}, kv.Errorf(kv.Invalid, "that is no CA for this cluster: %w", err)
		}
	}
	want, err := auth.Rotate(ctx, rot)
	if err != nil {
		return api.CertificateInfo{}, err
	}
	return c.settled(ctx, auth, want), nil
}

// Finish drops the CA that is being replaced.
func (c certificates) Finish(ctx context.Context, force bool) (api.CertificateInfo, error) {
	auth, err := c.authority()
	if err != nil {
		return api.CertificateInfo{}, err
	}
	want, err := auth.Finish(ctx, force)
	if err != nil {
		return api.CertificateInfo{}, err
	}
	return c.settled(ctx, auth, want), nil
}

// settleWait is how long the answer to a change of CAs waits until this node goes by it.
const settleWait = 3 * time.Second

// settled describes the certificate once this node has taken the change over, or when it takes too long.
func (c certificates) settled(ctx context.Context, auth *enroll.Authority, want enroll.TrustRecord) api.CertificateInfo {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	for {
		news := auth.News()
		id := c.a.net.identity.Load()
		if id.Trust().Equal(want.Trust()) && issuedByFirst(id) {
			return c.Certificate()
		}
		select {
		case <-news:
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return c.Certificate()
		}
	}
}
