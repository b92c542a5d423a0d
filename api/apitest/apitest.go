// Package apitest holds what is promised of every api.Backend, as tests: Run them on a node of any kind. Memory is the
// plainest node that passes, and serves as a model elsewhere.
//
// A subtest's name is the promise. Most share one node and keep to keys of their own; those that need a fresh or an
// expendable one open it.
package apitest

import (
	"context"
	"fmt"
	"runtime/debug"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// Harness is a kind of node under test. Open is required; a promise that needs a hook which is nil is not tested.
type Harness struct {
	// Open starts an empty node and has t end it.
	Open func(t *testing.T) api.Backend
	// Restart stops a node of Open and starts it again on what it had stored.
	Restart func(t *testing.T, b api.Backend) api.Backend
	// Isolate cuts a node of Open off from whatever it needs to commit, until heal is called.
	Isolate func(t *testing.T, b api.Backend) (heal func())
	// Queue says that the node has a queue for the keys of this suite, so that WriteQueue is taken.
	Queue bool
	// IDs says that commands with an ID apply once, however often they are sent.
	IDs bool

	// Second is how long a second of a lease takes; 0: a second.
	Second time.Duration

	patience time.Duration // for what must come; 0: 20 s
}

// Run tests all promises that need no hook.
func Run(t *testing.T, open func(t *testing.T) api.Backend) {
	Harness{Open: open}.Run(t)
}

// Run tests all promises that the harness has hooks for.
func (h Harness) Run(t *testing.T) {
	if h.patience == 0 {
		h.patience = patience
	}
	if h.Second == 0 {
		h.Second = time.Second
	}
	shared := h.Open(t)
	serial := 0
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.claims {
				if c.needs != nil && !c.needs(h) {
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					serial++
					n := &node{T: t, h: h, b: shared, prefix: fmt.Sprintf("%03d/", serial)}
					if c.fresh {
						n.b = h.Open(t)
					}
					ctx, cancel := context.WithTimeout(t.Context(), claimTimeout)
					defer cancel()
					n.ctx = ctx
					defer n.recover()
					c.test(n)
				})
			}
		})
	}
}

const (
	claimTimeout = time.Minute      // for one promise; a node that takes longer hangs
	patience     = 20 * time.Second // for one batch, or for what must happen at once
)

// group is the promises about one thing.
type group struct {
	name   string
	claims []claim
}

func groups() []group {
	return []group{
		{"put", putClaims}, {"delete", deleteClaims}, {"command", commandClaims}, {"guard", guardClaims},
		{"txn", txnClaims}, {"lease", leaseClaims}, {"expiry", expiryClaims}, {"range", rangeClaims}, {"read", readClaims}, {"history", historyClaims},
		{"watch", watchClaims}, {"stream", streamClaims}, {"cancel", cancelClaims}, {"concurrent", concurrentClaims},
		{"model", modelClaims}, {"id", idClaims}, {"restart", restartClaims}, {"isolated", isolatedClaims},
	}
}

// claim is one promise.
type claim struct {
	name  string
	test  func(n *node)
	fresh bool               // needs a node of its own
	needs func(Harness) bool // nil: nothing
}

// node is what a claim is tested on, with calls that fail the test when they are refused.
type node struct {
	*testing.T
	h      Harness
	b      api.Backend
	ctx    context.Context
	prefix string
}

// recover turns a panic over an answer of another shape into a failure of its claim alone.
func (n *node) recover() {
	if v := recover(); v != nil {
		n.Fatalf("panic: %v\n%s", v, debug.Stack())
	}
}

// key returns a key that no other claim uses.
func (n *node) key(name string) []byte { return []byte(n.prefix + name) }

// all is the range of every key of this claim.
func (n *node) all() kv.Range {
	key, end := kv.PrefixRange([]byte(n.prefix))
	return kv.Range{Key: key, End: end}
}

func (n *node) try(ops ...kv.Op) (kv.Result, error) {
	return n.b.Do(n.ctx, kv.Command{Ops: ops})
}

func (n *node) do(ops ...kv.Op) kv.Result {
	n.Helper()
	r, err := n.try(ops...)
	if err != nil {
		n.Fatalf("Do: %v (%v)", err, kv.CodeOf(err))
	}
	if len(r.Ops) != len(ops) {
		n.Fatalf("Do answered %d ops with %d results", len(ops), len(r.Ops))
	}
	return r
}

func (n *node) put(name, value string) kv.Result {
	n.Helper()
	return n.do(kv.Put{Key: n.key(name), Value: []byte(value)})
}

func (n *node) delete(name string) kv.Result {
	n.Helper()
	return n.do(kv.Delete{Key: n.key(name)})
}

func (n *node) read(ops ...kv.Op) kv.Page {
	n.Helper()
	p, err := n.b.Read(n.ctx, kv.Query{Ops: ops})
	if err != nil {
		n.Fatalf("Read: %v (%v)", err, kv.CodeOf(err))
	}
	if len(p.Ops) != len(ops) {
		n.Fatalf("Read answered %d ops with %d results", len(ops), len(p.Ops))
	}
	return p
}

// query reads one range.
func (n *node) query(r kv.Range) kv.OpResult {
	n.Helper()
	return n.read(r).Ops[0]
}

// get returns a key as it stands; ModRevision is 0 if it does not exist.
func (n *node) get(name string) kv.KeyValue {
	n.Helper()
	r := n.query(kv.Range{Key: n.key(name)})
	if len(r.KVs) == 0 {
		return kv.KeyValue{}
	}
	return r.KVs[0]
}

// revision is where the store is now.
func (n *node) revision() int64 {
	n.Helper()
	return n.read(kv.Range{Key: n.key("nothing")}).Revision
}

// refused fails the test unless err has the code, and is an error as the contract has it.
func (n *node) refused(err error, code kv.Code) {
	n.Helper()
	if got := kv.CodeOf(err); err == nil || got != code {
		n.Fatalf("got %v (%v), want to be refused as %v", err, got, code)
	}
	if _, ok := asError(err); !ok {
		n.Fatalf("error of type %T, want a *kv.Error", err)
	}
}

// refusedAt is refused for a refusal that names a revision.
func (n *node) refusedAt(err error, code kv.Code, revision int64) {
	n.Helper()
	n.refused(err, code)
	if e, _ := asError(err); e.Revision != revision {
		n.Errorf("the refusal as %v names revision %d, want %d", code, e.Revision, revision)
	}
}

// unchanged fails the test if the store moved on from a revision.
func (n *node) unchanged(since int64) {
	n.Helper()
	if now := n.revision(); now != since {
		n.Errorf("the store went from revision %d to %d, want no change", since, now)
	}
}

func (n *node) wantKV(got, want kv.KeyValue) {
	n.Helper()
	if !sameKV(got, want) {
		n.Errorf("got %s, want %s", showKV(got), showKV(want))
	}
}

func (n *node) wantKeys(got []kv.KeyValue, want ...string) {
	n.Helper()
	names := make([]string, len(got))
	for i := range got {
		names[i] = string(got[i].Key)
	}
	full := make([]string, len(want))
	for i := range want {
		full[i] = string(n.key(want[i]))
	}
	if fmt.Sprintf("%q", names) != fmt.Sprintf("%q", full) {
		n.Errorf("keys %q, want %q", names, full)
	}
}
