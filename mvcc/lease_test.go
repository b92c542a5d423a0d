package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

func putLease(key, value string, lease int64) kv.Put {
	return kv.Put{Key: []byte(key), Value: []byte(value), Lease: lease}
}

// showLeases is id:ttl/granted for each lease of an answer, with its keys.
func showLeases(answers ...kv.OpResult) string {
	var all []string
	for _, a := range answers {
		var parts []string
		for _, l := range a.Leases {
			parts = append(parts, fmt.Sprintf("%d:%d/%d", l.ID, l.TTL, l.Granted))
		}
		for _, p := range a.KVs {
			parts = append(parts, string(p.Key))
		}
		all = append(all, strings.Join(parts, " "))
	}
	return strings.Join(all, "; ")
}

func (g *rig) leases(ids ...int64) string {
	g.t.Helper()
	ops := []kv.Op{kv.LeaseList{}}
	for _, id := range ids {
		ops = append(ops, kv.LeaseTTL{ID: id, Keys: true})
	}
	page, err := g.s.Read(kv.Query{Ops: ops})
	must(g.t, err)
	return showLeases(page.Ops...)
}

func (g *rig) wantLeases(want string, ids ...int64) {
	g.t.Helper()
	if got := g.leases(ids...); got != want {
		g.t.Errorf("leases %q, want %q", got, want)
	}
}

func TestLeaseIsGrantedWithoutARevision(t *testing.T) {
	g := newRig(t, Options{})
	if got := showLeases(g.do(kv.LeaseGrant{ID: 7, TTL: 60})...); got != "7:60/60" {
		t.Errorf("granted %q", got)
	}
	if got := showLeases(g.do(kv.LeaseGrant{ID: 8, TTL: 1})...); got != "8:2/2" {
		t.Errorf("a TTL below the least became %q", got)
	}
	if got := showLeases(g.do(kv.LeaseGrant{ID: -9, TTL: -5})...); got != "-9:2/2" {
		t.Errorf("a negative TTL became %q", got)
	}
	g.do(kv.LeaseGrant{ID: 10, TTL: MaxLeaseTTL})
	g.refuse(kv.LeaseTTLTooLarge, kv.LeaseGrant{ID: 11, TTL: MaxLeaseTTL + 1})
	g.refuse(kv.LeaseExists, kv.LeaseGrant{ID: 7, TTL: 5})
	g.refuse(kv.Invalid, kv.LeaseGrant{TTL: 5})
	g.refuse(kv.LeaseNotFound, kv.LeaseRevoke{ID: 11})
	g.do(kv.LeaseRevoke{ID: 7})
	g.refuse(kv.LeaseNotFound, kv.LeaseRevoke{ID: 7})
	if g.s.Revision() != 1 {
		t.Errorf("revision %d, want 1", g.s.Revision())
	}
	g.wantLeases("8:2/2 10:9000000000/9000000000 -9:2/2; 7:-1/0", 7)
	g.do(kv.LeaseGrant{ID: 7, TTL: 5}) // the id is free again
}

func TestRevocationDeletesTheKeysInOrderAtOneRevision(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.LeaseGrant{ID: 7, TTL: 60})
	for _, k := range []string{"b", "c", "a", "other"} {
		g.do(putLease(k, "1", 7))
		must(t, g.s.Flush())
	}
	g.do(putLease("d", "1", 7))
	g.do(put("other", "2"))
	before := g.s.Revision()
	g.do(kv.LeaseRevoke{ID: 7})
	if g.s.Revision() != before+1 {
		t.Errorf("revision %d, want %d", g.s.Revision(), before+1)
	}
	events, canceled := watched(t, g.s, kv.Watch{Key: []byte{0}, End: []byte{0}, From: before + 1})
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s %t@%d", e.KV.Key, e.Delete, e.KV.ModRevision))
	}
	want := []string{}
	for _, k := range []string{"a", "b", "c", "d"} {
		want = append(want, fmt.Sprintf("%s true@%d", k, before+1))
	}
	if canceled != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if got := g.list(0); got != "other=2@7" {
		t.Errorf("left: %s", got)
	}
	g.wantLeases("")
}

func TestKeysMoveBetweenLeases(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.LeaseGrant{ID: 1, TTL: 60})
	g.do(kv.LeaseGrant{ID: 2, TTL: 60})
	steps := []struct {
		what string
		ops  []kv.Op
		want string // keys of lease 1; of lease 2
	}{
		{"put attaches", []kv.Op{putLease("a", "1", 1), putLease("b", "1", 1), putLease("c", "1", 2)}, "a b; c"},
		{"put under another moves", []kv.Op{putLease("a", "2", 2)}, "b; a c"},
		{"put under the same stays", []kv.Op{putLease("b", "2", 1)}, "b; a c"},
		{"put without a lease detaches", []kv.Op{put("b", "3")}, "; a c"},
		{"put that keeps the lease keeps it", []kv.Op{kv.Put{Key: []byte("a"), Value: []byte("4"), IgnoreLease: true}}, "; a c"},
		{"put that keeps the value may move", []kv.Op{kv.Put{Key: []byte("a"), IgnoreValue: true, Lease: 1}}, "a; c"},
		{"delete detaches", []kv.Op{del("a", "")}, "; c"},
		{"a key that is made again is free", []kv.Op{put("a", "5")}, "; c"},
		{"delete of a range detaches", []kv.Op{putLease("d", "1", 1), kv.Txn{Then: []kv.Op{putLease("e", "1", 1), del("c", "d")}}}, "d e; "},
		{"transactions move too", []kv.Op{kv.Txn{Then: []kv.Op{putLease("d", "2", 2), put("e", "2"), putLease("f", "1", 1)}}}, "f; d"},
	}
	for i, s := range steps {
		g.do(s.ops...)
		if i%3 == 1 {
			must(t, g.s.Flush())
		}
		all := strings.Split(g.leases(1, 2), "; ")
		for j := range all {
			_, all[j], _ = strings.Cut(all[j], " ")
		}
		if got := all[1] + "; " + all[2]; got != s.want {
			t.Errorf("%s: %q, want %q", s.what, got, s.want)
		}
	}
	must(t, g.s.Flush())
	checkFile(t, g.s)
	g.do(kv.LeaseRevoke{ID: 1})
	g.do(kv.LeaseRevoke{ID: 2})
	if got := g.list(0); got != "a=5@9 b=3@5 e=2@11" {
		t.Errorf("left: %s", got)
	}
}

func TestCommandWithAnUnknownLeaseAppliesNothing(t *testing.T) {
	g := newRig(t, Options{})
	g.refuse(kv.LeaseNotFound, put("a", "1"), kv.Txn{Then: []kv.Op{putLease("b", "1", 7)}})
	g.refuse(kv.LeaseNotFound, kv.LeaseGrant{ID: 7, TTL: 5}, putLease("a", "1", 8))
	g.refuse(kv.LeaseNotFound, putLease("a", "1", 7), kv.LeaseGrant{ID: 7, TTL: 5}) // it is not there yet
	g.wantLeases("")
	// A lease may be granted and used at once.
	g.do(kv.LeaseGrant{ID: 7, TTL: 5}, putLease("a", "1", 7))
	g.wantLeases("7:5/5; 7:5/5 a", 7)
}

func TestRevocationOfAFormerLeaderIsVoid(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.LeaderTerm{Nonce: 3})
	g.do(kv.LeaseGrant{ID: 7, TTL: 5}, putLease("a", "1", 7))
	g.do(kv.LeaderTerm{Nonce: 4})
	g.do(kv.LeaseRevoke{ID: 7, Term: 3})
	g.do(kv.LeaseRevoke{ID: 8, Term: 3})
	g.wantLeases("7:5/5; 7:5/5 a", 7)
	g.do(kv.LeaseRevoke{ID: 7, Term: 4})
	g.wantLeases("")
	if got := g.list(0); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestLeasesStandWhereTheyMay(t *testing.T) {
	grant, revoke := kv.LeaseGrant{ID: 1, TTL: 5}, kv.LeaseRevoke{ID: 1}
	for name, ops := range map[string][]kv.Op{
		"grant in a transaction":  {kv.Txn{Then: []kv.Op{grant}}},
		"revoke in a transaction": {kv.Txn{Then: []kv.Op{revoke}}},
		"revoke beside a put":     {revoke, put("a", "1")},
		"two revocations":         {revoke, kv.LeaseRevoke{ID: 2}},
		"renewal beside a put":    {kv.LeaseKeepAlive{ID: 1}, put("a", "1")},
		"time left, in the log":   {put("a", "1"), kv.LeaseTTL{ID: 1}},
		"list, in the log":        {put("a", "1"), kv.Txn{Else: []kv.Op{kv.LeaseList{}}}},
	} {
		if err := Check(kv.Command{Ops: ops}); err == nil || err.Code != kv.Invalid {
			t.Errorf("%s: got %v", name, err)
		}
	}
	long := make([]byte, MaxLeaseKeyBytes+1)
	if err := Check(kv.Command{Ops: []kv.Op{kv.Put{Key: long, Lease: 1}}}); err == nil || err.Code != kv.TooLarge {
		t.Errorf("a key that is too long for a lease: got %v", err)
	}
}

func TestLongestKeyUnderALease(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.LeaseGrant{ID: 7, TTL: 5}, putLease(strings.Repeat("k", MaxLeaseKeyBytes), "1", 7))
	must(t, g.s.Flush())
	checkFile(t, g.s)
	g.do(kv.LeaseRevoke{ID: 7})
	if got := g.list(0); got != "" {
		t.Errorf("left: %.40s", got)
	}
}

// What Apply tells of leases is what there is, in the order of the log.
func TestLeasesAreToldOf(t *testing.T) {
	var told []string
	g := newRig(t, Options{OnLease: func(id, ttl int64) { told = append(told, fmt.Sprintf("%d:%d", id, ttl)) }})
	g.do(kv.LeaseGrant{ID: 7, TTL: 1})
	g.do(kv.LeaseGrant{ID: 8, TTL: 9}, putLease("a", "1", 8))
	g.refuse(kv.LeaseNotFound, kv.LeaseGrant{ID: 9, TTL: 9}, putLease("a", "1", 10))
	g.do(kv.LeaseRevoke{ID: 7, Term: 5}) // void
	out := g.do(kv.Each{Commands: []kv.Command{{Ops: []kv.Op{kv.LeaseRevoke{ID: 8}}}, {Ops: []kv.Op{kv.LeaseRevoke{ID: 8}}}, {Ops: []kv.Op{kv.LeaseRevoke{ID: 7}}}}})
	if e := out[0].Each; e[0].Err != nil || e[1].Err == nil || e[1].Err.Code != kv.LeaseNotFound || e[2].Err != nil {
		t.Errorf("got %+v", e)
	}
	if want := []string{"7:2", "8:9", "8:0", "7:0"}; !reflect.DeepEqual(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

// A file without leases can be opened by versions that know none; one with leases cannot.
func TestFormatRisesWithTheFirstLease(t *testing.T) {
	format := func(s *Store) (n uint32) {
		must(t, s.layers.Load().file.db.View(func(tx *bbolt.Tx) (err error) {
			n, err = readFormat(tx.Bucket(bucketMeta))
			return err
		}))
		return n
	}
	g := newRig(t, Options{})
	g.put("a", "1")
	g.do(kv.SetRecord{Name: []byte("n"), Value: []byte("v")})
	must(t, g.s.Flush())
	if got := format(g.s); got != formatFirst {
		t.Errorf("format %d without leases", got)
	}
	g.do(kv.LeaseGrant{ID: 7, TTL: 5})
	must(t, g.s.Flush())
	if got := format(g.s); got != formatLeases {
		t.Errorf("format %d with a lease", got)
	}
	r := newRig(t, Options{})
	must(t, r.s.Restore(dump(t, g.s), nil))
	if got := format(r.s); got != formatLeases {
		t.Errorf("format %d of a restored file", got)
	}
}

// The order and the place of what is written do not show: a lease with keys in the file and in both overlays.
func TestLeaseSurvivesCrashes(t *testing.T) {
	for _, at := range []string{"frozen", "part", "committed", "dropped"} {
		t.Run(at, func(t *testing.T) {
			j := &journal{}
			m := newModel()
			add := func(ops ...kv.Op) {
				c := kv.Command{Ops: ops}
				j.entries = append(j.entries, Entry{uint64(len(j.entries) + 1), c})
				j.outcomes = append(j.outcomes, m.apply(c))
			}
			r := newReplica(t, t.TempDir(), "store", Options{nodes: 1})
			t.Cleanup(func() { r.s.crash() })
			add(kv.LeaseGrant{ID: 1, TTL: 5})
			add(kv.LeaseGrant{ID: 2, TTL: 5})
			for i := range 300 {
				add(putLease(fmt.Sprintf("k%03d", i), strings.Repeat("v", 200), 1+int64(i%2)))
			}
			j.replay(t, r.s, 50)
			must(t, r.s.Flush())
			for i := range 100 {
				add(putLease(fmt.Sprintf("k%03d", i*3), "w", 1))
			}
			add(kv.LeaseRevoke{ID: 2})
			add(kv.LeaseGrant{ID: 2, TTL: 5})
			for i := range 100 {
				add(putLease(fmt.Sprintf("k%03d", i*3+1), "x", 2))
			}
			j.replay(t, r.s, 1000)
			r.s.opts.step = dieAt(at, 1)
			if err := r.s.Flush(); err == nil && at != "part" {
				t.Fatalf("did not die at %s", at)
			}
			r.s.crash()
			r.open()
			checkFile(t, r.s)
			j.replay(t, r.s, 7)
			add(kv.LeaseRevoke{ID: 1})
			add(kv.LeaseRevoke{ID: 2})
			j.replay(t, r.s, 7)
			must(t, r.s.Flush())
			checkFile(t, r.s)
			page, err := r.s.Read(kv.Query{Ops: []kv.Op{scan("\x00", "\x00")}})
			must(t, err)
			if want := m.list([]byte{0}, []byte{0}, m.rev); page.Ops[0].Count != int64(len(want)) {
				t.Errorf("%d keys, want %d", page.Ops[0].Count, len(want))
			}
		})
	}
}

// The hash of the keys is that of the keys: leases, and where their keys are listed, are not in it.
func TestHashDoesNotCoverLeases(t *testing.T) {
	a, b := newRig(t, Options{}), newRig(t, Options{})
	a.do(kv.LeaseGrant{ID: 1, TTL: 5})
	a.do(kv.LeaseGrant{ID: 2, TTL: 6})
	b.do(kv.LeaseGrant{ID: 1, TTL: 50})
	for _, g := range []*rig{a, b} {
		g.do(putLease("a", "1", 1))
		g.do(putLease("a", "2", 1))
	}
	must(t, a.s.Flush())
	ha, _, _, err := a.s.hash(0)
	must(t, err)
	hb, _, _, err := b.s.hash(0)
	must(t, err)
	if ha != hb {
		t.Errorf("%08x and %08x", ha, hb)
	}
	b.do(put("b", "1"))
	a.do(putLease("b", "1", 1))
	ha, _, _, err = a.s.hash(0)
	must(t, err)
	hb, _, _, err = b.s.hash(0)
	must(t, err)
	if ha == hb {
		t.Error("the lease of a key is not in the hash: etcd's has it")
	}
}

// A lease that is listed wrongly would delete what it must not.
func TestWronglyListedKeyStopsTheStore(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.LeaseGrant{ID: 7, TTL: 5}, putLease("a", "1", 7), put("b", "1"))
	must(t, g.s.Flush())
	must(t, g.s.layers.Load().file.db.Update(func(tx *bbolt.Tx) error {
		name := append(leaseKeyPrefix(7), 'b')
		return tx.Bucket(bucketSide).Put(name, sealSide(name, nil))
	}))
	_, err := g.s.Apply([]Entry{{g.index + 1, kv.Command{Ops: []kv.Op{kv.LeaseRevoke{ID: 7}}}}})
	if kv.CodeOf(err) != kv.Corrupt || !bytes.Contains([]byte(err.Error()), []byte(`"b"`)) {
		t.Errorf("got %v", err)
	}
}

// While a flush is under way, keys of a lease are in three places.
func TestRevocationDuringAFlush(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.LeaseGrant{ID: 7, TTL: 5}, putLease("a", "1", 7), putLease("b", "1", 7))
	must(t, g.s.Flush())
	g.do(putLease("c", "1", 7), del("a", ""), put("b", "2"))
	g.s.opts.step = func(at string) error {
		if at == "frozen" {
			g.s.opts.step = nil
			g.do(putLease("d", "1", 7))
			g.wantLeases("7:5/5; 7:5/5 c d", 7)
			g.do(kv.LeaseRevoke{ID: 7})
			g.wantLeases("; 7:-1/0", 7)
			if got := g.list(0); got != "b=2@3" {
				t.Errorf("left: %s", got)
			}
		}
		return nil
	}
	must(t, g.s.Flush())
	if g.s.opts.step != nil {
		t.Fatal("the flush was not interrupted")
	}
	must(t, g.s.Flush())
	checkFile(t, g.s)
	g.wantLeases("; 7:-1/0", 7)
}

// The keys of a lease are shown as of one revision, whatever is moved and flushed meanwhile.
func TestKeysOfALeaseAreReadAtOneRevision(t *testing.T) {
	const half = 20
	g := newRig(t, Options{FlushBytes: 16 << 10})
	g.do(kv.LeaseGrant{ID: 1, TTL: 5}, kv.LeaseGrant{ID: 2, TTL: 5})
	key := func(i int) string { return fmt.Sprintf("k%02d", i) }
	for i := range 2 * half {
		g.do(putLease(key(i), "v", 1+int64(i/half)))
	}
	stop, flushed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flushed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := g.s.Flush(); err != nil {
				t.Errorf("flush: %v", err)
				return
			}
		}
	}()
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			a, b := i%half, half+i%half
			first, second := int64(1), int64(2)
			if i/half%2 == 0 {
				first, second = second, first
			}
			g.index++
			out, err := g.s.Apply([]Entry{{g.index, kv.Command{Ops: []kv.Op{putLease(key(a), "v", first), putLease(key(b), "v", second)}}}})
			if err != nil || out[0].Err != nil {
				t.Errorf("move: %v %v", err, out)
				return
			}
		}
	}()
	for i := range 2000 {
		page, err := g.s.Read(kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: 1 + int64(i%2), Keys: true}}})
		if kv.CodeOf(err) == kv.Busy {
			continue // flushed too often for it
		}
		if err != nil || len(page.Ops[0].KVs) != half {
			t.Errorf("read %d: %d keys, want %d; %v", i, len(page.Ops[0].KVs), half, err)
			break
		}
	}
	close(stop)
	<-moved
	<-flushed
}

// A reader that has begun before a flush would miss, in the file, what left the lease since.
func TestReaderOfALeaseBeginsAnewAfterAFlush(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.LeaseGrant{ID: 7, TTL: 5}, putLease("a", "1", 7), putLease("b", "1", 7))
	must(t, g.s.Flush())
	r, h := g.s.now()
	defer r.close()
	g.do(put("a", "2"))
	x := &exec{r: r, base: h.Revision}
	if res, err := x.leaseTTL(kv.LeaseTTL{ID: 7, Keys: true}); err != nil || showLeases(res) != "7:5/5 a b" {
		t.Errorf("before the flush: %q, %v; want it as it was", showLeases(res), err)
	}
	r.close()
	must(t, g.s.Flush())
	if res, err := x.leaseTTL(kv.LeaseTTL{ID: 7, Keys: true}); !errors.Is(err, errPassed) {
		t.Errorf("after the flush: %q, %v", showLeases(res), err)
	}
	g.wantLeases("7:5/5; 7:5/5 b", 7)
}
