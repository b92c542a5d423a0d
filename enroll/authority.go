package enroll

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/kv"
	"holdfast/transport"
)

// AuthorityOptions is what an Authority needs. All are required but where it says otherwise.
type AuthorityOptions struct {
	Store    Store                      // the cluster, of which this node is a member
	Cluster  string                     // its id
	Name     string                     // of this node, for people
	Identity func() *transport.Identity // of this node, now
	Leads    func() bool                // this member leads: it seals keys and drops CAs for all
	Changes  func() uint64              // another number after each change of records
	Now      func() time.Time           // the clock; see Time

	// Founding is the CA that this node has brought or made for a cluster without one; nil: none. It is asked until the
	// cluster has a CA.
	Founding func() (*transport.CA, error)
	// Kept is called once the cluster has the key of the founding CA, sealed to this node: nothing else need have it.
	Kept func() error
	// Adopt takes over an identity with another certificate or trust, once it is on disk.
	Adopt func(*transport.Identity) error
	// Recheck is called when peers have to be judged again.
	Recheck func()
	Log     *slog.Logger
}

// Authority is a member's part in the cluster's CA: it knows the records of nodes, revocations and CAs as far as this
// replica has applied them, holds the CA's key if it was sealed to this member and seals it to new ones, keeps this member's certificate, and, on
// the leader, drops CAs that were replaced. Its methods may be called concurrently.
type Authority struct {
	opts AuthorityOptions
	view atomic.Pointer[view]
	poke chan struct{} // of one slot

	resigned atomic.Bool // see Resign

	mu   sync.Mutex
	news chan struct{} // closed when view has changed
}

// view is the records at one moment. It is not changed any more.
type view struct {
	changes uint64
	trust   TrustRecord
	nodes   map[string]NodeRecord
	revoked map[string]RevokedRecord
	sealed  map[string]bool          // names of sealed keys
	cas     map[string]*transport.CA // those whose key this member holds, by hash
	newest  time.Time                // of all times in the records
}

// The times of an Authority.
const (
	// authorityPoll is how often the number of changes is looked at, which costs nothing. A revocation is in force that
	// much after its record has arrived, at the latest, or authorityLag in a cluster of many nodes that just then join.
	authorityPoll = 500 * time.Millisecond
	// Reading the records of ten thousand nodes takes a tenth of a second, and each node that joins changes one: between
	// two readings lies authorityRest times as long as the last one took, up to authorityLag.
	authorityRest = 20
	authorityLag  = 2 * time.Second
	// authorityRetry is the pause after something could not be done, for want of a leader in most cases.
	authorityRetry = 2 * time.Second
	// recheckEvery is how often open connections are judged again without a reason, for certificates that end.
	recheckEvery = time.Minute
)

// NewAuthority returns an Authority that has read the records of this replica. Run runs it.
func NewAuthority(ctx context.Context, o AuthorityOptions) (*Authority, error) {
	a := &Authority{opts: o, poke: make(chan struct{}, 1), news: make(chan struct{})}
	if err := a.load(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// Poke has the Authority look at once.
func (a *Authority) Poke() {
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// Run does what is to be done until ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	var again, judged time.Time
	var acted *view // what was last acted upon: others load too
	led := false
	for ctx.Err() == nil {
		if leads := a.opts.Leads(); leads != led { // what the one before has not done is this one's now
			led, again = leads, time.Time{}
		}
		pause := authorityPoll
		if a.view.Load().changes != a.opts.Changes() {
			began := time.Now()
			err := a.load(ctx)
			pause = max(pause, min(authorityRest*time.Since(began), authorityLag))
			if err != nil && ctx.Err() == nil && kv.CodeOf(err) != kv.Stopping {
				a.opts.Log.Error("the records of nodes and CAs cannot be read; what was read last stays in force", "err", err)
			}
		}
		if v := a.view.Load(); v != acted {
			acted, again, judged = v, time.Time{}, time.Now()
			a.opts.Recheck()
		}
		if now := time.Now(); now.After(again) {
			again = now.Add(recheckEvery)
			if err := a.work(ctx); err != nil && ctx.Err() == nil {
				again = now.Add(authorityRetry)
				a.opts.Log.Debug("certificates and CA are not as they shall be yet", "err", err)
			}
		}
		if time.Since(judged) > recheckEvery {
			judged = time.Now()
			a.opts.Recheck()
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-a.poke:
			again = time.Time{}
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// load reads the records of this replica.
func (a *Authority) load(ctx context.Context) (err error) {
	s := local{a.opts.Store}
	v := &view{changes: a.opts.Changes(), nodes: map[string]NodeRecord{}, revoked: map[string]RevokedRecord{},
		sealed: map[string]bool{}, cas: map[string]*transport.CA{}}
	if v.trust, err = readTrust(ctx, s); err != nil {
		return err
	}
	nodes, err := Nodes(ctx, s)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		v.nodes[n.ID] = n
		v.saw(n.Joined, n.Issued)
	}
	revoked, err := Revocations(ctx, s)
	if err != nil {
		return err
	}
	for _, r := range revoked {
		v.revoked[r.ID] = r
		v.saw(r.At)
	}
	for _, ca := range v.trust.CAs {
		v.saw(ca.Since)
	}
	if err := a.openKeys(ctx, s, v); err != nil {
		return err
	}
	for _, ca := range v.trust.CAs { // a key that was once opened is not given up while its CA counts
		if was := a.held(ca.Hash); was != nil {
			v.cas[ca.Hash] = was
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.view.Store(v)
	close(a.news)
	a.news = make(chan struct{})
	return nil
}

func (v *view) saw(times ...time.Time) {
	for _, t := range times {
		if t.After(v.newest) {
			v.newest = t
		}
	}
}

// openKeys finds the keys sealed to this member, and the names of all.
func (a *Authority) openKeys(ctx context.Context, s Store, v *view) error {
	page, err := s.Read(ctx, kv.Query{Ops: []kv.Op{kv.Records{Prefix: []byte(keyRecords)}}})
	if err != nil {
		return err
	}
	id := a.opts.Identity()
	for _, r := range page.Ops[0].KVs {
		name := string(r.Key)
		v.sealed[name] = true
		hash, node, _ := strings.Cut(strings.TrimPrefix(name, keyRecords), "/")
		if node != id.Node() {
			continue
		}
		if was := a.held(hash); was != nil {
			v.cas[hash] = was
			continue
		}
		ca, err := openKey(id, r.Value, a.opts.Cluster)
		if err != nil {
			a.opts.Log.Error("the key of the cluster's CA is sealed to this member and does not open: this member issues no certificates; was its identity replaced?", "ca", hash, "err", err)
			continue
		}
		v.cas[hash] = ca
	}
	return nil
}

func openKey(id *transport.Identity, value []byte, cluster string) (*transport.CA, error) {
	var r keyRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	return unseal(id, r, cluster)
}

// held is the CA of that hash, if this member holds its key.
func (a *Authority) held(hash string) *transport.CA {
	if v := a.view.Load(); v != nil {
		return v.cas[hash]
	}
	return nil
}

// Holds reports whether this member holds the key of the CA of that hash.
func (a *Authority) Holds(hash string) bool { return a.held(hash) != nil }

// Disowns reports whether the records name CAs and the one of an identity's certificate is not among them.
func (a *Authority) Disowns(id *transport.Identity) bool {
	cas := a.Trust().CAs
	return len(cas) > 0 && !slices.ContainsFunc(cas, func(ca CARecord) bool { return ca.Hash == id.CAHash() })
}

// work does what is to be done now. It may fail for want of a leader, and is then called again.
func (a *Authority) work(ctx context.Context) error {
	if err := a.found(ctx); err != nil {
		return err
	}
	v := a.view.Load()
	if len(v.trust.CAs) == 0 {
		return nil
	}
	if err := a.keepCertificate(v); err != nil {
		return err
	}
	// Whoever holds a key seals it: a leader that has only just joined may hold none.
	errs := []error{a.enlist(ctx, v), a.sealAll(ctx, v)}
	if a.opts.Leads() {
		errs = append(errs, a.dropDue(ctx, v))
	}
	return errors.Join(errs...)
}

// found gives a cluster without a CA the one that this node founds it with. A cluster whose CA's key nobody here can open,
// as one that was restored on another machine, is given a new one by the node that made it.
func (a *Authority) found(ctx context.Context) error {
	ca, err := a.opts.Founding()
	if err != nil || ca == nil {
		return err
	}
	v, self := a.view.Load(), a.opts.Identity()
	switch {
	case len(v.trust.CAs) > 0 && a.held(v.trust.CAs[0].Hash) != nil:
		return a.opts.Kept()
	case len(v.trust.CAs) > 0 && self.CAHash() != ca.Hash():
		return nil // it waits for the key of the CA that there is
	case len(v.trust.CAs) > 0:
		a.opts.Log.Warn("the cluster gets a new CA, for the key of its former one is not here: nodes of before have to join again", "former", v.trust.CAs[0].Hash, "new", ca.Hash())
	}
	key, err := self.SealingKey()
	if err != nil {
		return err
	}
	box, err := seal(ca, key)
	if err != nil {
		return err
	}
	rec := TrustRecord{CAs: []CARecord{{Hash: ca.Hash(), Certificate: ca.Certificate(), Since: a.Time()}}}
	err = commit(ctx, a.opts.Store, change{trustName, rec, v.trust.version}, change{keyName(ca.Hash(), self.Node()), box, anyVersion})
	if err == nil {
		a.Poke()
	}
	return err
}

// enlist keeps this member's own record: by it others seal keys to it and list it.
func (a *Authority) enlist(ctx context.Context, v *view) error {
	id := a.opts.Identity()
	info := id.Info()
	if _, out := v.revoked[info.Node]; out || info.Role != transport.Member || a.resigned.Load() {
		return nil // not yet, or no longer
	}
	key, err := id.SealingKey()
	if err != nil {
		return err
	}
	was, there := v.nodes[id.Node()]
	is := was
	is.ID, is.Name, is.Role, is.Key, is.Seal, is.CA, is.Until = info.Node, a.opts.Name, transport.Member, info.Key, key, id.CAHash(), info.NotAfter.UTC()
	if !there {
		is.Joined = a.Time()
	}
	if there && is.same(was) {
		return nil
	}
	is.Issued = a.Time()
	return set(ctx, a.opts.Store, nodeRecords+id.Node(), is, was.version)
}

// same reports whether two records of a node say the same about its certificate and keys.
func (n NodeRecord) same(m NodeRecord) bool {
	return n.Name == m.Name && n.Role == m.Role && n.Key == m.Key && string(n.Seal) == string(m.Seal) && n.CA == m.CA && n.Until.Equal(m.Until)
}

// sealAll seals the keys of the CAs to members that do not have them yet, and takes back those of nodes that are none any
// more. Its own it never takes back: it may be the only one.
func (a *Authority) sealAll(ctx context.Context, v *view) error {
	var changes []change
	self := a.opts.Identity().Node()
	for _, ca := range v.trust.CAs {
		for _, n := range v.nodes {
			name, held := keyName(ca.Hash, n.ID), v.cas[ca.Hash]
			if _, out := v.revoked[n.ID]; out {
				continue
			}
			switch {
			case n.Role == transport.Member && len(n.Seal) > 0 && !v.sealed[name] && held != nil:
				box, err := seal(held, n.Seal)
				if err != nil {
					return fmt.Errorf("seal the CA's key to member %s: %w", n.ID, err)
				}
				changes = append(changes, change{name, box, anyVersion})
				a.opts.Log.Info("the key of the cluster's CA is sealed to a member", "member", n.ID, "ca", ca.Hash)
			case n.Role != transport.Member && n.ID != self && v.sealed[name]:
				changes = append(changes, change{name, nil, anyVersion})
			}
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return commit(ctx, a.opts.Store, changes...)
}

// dropDue ends the trust in a CA whose time is over.
func (a *Authority) dropDue(ctx context.Context, v *view) error {
	if len(v.trust.CAs) < 2 || a.Time().Before(v.trust.CAs[1].Until) {
		return nil
	}
	_, err := a.drop(ctx, v.trust)
	return err
}

// keepCertificate gives this member the trust that the records name and, when it is due, a certificate of its own making.
func (a *Authority) keepCertificate(v *view) error {
	id := a.opts.Identity()
	trust, now := v.trust.Trust(), a.Time()
	ca := v.cas[v.trust.CAs[0].Hash]
	if id.Joined() && id.Info().Role != transport.Member {
		return nil // this node is being made a proxy
	}
	if ca != nil && (!id.Joined() || id.CAHash() != ca.Hash() || !now.Before(RenewAt(id))) {
		return a.certifySelf(ca, trust)
	}
	if !id.Joined() || id.Trust().Equal(trust) {
		return nil
	}
	next, err := id.WithTrust(trust)
	if err != nil {
		return err
	}
	if err := a.opts.Adopt(next); err != nil {
		return err
	}
	a.opts.Log.Info("CAs taken over", "cas", len(trust.Roots))
	a.opts.Recheck()
	return nil
}

// Renew gives this member a new certificate now.
func (a *Authority) Renew(context.Context) error {
	v := a.view.Load()
	if len(v.trust.CAs) == 0 {
		return kv.Errorf(kv.Busy, "the cluster is being founded and has no CA yet: try again")
	}
	ca := v.cas[v.trust.CAs[0].Hash]
	if ca == nil {
		return errNotHeld()
	}
	if err := a.certifySelf(ca, v.trust.Trust()); err != nil {
		return err
	}
	a.Poke()
	return nil
}

func (a *Authority) certifySelf(ca *transport.CA, trust transport.Trust) error {
	now := a.Time()
	id, err := SelfCertify(a.opts.Identity(), ca, now)
	if err != nil {
		return err
	}
	if id, err = id.WithTrust(trust); err != nil {
		return err
	}
	if err := a.opts.Adopt(id.WithTimes(now, now)); err != nil {
		return err
	}
	a.opts.Log.Info("this member's certificate is new", "until", id.Info().NotAfter, "ca", ca.Hash())
	return nil
}

// SelfCertify is the identity of a member with a certificate from a CA that it holds itself.
func SelfCertify(id *transport.Identity, ca *transport.CA, now time.Time) (*transport.Identity, error) {
	cert, err := ca.Issue(id.PublicKey(), transport.Grant{Node: id.Node(), Role: transport.Member, Life: CertificateLife}, now)
	if err != nil {
		return nil, fmt.Errorf("issue this member's certificate: %w", err)
	}
	got, err := id.WithCertificate(cert, ca.Certificate())
	if err != nil {
		return nil, fmt.Errorf("take this member's certificate: %w", err)
	}
	return got.WithTimes(now, now), nil
}

// Allowed judges a peer whose certificate is in order, as transport.Config.Allowed does. A node that this replica has not
// heard of yet is let in: its certificate proves it, and who lags behind must be able to catch up.
func (a *Authority) Allowed(p transport.PeerInfo) error {
	v := a.view.Load()
	if _, ok := v.revoked[p.Node]; ok {
		return transport.Revoked
	}
	if n, ok := v.nodes[p.Node]; ok && n.Key != p.Key {
		return errors.New("another key joined under this node id")
	}
	return nil
}

// Time is the time that certificates are issued by: the clock, but not before the newest time in the records.
func (a *Authority) Time() time.Time {
	now := a.opts.Now().UTC()
	if v := a.view.Load(); v != nil && v.newest.After(now) {
		return v.newest
	}
	return now
}

// NewestRecord is the newest time in the records: it cannot be earlier, whatever the clock says.
func (a *Authority) NewestRecord() time.Time { return a.view.Load().newest }

// Trust is the CAs of the cluster, none while it is founded.
func (a *Authority) Trust() TrustRecord { return a.view.Load().trust }

// RevokedMembers are the ids of members that were revoked: what a proxy has to know, since it meets no others.
func (a *Authority) RevokedMembers() (ids []string) {
	for _, r := range a.view.Load().revoked {
		if r.Role == transport.Member {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// Tell closes News: something else that travels with it has changed.
func (a *Authority) Tell() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.news)
	a.news = make(chan struct{})
}

// News is closed when what the other methods tell may have changed.
func (a *Authority) News() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.news
}

// Ready says why this member issues no certificates at present, if it does not.
func (a *Authority) Ready() error {
	_, err := a.issuing()
	return err
}

// issuing is the CA that issues, if this member holds its key.
func (a *Authority) issuing() (*transport.CA, error) {
	v := a.view.Load()
	if len(v.trust.CAs) == 0 {
		return nil, kv.Errorf(kv.Busy, "the cluster is being founded and has no CA yet: try again")
	}
	if ca := v.cas[v.trust.CAs[0].Hash]; ca != nil {
		return ca, nil
	}
	return nil, errNotHeld()
}

// IssueCSR is CA.IssueCSR of the CA that issues now; it makes Authority an Issuer.
func (a *Authority) IssueCSR(der []byte, g transport.Grant, now time.Time) ([]byte, error) {
	ca, err := a.issuing()
	if err != nil {
		return nil, err
	}
	return ca.IssueCSR(der, g, now)
}

// Issue is CA.Issue of the CA that issues now.
func (a *Authority) Issue(pub crypto.PublicKey, g transport.Grant, now time.Time) ([]byte, error) {
	ca, err := a.issuing()
	if err != nil {
		return nil, err
	}
	return ca.Issue(pub, g, now)
}

// Certificate is that of the CA that issues now, nil while there is none.
func (a *Authority) Certificate() []byte {
	if v := a.view.Load(); len(v.trust.CAs) > 0 {
		return v.trust.CAs[0].Certificate
	}
	return nil
}
