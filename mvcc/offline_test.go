package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// imageOf copies a store into a file as a backup has it: with something behind it.
func imageOf(t *testing.T, s *Store) (path string, size int64) {
	t.Helper()
	sn, err := s.Snapshot()
	must(t, err)
	image, size, err := sn.Image()
	must(t, err)
	path = filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	must(t, err)
	n, err := io.Copy(f, io.NewSectionReader(image, 0, size))
	must(t, err)
	if n != size {
		t.Fatalf("the image has %d bytes, and was to have %d", n, size)
	}
	_, err = f.WriteString("something else")
	must(t, errors.Join(err, f.Close(), sn.Close()))
	return path, size
}

func TestExamineTellsWhatACopyHolds(t *testing.T) {
	g := filled(t, Options{})
	g.do(kv.LeaseGrant{ID: 7, TTL: 60})
	g.do(kv.SetAlarm{Alarm: kv.Alarm{Member: 1, Kind: kv.AlarmNoSpace}, Raise: true})
	path, size := imageOf(t, g.s)
	before, err := os.ReadFile(path)
	must(t, err)
	c, err := Examine(path, size, nil)
	must(t, err)
	if c.Epoch != g.s.Epoch() || c.Revision != g.s.Revision() || c.Compact != 20 || c.Leases != 1 || len(c.Alarms) != 1 || c.Applied != g.s.Applied() {
		t.Errorf("got %+v", c)
	}
	if n := int64(checkFile(t, g.s)); c.Changes != n || c.Keys != 7+8 {
		t.Errorf("%d keys and %d changes, want 15 and %d", c.Keys, c.Changes, n)
	}
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func TestARenewedStateBeginsALogOfAnotherEpoch(t *testing.T) {
	g := filled(t, Options{})
	g.do(kv.LeaseGrant{ID: 7, TTL: 60})
	g.do(kv.Put{Key: []byte("leased"), Value: []byte("x"), Lease: 7})
	g.do(kv.SetRecord{Name: []byte("node/1"), Value: []byte("n"), Have: -1})
	g.do(kv.SetRecord{Name: []byte("other/1"), Value: []byte("o"), Have: -1})
	g.do(kv.SetAlarm{Alarm: kv.Alarm{Member: 1, Kind: kv.AlarmNoSpace}, Raise: true})
	path, size := imageOf(t, g.s)
	want, _, _, err := g.s.hash(0)
	must(t, err)

	other := newRig(t, Options{})
	must(t, other.s.Close())
	epoch := kv.Epoch{Cluster: 9, Nonce: [16]byte{9}}
	c, err := Renew(path, size, other.path, Renewal{Epoch: epoch, Drop: func(name []byte) bool { return strings.HasPrefix(string(name), "node/") }}, nil)
	must(t, err)
	if c.Epoch != epoch || c.Revision != g.s.Revision() || c.Applied != 0 || len(c.Alarms) != 0 || c.Leases != 1 {
		t.Errorf("got %+v", c)
	}
	told := map[int64]int64{}
	other.opts.OnLease = func(id, ttl int64) { told[id] = ttl }
	other.open()
	other.index = 0
	if h, _, _, err := other.s.hash(0); err != nil || h != want {
		t.Errorf("the keys hash to %08x, want %08x: %v", h, want, err)
	}
	if other.s.LeaderTerm() != 0 || other.s.Epoch() != epoch {
		t.Errorf("term %d, epoch %v", other.s.LeaderTerm(), other.s.Epoch())
	}
	page, err := other.s.Read(kv.Query{Ops: []kv.Op{kv.Records{}, kv.LeaseList{}}})
	must(t, err)
	if recs := page.Ops[0].KVs; len(recs) != 1 || string(recs[0].Key) != "other/1" || len(page.Ops[1].Leases) != 1 {
		t.Errorf("records %+v, leases %+v", recs, page.Ops[1].Leases)
	}
	rev := other.s.Revision()
	other.put("next", "1")
	if other.s.Revision() != rev+1 {
		t.Errorf("the next change is revision %d, want %d", other.s.Revision(), rev+1)
	}
	must(t, other.s.Flush())
	checkFile(t, other.s)
}

func TestARenewedStateCanSkipRevisions(t *testing.T) {
	g := filled(t, Options{})
	path, size := imageOf(t, g.s)
	other := newRig(t, Options{})
	must(t, other.s.Close())
	c, err := Renew(path, size, other.path, Renewal{Epoch: kv.Epoch{Cluster: 9}, Bump: 1000}, nil)
	must(t, err)
	if want := g.s.Revision() + 1000; c.Revision != want || c.Compact != want {
		t.Errorf("revision %d, compacted to %d, want %d", c.Revision, c.Compact, want)
	}
	other.open()
	other.index = 0
	other.sweep()
	if n := int64(checkFile(t, other.s)); n != c.Keys {
		t.Errorf("%d changes are left of %d keys", n, c.Keys)
	}
}

// Whatever byte is damaged, a copy is refused or what is read of it is what was written: bbolt's own pages have no
// checksum, so that is found by what they lead to.
func TestADamagedCopyIsRefused(t *testing.T) {
	g := filled(t, Options{})
	path, size := imageOf(t, g.s)
	whole, err := os.ReadFile(path)
	must(t, err)
	want, err := Examine(path, size, nil)
	must(t, err)
	refused := 0
	for at := 0; at < int(size); at += 37 {
		bad := bytes.Clone(whole)
		bad[at] ^= 0x55
		must(t, os.WriteFile(path, bad, 0o600))
		c, err := Examine(path, size, nil)
		switch {
		case err != nil:
			refused++
		case fmt.Sprint(c) != fmt.Sprint(want):
			t.Errorf("byte %d damaged: got %+v, want %+v or an error", at, c, want)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
	for _, cut := range []int64{0, 1, 4096, size / 2, size - 4096} {
		must(t, os.WriteFile(path, whole[:cut], 0o600))
		if _, err := Examine(path, cut, nil); kv.CodeOf(err) != kv.Corrupt {
			t.Errorf("cut to %d bytes: %v", cut, err)
		}
	}
}

func TestAFileWhoseTreeLeadsBackToItselfIsRefused(t *testing.T) {
	g := newRig(t, Options{})
	for i := range 2000 {
		g.put(fmt.Sprint("key", i), strings.Repeat("v", 100))
	}
	path, size := imageOf(t, g.s)
	whole, err := os.ReadFile(path)
	must(t, err)
	loops := 0
	for id := int64(2); id < size/pageSize; id++ {
		page := whole[id*pageSize:]
		if binary.NativeEndian.Uint16(page[8:]) != pageBranch {
			continue
		}
		bad := bytes.Clone(whole)
		binary.NativeEndian.PutUint64(bad[id*pageSize+pageHead+8:], uint64(id))
		must(t, os.WriteFile(path, bad, 0o600))
		if _, err := Examine(path, size, nil); err != nil {
			loops++
			if kv.CodeOf(err) != kv.Corrupt {
				t.Errorf("page %d leads to itself: %v", id, err)
			}
		} // else nothing leads to the page: it is free
	}
	if loops == 0 {
		t.Error("no loop was found")
	}
}

func FuzzImage(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(filepath.Join(dir, "s"), Options{})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := s.Apply([]Entry{{Index: 1, Command: kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k"), Value: []byte("v")}, kv.LeaseGrant{ID: 1, TTL: 9}}}}}); err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "s"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{1})
	f.Add(uint32(2*pageSize), []byte{1, 2, 3})
	f.Add(uint32(3*pageSize+8), []byte{1, 0, 200, 0, 9, 9, 9, 9})
	path := filepath.Join(dir, "f")
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], with)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Examine(path, int64(len(b)), nil)
		_, err2 := ImportEtcd(path, int64(len(b)), path+".new", kv.Epoch{}, false, nil)
		if err == nil && err2 == nil {
			t.Error("the file is both a state file and one of etcd")
		}
	})
}

// etcdFile writes a file as etcd does.
func etcdFile(t testing.TB, fill func(put func(bucket, key string, value []byte))) (path string, size int64) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"key", "meta", "lease", "auth", "authUsers", "authRoles", "members"} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		fill(func(bucket, key string, value []byte) {
			if err := tx.Bucket([]byte(bucket)).Put([]byte(key), value); err != nil {
				t.Fatal(err)
			}
		})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, info.Size()
}

func etcdRev(main, sub uint64) string {
	return string(binary.BigEndian.AppendUint64(append(binary.BigEndian.AppendUint64(nil, main), '_'), sub))
}

// etcdKV is a mvccpb.KeyValue.
func etcdKV(key string, create, mod, version int64, value string, lease int64) []byte {
	var b []byte
	text := func(tag byte, s string) {
		if s != "" {
			b = append(binary.AppendUvarint(append(b, tag<<3|2), uint64(len(s))), s...)
		}
	}
	number := func(tag byte, n int64) {
		if n != 0 {
			b = binary.AppendUvarint(append(b, tag<<3), uint64(n))
		}
	}
	text(1, key)
	number(2, create)
	number(3, mod)
	number(4, version)
	text(5, value)
	number(6, lease)
	return b
}

func TestAFileOfEtcdKeepsRevisionsHistoryAndLeases(t *testing.T) {
	path, size := etcdFile(t, func(put func(bucket, key string, value []byte)) {
		put("key", etcdRev(2, 0), etcdKV("a", 2, 2, 1, "1", 0))
		put("key", etcdRev(3, 0), etcdKV("b", 3, 3, 1, "2", 5))
		put("key", etcdRev(3, 1), etcdKV("c", 3, 3, 1, "3", 77)) // its lease is gone
		put("key", etcdRev(4, 0), etcdKV("a", 2, 4, 2, "4", 0))
		put("key", etcdRev(5, 0)+"t", etcdKV("a", 0, 0, 0, "", 0))
		put("key", etcdRev(6, 0), etcdKV("old", 1, 6, 9, "6", 0)) // what it replaced is compacted
		put("key", etcdRev(7, 0)+"t", etcdKV("b2", 0, 0, 0, "", 0))
		put("key", etcdRev(7, 1), etcdKV("d", 7, 7, 1, "7", 0))
		put("key", etcdRev(7, 2), etcdKV("d", 7, 7, 2, "8", 0)) // twice in a transaction
		put("lease", "\x00\x00\x00\x00\x00\x00\x00\x05", []byte{1 << 3, 5, 2 << 3, 60, 3 << 3, 1})
		put("meta", "finishedCompactRev", []byte(etcdRev(2, 0)))
		put("meta", "scheduledCompactRev", []byte(etcdRev(3, 0)))
		put("auth", "authEnabled", []byte{0})
	})
	if is, err := IsEtcd(path, size); err != nil || !is {
		t.Fatalf("not recognised: %v", err)
	}
	g := newRig(t, Options{})
	must(t, g.s.Close())
	epoch := kv.Epoch{Cluster: 3, Nonce: [16]byte{4}}
	im, err := ImportEtcd(path, size, g.path, epoch, false, nil)
	must(t, err)
	if im.Revision != 7 || im.Compact != 3 || im.Keys != 4 || im.Leases != 1 || im.Users != 0 || im.Freed != 1 || im.Epoch != epoch {
		t.Errorf("got %+v", im)
	}
	g.open()
	g.index = 0
	g.sweep()
	checkFile(t, g.s)
	page, err := g.s.Read(kv.Query{Ops: []kv.Op{
		kv.Range{Key: []byte{0}, End: []byte{0}}, kv.Range{Key: []byte("a"), Revision: 4}, kv.LeaseTTL{ID: 5, Keys: true},
	}})
	must(t, err)
	var got []string
	for _, k := range page.Ops[0].KVs {
		got = append(got, fmt.Sprintf("%s=%s %d.%d v%d l%d", k.Key, k.Value, k.CreateRevision, k.ModRevision, k.Version, k.Lease))
	}
	if want := "[b=2 3.3 v1 l5 c=3 3.3 v1 l0 d=8 7.7 v2 l0 old=6 1.6 v9 l0]"; fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
	if old := page.Ops[1].KVs; len(old) != 1 || string(old[0].Value) != "4" || old[0].Version != 2 {
		t.Errorf("a at revision 4: %+v", old)
	}
	if l := page.Ops[2]; l.Leases[0].Granted != 60 || len(l.KVs) != 1 || string(l.KVs[0].Key) != "b" {
		t.Errorf("lease: %+v", l)
	}
}

func TestAFileOfEtcdKeepsUsersAndRoles(t *testing.T) {
	role := func(name string, permissions ...string) []byte {
		b := append([]byte{1<<3 | 2, byte(len(name))}, name...)
		for _, p := range permissions {
			b = append(append(b, 2<<3|2, byte(len(p))), p...)
		}
		return b
	}
	user := func(name, hash string, roles ...string) []byte {
		b := append([]byte{1<<3 | 2, byte(len(name))}, name...)
		b = append(append(b, 2<<3|2, byte(len(hash))), hash...)
		for _, r := range roles {
			b = append(append(b, 3<<3|2, byte(len(r))), r...)
		}
		return b
	}
	path, size := etcdFile(t, func(put func(bucket, key string, value []byte)) {
		put("auth", "authEnabled", []byte{1})
		put("authRoles", "root", role("root"))
		put("authRoles", "site", role("site", "\x08\x02\x12\x05site/\x1a\x05site0", "\x12\x01a"))
		put("authUsers", "root", user("root", "$2a$hash", "root"))
		put("authUsers", "kim", user("kim", "$2a$other", "site"))
		put("authUsers", "cert", append(user("cert", "", "site"), 4<<3|2, 2, 1<<3, 1))
	})
	g := newRig(t, Options{})
	must(t, g.s.Close())
	im, err := ImportEtcd(path, size, g.path, kv.Epoch{Cluster: 3}, false, nil)
	must(t, err)
	if im.Users != 3 || !im.Enabled {
		t.Errorf("got %+v", im)
	}
	g.open()
	checkFile(t, g.s)
	p := g.s.Policy()
	if !p.Enabled() || p.HasKey() || !slices.Equal(p.Users(), []string{"cert", "kim", "root"}) || !slices.Equal(p.Roles(), []string{"root", "site"}) {
		t.Errorf("enabled %t, users %q, roles %q", p.Enabled(), p.Users(), p.Roles())
	}
	var got []string
	for _, e := range p.Entries(true) {
		got = append(got, fmt.Sprintf("%s=%q", e.Key, e.Value[1:]))
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{"$2a$other", "site/\\x05site0", "$2a$hash"} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is not in\n%s", want, all)
		}
	}
	if im, err := ImportEtcd(path, size, g.path+"2", kv.Epoch{}, true, nil); err != nil || im.Users != 0 || im.Enabled {
		t.Errorf("without users: %+v, %v", im, err)
	}
	path, size = etcdFile(t, func(put func(bucket, key string, value []byte)) {
		put("authUsers", "kim", user("kim", "$2a$other", "nowhere"))
	})
	if _, err := ImportEtcd(path, size, g.path+"3", kv.Epoch{}, false, nil); kv.CodeOf(err) != kv.RoleNotFound || !strings.Contains(err.Error(), "kim") {
		t.Errorf("a user with a role that is not there: %v", err)
	}
}

func TestWhatIsWrongInAFileOfEtcdIsSaid(t *testing.T) {
	for name, c := range map[string]struct {
		fill func(put func(bucket, key string, value []byte))
		code kv.Code
		says string
	}{
		"revision": {func(put func(bucket, key string, value []byte)) { put("key", "x", nil) }, kv.Corrupt, "a revision has the form"},
		"message":  {func(put func(bucket, key string, value []byte)) { put("key", etcdRev(2, 0), []byte{10, 200}) }, kv.Corrupt, "protobuf"},
		"no key":   {func(put func(bucket, key string, value []byte)) { put("key", etcdRev(2, 0), nil) }, kv.Corrupt, "of no key"},
		"numbers": {func(put func(bucket, key string, value []byte)) {
			put("key", etcdRev(2, 0), etcdKV("a", 2, 3, 1, "", 0))
		}, kv.Corrupt, "says that it is of 3"},
		"long key": {func(put func(bucket, key string, value []byte)) {
			put("key", etcdRev(2, 0), etcdKV(strings.Repeat("k", MaxKeyBytes+1), 2, 2, 1, "", 0))
		}, kv.TooLarge, "delete it in etcd first"},
		"lease": {func(put func(bucket, key string, value []byte)) { put("lease", "12345678", []byte{8, 1}) }, kv.Corrupt, "the lease"},
	} {
		path, size := etcdFile(t, c.fill)
		to := filepath.Join(t.TempDir(), "new")
		_, err := ImportEtcd(path, size, to, kv.Epoch{}, false, nil)
		if kv.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: got %v, want %v that says %q", name, err, c.code, c.says)
		}
		if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a file was left: %v", name, err)
		}
	}
}
