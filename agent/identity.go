package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"holdfast/enroll"
	"holdfast/internal/failpoint"
	"holdfast/member"
	"holdfast/transport"
)

// judge is transport.Config.Allowed: by what this node knows of the cluster, once it knows something. A node that is being
// made a member or a proxy is both for a while, and goes by either.
func (n *network) judge(p transport.PeerInfo) error {
	auth, revoked, shut := n.authority.Load(), n.revoked.Load(), n.shut.Load()
	switch {
	case auth == nil && revoked == nil:
		return transport.Starting
	case shut != nil && slices.Contains(*shut, p.Node):
		return transport.Revoked
	case revoked != nil && slices.Contains(*revoked, p.Node):
		return transport.Revoked
	case auth != nil:
		return auth.Allowed(p)
	}
	return nil
}

// refused hears that a peer does not let this node in. If a new certificate may help, one is asked for.
func (n *network) refused(_ transport.Protocol, why transport.Refusal) {
	if why == transport.Expired || why == transport.UnknownCA {
		n.look(true)
	}
}

// look has the certificate looked at, and renewed at once if that is urgent.
func (n *network) look(urgent bool) {
	select {
	case n.renew <- urgent:
	default:
	}
}

// told remembers a time that the cluster has told: it cannot be earlier, whatever the clock says.
func (n *network) told(t time.Time) {
	for {
		was := n.floor.Load()
		if t.IsZero() || t.Unix() <= was || n.floor.CompareAndSwap(was, t.Unix()) {
			return
		}
	}
}

// judgedTime is the time by which certificates are judged: the clock, but not before this program was built, nor before
// what the cluster has told. A box without a clock starts in 1970.
func (a *Agent) judgedTime() time.Time {
	now := a.opts.Now()
	for _, floor := range []time.Time{builtAt, time.Unix(a.net.floor.Load(), 0)} {
		if floor.After(now) {
			now = floor
		}
	}
	return now
}

var builtAt = buildTime()

// become takes over a certificate or trust that the node has just got, once it is on disk.
func (a *Agent) become(id *transport.Identity) error {
	if err := id.Save(a.dir.join(identityName), a.dir.seal); err != nil {
		return storageError(fmt.Errorf("record the certificate: %w", err))
	}
	a.net.identity.Store(id)
	a.net.told(id.Confirmed())
	return nil
}

// certify makes sure that a member has a certificate and takes part in the cluster's CA. The founder of a cluster makes
// the CA, or takes the one that cluster.ca-file names.
func (a *Agent) certify(m *member.Member) (*enroll.Authority, error) {
	cluster := fmt.Sprintf("%016x", m.Status().ClusterID)
	var auth *enroll.Authority
	auth, err := enroll.NewAuthority(context.Background(), enroll.AuthorityOptions{
		Store:    m,
		Cluster:  cluster,
		Name:     a.cfg.Name,
		Identity: a.net.identity.Load,
		Leads:    m.Leads,
		Changes:  m.RecordChanges,
		Now:      a.judgedTime,
		Founding: func() (*transport.CA, error) { return a.foundingCA(cluster) },
		Kept:     a.dropFoundingCA,
		Adopt:    a.become,
		Recheck:  func() { a.recheck(auth) },
		Log:      a.opts.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("read the records of nodes and CAs: %w", err)
	}
	id := a.net.identity.Load()
	ca, err := a.foundingCA(cluster)
	if err != nil {
		return nil, err
	}
	foreign := ca == nil && id.Joined() && id.Info().Cluster != cluster
	// A member that was recovered, or restored under an identity of old, without the CA's key begins with a CA of its own. With
	// the key it goes on with that CA, which has the former cluster's name.
	reason := a.planned().record.Reason
	begins := foreign && (reason == restoring || reason == recovering) && auth.Ready() != nil
	if foreign && !begins && auth.Disowns(id) {
		return nil, refusef("this node has a certificate of cluster %s and its data is of cluster %s: start it with --join and a token of "+
			"the cluster it is to belong to, on an empty data dir", id.Info().Cluster, cluster)
	}
	if !id.Joined() || begins {
		if ca == nil {
			ca, err = a.makeCA(cluster)
		}
		if err != nil {
			return nil, err
		}
		id, err := enroll.SelfCertify(id, ca, auth.Time())
		if err != nil {
			return nil, err
		}
		if err := a.become(id); err != nil {
			return nil, err
		}
		if err := a.dir.step(failpoint.BootstrapCertified); err != nil {
			return nil, err
		}
	}
	a.net.authority.Store(auth)
	a.recheck(auth)
	return auth, nil
}

// recheck judges the peers of open connections by what the records say now.
func (a *Agent) recheck(auth *enroll.Authority) {
	if auth != nil {
		a.net.told(auth.NewestRecord())
	}
	a.net.ep.Recheck()
}

// foundingCA is the CA that this node has made for a cluster that does not have it yet, or nil.
func (a *Agent) foundingCA(cluster string) (*transport.CA, error) {
	ca, err := transport.LoadCA(a.dir.join(identityName), cluster, a.dir.seal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, storageError(fmt.Errorf("the cluster's CA: %w", err))
	}
	return ca, nil
}

// makeCA is the CA of a new cluster, on disk.
func (a *Agent) makeCA(cluster string) (*transport.CA, error) {
	ca, err := a.broughtCA(cluster)
	if err == nil && ca == nil {
		ca, err = transport.NewCA(cluster)
	}
	if err != nil {
		return nil, err
	}
	if err := ca.Save(a.dir.join(identityName), a.dir.seal); err != nil {
		return nil, storageError(fmt.Errorf("the cluster's CA: %w", err))
	}
	return ca, a.dir.step(failpoint.BootstrapCA)
}

// broughtCA is the CA of cluster.ca-file, nil if none is named.
func (a *Agent) broughtCA(cluster string) (*transport.CA, error) {
	path := a.cfg.Cluster.CAFile
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, refusef("cluster.ca-file: %w", err)
	}
	ca, err := transport.ParseCA(text, cluster)
	if err != nil {
		return nil, refusef("cluster.ca-file: %s: %w", path, err)
	}
	if ca.Cluster() != cluster {
		return nil, refusef("cluster.ca-file: %s is the CA of cluster %s, and this one is %s: name one of your own, or none", path, ca.Cluster(), cluster)
	}
	return ca, nil
}

// dropFoundingCA removes the CA's key, once the cluster keeps it sealed.
func (a *Agent) dropFoundingCA() error {
	dir := a.dir.join(identityName)
	if err := transport.RemoveCA(dir); err != nil {
		return storageError(err)
	}
	return nil
}

// The pauses of keepCertificate. An attempt costs about 7 kB on a link that is metered.
const (
	renewLook  = time.Minute // how often the life of the certificate is looked at
	renewFirst = 5 * time.Second
	renewMax   = time.Hour
	// renewSpread is over how long a fleet renews when its CA is replaced.
	renewSpread = time.Minute
)

// keepCertificate renews the certificate of a proxy that is due, until ctx ends; addrs is where members answer.
func (a *Agent) keepCertificate(ctx context.Context, addrs func() []string) {
	pause := renewFirst
	for wait := time.Duration(0); ; {
		urgent := false
		select {
		case <-time.After(wait):
		case urgent = <-a.net.renew:
		case <-ctx.Done():
			return
		}
		id := a.net.identity.Load()
		wait = renewLook
		replaced := id.Joined() && !issuedByFirst(id)
		switch {
		case !id.Joined(), !urgent && !replaced && a.judgedTime().Before(enroll.RenewAt(id)):
			pause = renewFirst
			continue
		case replaced && !urgent && pause == renewFirst:
			if !pauseFor(ctx, rand.N(renewSpread)) {
				return
			}
		case urgent && !pauseFor(ctx, rand.N(renewFirst)): // a peer that says so over and over is no reason to ask as often
			return
		}
		if err := a.renew(ctx, addrs()); err != nil && ctx.Err() == nil {
			a.opts.Log.Warn("certificate not renewed", "until", id.Info().NotAfter.UTC(), "err", err, "again_in", pause.String())
			wait = pause/2 + rand.N(pause/2)
			pause = min(2*pause, renewMax)
			if !pauseFor(ctx, wait) {
				return
			}
			wait = 0
			continue
		}
		pause = renewFirst
	}
}

// issuedByFirst reports whether a certificate is of the CA that issues now.
func issuedByFirst(id *transport.Identity) bool {
	roots := id.Trust().Roots
	if len(roots) == 0 {
		return true
	}
	hash, _, err := transport.CAInfo(roots[0])
	return err != nil || hash == id.CAHash()
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// renew gets a proxy a new certificate from the cluster. One that has been a member may have that of one.
func (a *Agent) renew(ctx context.Context, addrs []string) error {
	id, ask := a.net.identity.Load(), enroll.Renew
	if id.Info().Role == transport.Member {
		ask = enroll.StepBack
	}
	got, err := ask(ctx, a.net.ep, addrs, id)
	if err != nil {
		return err
	}
	if err := a.become(got.Identity); err != nil {
		return err
	}
	a.net.ep.Recheck()
	a.opts.Log.Info("certificate renewed", "until", got.Identity.Info().NotAfter.UTC(), "ca", got.Identity.CAHash())
	return nil
}
