package api

import (
	"context"
	"crypto/x509"
	"iter"
	"slices"

	"holdfast/kv"
)

type tokenKey struct{}

// WithToken returns ctx with what a client has shown of itself, as in an Authorization header.
func WithToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return context.WithValue(ctx, tokenKey{}, token)
}

// ByOf is who asks, as far as the door knows: what they have shown, else the name in their certificate. Who comes over the
// administration socket and shows nothing is root: the permissions of its file say who that can be.
func ByOf(ctx context.Context) kv.By {
	if token, ok := ctx.Value(tokenKey{}).(string); ok {
		return kv.By{Token: token}
	}
	switch caller, _ := CallerFrom(ctx); {
	case caller.Admin:
		return kv.By{Principal: kv.RootName}
	case caller.Cert != nil:
		return kv.By{Principal: nameIn(caller.Cert)}
	}
	return kv.By{}
}

// nameIn is the user that a client certificate is for: its common name, as in etcd, else the first name that it is good for.
func nameIn(c *x509.Certificate) string {
	names := append([]string{c.Subject.CommonName}, c.EmailAddresses...)
	for _, name := range append(names, c.DNSNames...) {
		if name != "" {
			return name
		}
	}
	return ""
}

// Signed is b as the doors use it: each command, query and watch says who asks for it.
func Signed(b Backend) Backend { return &signed{b} }

type signed struct{ next Backend }

func (s *signed) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	sign(ctx, &c)
	return s.next.Do(ctx, c)
}

// sign says who asks for a command, and for each of a batch.
func sign(ctx context.Context, c *kv.Command) {
	by := ByOf(ctx)
	if by == (kv.By{}) {
		return
	}
	if c.By = by; len(c.Ops) != 1 {
		return
	}
	if each, ok := c.Ops[0].(kv.Each); ok {
		each.Commands = slices.Clone(each.Commands)
		for i := range each.Commands {
			each.Commands[i].By = by
		}
		c.Ops = []kv.Op{each}
	}
}

func (s *signed) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	q.By = ByOf(ctx)
	return s.next.Read(ctx, q)
}

func (s *signed) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	w.By = ByOf(ctx)
	return s.next.Watch(ctx, w)
}

// Allowed reports why who asks may not have part of what only the node as a whole has: AuthRoot for administration,
// AuthSomeone for looking. It needs no quorum to allow, so that a node can be looked after without one.
func Allowed(ctx context.Context, b Backend, part kv.AuthPart) error {
	return allowed(ctx, b, part, false)
}

// AllowedHere is Allowed for what is to be answered without the cluster: a node that has no policy says NotCached.
func AllowedHere(ctx context.Context, b Backend, part kv.AuthPart) error {
	return allowed(ctx, b, part, true)
}

// WhoHere is who asks, as the policy of this node knows them, and whether they have every right; while authentication is off
// everybody has. A node that has no policy says NotCached.
func WhoHere(ctx context.Context, b Backend) (principal string, root bool, err error) {
	page, err := judged(ctx, b, kv.AuthSomeone, true)
	if err != nil || len(page.Ops) != 1 {
		return "", false, err
	}
	if kvs := page.Ops[0].KVs; len(kvs) == 1 {
		principal = string(kvs[0].Key)
	}
	return principal, page.Ops[0].Succeeded, nil
}

func allowed(ctx context.Context, b Backend, part kv.AuthPart, here bool) error {
	_, err := judged(ctx, b, part, here)
	return err
}

func judged(ctx context.Context, b Backend, part kv.AuthPart, here bool) (kv.Page, error) {
	q := kv.Query{By: ByOf(ctx), Ops: []kv.Op{kv.ReadAuth{What: part}}, MaxAge: kv.Unlimited, LocalOnly: here}
	page, err := b.Read(ctx, q)
	switch kv.CodeOf(err) {
	case kv.PermissionDenied, kv.UserNotFound, kv.Unauthenticated, kv.AuthOldRevision: // this node may lag behind
		q.MaxAge, q.LocalOnly = 0, false
		if page, again := b.Read(ctx, q); again == nil {
			return page, nil
		}
	}
	return page, err
}
