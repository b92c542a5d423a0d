package apitest

import (
	"bytes"
	"context"
	"crypto/rand"
	"reflect"
	"slices"
	"sync"
	"time"

	"holdfast/kv"
)

// Memory is a whole node in a mutex and a few slices: the contract in its plainest form, for tests of what stands on a
// Backend and as a model beside a real one. Nothing of it is durable, and its answers are always linearizable. It
// keeps every ID it was ever given.
type Memory struct {
	mu        sync.Mutex
	epoch     kv.Epoch
	term      uint64 // nonce of the current LeaderTerm
	revision  int64
	compacted int64      // oldest revision that can be read
	keys      []history  // in order of the key
	events    []kv.Event // since compacted, in order
	done      []applied  // commands that had an ID
	leases    map[int64]*lease
	second    time.Duration // how long a second of a lease takes; 0: a second
	changed   chan struct{} // closed and replaced when revision or compacted moves
}

// history is a key with its versions since the compacted revision, oldest first.
type history struct {
	key      []byte
	versions []version
}

type version struct {
	kv.KeyValue
	deleted bool
}

type applied struct {
	command kv.Command
	result  kv.Result
	err     error
}

// NewMemory returns an empty store at revision 1, of an epoch of its own.
func NewMemory() *Memory {
	m := &Memory{revision: 1, changed: make(chan struct{})}
	m.epoch.Cluster = 1
	_, _ = rand.Read(m.epoch.Nonce[:]) // never fails
	return m
}

// Do applies a command at once.
func (m *Memory) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	if err := ctx.Err(); err != nil {
		return kv.Result{}, &kv.Error{Code: kv.NoLeader, Detail: "the request ended before it was applied", Err: err}
	}
	if c.Write == kv.WriteQueue {
		return kv.Result{}, kv.Errorf(kv.Invalid, "there is no queue here")
	}
	if len(kv.Renewals(&c)) > 0 && len(c.Ops) == 1 {
		if batch, ok := c.Ops[0].(kv.Each); ok {
			return m.renewEach(ctx, batch)
		}
	}
	if err := validate(c.Ops); err != nil {
		return kv.Result{}, err
	}
	if err := validateLeases(c); err != nil {
		return kv.Result{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.done {
		if reused, same := sameID(a.command, c); reused != kv.OK {
			if !same {
				return kv.Result{}, kv.Errorf(reused, "the ID stands for another command")
			}
			return a.result, a.err
		}
	}
	result, err := m.apply(c)
	if !c.ID.IsZero() {
		m.done = append(m.done, applied{c, result, err})
	}
	return result, err
}

// sameID reports whether b uses a part of a's ID, by the code that tells which, and whether it asks for the same.
func sameID(a, b kv.Command) (reused kv.Code, same bool) {
	switch {
	case !a.ID.Seq.IsZero() && a.ID.Seq == b.ID.Seq:
		reused = kv.OriginConflict
	case a.ID.Key != [16]byte{} && a.ID.Key == b.ID.Key:
		reused = kv.Reused
	default:
		return kv.OK, false
	}
	return reused, reflect.DeepEqual(a.Ops, b.Ops) && reflect.DeepEqual(a.Guards, b.Guards)
}

func (m *Memory) apply(c kv.Command) (kv.Result, error) {
	t := &transaction{m: m, writes: map[string]version{}}
	for _, g := range c.Guards {
		if !t.holds(g.Compare) {
			current, _ := t.get(g.Key, 0)
			return kv.Result{}, &kv.Error{Code: kv.PreconditionFailed, Detail: "precondition failed", Revision: current.ModRevision}
		}
	}
	t.decide(c.Ops)
	results, err := t.run(c.Ops)
	if err != nil {
		return kv.Result{}, err
	}
	t.commit()
	return kv.Result{Header: m.header(), Ops: results}, nil
}

// Read answers from what is there.
func (m *Memory) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if err := ctx.Err(); err != nil {
		return kv.Page{}, &kv.Error{Code: kv.NoLeader, Detail: "the request ended before it was answered", Err: err}
	}
	if !kv.ReadOnly(q.Ops) {
		return kv.Page{}, kv.Errorf(kv.Invalid, "a query changes nothing; send a command")
	}
	if err := validate(q.Ops); err != nil {
		return kv.Page{}, err
	}
	if err := m.await(ctx, q.MinRevision, q.Wait); err != nil {
		return kv.Page{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &transaction{m: m}
	t.decide(q.Ops)
	results, err := t.run(q.Ops)
	if err != nil {
		return kv.Page{}, err
	}
	return kv.Page{Header: m.header(), Ops: results, Source: kv.SourceMember}, nil
}

// await returns once the store is at revision.
func (m *Memory) await(ctx context.Context, revision int64, wait time.Duration) error {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		m.mu.Lock()
		now, changed := m.revision, m.changed
		m.mu.Unlock()
		if now >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-timeout.C:
			return kv.Errorf(kv.RevisionTimeout, "revision %d was not reached within %v, the store is at %d", revision, wait, now)
		case <-ctx.Done():
			return &kv.Error{Code: kv.RevisionTimeout, Detail: "the request ended while waiting for a revision", Err: ctx.Err()}
		}
	}
}

func (m *Memory) header() kv.Header {
	return kv.Header{Epoch: m.epoch, Member: 1, Term: 1, Revision: m.revision}
}

func (m *Memory) announce() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// find returns where the history of a key is, or would be.
func (m *Memory) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(m.keys, key, func(h history, key []byte) int { return bytes.Compare(h.key, key) })
}

// at returns the key as it stood at a revision.
func (h *history) at(revision int64) (kv.KeyValue, bool) {
	for _, v := range slices.Backward(h.versions) {
		if v.ModRevision <= revision {
			return v.KeyValue, !v.deleted
		}
	}
	return kv.KeyValue{}, false
}

// compact forgets what came before a revision.
func (m *Memory) compact(c kv.Compact) {
	m.compacted = c.Revision
	for i := range m.keys {
		h := &m.keys[i]
		keep := 0
		for keep+1 < len(h.versions) && h.versions[keep+1].ModRevision <= c.Revision {
			keep++
		}
		if h.versions[keep].deleted && h.versions[keep].ModRevision <= c.Revision {
			keep++
		}
		h.versions = slices.Delete(h.versions, 0, keep)
	}
	m.keys = slices.DeleteFunc(m.keys, func(h history) bool { return len(h.versions) == 0 })
	m.events = slices.DeleteFunc(m.events, func(e kv.Event) bool { return e.KV.ModRevision < c.Revision })
	m.announce()
}

func (m *Memory) errCompacted(asked int64) *kv.Error {
	e := kv.Errorf(kv.Compacted, "revision %d has been compacted, the oldest is %d", asked, m.compacted)
	e.Revision = m.compacted
	return e
}

func (m *Memory) errFuture(asked int64) *kv.Error {
	return kv.Errorf(kv.FutureRevision, "revision %d is not there yet, the store is at %d", asked, m.revision)
}

// validate refuses what is malformed whatever the store holds.
func validate(ops []kv.Op) error {
	_, _, err := touches(ops)
	return err
}

// touches returns the keys that ops put and the ranges that they delete. As in etcd a key may be put once, and not be
// both put and deleted; of a Txn only one branch counts.
func touches(ops []kv.Op) (puts [][]byte, deletes []kv.Delete, err error) {
	duplicate := kv.Errorf(kv.DuplicateKey, "a key is changed twice in one command")
	for _, op := range ops {
		var p [][]byte
		var d []kv.Delete
		switch op := op.(type) {
		case kv.Put:
			if len(op.Key) == 0 {
				return nil, nil, kv.Errorf(kv.Invalid, "a put needs a key")
			}
			if op.IgnoreValue && len(op.Value) > 0 {
				return nil, nil, kv.Errorf(kv.Invalid, "a put that keeps the value brings none")
			}
			p = [][]byte{op.Key}
		case kv.Delete:
			if len(op.Key) == 0 {
				return nil, nil, kv.Errorf(kv.Invalid, "a delete needs a key")
			}
			d = []kv.Delete{op}
		case kv.Range:
			if len(op.Key) == 0 {
				return nil, nil, kv.Errorf(kv.Invalid, "a range needs a key")
			}
		case kv.Txn:
			for _, branch := range [][]kv.Op{op.Then, op.Else} {
				bp, bd, err := touches(branch)
				if err != nil {
					return nil, nil, err
				}
				p, d = append(p, bp...), append(d, bd...)
			}
			if clash(puts, deletes, p, d) {
				return nil, nil, duplicate
			}
			puts, deletes = append(puts, p...), append(deletes, d...)
			continue
		}
		if clash(puts, deletes, p, d) {
			return nil, nil, duplicate
		}
		puts, deletes = append(puts, p...), append(deletes, d...)
	}
	return puts, deletes, nil
}

// clash reports whether one of two groups of changes puts what the other changes.
func clash(puts [][]byte, deletes []kv.Delete, otherPuts [][]byte, otherDeletes []kv.Delete) bool {
	for _, k := range puts {
		if slices.ContainsFunc(otherPuts, func(o []byte) bool { return bytes.Equal(o, k) }) || covered(k, otherDeletes) {
			return true
		}
	}
	return slices.ContainsFunc(otherPuts, func(k []byte) bool { return covered(k, deletes) })
}

func covered(k []byte, deletes []kv.Delete) bool {
	return slices.ContainsFunc(deletes, func(d kv.Delete) bool { return kv.Contains(d.Key, d.End, k) })
}
