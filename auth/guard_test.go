package auth

import (
	"context"
	"encoding/base64"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"holdfast/kv"
)

// node is what a Guard stands before: it judges as apply does, keeps what it was given, and shows what a test says.
type node struct {
	mu      sync.Mutex
	policy  *Policy
	changed chan struct{}
	behind  *Policy // what it knows until it is read; nil: it knows all
	got     []kv.Command
	asked   []kv.Query
	batches chan kv.Batch
}

func newNode(p *Policy) *node {
	return &node{policy: p, changed: make(chan struct{}), batches: make(chan kv.Batch)}
}

func (n *node) source() Source {
	return Source{Signs: true,
		Policy: func() (*Policy, bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.behind != nil {
				return n.behind, true
			}
			return n.policy, true
		},
		Changed: func() <-chan struct{} { n.mu.Lock(); defer n.mu.Unlock(); return n.changed },
	}
}

func (n *node) change(t *testing.T, ops ...kv.Op) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, op := range ops {
		next, _, err := n.policy.Change(op)
		if err != nil {
			t.Fatal(err)
		}
		n.policy = next
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) Do(_ context.Context, c kv.Command) (kv.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.policy.Permits(&c, nil); err != nil {
		return kv.Result{}, err
	}
	n.got = append(n.got, c)
	return kv.Result{Ops: []kv.OpResult{{}}}, nil
}

func (n *node) Read(_ context.Context, q kv.Query) (kv.Page, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.behind = nil
	n.asked = append(n.asked, q)
	return kv.Page{Ops: make([]kv.OpResult, len(q.Ops))}, nil
}

// Watch refuses a watch without a key, as every node does, and passes on the batches of the test.
func (n *node) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		add := func(one kv.Watch) bool {
			b := kv.Batch{WatchID: one.ID, Created: true}
			if len(one.Key) == 0 {
				b.Canceled, b.Err = true, kv.Errorf(kv.Invalid, "no key")
			}
			return yield(b, nil)
		}
		for _, one := range w.Watches {
			if !add(one) {
				return
			}
		}
		for {
			select {
			case c, ok := <-w.Control:
				switch {
				case !ok:
					return
				case c.Add != nil:
					if !add(*c.Add) {
						return
					}
				case !yield(kv.Batch{WatchID: c.Cancel, Canceled: true}, nil):
					return
				}
			case b := <-n.batches:
				if !yield(b, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// guarded puts a Guard before a node.
func guarded(n *node, now func() time.Time) (*Guard, *[]string) {
	var events []string
	var mu sync.Mutex
	return NewGuard(n, n.source, Options{Now: now, Passwords: NewPasswords(now, bcrypt.MinCost), Count: func(e string) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}}), &events
}

func withPassword(t *testing.T, p *Policy, user, password string) *Policy {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	next, _, refused := p.Change(kv.SetAuth{Do: kv.AuthSetPassword, User: user, Secret: hash})
	if refused != nil {
		t.Fatal(refused)
	}
	return next
}

func login(t *testing.T, g *Guard, user, password string) (string, error) {
	t.Helper()
	page, err := g.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Authenticate{User: user, Password: password, From: "a"}}})
	if err != nil {
		return "", err
	}
	return string(page.Ops[0].KVs[0].Value), nil
}

func write(token, key string) kv.Command {
	return kv.Command{By: kv.By{Token: token}, Ops: []kv.Op{kv.Put{Key: []byte(key)}}}
}

func TestATokenIsGoodUntilItsEnd(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	n := newNode(withPassword(t, shop(t), "writer", "w"))
	g, _ := guarded(n, func() time.Time { return at })
	token, err := login(t, g, "writer", "w")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Do(t.Context(), write("Bearer "+token, "a")); err != nil {
		t.Fatal(err)
	}
	if c := n.got[0]; c.By.Token != "" || c.By.Principal != "writer" {
		t.Errorf("what goes on is by %+v", c.By)
	}
	twisted := token[:len(token)-3] + "AAA"
	payload := strings.Split(token, ".")
	payload[1] = base64.RawURLEncoding.EncodeToString([]byte(`{"username":"root","revision":99,"exp":9999999999}`))
	for name, bad := range map[string]string{"another signature": twisted, "another payload": strings.Join(payload, "."), "none at all": "x",
		"no signature": strings.Join(payload[:2], ".") + ".", "another algorithm": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + payload[1] + "."} {
		if _, err := g.Do(t.Context(), write(bad, "a")); kv.CodeOf(err) != kv.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	at = at.Add(DefaultTokenTTL)
	if _, err := g.Do(t.Context(), write(token, "a")); kv.CodeOf(err) != kv.Unauthenticated {
		t.Errorf("expired: %v", err)
	}
	at = at.Add(-DefaultTokenTTL)
	for name, ops := range map[string][]kv.Op{
		"another password": {kv.SetAuth{Do: kv.AuthSetPassword, User: "writer"}},
		"made again":       {kv.SetAuth{Do: kv.AuthDeleteUser, User: "writer"}, addUser("writer"), grantRole("writer", "w")},
		"off and on":       {kv.SetAuth{Do: kv.AuthDisable}, kv.SetAuth{Do: kv.AuthEnable, Secret: []byte(strings.Repeat("k", 32))}},
	} {
		m := newNode(n.policy)
		m.change(t, ops...)
		h, _ := guarded(m, func() time.Time { return at })
		if _, err := h.Do(t.Context(), write(token, "a")); kv.CodeOf(err) != kv.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADeviceShowsItsToken(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	d := kv.Device{Verbs: kv.VerbPut, Prefixes: []string{"site/"}, Expires: at.Add(time.Hour).Unix()}
	id, token := NewDevice(&d)
	n := newNode(shop(t))
	n.change(t, kv.SetDevice{ID: id, Device: &d})
	g, events := guarded(n, func() time.Time { return at })
	if _, err := g.Do(t.Context(), write("Bearer "+token, "site/1")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Do(t.Context(), write(token, "other")); kv.CodeOf(err) != kv.PermissionDenied {
		t.Errorf("elsewhere: %v", err)
	}
	if _, err := g.Do(t.Context(), write(token+"x", "site/1")); kv.CodeOf(err) != kv.Unauthenticated {
		t.Errorf("another secret: %v", err)
	}
	at = at.Add(time.Hour)
	if _, err := g.Do(t.Context(), write(token, "site/1")); kv.CodeOf(err) != kv.Unauthenticated {
		t.Errorf("expired: %v", err)
	}
	if want := []string{EventDenied, EventToken, EventToken}; !slices.Equal(*events, want) {
		t.Errorf("counted %v, want %v", *events, want)
	}
}

// A member that lags behind does not refuse what another has allowed already.
func TestAGuardThatLagsLooksAgain(t *testing.T) {
	before := shop(t)
	n := newNode(before)
	n.change(t, grantRole("stranger", "w"))
	n.behind = before
	g, _ := guarded(n, time.Now)
	if _, err := g.Do(t.Context(), kv.Command{By: kv.By{Principal: "stranger"}, Ops: []kv.Op{kv.Put{Key: []byte("a")}}}); err != nil {
		t.Error(err)
	}
}

// A node's word is not a token: what it says of root counts for nothing, and the key for tokens is nobody's to choose.
func TestWhatAGuardDoesNotTakeFromANode(t *testing.T) {
	n := newNode(withPassword(t, shop(t), "root", "r"))
	g, _ := guarded(n, time.Now)
	claim := kv.By{Principal: "root", AuthRevision: 99, Node: testNode}
	if _, err := g.Do(t.Context(), kv.Command{By: claim, Ops: []kv.Op{addUser("y")}}); kv.CodeOf(err) != kv.PermissionDenied {
		t.Errorf("root by a node's word: %v", err)
	}
	if _, err := g.Do(t.Context(), kv.Command{By: claim, Ops: []kv.Op{kv.SetAuth{Do: kv.AuthSetKey, Secret: testSeed}}}); kv.CodeOf(err) != kv.PermissionDenied {
		t.Errorf("a key: %v", err)
	}
	token, err := login(t, g, "root", "r")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Do(t.Context(), kv.Command{By: kv.By{Token: token, Node: testNode}, Ops: []kv.Op{addUser("y")}}); err != nil {
		t.Errorf("with its token: %v", err)
	}
	g.Do(t.Context(), kv.Command{By: kv.By{Token: token}, Ops: []kv.Op{kv.SetAuth{Do: kv.AuthEnable, Secret: []byte("mine")}}}) //nolint:errcheck // looked at below
	if op := n.got[len(n.got)-1].Ops[0].(kv.SetAuth); string(op.Secret) == "mine" || len(op.Secret) != 32 {
		t.Errorf("the seed that goes on is %q", op.Secret)
	}
}

// Without a policy everything passes but what cannot be kept safely.
func TestAGuardWithoutAPolicyPassesTokensOn(t *testing.T) {
	n := newNode(nil)
	g := NewGuard(n, func() Source { return Source{Policy: func() (*Policy, bool) { return nil, false }} }, Options{})
	c := write("Bearer x", "a")
	c.Write = kv.WriteAuto
	if _, err := g.Do(t.Context(), c); err != nil || n.got[0].By.Token != "Bearer x" || n.got[0].Write != kv.WriteSync {
		t.Errorf("%v, %+v", err, n.got)
	}
	c.Write = kv.WriteQueue
	if _, err := g.Do(t.Context(), c); kv.CodeOf(err) != kv.AuthStale {
		t.Errorf("queued: %v", err)
	}
}

func TestAGuesserIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(withPassword(t, shop(t), "writer", "w"))
		g, _ := guarded(n, time.Now)
		for range freeMisses + 1 {
			if _, err := login(t, g, "writer", "guess"); kv.CodeOf(err) != kv.AuthFailed {
				t.Fatal(err)
			}
		}
		_, err := login(t, g, "writer", "w")
		if kv.CodeOf(err) != kv.RateLimited {
			t.Fatalf("right after: %v", err)
		}
		if _, err := g.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Authenticate{User: "writer", Password: "w", From: "elsewhere"}}}); err != nil {
			t.Errorf("from elsewhere: %v", err)
		}
		time.Sleep(firstPause)
		if _, err := login(t, g, "writer", "w"); err != nil {
			t.Errorf("after the pause: %v", err)
		}
		if _, err := login(t, g, "nobody", "w"); kv.CodeOf(err) != kv.AuthFailed {
			t.Errorf("nobody: %v", err)
		}
	})
}

func TestAWatchEndsWithItsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(shop(t))
		g, _ := guarded(n, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		controls := make(chan kv.WatchControl)
		got := make(chan kv.Batch, 16)
		var wg sync.WaitGroup
		wg.Go(func() {
			spec := kv.WatchSpec{By: kv.By{Principal: "reader"}, Control: controls, Watches: []kv.Watch{
				{ID: 1, Key: []byte("a")}, {ID: 2, Key: []byte("z")}}}
			for b, err := range streamed(ctx, t, g, spec) {
				if err != nil {
					t.Error(err)
				}
				got <- b
			}
		})
		want := func(id int64, created, canceled bool, code kv.Code) {
			t.Helper()
			b := <-got
			var have kv.Code
			if b.Err != nil {
				have = b.Err.Code
			}
			if b.WatchID != id || b.Created != created || b.Canceled != canceled || have != code {
				t.Errorf("got %+v, want watch %d, created %v, canceled %v, %v", b, id, created, canceled, code)
			}
		}
		want(1, true, false, kv.OK)
		want(2, true, true, kv.PermissionDenied)
		n.batches <- kv.Batch{WatchID: 1, Events: []kv.Event{{}}}
		want(1, false, false, kv.OK)
		n.mu.Lock() // an event that comes with the change, before anybody was told of it
		next, _, _ := n.policy.Change(kv.SetAuth{Do: kv.AuthRevokeRole, User: "reader", Role: "r"})
		n.policy = next
		n.mu.Unlock()
		n.batches <- kv.Batch{WatchID: 1, Events: []kv.Event{{}}}
		want(1, false, true, kv.PermissionDenied)
		controls <- kv.WatchControl{Add: &kv.Watch{ID: 3, Key: []byte("a")}}
		want(3, true, true, kv.PermissionDenied)
		close(controls) // and with nothing left the stream ends by itself
		wg.Wait()
	})
}

// Who guesses over HTTP's Basic is slowed down where they are, and nobody else.
func TestAGuesserOverBasicIsSlowedDownWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(withPassword(t, shop(t), "writer", "w"))
		type at struct{}
		g := NewGuard(n, n.source, Options{Passwords: NewPasswords(time.Now, bcrypt.MinCost), From: func(ctx context.Context) string {
			from, _ := ctx.Value(at{}).(string)
			return from
		}})
		try := func(from, node, password string) error {
			token := "Basic " + base64.StdEncoding.EncodeToString([]byte("writer:"+password))
			_, err := g.Do(context.WithValue(t.Context(), at{}, from), kv.Command{By: kv.By{Token: token, Node: node}, Ops: []kv.Op{kv.Put{Key: []byte("a")}}})
			return err
		}
		for range freeMisses + 1 {
			if err := try("192.0.2.1", "", "guess"); kv.CodeOf(err) != kv.AuthFailed {
				t.Fatal(err)
			}
		}
		if err := try("192.0.2.1", "", "w"); kv.CodeOf(err) != kv.RateLimited {
			t.Errorf("the guesser: %v", err)
		}
		if err := try("192.0.2.2", "", "w"); err != nil {
			t.Errorf("somebody else: %v", err)
		}
	})
}

// A proxy that was stolen says of each guess that it comes from elsewhere.
func TestAProxyThatGuessesIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(withPassword(t, shop(t), "writer", "w"))
		g, _ := guarded(n, time.Now)
		try := func(node string, i int) error {
			_, err := g.Read(t.Context(), kv.Query{By: kv.By{Node: node}, Ops: []kv.Op{kv.Authenticate{User: "writer", Password: "guess", From: strings.Repeat("x", i)}}})
			return err
		}
		for i := range nodeMisses + 1 {
			if err := try(testNode, i); kv.CodeOf(err) != kv.AuthFailed {
				t.Fatalf("guess %d: %v", i, err)
			}
		}
		begin, looked := time.Now(), 0
		for i := range 1000 {
			if err := try(testNode, 1000+i); kv.CodeOf(err) == kv.AuthFailed {
				looked++
			}
			time.Sleep(nodePause / 10)
		}
		if most := int(time.Since(begin)/nodePause) + 1; looked > most || looked < most/2 {
			t.Errorf("%d guesses were looked at in %v, want one in %v", looked, time.Since(begin), nodePause)
		}
		if err := try("ff112233445566778899aabbccddeeff", 1); kv.CodeOf(err) != kv.AuthFailed {
			t.Errorf("another proxy: %v", err)
		}
	})
}

// What is remembered of wrong passwords does not grow with the names that were tried.
func TestLongNamesAreNotRemembered(t *testing.T) {
	w := NewPasswords(time.Now, bcrypt.MinCost)
	if err := w.check(t.Context(), guesser{user: strings.Repeat("u", 1<<20), from: strings.Repeat("f", 1<<20)}, "guess", []byte("no hash")); kv.CodeOf(err) != kv.AuthFailed {
		t.Fatal(err)
	}
	if len(w.misses) != 1 {
		t.Errorf("%d guesses are remembered", len(w.misses))
	}
	var key any = guesser{}.tallies()[0].key
	if _, digest := key.([32]byte); !digest {
		t.Errorf("a %T is kept for each", key)
	}
}
