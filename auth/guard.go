package auth

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/kv"
)

// Next is what a Guard stands before: a node.
type Next interface {
	Do(ctx context.Context, c kv.Command) (kv.Result, error)
	Read(ctx context.Context, q kv.Query) (kv.Page, error)
	Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

// Source is where a Guard has its policy from. The functions are called concurrently.
type Source struct {
	// Policy is the policy at present, nil that of a new cluster. Known is false where this node has none to judge by: then
	// everything passes, Tokens too, and somebody behind judges.
	Policy func() (p *Policy, known bool)
	// Changed returns a channel that is closed once the policy may be another than the one that Policy returned before.
	Changed func() <-chan struct{}
	// Leases returns the keys under a lease; nil: somebody behind judges what touches leases.
	Leases LeaseKeys
	// Stale says why the policy is not to be judged by any more, nil if it is; nil: it always is.
	Stale func() error
	// Signs: this node answers kv.Authenticate and Basic by itself. A mirror has no hashes to compare with.
	Signs bool
}

func (s Source) stale() error {
	if s.Stale == nil {
		return nil
	}
	return s.Stale()
}

// fromSocket reports whether a query is whether whoever came over the administration socket may look after this node. They
// may, whatever the node knows of the cluster.
func fromSocket(q kv.Query) bool {
	op, ok := only[kv.ReadAuth](q.Ops)
	return ok && (op.What == kv.AuthRoot || op.What == kv.AuthSomeone) && q.By == kv.By{Principal: kv.RootName}
}

// Options of a Guard. The zero value of a field is the default its comment names.
type Options struct {
	Now       func() time.Time   // time.Now
	TokenTTL  time.Duration      // DefaultTokenTTL
	Passwords *Passwords         // one of its own
	Count     func(event string) // told of each of Events; nil: nobody is
	// Named is told who a request turned out to be from; nil: nobody is.
	Named func(ctx context.Context, principal string)
	// From says where the client of a request is, for slowing down who guesses; nil: nobody knows.
	From func(ctx context.Context) string
}

// Events are what a Guard counts.
var Events = []string{EventDenied, EventToken, EventPassword, EventSlowed, EventCut}

// The events.
const (
	EventDenied   = "denied"   // a right is missing
	EventToken    = "token"    // a token was no good, or missing
	EventPassword = "password" // a password was wrong
	EventSlowed   = "slowed"   // one was not looked at, because there were too many
	EventCut      = "cut"      // a watch ended because a right was withdrawn
)

// Guard is a Backend in front of another that lets through what a policy allows: see the package comment. It keeps a
// bounded memory of the tokens and passwords that it has verified.
type Guard struct {
	next   Next
	source func() Source
	opts   Options
	tokens memory[claims]   // by token, of the key that verified them
	basics memory[struct{}] // by digest of user, password and hash
	salt   [32]byte
	paces  paces

	reviews reviews
}

// NewGuard returns a Guard. Source is asked for each request, because a node may change its kind.
func NewGuard(next Next, source func() Source, o Options) *Guard {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Passwords == nil {
		o.Passwords = NewPasswords(o.Now, 0)
	}
	if o.Count == nil {
		o.Count = func(string) {}
	}
	if o.Named == nil {
		o.Named = func(context.Context, string) {}
	}
	if o.From == nil {
		o.From = func(context.Context) string { return "" }
	}
	o.TokenTTL = cmp.Or(o.TokenTTL, DefaultTokenTTL)
	g := &Guard{next: next, source: source, opts: o}
	_, _ = rand.Read(g.salt[:]) // never fails
	return g
}

// retries bounds how often a request is judged anew because the policy changes while it is under way.
const retries = 4

// Do judges a command and passes it on. One that apply refuses because who asks has changed meanwhile is judged once more.
func (g *Guard) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	src := g.source()
	if err := withSecret(&c); err != nil {
		return kv.Result{}, err
	}
	if err := src.stale(); err != nil {
		return kv.Result{}, err
	}
	if all := kv.Renewals(&c); len(all) > 0 && !alone(&c) {
		return g.renewals(ctx, &src, all)
	}
	for try := 1; ; try++ {
		one := c
		if err := g.command(ctx, &src, &one); err != nil {
			return kv.Result{}, g.counted(err)
		}
		res, err := g.next.Do(ctx, one)
		if kv.CodeOf(err) != kv.AuthOldRevision || c.By.Node != "" || try == retries {
			return res, err
		}
		if err := g.catchUp(ctx); err != nil { // what was refused was certainly not applied
			return kv.Result{}, err
		}
	}
}

// withSecret draws what tokens are to be signed with, once authentication is turned on: nobody else chooses that.
func withSecret(c *kv.Command) error {
	op, ok := only[kv.SetAuth](c.Ops)
	switch {
	case ok && op.Do == kv.AuthSetKey:
		return kv.Errorf(kv.PermissionDenied, "the key for tokens is set by a member itself")
	case ok && op.Do == kv.AuthEnable:
		op.Secret = newSeed()
		c.Ops = []kv.Op{op}
	}
	return nil
}

// catchUp returns once the policy here is as new as the call.
func (g *Guard) catchUp(ctx context.Context) error {
	_, err := g.next.Read(ctx, kv.Query{})
	return err
}

// command makes c what may go on. If that is an error, c is good for nothing any more.
func (g *Guard) command(ctx context.Context, src *Source, c *kv.Command) error {
	root, asked := false, c.By
	err := g.judged(ctx, src, true, func(p *Policy) (err error) {
		if each, ok := only[kv.Each](c.Ops); ok {
			c.Ops, c.By = []kv.Op{g.each(ctx, p, each)}, asked.Named()
			return nil
		}
		if c.By, err = g.identify(ctx, p, asked, takesRoot(c.Ops)); err != nil {
			return err
		}
		if c.By.Principal != "" {
			g.opts.Named(ctx, c.By.Principal)
		}
		if err := p.Permits(c, src.Leases); err != nil {
			return err
		}
		if err := g.limit(p, c); err != nil {
			return err
		}
		root = p.IsRoot(c.By.Principal)
		c.By = carried(src, c.By, asked.Token, root)
		return nil
	})
	if err != nil {
		return err
	}
	if root && !src.Signs && c.Write != kv.WriteSync { // a member believes that of nobody but the one who shows it
		if c.Write == kv.WriteQueue {
			return kv.Errorf(kv.PermissionDenied, "%s has every right, and what is queued here is applied without anything to show for it: write as somebody else, or without a queue", c.By.Principal)
		}
		c.Write = kv.WriteSync
	}
	if c.By.Token != "" && !root && c.Write != kv.WriteSync { // what nobody here can judge is not queued
		if c.Write == kv.WriteQueue {
			return kv.Errorf(kv.AuthStale, "this node has no policy yet to judge the token by, so it does not queue the write")
		}
		c.Write = kv.WriteSync
	}
	return nil
}

// carried is who asks as the node behind is told. A proxy tells the name; of those who have every right it passes on what
// they have shown, because no member takes its word for that.
func carried(src *Source, by kv.By, token string, root bool) kv.By {
	if root && !src.Signs {
		by.Token = token
	}
	return by
}

// each finds out who asks for what in a batch. One who cannot be found out is nobody, and apply says so.
func (g *Guard) each(ctx context.Context, p *Policy, each kv.Each) kv.Each {
	all := slices.Clone(each.Commands)
	for i := range all {
		by, err := g.identify(ctx, p, all[i].By, false)
		if err != nil {
			by = kv.By{Node: all[i].By.Node}
		}
		all[i].By = by
	}
	return kv.Each{Commands: all}
}

// judged runs judge by the policy at hand, and if that refuses once more by one that is as new as the request: this node
// may lag behind. Fresh: whoever asks wants that.
func (g *Guard) judged(ctx context.Context, src *Source, fresh bool, judge func(*Policy) error) error {
	p, known := src.Policy()
	if !known {
		return nil
	}
	err := judge(p)
	if err == nil || !fresh || !src.Signs || kv.CodeOf(err) == kv.RateLimited || kv.CodeOf(err) == kv.Busy {
		return err
	}
	if lag := g.catchUp(ctx); lag != nil {
		return err
	}
	if q, _ := src.Policy(); q != p {
		return judge(q)
	}
	return err
}

// Read judges a query, passes it on, and judges the answer if the policy has changed meanwhile.
func (g *Guard) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	src := g.source()
	if op, ok := only[kv.Authenticate](q.Ops); ok {
		return g.authenticate(ctx, src, q, op)
	}
	if err := src.stale(); err != nil && !fromSocket(q) {
		return kv.Page{}, err
	}
	for try := 1; ; try++ {
		var by kv.By
		before, known := src.Policy()
		if !known {
			return g.next.Read(ctx, q)
		}
		if _, plain := only[kv.Range](q.Ops); plain && !before.Enabled() { // most reads; nobody is asked who they are
			asked := q
			asked.By = kv.By{Node: q.By.Node}
			page, err := g.next.Read(ctx, asked)
			if now, _ := src.Policy(); err != nil || now == before || try == retries {
				return page, err
			}
			continue
		}
		err := g.judged(ctx, &src, q.MaxAge == 0, func(p *Policy) (err error) {
			before = p
			one := q
			if one.By, err = g.identify(ctx, p, q.By, takesRoot(q.Ops)); err == nil {
				if takesRoot(q.Ops) && one.By.Principal != "" { // of an administrator's deed, or of nothing that is written down
					g.opts.Named(ctx, one.By.Principal)
				}
				by = carried(&src, one.By, q.By.Token, p.IsRoot(one.By.Principal))
				err = p.PermitsQuery(&one, src.Leases)
			}
			if err == nil {
				err = g.rate(p, one.By.Principal)
			}
			return err
		})
		if err != nil {
			return kv.Page{}, g.counted(err)
		}
		if op, ok := only[kv.ReadAuth](q.Ops); ok && (op.What == kv.AuthRoot || op.What == kv.AuthSomeone) {
			return somebody(before, by.Principal), nil // that they may is the answer, and who they are
		}
		if op, ok := only[kv.ReadAuth](q.Ops); ok && op.What == kv.AuthPolicy && !src.Signs {
			res, err := before.Answer(op) // a mirror of a mirror
			return kv.Page{Ops: []kv.OpResult{res}}, err
		}
		asked := q
		asked.By = by
		page, err := g.next.Read(ctx, asked)
		if err == nil {
			err = g.counted(g.answer(before, by, src, q.Ops, page))
		}
		if now, _ := src.Policy(); now == before || err != nil || try == retries {
			if err != nil {
				return kv.Page{}, err
			}
			return page, nil
		}
	}
}

// somebody is the answer to kv.AuthRoot and kv.AuthSomeone.
func somebody(p *Policy, principal string) kv.Page {
	res := kv.OpResult{Succeeded: !p.Enabled() || p.IsRoot(principal)}
	if principal != "" {
		res.KVs = []kv.KeyValue{{Key: []byte(principal)}}
	}
	return kv.Page{Ops: []kv.OpResult{res}}
}

// answer judges what only the answer tells.
func (g *Guard) answer(p *Policy, by kv.By, src Source, ops []kv.Op, page kv.Page) error {
	if _, ok := only[kv.LeaseList](ops); !ok || src.Leases == nil || len(page.Ops) != 1 {
		return nil
	}
	ids := make([]int64, 0, len(page.Ops[0].Leases))
	for _, l := range page.Ops[0].Leases {
		ids = append(ids, l.ID)
	}
	return p.PermitsLeases(by, ids, src.Leases)
}

// authenticate gives a user a token, by a policy that is as new as the request.
func (g *Guard) authenticate(ctx context.Context, src Source, q kv.Query, op kv.Authenticate) (kv.Page, error) {
	if !src.Signs {
		return g.next.Read(ctx, q)
	}
	page, err := g.next.Read(ctx, kv.Query{})
	if err != nil {
		return kv.Page{}, err
	}
	for range retries {
		p, _ := src.Policy()
		if err := g.password(ctx, p, guesser{op.User, op.From, q.By.Node}, op.Password); err != nil {
			return kv.Page{}, g.counted(err)
		}
		if !p.HasKey() { // restored from a backup, which has none
			if _, err := g.next.Do(ctx, kv.Command{Ops: []kv.Op{kv.SetAuth{Do: kv.AuthSetKey, Secret: newSeed()}}}); err != nil {
				return kv.Page{}, err
			}
			continue
		}
		if now, _ := src.Policy(); now != p {
			continue
		}
		token, err := p.Sign(op.User, g.opts.Now(), g.opts.TokenTTL)
		if err != nil {
			return kv.Page{}, err
		}
		page.Ops = []kv.OpResult{{KVs: []kv.KeyValue{{Value: []byte(token)}}, Count: 1}}
		return page, nil
	}
	return kv.Page{}, kv.Errorf(kv.Busy, "users and roles change too fast: try again")
}

func newSeed() []byte {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	return seed
}

// password checks the password of a user.
func (g *Guard) password(ctx context.Context, p *Policy, who guesser, password string) error {
	if !p.Enabled() {
		return kv.Errorf(kv.AuthNotEnabled, "authentication is off")
	}
	var hash []byte
	if u := p.users[who.user]; u != nil && !u.NoPassword {
		hash = u.Hash
	}
	return g.opts.Passwords.check(ctx, who, password, hash)
}

// identify finds out who asks.
func (g *Guard) identify(ctx context.Context, p *Policy, by kv.By, takesRoot bool) (kv.By, error) {
	if !p.Enabled() {
		return kv.By{Node: by.Node}, nil
	}
	switch {
	case by.Token != "":
		who, err := g.verify(ctx, p, by.Token, by.Node)
		if err != nil {
			return kv.By{}, err
		}
		if !takesRoot && !p.IsRoot(who.Principal) {
			who.Node = by.Node
		} // else what was shown here speaks for itself, whoever carried it
		return who, nil
	case by.Principal == "":
	case by.Node == "":
		if strings.HasPrefix(by.Principal, kv.DevicePrincipal) || strings.HasPrefix(by.Principal, kv.NodePrincipal) {
			return kv.By{}, errToken("a certificate cannot be for %q", by.Principal)
		}
		by.AuthRevision = p.revision
	}
	return by, nil
}

// takesRoot reports whether ops are for those with every right.
func takesRoot(ops []kv.Op) bool {
	if len(ops) != 1 {
		return false
	}
	switch ops[0].(type) {
	case kv.SetAuth, kv.SetDevice, kv.SetScope, kv.Compact, kv.ReadAuth:
		return true
	}
	return false
}

const (
	bearer = "Bearer "
	basic  = "Basic "
)

// verify finds out whose token it is that a node has passed on, empty for none.
func (g *Guard) verify(ctx context.Context, p *Policy, token, node string) (kv.By, error) {
	if rest, ok := cutFold(token, basic); ok {
		return g.basic(ctx, p, rest, node)
	}
	if rest, ok := cutFold(token, bearer); ok {
		token = rest
	}
	if strings.HasPrefix(token, deviceMark) {
		return p.device(token, g.opts.Now())
	}
	c, ok := g.tokens.get(token, p.public)
	if !ok {
		if c, ok = open(p.public, token); !ok {
			return kv.By{}, errToken("it is none of this cluster's")
		}
		g.tokens.put(token, p.public, c)
	}
	return p.accept(c, g.opts.Now())
}

// cutFold is strings.CutPrefix for the name of a scheme, whose case does not matter.
func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// basic is a user and a password with each request. One that was right is remembered for as long as the hash stands.
func (g *Guard) basic(ctx context.Context, p *Policy, text, node string) (kv.By, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	user, password, ok := strings.Cut(string(b), ":")
	if err != nil || !ok {
		return kv.By{}, errToken("Basic has to be followed by user:password in base64")
	}
	u := p.users[user]
	if u != nil && u.Hash == nil && !u.NoPassword && p.private == nil {
		return kv.By{}, kv.Errorf(kv.AuthStale, "this node cannot check passwords: show a token")
	}
	digest := sha256.New()
	for _, part := range []string{string(g.salt[:]), user, "\x00", password, "\x00"} {
		_, _ = digest.Write([]byte(part)) // never fails
	}
	if u != nil {
		_, _ = digest.Write(u.Hash)
	}
	key := string(digest.Sum(nil))
	if _, ok := g.basics.get(key, nil); !ok {
		if err := g.password(ctx, p, guesser{user, g.opts.From(ctx), node}, password); err != nil {
			return kv.By{}, err
		}
		g.basics.put(key, nil, struct{}{})
	}
	return kv.By{Principal: user, AuthRevision: p.revision}, nil
}

// counted tells who counts what a refusal is.
func (g *Guard) counted(err error) error {
	switch kv.CodeOf(err) {
	case kv.PermissionDenied:
		g.opts.Count(EventDenied)
	case kv.Unauthenticated, kv.UserEmpty, kv.AuthOldRevision:
		g.opts.Count(EventToken)
	case kv.AuthFailed:
		g.opts.Count(EventPassword)
	case kv.RateLimited:
		g.opts.Count(EventSlowed)
	}
	return err
}

// only is the one op of a list, if it is of that kind.
func only[T kv.Op](ops []kv.Op) (op T, ok bool) {
	if len(ops) == 1 {
		op, ok = ops[0].(T)
	}
	return op, ok
}

// memory holds what was verified, and is read without a lock. When it is full it begins anew.
type memory[T any] struct {
	m    atomic.Pointer[sync.Map]
	size atomic.Int64
}

const memoryMax = 4096

type remembered[T any] struct {
	by    ed25519.PublicKey
	value T
}

func (m *memory[T]) get(key string, by ed25519.PublicKey) (v T, ok bool) {
	all := m.m.Load()
	if all == nil {
		return v, false
	}
	r, ok := all.Load(key)
	if !ok {
		return v, false
	}
	found, ok := r.(remembered[T])
	return found.value, ok && slices.Equal(found.by, by)
}

func (m *memory[T]) put(key string, by ed25519.PublicKey, v T) {
	if m.size.Add(1) > memoryMax || m.m.Load() == nil {
		m.m.Store(&sync.Map{})
		m.size.Store(1)
	}
	m.m.Load().Store(key, remembered[T]{by, v})
}

// asError makes err a *kv.Error.
func asError(err error) *kv.Error {
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return e
	}
	return kv.Errorf(kv.Internal, "%w", err)
}
