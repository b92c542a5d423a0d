package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// tb is what the helpers need of a testing.T or a rapid.T, which shrinks what it fails on.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

func must(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// checkFile verifies the file of a store as a whole: bbolt's own pages, every checksum, and that the two buckets
// describe the same records.
func checkFile(t tb, s *Store) (records int) {
	t.Helper()
	err := s.layers.Load().file.db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt: %v", err)
		}
		revs, index := tx.Bucket(bucketRev), tx.Bucket(bucketKey)
		if err := revs.ForEach(func(k, b []byte) error {
			records++
			_, err := parseRecord(k, b)
			return err
		}); err != nil {
			return err
		}
		reached := 0
		if err := index.ForEach(func(k, e []byte) error {
			var v version
			if err := parseIndexEntry(&v, k, e); err != nil {
				return err
			}
			r, err := recordIn(revs, v.rev)
			if err == nil && r == nil {
				err = corruptf("the newest record of %q, at %v, is missing", k, v.rev)
			}
			for ; err == nil && r != nil; r, err = recordIn(revs, r.prev) {
				reached++
				if !bytes.Equal(r.Key, k) {
					t.Errorf("%q is linked to %q at %v", k, r.Key, r.rev())
				}
				if e2 := appendIndexEntry(nil, r); r.rev() == v.rev && !bytes.Equal(e, e2) {
					t.Errorf("the index entry of %q is %x, want %x", k, e, e2)
				}
			}
			return err
		}); err != nil {
			return err
		}
		if reached != records {
			t.Errorf("%d of %d records can be reached from the key index", reached, records)
		}
		return checkLeases(t, tx)
	})
	must(t, err)
	return records
}

// hash is Hash in parts.
func (s *Store) hash(rev int64) (sum uint32, revision, compact int64, err error) {
	h, err := s.Hash(context.Background(), rev)
	return h.Sum, h.Header.Revision, h.Compact, err
}

// checkLeases verifies that the keys listed under leases are those that live under them.
func checkLeases(t tb, tx *bbolt.Tx) error {
	t.Helper()
	live := map[string]bool{}
	err := tx.Bucket(bucketKey).ForEach(func(k, e []byte) error {
		var v version
		err := parseIndexEntry(&v, k, e)
		if err == nil && !v.deleted && v.lease != 0 {
			live[string(append(leaseKeyPrefix(v.lease), k...))] = true
		}
		return err
	})
	sides := tx.Bucket(bucketSide)
	if err != nil || sides == nil {
		return err
	}
	leases := map[string]bool{}
	err = sides.ForEach(func(k, v []byte) error {
		switch k[0] {
		case sideLease:
			leases[string(k[1:])] = true
		case sideLeaseKey:
			if !live[string(k)] {
				t.Errorf("%q is listed and does not live under the lease", k)
			}
			if delete(live, string(k)); !leases[string(k[1:9])] && sides.Get(append([]byte{sideLease}, k[1:9]...)) == nil {
				t.Errorf("%q is listed under a lease that does not exist", k)
			}
		}
		_, err := openSide(k, v)
		return err
	})
	for k := range live {
		t.Errorf("%q lives under a lease and is not listed", k)
	}
	if format, ferr := readFormat(tx.Bucket(bucketMeta)); ferr != nil || len(leases) > 0 && format < formatLeases {
		t.Errorf("the file has format %d and %d leases (%v)", format, len(leases), ferr)
	}
	return err
}

// rig is a store with a log of its own.
type rig struct {
	*replica
	index uint64
}

func newRig(t *testing.T, opts Options) *rig {
	t.Helper()
	g := &rig{replica: newReplica(t, t.TempDir(), "store", opts)}
	t.Cleanup(func() { g.s.crash() })
	return g
}

// try applies ops as one command.
func (g *rig) try(ops ...kv.Op) kv.Outcome {
	g.t.Helper()
	return g.command(kv.Command{Ops: ops})
}

func (g *rig) command(c kv.Command) kv.Outcome {
	g.t.Helper()
	g.index++
	out, err := g.s.Apply([]Entry{{g.index, c}})
	must(g.t, err)
	return out[0]
}

// do is try for what must succeed; it returns the results.
func (g *rig) do(ops ...kv.Op) []kv.OpResult {
	g.t.Helper()
	out := g.try(ops...)
	if out.Err != nil {
		g.t.Fatalf("%+v: %v", ops, out.Err)
	}
	return out.Result.Ops
}

func (g *rig) put(key, value string) int64 {
	g.t.Helper()
	g.do(put(key, value))
	return g.s.Revision()
}

// refuse applies ops that must be refused with a code, and checks that nothing changes.
func (g *rig) refuse(code kv.Code, ops ...kv.Op) *kv.Error {
	g.t.Helper()
	before := g.s.Revision()
	out := g.try(ops...)
	if out.Err == nil || out.Err.Code != code {
		g.t.Fatalf("%+v: got %v, want %v", ops, out.Err, code)
	}
	if g.s.Revision() != before {
		g.t.Fatalf("%+v was refused and moved the revision", ops)
	}
	return out.Err
}

func (g *rig) list(rev int64) string {
	g.t.Helper()
	page, err := g.s.Read(kv.Query{Ops: []kv.Op{kv.Range{Key: []byte{0}, End: []byte{0}, Revision: rev}}})
	must(g.t, err)
	return show(page.Ops[0].KVs)
}

// show is key=value@mod for each pair.
func show(kvs []kv.KeyValue) string {
	var b strings.Builder
	for i, p := range kvs {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s@%d", p.Key, p.Value, p.ModRevision)
	}
	return b.String()
}

func put(key, value string) kv.Put { return kv.Put{Key: []byte(key), Value: []byte(value)} }

func del(key, end string) kv.Delete { return kv.Delete{Key: []byte(key), End: []byte(end)} }

func get(key string) kv.Range { return kv.Range{Key: []byte(key)} }

func scan(key, end string) kv.Range { return kv.Range{Key: []byte(key), End: []byte(end)} }

// errDied is what a failpoint returns in place of a process that died.
var errDied = errors.New("died")

// dieAt makes a failpoint that fails once, the nth time it is passed; then the store must be crashed and opened again.
func dieAt(name string, nth int) func(string) error {
	var mu sync.Mutex
	return func(at string) error {
		mu.Lock()
		defer mu.Unlock()
		if at == name {
			if nth--; nth == 0 {
				return errDied
			}
		}
		return nil
	}
}
