package etcd

import (
	"context"
	"iter"
	"slices"
	"sync"

	"holdfast/api/apitest"
	"holdfast/kv"
)

// leased is a Memory with leases that end only when they are revoked. Its Txns have one level.
type leased struct {
	*apitest.Memory

	mu     sync.Mutex
	leases map[int64]kv.Lease
	keys   map[string]int64 // which lease a key lives under

	// before, if set, is called with each op ahead of its command, and may refuse that.
	before func(ctx context.Context, op kv.Op) error

	// lost: the answers of transactions get lost.
	lost bool

	// opening, if set, is called ahead of each watch.
	opening func()
}

func newLeased() *leased {
	return &leased{Memory: apitest.NewMemory(), leases: map[int64]kv.Lease{}, keys: map[string]int64{}}
}

// ttlMin and ttlMax are what a real member keeps to.
const (
	ttlMin = 2
	ttlMax = 9_000_000_000
)

func (l *leased) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	for _, op := range c.Ops {
		if l.before == nil {
			break
		}
		if err := l.before(ctx, op); err != nil {
			return kv.Result{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	result, err := l.apply(ctx, c)
	if _, ok := c.Ops[len(c.Ops)-1].(kv.Txn); ok && l.lost {
		return kv.Result{}, kv.Errorf(kv.OutcomeUnknown, "no answer (%v)", err)
	}
	return result, err
}

// apply is Do with mu held.
func (l *leased) apply(ctx context.Context, c kv.Command) (kv.Result, error) {
	switch op := c.Ops[0].(type) {
	case kv.LeaseGrant:
		granted, err := l.grant(ctx, op)
		if c.Ops = c.Ops[1:]; err != nil || len(c.Ops) == 0 {
			return granted, err
		}
		result, err := l.apply(ctx, c)
		if err != nil {
			delete(l.leases, op.ID)
		}
		result.Ops = append(granted.Ops, result.Ops...)
		return result, err
	case kv.LeaseKeepAlive:
		return l.answer(ctx, op.ID)
	case kv.LeaseRevoke:
		return l.revoke(ctx, op.ID)
	case kv.Put:
		return l.put(ctx, c, []kv.Op{op})
	case kv.Txn:
		return l.put(ctx, c, op.Then)
	}
	return l.Memory.Do(ctx, c)
}

func (l *leased) grant(ctx context.Context, op kv.LeaseGrant) (kv.Result, error) {
	switch {
	case op.ID == 0:
		return kv.Result{}, kv.Errorf(kv.Invalid, "a lease without an id")
	case op.TTL > ttlMax:
		return kv.Result{}, kv.Errorf(kv.LeaseTTLTooLarge, "%d s is too long", op.TTL)
	case l.leases[op.ID].ID != 0:
		return kv.Result{}, kv.Errorf(kv.LeaseExists, "lease %d exists", op.ID)
	}
	ttl := max(op.TTL, ttlMin)
	l.leases[op.ID] = kv.Lease{ID: op.ID, TTL: ttl, Granted: ttl}
	return l.answer(ctx, op.ID)
}

// answer is that of a command about one lease.
func (l *leased) answer(ctx context.Context, id int64) (kv.Result, error) {
	lease, there := l.leases[id]
	if !there {
		return kv.Result{}, kv.Errorf(kv.LeaseNotFound, "there is no lease %d", id)
	}
	page, err := l.Memory.Read(ctx, kv.Query{})
	return kv.Result{Header: page.Header, Ops: []kv.OpResult{{Leases: []kv.Lease{lease}}}}, err
}

func (l *leased) revoke(ctx context.Context, id int64) (kv.Result, error) {
	result, err := l.answer(ctx, id)
	if err != nil {
		return result, err
	}
	delete(l.leases, id)
	var ops []kv.Op
	for key, lease := range l.keys {
		if lease == id {
			ops = append(ops, kv.Delete{Key: []byte(key)})
			delete(l.keys, key)
		}
	}
	return l.Memory.Do(ctx, kv.Command{Ops: ops})
}

// put carries out a command whose puts, if they happen, are puts.
func (l *leased) put(ctx context.Context, c kv.Command, puts []kv.Op) (kv.Result, error) {
	plain := slices.Clone(puts)
	for i, op := range puts {
		p, ok := op.(kv.Put)
		if !ok {
			continue
		}
		if _, there := l.leases[p.Lease]; p.Lease != 0 && !there {
			return kv.Result{}, kv.Errorf(kv.LeaseNotFound, "there is no lease %d", p.Lease)
		}
		p.Lease, p.IgnoreLease = 0, false
		plain[i] = p
	}
	txn, isTxn := c.Ops[0].(kv.Txn)
	if isTxn {
		txn.Then = plain
		plain = []kv.Op{txn}
	}
	result, err := l.Memory.Do(ctx, kv.Command{Ops: plain})
	if err != nil || isTxn && !result.Ops[0].Succeeded {
		return result, err
	}
	for _, op := range puts {
		if p, ok := op.(kv.Put); ok && !p.IgnoreLease {
			delete(l.keys, string(p.Key))
			if p.Lease != 0 {
				l.keys[string(p.Key)] = p.Lease
			}
		}
	}
	return result, nil
}

func (l *leased) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	if l.opening != nil {
		l.opening()
	}
	return l.Memory.Watch(ctx, w)
}

func (l *leased) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var result kv.OpResult
	if len(q.Ops) == 0 {
		return l.Memory.Read(ctx, q)
	}
	switch op := q.Ops[0].(type) {
	case kv.LeaseTTL:
		result = l.ttl(op)
	case kv.LeaseList:
		for _, lease := range l.leases {
			result.Leases = append(result.Leases, lease)
		}
	default:
		return l.Memory.Read(ctx, q)
	}
	page, err := l.Memory.Read(ctx, kv.Query{})
	page.Ops = []kv.OpResult{result}
	return page, err
}

func (l *leased) ttl(op kv.LeaseTTL) (result kv.OpResult) {
	lease, there := l.leases[op.ID]
	if !there {
		return kv.OpResult{Leases: []kv.Lease{{ID: op.ID, TTL: -1}}}
	}
	result.Leases = []kv.Lease{lease}
	if op.Keys {
		for key, id := range l.keys {
			if id == op.ID {
				result.KVs = append(result.KVs, kv.KeyValue{Key: []byte(key)})
			}
		}
	}
	return result
}
