package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/simnet"
	"holdfast/kv"
	"holdfast/transport"
)

// box is a node of a cluster in virtual time: a member with an Authority and a Desk, or one that only dials.
type box struct {
	name string
	id   atomic.Pointer[transport.Identity]
	ep   *transport.Endpoint
	auth *Authority
	roll *Roll
	dir  string
	stop func()
	obey func(Order) Progress
	skew atomic.Int64 // of its clock from the others', in nanoseconds
}

// realm is a cluster of members that share one store, as raft would have it, and a network.
type realm struct {
	t     *testing.T
	net   *simnet.Net
	store *store
	skew  atomic.Int64 // of all clocks, in nanoseconds
	lead  string       // the member that leads

	full   atomic.Bool // of members
	seated string      // a node that has a seat among them
	boxes  map[string]*box
}

func newRealm(t *testing.T) *realm {
	return &realm{t: t, net: simnet.New(t, 1), store: &store{m: map[string]kv.KeyValue{}}, lead: "m1", boxes: map[string]*box{}}
}

func (r *realm) now() time.Time { return time.Now().Add(time.Duration(r.skew.Load())) }

// pass lets clocks go on by d, with two minutes of it lived through: what is done every minute is done.
func (r *realm) pass(d time.Duration) {
	const lived = 2 * time.Minute
	r.skew.Add(int64(d - lived))
	time.Sleep(lived)
}

// add starts a box. One that is there already goes on with its identity.
func (r *realm) add(name string) *box {
	r.t.Helper()
	b := &box{name: name, dir: r.t.TempDir()}
	if was := r.boxes[name]; was != nil {
		b.id.Store(was.id.Load())
		b.dir = was.dir
	} else {
		b.id.Store(newIdentity(r.t))
	}
	r.boxes[name] = b
	conn := r.net.Node(name)
	ep, err := transport.New(transport.Config{Conn: conn, Identity: b.id.Load, Now: func() time.Time { return r.now().Add(time.Duration(b.skew.Load())) }, Resolve: r.net.Resolve, Allowed: func(p transport.PeerInfo) error {
		if b.auth == nil {
			return nil
		}
		return b.auth.Allowed(p)
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	b.ep = ep
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = ep.Run(ctx) })
	var once sync.Once
	b.stop = func() { once.Do(func() { cancel(); wg.Wait(); _ = conn.Close() }) }
	r.t.Cleanup(b.stop)
	return b
}

// member starts a member; founder makes the CA.
func (r *realm) member(name string, founder bool) *box {
	r.t.Helper()
	b := r.add(name)
	adopt := func(id *transport.Identity) error {
		b.id.Store(id)
		return id.Save(b.dir, nil)
	}
	auth, err := NewAuthority(r.t.Context(), AuthorityOptions{
		Store: r.store, Cluster: "c1", Name: name, Identity: b.id.Load, Leads: func() bool { return r.lead == name }, Changes: r.store.changes,
		Now: r.now, Adopt: adopt, Recheck: func() { b.ep.Recheck() }, Log: slog.New(slog.DiscardHandler),
		Founding: func() (*transport.CA, error) {
			ca, err := transport.LoadCA(b.dir, "c1", nil)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			return ca, err
		},
		Kept: func() error { return transport.RemoveCA(b.dir) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if founder && !b.id.Load().Joined() {
		ca, err := transport.NewCA("c1")
		if err == nil {
			err = ca.Save(b.dir, nil)
		}
		var id *transport.Identity
		if err == nil {
			id, err = SelfCertify(b.id.Load(), ca, auth.Time())
		}
		if err == nil {
			err = adopt(id)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	b.auth = auth
	desk := &Desk{Store: r.store, CA: auth, Endpoints: func() []string { return []string{r.net.Addr(name)} }, Now: auth.Time, Log: slog.New(slog.DiscardHandler),
		Admit: func(context.Context, Applicant) (json.RawMessage, error) {
			if r.full.Load() {
				return nil, ErrFull
			}
			return json.RawMessage("{}"), nil
		},
		Seated: func(node string) bool { return node == r.seated }}
	b.ep.Listen(transport.Join, func(ctx context.Context, conn *transport.Conn) {
		st, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		_ = desk.Serve(ctx, st, "box")
		<-ctx.Done()
	})
	b.ep.Listen(transport.Uplink, func(ctx context.Context, _ *transport.Conn) { <-ctx.Done() })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = auth.Run(ctx) })
	down := b.stop
	b.stop = func() { cancel(); wg.Wait(); down() }
	r.t.Cleanup(b.stop)
	return b
}

// enrol has a box join.
func (r *realm) enrol(b *box, role transport.Role) {
	r.t.Helper()
	m := r.boxes["m1"]
	tok, err := CreateToken(r.t.Context(), r.store, m.id.Load().CAHash(), TokenRecord{Scope: []string{""}, Expires: r.now().Add(time.Hour)})
	if err != nil {
		r.t.Fatal(err)
	}
	got, err := Join(r.t.Context(), b.ep, []string{r.net.Addr("m1")}, tok, b.id.Load(), Wish{Name: b.name, Role: role})
	if err != nil {
		r.t.Fatal(err)
	}
	b.id.Store(got.Identity)
}

func (r *realm) uplink(from *box, to string) (*transport.Conn, error) {
	return from.ep.Dial(r.t.Context(), transport.Uplink, transport.Target{Addrs: []string{r.net.Addr(to)}})
}

func (r *realm) renew(b *box, at string) error {
	got, err := Renew(r.t.Context(), b.ep, []string{r.net.Addr(at)}, b.id.Load())
	if err == nil {
		b.id.Store(got.Identity)
	}
	return err
}

func inRealm(t *testing.T, f func(t *testing.T, r *realm)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRealm(t)
		r.member("m1", true)
		time.Sleep(5 * time.Second)
		f(t, r)
	})
}

const day = 24 * time.Hour

func TestTheCAsKeyIsKeptSealedAndNowhereElse(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		m1 := r.boxes["m1"]
		if _, err := transport.LoadCA(m1.dir, "c1", nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the founder still has the key in the clear: %v", err)
		}
		r.add("m2") // joins before it is a member
		r.enrol(r.boxes["m2"], transport.Member)
		r.boxes["m2"].stop()
		m2 := r.member("m2", false)
		time.Sleep(5 * time.Second)
		hash := m1.id.Load().CAHash()
		if !m2.auth.Holds(hash) || m2.auth.Ready() != nil {
			t.Fatalf("the second member does not hold the key: %v", m2.auth.Ready())
		}
		for name, v := range r.store.m {
			if strings.Contains(string(v.Value), "PRIVATE KEY") {
				t.Errorf("record %s has a key in the clear", name)
			}
		}
		// A member that starts again opens what is sealed to it, also without the other.
		m1.stop()
		m1 = r.member("m1", true)
		if !m1.auth.Holds(hash) {
			t.Error("after a restart the founder does not hold the key")
		}
		// One that is revoked loses its own.
		if _, err := m1.auth.Revoke(t.Context(), "m2"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		for name := range r.store.m {
			if strings.HasPrefix(name, keyRecords) && strings.HasSuffix(name, m2.id.Load().Node()) {
				t.Errorf("%s is still there", name)
			}
		}
	})
}

func TestACertificateThatEndedWhileTheBoxWasAwayIsRenewed(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		p := r.add("p")
		r.enrol(p, transport.Proxy)
		end := p.id.Load().Info().NotAfter
		if at := RenewAt(p.id.Load()); at.Sub(p.id.Load().Issued()) != CertificateLife*2/3 {
			t.Errorf("renewed at %v of a life from %v to %v", at, p.id.Load().Issued(), end)
		}
		r.pass(CertificateLife * 3 / 4)
		r.pass(end.Add(30 * day).Sub(r.now())) // the member has kept its own up meanwhile
		if m := r.boxes["m1"].id.Load().Info(); !m.NotAfter.After(r.now()) {
			t.Fatalf("the member's own certificate ended at %v", m.NotAfter)
		}
		if _, err := r.uplink(p, "m1"); !errors.Is(err, transport.Expired) {
			t.Fatalf("an uplink with a certificate that has ended: %v", err)
		}
		if err := r.renew(p, "m1"); err != nil {
			t.Fatal(err)
		}
		if got := p.id.Load().Info(); got.NotAfter.Sub(r.now()) < CertificateLife-day || got.Role != transport.Proxy || !slices.Equal(got.Scope, []string{""}) {
			t.Errorf("renewed to %+v", got)
		}
		if _, err := r.uplink(p, "m1"); err != nil {
			t.Errorf("after the renewal: %v", err)
		}
		nodes, err := Nodes(t.Context(), r.store)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := Find(nodes, "p"); err != nil || !n.Until.Equal(p.id.Load().Info().NotAfter) {
			t.Errorf("recorded %+v, %v", n, err)
		}
		for range 3 { // the member lives through it
			r.pass(p.id.Load().Info().NotAfter.Add(RenewGrace+day).Sub(r.now()) / 3)
		}
		r.pass(p.id.Load().Info().NotAfter.Add(RenewGrace + day).Sub(r.now()))
		err = r.renew(p, "m1")
		refused(t, err, kv.Unauthenticated, "more than 365 days ago; join again")
	})
}

func TestAMemberWithoutAClockIssuesByWhatTheClusterKnows(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		p := r.add("p")
		r.enrol(p, transport.Proxy)
		r.pass(100 * day)
		q := r.add("q")
		r.enrol(q, transport.Proxy)
		joined := r.now()
		r.boxes["m1"].stop()
		r.skew.Store(int64(time.Until(time.Unix(1000, 0)))) // 1970
		m1 := r.member("m1", true)
		if got := m1.auth.Time(); got.Before(joined.Add(-time.Minute)) {
			t.Errorf("judged at %v, and the records know of %v", got, joined)
		}
		if err := r.renew(p, "m1"); err != nil {
			t.Fatal(err)
		}
		if got := p.id.Load().Info().NotAfter; got.Before(joined.Add(CertificateLife - day)) {
			t.Errorf("issued until %v", got)
		}
		if _, err := r.uplink(q, "m1"); err != nil {
			t.Errorf("boxes without a clock do not meet: %v", err)
		}
	})
}

func TestRenewalIsRefusedToWhomItIsNotDue(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		p := r.add("p")
		r.enrol(p, transport.Proxy)
		// Another key with this node's certificate.
		thief := r.add("thief")
		r.enrol(thief, transport.Proxy)
		ask := func(id *transport.Identity, cert []byte) error {
			conn, err := thief.ep.Dial(t.Context(), transport.Join, transport.Target{Addrs: []string{r.net.Addr("m1")}})
			if err != nil {
				return err
			}
			defer conn.CloseWithError(transport.CodeDone, "")
			st, err := conn.OpenStream(t.Context())
			if err != nil {
				return err
			}
			q, err := json.Marshal(request{Node: id.Node(), Renew: &renewal{cert, id.ProveKey(st.Binding())}})
			if err != nil {
				return err
			}
			_, err = exchange(st, q)
			return err
		}
		refused(t, ask(thief.id.Load(), p.id.Load().Certificate()), kv.Unauthenticated, "does not prove the key")
		other, err := transport.NewCA("c1")
		if err != nil {
			t.Fatal(err)
		}
		forged, err := other.Issue(thief.id.Load().PublicKey(), transport.Grant{Node: p.id.Load().Node(), Role: transport.Member, Life: day}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		refused(t, ask(thief.id.Load(), forged), kv.Unauthenticated, "not of a CA that this cluster trusts")
		if _, err := r.boxes["m1"].auth.Revoke(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		refused(t, r.renew(p, "m1"), kv.PermissionDenied, "was revoked at")
		// Nor does a token help it.
		tok, err := CreateToken(t.Context(), r.store, p.id.Load().CAHash(), TokenRecord{Expires: r.now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = Join(t.Context(), p.ep, []string{r.net.Addr("m1")}, tok, p.id.Load(), Wish{Name: "p", Role: transport.Proxy})
		refused(t, err, kv.PermissionDenied, "was revoked at")
		// One whose record is gone is told to join again.
		r.store.drop(nodeRecords + thief.id.Load().Node())
		refused(t, r.renew(thief, "m1"), kv.PermissionDenied, "does not know node")
	})
}

func TestARevokedNodeIsCutOffWithinFiveSecondsAndForGood(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		p, q := r.add("p"), r.add("q")
		r.enrol(p, transport.Proxy)
		r.enrol(q, transport.Proxy)
		c, err := r.uplink(p, "m1")
		if err != nil {
			t.Fatal(err)
		}
		other, err := r.uplink(q, "m1")
		if err != nil {
			t.Fatal(err)
		}
		m1 := r.boxes["m1"]
		for _, tc := range []struct{ name, says string }{{"nobody", "agent nodes ls"}, {"m1", "another member"}} {
			if _, err := m1.auth.Revoke(t.Context(), tc.name); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("revoke %s: %v, want %q", tc.name, err, tc.says)
			}
		}
		start := time.Now()
		got, err := m1.auth.Revoke(t.Context(), "p")
		if err != nil || got.ID != p.id.Load().Node() {
			t.Fatal(got, err)
		}
		if again, err := m1.auth.Revoke(t.Context(), got.ID); err != nil || !again.At.Equal(got.At) {
			t.Errorf("revoked again: %v, %v", again, err)
		}
		<-c.Context().Done()
		if took := time.Since(start); took > 5*time.Second || !strings.Contains(fmt.Sprint(c.Err()), "revoked") {
			t.Errorf("cut off after %v: %v", took, c.Err())
		}
		if other.Err() != nil {
			t.Errorf("another node was cut off too: %v", other.Err())
		}
		for range 2 {
			if _, err := r.uplink(p, "m1"); !errors.Is(err, transport.Revoked) {
				t.Errorf("let in again: %v", err)
			}
			m1.stop()
			m1 = r.member("m1", true) // it knows at once
		}
	})
}

func TestTheCAIsReplacedWhileNodesComeAndGo(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		p, away := r.add("p"), r.add("away")
		r.enrol(p, transport.Proxy)
		r.enrol(away, transport.Proxy)
		m1 := r.boxes["m1"]
		old := m1.id.Load().CAHash()
		if _, err := m1.auth.Finish(t.Context(), true); err == nil {
			t.Error("finished what had not begun")
		}
		is, err := m1.auth.Rotate(t.Context(), Rotation{Overlap: 30 * day})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m1.auth.Rotate(t.Context(), Rotation{}); err == nil || !strings.Contains(err.Error(), "--finish") {
			t.Errorf("a second one meanwhile: %v", err)
		}
		time.Sleep(5 * time.Second)
		if now := m1.id.Load().CAHash(); now == old || now != is.CAs[0].Hash {
			t.Fatalf("the member has a certificate of %s", now)
		}
		if _, err := r.uplink(p, "m1"); err != nil {
			t.Fatalf("a proxy that has heard of nothing: %v", err)
		}
		if err := r.renew(p, "m1"); err != nil || p.id.Load().CAHash() != is.CAs[0].Hash || len(p.id.Load().Trust().Roots) != 2 {
			t.Fatalf("renewed: %v, of %s", err, p.id.Load().CAHash())
		}
		if _, err := m1.auth.Finish(t.Context(), false); err == nil || !strings.Contains(err.Error(), "away among them") {
			t.Errorf("finished although a box has no certificate of the new CA: %v", err)
		}
		// A stolen box was revoked before; once the old CA is gone its record is of no use.
		if _, err := m1.auth.Revoke(t.Context(), "away"); err != nil {
			t.Fatal(err)
		}
		r.pass(31 * day)
		if trust := m1.auth.Trust(); len(trust.CAs) != 1 || len(m1.id.Load().Trust().Roots) != 1 {
			t.Fatalf("after the overlap %d CAs count", len(trust.CAs))
		}
		if _, err := r.uplink(p, "m1"); err != nil {
			t.Errorf("a node with a certificate of the new CA: %v", err)
		}
		if _, err := r.uplink(away, "m1"); !errors.Is(err, transport.UnknownCA) {
			t.Errorf("a node that was away for longer: %v", err)
		}
		if err := r.renew(away, "m1"); err == nil {
			t.Error("renewed with a certificate of the dropped CA")
		}
		for _, name := range slices.Sorted(maps.Keys(r.store.m)) {
			if strings.HasPrefix(name, keyRecords+old) {
				t.Errorf("%s is kept", name)
			}
		}
	})
}

func TestAnOperatorsCATakesOver(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		own, err := transport.NewCA("c1")
		if err != nil {
			t.Fatal(err)
		}
		m1 := r.boxes["m1"]
		if _, err := m1.auth.Rotate(t.Context(), Rotation{Next: own, Overlap: 400 * day}); err == nil {
			t.Error("an overlap longer than certificates live")
		}
		if _, err := m1.auth.Rotate(t.Context(), Rotation{Next: own}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		p := r.add("p")
		r.enrol(p, transport.Proxy)
		if got := p.id.Load().CAHash(); got != own.Hash() {
			t.Errorf("a box that joins gets a certificate of %s", got)
		}
		if _, err := m1.auth.Finish(t.Context(), false); err != nil {
			t.Errorf("nobody needs the old one: %v", err)
		}
		if _, err := m1.auth.Rotate(t.Context(), Rotation{Next: own}); err == nil || !strings.Contains(err.Error(), "in use already") {
			t.Errorf("the same one again: %v", err)
		}
	})
}

// TestAMemberRestoredElsewhereFoundsANewCA is a backup that was restored on a machine with another identity.
func TestAMemberRestoredElsewhereFoundsANewCA(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		old := r.boxes["m1"].id.Load().CAHash()
		r.boxes["m1"].stop()
		r.lead = "m9"
		m9 := r.member("m9", true)
		time.Sleep(5 * time.Second)
		if got := m9.auth.Trust().CAs; len(got) != 1 || got[0].Hash == old || got[0].Hash != m9.id.Load().CAHash() || m9.auth.Ready() != nil {
			t.Errorf("CAs %+v, %v", got, m9.auth.Ready())
		}
	})
}

func TestJoiningAndRenewingWorkOverIPv6Alone(t *testing.T) {
	ca, err := transport.NewCA("c1")
	if err != nil {
		t.Fatal(err)
	}
	listen := func(id *atomic.Pointer[transport.Identity]) *transport.Endpoint {
		conn, err := net.ListenPacket("udp6", "[::1]:0")
		if err != nil {
			t.Fatalf("no IPv6 loopback on this machine: %v", err)
		}
		ep, err := transport.New(transport.Config{Conn: conn, Identity: id.Load})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = ep.Run(ctx) })
		t.Cleanup(func() { cancel(); wg.Wait(); _ = conn.Close() })
		return ep
	}
	var member, box atomic.Pointer[transport.Identity]
	id, err := SelfCertify(newIdentity(t), ca, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	member.Store(id)
	box.Store(newIdentity(t))
	s := &store{m: map[string]kv.KeyValue{}}
	server, client := listen(&member), listen(&box)
	desk := &Desk{Store: s, CA: ca, Endpoints: func() []string { return []string{server.Addr().String()} }, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	server.Listen(transport.Join, func(ctx context.Context, conn *transport.Conn) {
		if st, err := conn.AcceptStream(ctx); err == nil {
			_ = desk.Serve(ctx, st, "box")
			<-ctx.Done()
		}
	})
	server.Listen(transport.Uplink, func(ctx context.Context, _ *transport.Conn) { <-ctx.Done() })
	tok, err := CreateToken(t.Context(), s, ca.Hash(), TokenRecord{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Join(t.Context(), client, []string{server.Addr().String()}, tok, box.Load(), Wish{Name: "box", Role: transport.Proxy})
	if err != nil {
		t.Fatal(err)
	}
	box.Store(got.Identity)
	if got, err = Renew(t.Context(), client, got.Endpoints, box.Load()); err != nil {
		t.Fatal(err)
	}
	box.Store(got.Identity)
	c, err := client.Dial(t.Context(), transport.Uplink, transport.Target{Addrs: got.Endpoints})
	if err != nil || !strings.HasPrefix(c.RemoteAddr().String(), "[::1]:") {
		t.Errorf("uplink: %v", err)
	}
}

// A member that wants to leave asks again and again whether another one holds the key, and reads the records each time. It
// must not forget to seal the key over that.
func TestAMemberThatWantsToLeaveSealsTheKeyFirst(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		m1 := r.boxes["m1"]
		r.add("m2")
		r.enrol(r.boxes["m2"], transport.Member)
		r.boxes["m2"].stop()
		m2 := r.member("m2", false)
		began, err := r.now(), errors.New("not asked")
		for err != nil && r.now().Sub(began) < 10*time.Second {
			time.Sleep(100 * time.Millisecond)
			if err = m1.auth.Resign(t.Context()); err != nil && kv.CodeOf(err) != kv.Busy {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if err != nil || !m2.auth.Holds(m2.id.Load().CAHash()) {
			t.Errorf("after %v: %v; the other holds the key: %v", r.now().Sub(began), err, m2.auth.Holds(m2.id.Load().CAHash()))
		}
	})
}

// A box without a clock starts in 1970, before any certificate was made.
func TestABoxWithoutAClockJoinsAndRenews(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		for _, role := range []transport.Role{transport.Proxy, transport.Member} {
			b := r.add("without-" + string(role))
			b.skew.Store(int64(time.Until(time.Unix(1000, 0))))
			r.enrol(b, role)
			if info := b.id.Load().Info(); info.Role != role || time.Until(info.NotAfter) < CertificateLife-day {
				t.Errorf("it has become a %s until %v", info.Role, info.NotAfter)
			}
			if err := r.renew(b, "m1"); err != nil {
				t.Errorf("renew as a %s: %v", role, err)
			}
			if _, err := r.uplink(b, "m1"); err != nil {
				t.Errorf("as a %s it does not get an uplink: %v", role, err)
			}
		}
	})
}
