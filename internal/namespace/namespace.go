// Package namespace is a Backend that shows a part of another's keys as if it were all: those that begin with a prefix,
// without it.
//
// Every key of a command, a query and a watch gets the prefix, every key of an answer loses it, and what cannot be kept
// inside is refused: so a new kind of op is refused until somebody has thought about it. Servers in front of it (REST, etcd's
// API with its locks and elections) have no other way to a key. Revisions, leases by their id and the history are shared
// with all others; what a compaction gives up, it gives up for all.
package namespace

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"
	"sync"

	"holdfast/api"
	"holdfast/internal/relay"
	"holdfast/kv"
)

// Namespace is a Backend. Its methods may be called concurrently.
type Namespace struct {
	next   api.Backend
	prefix []byte
}

// New shows the keys of next that begin with prefix, which is not empty.
func New(next api.Backend, prefix string) *Namespace {
	return &Namespace{next: next, prefix: []byte(prefix)}
}

// Do carries out c inside.
func (n *Namespace) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	inside, err := n.command(c)
	if err != nil {
		return kv.Result{}, err
	}
	if err := n.revocable(ctx, c); err != nil {
		return kv.Result{}, err
	}
	res, fault := n.next.Do(ctx, inside)
	if fault != nil {
		return kv.Result{}, n.fault(fault)
	}
	res.Ops = n.results(c.Ops, res.Ops)
	return res, nil
}

// Read answers q from inside.
func (n *Namespace) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	ops, err := n.ops(q.Ops)
	if err != nil {
		return kv.Page{}, err
	}
	inside := q
	inside.Ops = ops
	page, fault := n.next.Read(ctx, inside)
	if fault != nil {
		return kv.Page{}, n.fault(fault)
	}
	page.Ops = n.results(q.Ops, page.Ops)
	return page, nil
}

// Watch streams what changes inside.
func (n *Namespace) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var passing sync.WaitGroup
		defer passing.Wait()
		defer cancel()
		inside := spec
		inside.Watches = make([]kv.Watch, 0, len(spec.Watches))
		for _, w := range spec.Watches {
			inside.Watches = append(inside.Watches, n.watch(w))
		}
		if spec.Control != nil {
			control := make(chan kv.WatchControl)
			inside.Control = control
			passing.Go(func() {
				relay.Controls(ctx, spec.Control, control, func(c *kv.WatchControl, _ bool) {
					if c.Add != nil {
						w := n.watch(*c.Add)
						c.Add = &w
					}
				})
			})
		}
		for b, err := range n.next.Watch(ctx, inside) {
			if err != nil {
				yield(kv.Batch{}, n.fault(err))
				return
			}
			if b.Err != nil {
				b.Err = n.refusal(b.Err)
			}
			b.Events = n.events(b.Events)
			if !yield(b, nil) {
				return
			}
		}
	}
}

func (n *Namespace) watch(w kv.Watch) kv.Watch {
	w.Key, w.End = n.span(w.Key, w.End)
	return w
}

// events may be shared with other streams, so the copy is ours.
func (n *Namespace) events(events []kv.Event) []kv.Event {
	if len(events) == 0 {
		return nil
	}
	out := make([]kv.Event, len(events))
	for i, e := range events {
		e.KV.Key = n.outside(e.KV.Key)
		if e.Prev != nil {
			prev := *e.Prev
			prev.Key = n.outside(prev.Key)
			e.Prev = &prev
		}
		out[i] = e
	}
	return out
}

// span is a range inside. An empty key names nothing, here and there: what is behind refuses it.
func (n *Namespace) span(key, end []byte) (k, e []byte) {
	if len(key) == 0 {
		return nil, nil
	}
	switch {
	case len(end) == 0:
		return n.inside(key), nil
	case bytes.Equal(end, kv.FromKey()):
		return n.inside(key), kv.PrefixEnd(n.prefix)
	}
	return n.inside(key), n.inside(end)
}

func (n *Namespace) inside(key []byte) []byte {
	return append(bytes.Clone(n.prefix), key...)
}

// outside is a key as whoever asks knows it.
func (n *Namespace) outside(key []byte) []byte { return bytes.TrimPrefix(key, n.prefix) }

func (n *Namespace) command(c kv.Command) (kv.Command, error) {
	var err error
	if c.Ops, err = n.ops(c.Ops); err != nil {
		return c, err
	}
	guards := make([]kv.Guard, len(c.Guards))
	for i, g := range c.Guards {
		g.Compare = n.compare(g.Compare)
		guards[i] = g
	}
	c.Guards = guards
	return c, nil
}

func (n *Namespace) compare(c kv.Compare) kv.Compare {
	c.Key, c.End = n.span(c.Key, c.End)
	return c
}

func (n *Namespace) ops(ops []kv.Op) ([]kv.Op, error) {
	inside := make([]kv.Op, len(ops))
	for i, op := range ops {
		var err error
		if inside[i], err = n.op(op); err != nil {
			return nil, err
		}
	}
	return inside, nil
}

func (n *Namespace) op(op kv.Op) (_ kv.Op, err error) {
	switch op := op.(type) {
	case kv.Put:
		op.Key, _ = n.span(op.Key, nil)
		return op, nil
	case kv.Delete:
		op.Key, op.End = n.span(op.Key, op.End)
		return op, nil
	case kv.Range:
		op.Key, op.End = n.span(op.Key, op.End)
		return op, nil
	case kv.Txn:
		compares := make([]kv.Compare, len(op.Compares))
		for i, c := range op.Compares {
			compares[i] = n.compare(c)
		}
		op.Compares = compares
		if op.Then, err = n.ops(op.Then); err != nil {
			return nil, err
		}
		op.Else, err = n.ops(op.Else)
		return op, err
	case kv.Each:
		commands := make([]kv.Command, len(op.Commands))
		for i, c := range op.Commands {
			if commands[i], err = n.command(c); err != nil {
				return nil, err
			}
		}
		op.Commands = commands
		return op, nil
	case kv.LeaseGrant, kv.LeaseRevoke, kv.LeaseKeepAlive, kv.LeaseTTL, kv.LeaseList, kv.Alarms, kv.Compact, kv.Authenticate:
		return op, nil // name no key; see revocable and results
	case kv.ReadAuth:
		if op.What == kv.AuthStatus || op.What == kv.AuthRoot || op.What == kv.AuthSomeone {
			return op, nil // tell nothing but whether who asks may
		}
	}
	return nil, kv.Errorf(kv.PermissionDenied, "this node shows a part of the keys only (namespace) and does nothing that is about all of them: ask another node")
}

// revocable refuses to revoke a lease that has keys outside: they would be deleted. What comes under it between the look and
// the revocation is put there by somebody who knows that the lease is not their own.
func (n *Namespace) revocable(ctx context.Context, c kv.Command) error {
	for _, op := range c.Ops {
		switch op := op.(type) {
		case kv.LeaseRevoke:
			page, err := n.next.Read(ctx, kv.Query{By: c.By, Ops: []kv.Op{kv.LeaseTTL{ID: op.ID, Keys: true}}})
			if err != nil {
				return n.fault(err)
			}
			for _, v := range page.Ops[0].KVs {
				if !bytes.HasPrefix(v.Key, n.prefix) {
					return kv.Errorf(kv.PermissionDenied, "the lease %016x has keys that this node does not show (namespace)", op.ID)
				}
			}
		case kv.Each:
			for _, one := range op.Commands {
				if err := n.revocable(ctx, one); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// results are the answers to ops as whoever asked knows the keys. Answers are shared: what is changed is a copy.
func (n *Namespace) results(ops []kv.Op, results []kv.OpResult) []kv.OpResult {
	if len(results) == 0 {
		return results
	}
	out := make([]kv.OpResult, len(results))
	for i, res := range results {
		if i < len(ops) {
			out[i] = n.result(ops[i], res)
		}
	}
	return out
}

func (n *Namespace) result(op kv.Op, res kv.OpResult) kv.OpResult {
	switch op := op.(type) {
	case kv.Authenticate, kv.ReadAuth:
		return res // no keys
	case kv.Txn:
		branch := op.Else
		if res.Succeeded {
			branch = op.Then
		}
		res.Ops = n.results(branch, res.Ops)
	case kv.Each:
		outcomes := make([]kv.Outcome, len(res.Each))
		for i, o := range res.Each {
			if o.Err != nil {
				o.Err = n.refusal(o.Err)
			}
			if i < len(op.Commands) {
				o.Result.Ops = n.results(op.Commands[i].Ops, o.Result.Ops)
			}
			outcomes[i] = o
		}
		res.Each = outcomes
	}
	var kvs []kv.KeyValue
	for _, v := range res.KVs {
		if bytes.HasPrefix(v.Key, n.prefix) { // a lease may have others
			v.Key = n.outside(v.Key)
			kvs = append(kvs, v)
		}
	}
	res.KVs = kvs
	return res
}

// fault is an error as whoever asked may see it.
func (n *Namespace) fault(err error) error {
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return n.refusal(e)
	}
	return err
}

// refusal names keys as whoever asked knows them.
func (n *Namespace) refusal(e *kv.Error) *kv.Error {
	clean := *e
	clean.Detail = n.text(e.Detail)
	return &clean
}

// text takes the prefix from the keys in a text: they are quoted there.
func (n *Namespace) text(s string) string {
	quoted := strconv.Quote(string(n.prefix))
	return strings.ReplaceAll(s, quoted[:len(quoted)-1], `"`)
}
