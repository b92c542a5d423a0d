package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/kv"
	"holdfast/transport"
)

// store is a Store: the replicated records in a map.
type store struct {
	mu   sync.Mutex
	m    map[string]kv.KeyValue
	n    uint64 // of changes
	fail error
}

func (s *store) Do(_ context.Context, c kv.Command) (kv.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return kv.Result{}, s.fail
	}
	for _, o := range c.Ops {
		if op, was := o.(kv.SetRecord), s.m[string(o.(kv.SetRecord).Name)]; op.Have >= 0 && was.Version != op.Have {
			return kv.Result{}, &kv.Error{Code: kv.PreconditionFailed, Revision: was.Version}
		}
	}
	var r kv.Result
	for _, o := range c.Ops {
		op := o.(kv.SetRecord)
		was := s.m[string(op.Name)]
		if op.Value == nil {
			delete(s.m, string(op.Name))
		} else {
			s.m[string(op.Name)] = kv.KeyValue{Key: op.Name, Value: op.Value, Version: was.Version + 1}
		}
		r.Ops = append(r.Ops, kv.OpResult{Count: was.Version + 1})
	}
	s.n++
	return r, nil
}

func (s *store) Read(_ context.Context, q kv.Query) (kv.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r kv.OpResult
	for _, name := range slices.Sorted(maps.Keys(s.m)) {
		if strings.HasPrefix(name, string(q.Ops[0].(kv.Records).Prefix)) {
			r.KVs = append(r.KVs, s.m[name])
		}
	}
	return kv.Page{Ops: []kv.OpResult{r}}, nil
}

func (s *store) changes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *store) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, name)
	s.n++
}

// replace puts another value under a record that is there, as nobody who asks can.
func (s *store) replace(name string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.m[name]
	v.Value = value
	s.m[name] = v
}

// clusterOf is a member at which boxes join, and an endpoint of a box that has not.
type clusterOf struct {
	ca    *transport.CA
	desk  *Desk
	store *store
	addr  string
	box   *transport.Endpoint
	id    *transport.Identity
	sawIn chan struct{} // one for each stream on the join protocol
}

func endpoint(t *testing.T, id *transport.Identity) *transport.Endpoint {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ep, err := transport.New(transport.Config{Conn: conn, Identity: func() *transport.Identity { return id }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ep.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); _ = conn.Close() })
	return ep
}

func newIdentity(t *testing.T) *transport.Identity {
	t.Helper()
	id, err := transport.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newCluster(t *testing.T) *clusterOf {
	t.Helper()
	ca, err := transport.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	member := newIdentity(t)
	cert, err := ca.Issue(member.PublicKey(), transport.Grant{Node: member.Node(), Role: transport.Member, Life: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if member, err = member.WithCertificate(cert, ca.Certificate()); err != nil {
		t.Fatal(err)
	}
	c := &clusterOf{ca: ca, store: &store{m: map[string]kv.KeyValue{}}, id: newIdentity(t), sawIn: make(chan struct{}, 8)}
	c.desk = &Desk{Store: c.store, CA: ca, Endpoints: func() []string { return []string{"a:1"} }, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	ep := endpoint(t, member)
	ep.Listen(transport.Join, func(ctx context.Context, conn *transport.Conn) {
		st, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		c.sawIn <- struct{}{}
		_ = c.desk.Serve(ctx, st, "box")
		<-conn.Context().Done()
	})
	c.addr = ep.Addr().String()
	c.box = endpoint(t, c.id)
	return c
}

func (c *clusterOf) token(t *testing.T, r TokenRecord) Token {
	t.Helper()
	if r.Expires.IsZero() {
		r.Expires = time.Now().Add(time.Hour)
	}
	tok, err := CreateToken(t.Context(), c.store, c.ca.Hash(), r)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseToken(tok.Reveal() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func (c *clusterOf) join(t *testing.T, tok Token, id *transport.Identity) (Joined, error) {
	t.Helper()
	return Join(t.Context(), c.box, []string{c.addr}, tok, id, Wish{Name: "box", Role: transport.Proxy})
}

func TestABoxWithATokenGetsACertificateOfItsScope(t *testing.T) {
	c := newCluster(t)
	got, err := c.join(t, c.token(t, TokenRecord{Scope: []string{"site/42/"}}), c.id)
	if err != nil {
		t.Fatal(err)
	}
	info := got.Identity.Info()
	if info.Node != c.id.Node() || info.Role != transport.Proxy || len(info.Scope) != 1 || info.Scope[0] != "site/42/" || got.Endpoints[0] != "a:1" {
		t.Errorf("got %+v, endpoints %v", info, got.Endpoints)
	}
	nodes, err := Nodes(t.Context(), c.store)
	if err != nil || len(nodes) != 1 || nodes[0].ID != c.id.Node() || nodes[0].Name != "box" {
		t.Errorf("nodes %+v, %v", nodes, err)
	}
}

func TestABoxWhoseAnswerWasLostAsksAgainAndTakesNoSecondUse(t *testing.T) {
	c := newCluster(t)
	tok := c.token(t, TokenRecord{Uses: 1})
	for range 3 {
		if _, err := c.join(t, tok, c.id); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.join(t, tok, newIdentity(t))
	refused(t, err, kv.PermissionDenied, "make another")
}

func refused(t *testing.T, err error, code kv.Code, says string) {
	t.Helper()
	r, ok := errors.AsType[*Refused](err)
	if !ok || r.Err.Code != code || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want a refusal as %v that says %q", err, code, says)
	}
}

func TestEachReasonNotToLetABoxInSaysWhatToDo(t *testing.T) {
	c := newCluster(t)
	wrong := c.token(t, TokenRecord{})
	wrong.secret = strings.Repeat("0", len(wrong.secret))
	_, err := c.join(t, wrong, c.id)
	refused(t, err, kv.Unauthenticated, "agent token create")

	_, err = c.join(t, c.token(t, TokenRecord{Expires: time.Now().Add(-time.Minute)}), c.id)
	refused(t, err, kv.Unauthenticated, "expired at")

	_, err = c.join(t, c.token(t, TokenRecord{Role: transport.Member}), c.id)
	refused(t, err, kv.PermissionDenied, "for a member")

	gone := c.token(t, TokenRecord{})
	if err := RevokeToken(t.Context(), c.store, gone.ID); err != nil {
		t.Fatal(err)
	}
	_, err = c.join(t, gone, c.id)
	refused(t, err, kv.Unauthenticated, "revoked")
	if err := RevokeToken(t.Context(), c.store, gone.ID); kv.CodeOf(err) != kv.KeyNotFound {
		t.Errorf("revoked twice: %v", err)
	}

	c.store.fail = kv.Errorf(kv.NoLeader, "no leader")
	_, err = c.join(t, c.token1(t), c.id)
	if _, final := errors.AsType[*Refused](err); final || err == nil {
		t.Errorf("a cluster without a leader: %v, want an error worth trying again", err)
	}
}

// token1 is a token made before the store began to fail.
func (c *clusterOf) token1(t *testing.T) Token {
	t.Helper()
	fail := c.store.fail
	c.store.fail = nil
	defer func() { c.store.fail = fail }()
	return c.token(t, TokenRecord{})
}

func TestTheSecretGoesToNobodyButTheClusterOfTheToken(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	tok := other.token(t, TokenRecord{})
	_, err := c.join(t, tok, c.id)
	r, ok := errors.AsType[*transport.RefusedError](err)
	if !ok || r.Why != transport.UnknownCA {
		t.Fatalf("got %v, want the CA refused", err)
	}
	select {
	case <-c.sawIn:
		t.Error("something was sent to a cluster that the token does not name")
	default:
	}
}

func TestAnIdentityThatWasCopiedIsRefused(t *testing.T) {
	c := newCluster(t)
	tok := c.token(t, TokenRecord{})
	if _, err := c.join(t, tok, c.id); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(NodeRecord{ID: c.id.Node(), Role: transport.Proxy, Key: "another"})
	if err != nil {
		t.Fatal(err)
	}
	c.store.replace(nodeRecords+c.id.Node(), b)
	_, err = c.join(t, tok, c.id)
	refused(t, err, kv.PermissionDenied, "copied")
}

func TestTokensAreReadWholeOrRefusedWithoutRepeatingThem(t *testing.T) {
	tok := newToken(strings.Repeat("ab", 32))
	whole := tok.Reveal()
	if got, err := ParseToken(" " + whole + "\n"); err != nil || got != tok {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := range len(whole) - 1 {
		if _, err := ParseToken(whole[:i]); !errors.Is(err, ErrToken) || i > 20 && strings.Contains(err.Error(), whole[:i]) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	for _, none := range []string{"", " \n"} {
		if _, err := ParseToken(none); !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "nothing in it") {
			t.Errorf("of %q: %v", none, err)
		}
	}
	if strings.Contains(tok.String(), tok.secret) {
		t.Error("String shows the secret")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(newToken(strings.Repeat("ab", 32)).Reveal())
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := ParseToken(s); err == nil && tok.Reveal() != strings.TrimSpace(s) {
			t.Fatalf("%q came back as %q", s, tok.Reveal())
		}
	})
}

// Tokens that expired go by name, the oldest first; what still lives or has just been used stays.
func TestJoinTokensThatExpiredAreRemoved(t *testing.T) {
	c := newCluster(t)
	now := time.Now()
	ended := func(ago time.Duration) string { return c.token(t, TokenRecord{Expires: now.Add(-ago)}).ID }
	c.token(t, TokenRecord{Expires: now.Add(time.Hour)})
	second, first, lately := ended(2*time.Hour), ended(3*time.Hour), ended(time.Minute)
	before := now.Add(-time.Hour)
	if gone, err := RemoveExpired(t.Context(), c.store, before, 1); err != nil || !slices.Equal(gone, []string{first}) {
		t.Errorf("removed %v, %v, want %s", gone, err, first)
	}
	c.store.fail = kv.Errorf(kv.NoLeader, "no leader")
	if gone, err := RemoveExpired(t.Context(), c.store, before, 10); kv.CodeOf(err) != kv.NoLeader || len(gone) > 0 {
		t.Errorf("without a leader: removed %v, %v", gone, err)
	}
	c.store.fail = nil
	if gone, err := RemoveExpired(t.Context(), c.store, before, 10); err != nil || !slices.Equal(gone, []string{second}) {
		t.Errorf("removed %v, %v, want %s", gone, err, second)
	}
	left, err := Tokens(t.Context(), c.store)
	if err != nil || len(left) != 2 || !slices.ContainsFunc(left, func(r TokenRecord) bool { return r.ID == lately }) {
		t.Errorf("left are %v, %v", left, err)
	}
}

// A proxy is dropped once it cannot renew any more, the one that is gone longest first; what could come back, is connected, or is a
// member stays.
func TestProxiesThatCannotComeBackAreRemoved(t *testing.T) {
	c := newCluster(t)
	before := time.Now()
	add := func(id string, role transport.Role, ended time.Duration) {
		t.Helper()
		rec := NodeRecord{ID: id, Name: "n" + id, Role: role, Until: before.Add(-ended)}
		if err := set(t.Context(), c.store, nodeRecords+id, rec, anyVersion); err != nil {
			t.Fatal(err)
		}
	}
	add("01", transport.Proxy, RenewGrace-time.Minute)
	add("02", transport.Proxy, RenewGrace+time.Hour)
	add("03", transport.Proxy, RenewGrace+2*time.Hour)
	add("04", transport.Proxy, RenewGrace+3*time.Hour) // is connected
	add("05", transport.Member, RenewGrace+4*time.Hour)
	here := func(id string) bool { return id == "04" }
	if gone, err := RemoveGone(t.Context(), c.store, before, 1, here); err != nil || !slices.Equal(gone, []string{"n03 03"}) {
		t.Errorf("removed %v, %v, want 03", gone, err)
	}
	if gone, err := RemoveGone(t.Context(), c.store, before, 10, here); err != nil || !slices.Equal(gone, []string{"n02 02"}) {
		t.Errorf("removed %v, %v, want 02", gone, err)
	}
	left, err := Nodes(t.Context(), c.store)
	var ids []string
	for _, n := range left {
		ids = append(ids, n.ID)
	}
	if slices.Sort(ids); err != nil || !slices.Equal(ids, []string{"01", "04", "05"}) {
		t.Errorf("left are %v, %v", ids, err)
	}
}

func TestAnExpiredTokenGivesItsPlaceToANewOne(t *testing.T) {
	c := newCluster(t)
	now := time.Now()
	old := c.token(t, TokenRecord{Expires: now.Add(-time.Minute)})
	for i := range MaxTokens - 1 {
		id := fmt.Sprintf("%012x", i)
		if err := set(t.Context(), c.store, tokenRecords+id, TokenRecord{ID: id, Expires: now.Add(time.Hour)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	c.token(t, TokenRecord{Created: now})
	if all, err := Tokens(t.Context(), c.store); err != nil || len(all) != MaxTokens || slices.ContainsFunc(all, func(r TokenRecord) bool { return r.ID == old.ID }) {
		t.Errorf("%d tokens, %v", len(all), err)
	}
	_, err := CreateToken(t.Context(), c.store, c.ca.Hash(), TokenRecord{Created: now, Expires: now.Add(time.Hour)})
	if kv.CodeOf(err) != kv.RateLimited {
		t.Errorf("one more than there may be: %v", err)
	}
}
