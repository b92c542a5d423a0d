package namespace

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/kv"
)

// The keys around and outside of n/, one of them as a prefix of it.
var neighbours = []string{"a", "m/x", "n", "n.", "n/", "n0", "o", "\xff"}

// rig is a namespace n/ in a store with neighbours, and a lease with keys on both sides.
func rig(t *testing.T) (n *Namespace, store *apitest.Memory, lease int64) {
	t.Helper()
	store = apitest.NewMemory()
	do := func(b api.Backend, ops ...kv.Op) {
		t.Helper()
		if _, err := b.Do(t.Context(), kv.Command{Ops: ops}); err != nil {
			t.Fatal(err)
		}
	}
	lease = 77
	do(store, kv.LeaseGrant{ID: lease, TTL: 600})
	for _, k := range neighbours {
		do(store, kv.Put{Key: []byte(k), Value: []byte("secret"), Lease: lease})
	}
	n = New(store, "n/")
	do(n, kv.Put{Key: []byte("k"), Value: []byte("own"), Lease: lease})
	return n, store, lease
}

// hostile is everything that whoever is inside could try, on every range of the keys outside as they are named there and on
// ranges without an end.
func hostile(lease int64) (ops []kv.Op) {
	var spans [][2][]byte
	for _, from := range append(neighbours, "", "\x00", "../m/x", "n/k") {
		for _, to := range append(neighbours, "", "\x00", "\xff\xff\xff") {
			spans = append(spans, [2][]byte{[]byte(from), []byte(to)})
		}
	}
	for _, s := range spans {
		ops = append(ops,
			kv.Range{Key: s[0], End: s[1]}, kv.Range{Key: s[0], End: s[1], KeysOnly: true}, kv.Range{Key: s[0], End: s[1], CountOnly: true},
			kv.Range{Key: s[0], End: s[1], Sort: kv.TargetValue, Order: kv.OrderDescend, Limit: 3},
			kv.Put{Key: s[0], Value: []byte("mine"), PrevKV: true}, kv.Put{Key: s[0], IgnoreValue: true}, kv.Delete{Key: s[0], End: s[1], PrevKV: true})
	}
	var deep []kv.Op
	for _, op := range ops {
		deep = append(deep, kv.Txn{Then: []kv.Op{kv.Txn{Compares: []kv.Compare{{Key: []byte("none"), Target: kv.TargetVersion, Relation: kv.Greater}}, Else: []kv.Op{op}}}})
	}
	return append(append(ops, deep...),
		kv.LeaseRevoke{ID: lease}, kv.LeaseTTL{ID: lease, Keys: true}, kv.LeaseList{}, kv.LeaseKeepAlive{ID: lease},
		kv.Records{Prefix: []byte("members")}, kv.Records{}, kv.SetRecord{Name: []byte("members"), Value: []byte{}, Have: -1},
		kv.SetAlarm{Alarm: kv.Alarm{Kind: kv.AlarmCorrupt}, Raise: true}, kv.SetFeature{Level: 99}, kv.Skip{From: 1}, kv.OpenQueue{}, kv.OpenEpoch{}, kv.LeaderTerm{Nonce: 1}, kv.Audit{},
		kv.SetAuth{Do: kv.AuthAddRole, Role: "all"}, kv.SetDevice{ID: "1", Device: &kv.Device{Prefixes: []string{""}}}, kv.SetScope{Node: "1"},
		kv.ReadAuth{What: kv.AuthPolicy}, kv.ReadAuth{What: kv.AuthRole, Name: "r"}, kv.ReadAuth{What: kv.AuthDevices}, kv.ReadAuth{What: kv.AuthUsers}, kv.ReadAuth{What: kv.AuthUser}, kv.ReadAuth{What: kv.AuthRoles})
}

// shows reports whether anything in an answer is from outside.
func shows(results []kv.OpResult) bool {
	return slices.ContainsFunc(results, func(r kv.OpResult) bool {
		return slices.ContainsFunc(r.KVs, func(v kv.KeyValue) bool {
			return string(v.Value) == "secret" || v.ModRevision > 0 && v.ModRevision < 10
		}) ||
			shows(r.Ops) || slices.ContainsFunc(r.Each, func(o kv.Outcome) bool { return shows(o.Result.Ops) })
	})
}

func TestNobodyInsideReadsOrWritesOutside(t *testing.T) {
	_, _, lease := rig(t)
	for i, op := range hostile(lease) {
		for _, way := range []string{"command", "batch", "query"} {
			n, store, _ := rig(t)
			before := outside(t, store)
			var err error
			var got []kv.OpResult
			switch way {
			case "command":
				var res kv.Result
				res, err = n.Do(t.Context(), kv.Command{Ops: []kv.Op{op}})
				got = res.Ops
			case "batch":
				var res kv.Result
				res, err = n.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Each{Commands: []kv.Command{{Ops: []kv.Op{op}}}}}})
				got = res.Ops
			case "query":
				if !kv.ReadOnly([]kv.Op{op}) {
					continue
				}
				var page kv.Page
				page, err = n.Read(t.Context(), kv.Query{Ops: []kv.Op{op}})
				got = page.Ops
			}
			if shows(got) {
				t.Errorf("%d: %s of %T %+v shows what is outside: %+v", i, way, op, op, got)
			}
			if r, ok := op.(kv.Range); ok && err == nil && r.CountOnly && got[0].Count > 1 {
				t.Errorf("%d: %s of %+v counts %d keys", i, way, op, got[0].Count)
			}
			if err != nil && strings.Contains(err.Error(), `"n/n/`) {
				t.Errorf("%d: %s of %T %+v says %v", i, way, op, op, err)
			}
			if after := outside(t, store); after != before {
				t.Errorf("%d: %s of %T %+v has changed what is outside:\n%s\nbefore:\n%s", i, way, op, op, after, before)
			}
		}
	}
}

func outside(t *testing.T, store *apitest.Memory) string {
	t.Helper()
	page, err := store.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: kv.FromKey(), End: kv.FromKey()}}})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, v := range page.Ops[0].KVs {
		if len(v.Key) > 2 && bytes.HasPrefix(v.Key, []byte("n/")) {
			continue
		}
		fmt.Fprintf(&all, "%q = %q at %d under %d\n", v.Key, v.Value, v.ModRevision, v.Lease)
	}
	return all.String()
}

// What a guard or a comparison says is of keys inside.
func TestComparisonsLookInside(t *testing.T) {
	n, _, _ := rig(t)
	absent := kv.Compare{Key: []byte("m/x"), Target: kv.TargetVersion, Num: 0}
	if _, err := n.Do(t.Context(), kv.Command{Guards: []kv.Guard{{Compare: absent}}, Ops: []kv.Op{kv.Put{Key: []byte("g")}}}); err != nil {
		t.Errorf("a guard on a key that exists outside: %v", err)
	}
	for _, c := range []kv.Compare{absent, {Key: kv.FromKey(), End: kv.FromKey(), Target: kv.TargetValue, Relation: kv.NotEqual, Value: []byte("secret")}} {
		page, err := n.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Txn{Compares: []kv.Compare{c}}}})
		if err != nil || !page.Ops[0].Succeeded {
			t.Errorf("%+v: %+v, %v", c, page.Ops, err)
		}
	}
}

func TestAWatchSeesWhatIsInside(t *testing.T) {
	n, store, lease := rig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	control := make(chan kv.WatchControl, 1)
	control <- kv.WatchControl{Add: &kv.Watch{ID: 2, Key: []byte("m/"), End: []byte("o"), From: 1}}
	spec := kv.WatchSpec{Control: control, Watches: []kv.Watch{{ID: 1, Key: kv.FromKey(), End: kv.FromKey(), From: 1, PrevKV: true}}}
	for _, k := range []string{"m/x", "n", "n/", "n0", "n/k", "n/n/z", "n/last"} {
		if _, err := store.Do(ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(k), Lease: lease}}}); err != nil {
			t.Fatal(err)
		}
	}
	var got [3][]string
	for b, err := range n.Watch(ctx, spec) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Events {
			got[b.WatchID] = append(got[b.WatchID], string(e.KV.Key))
			if e.Prev != nil && string(e.Prev.Key) != string(e.KV.Key) {
				t.Errorf("%s replaces %s", e.KV.Key, e.Prev.Key)
			}
		}
		if len(got[1]) >= 4 && len(got[2]) >= 1 {
			break
		}
	}
	if want := []string{"k", "k", "n/z", "last"}; !slices.Equal(got[1], want) {
		t.Errorf("a watch of everything brings %q, want %q", got[1], want)
	}
	if want := []string{"n/z"}; !slices.Equal(got[2], want) {
		t.Errorf("a watch of m/ to o brings %q, want %q", got[2], want)
	}
}

// line is a queue with three writes.
type line struct {
	api.Queue
	gone []string
}

func (l *line) items() (all []api.QueueItem) {
	for i, k := range []string{"n/k", "m/x", "n/\xff"} {
		all = append(all, api.QueueItem{ID: fmt.Sprint(i), Key: k, KeyBase64: base64.StdEncoding.EncodeToString([]byte(k)), Detail: fmt.Sprintf("key %q", k)})
	}
	return all
}

func (l *line) List(f api.QueueFilter) ([]api.QueueItem, error) {
	return slices.DeleteFunc(l.items(), func(i api.QueueItem) bool { return !strings.HasPrefix(i.Key, f.Prefix) }), nil
}

func (l *line) Get(_ context.Context, id string, _ bool) (api.QueueItem, bool, error) {
	for _, i := range l.items() {
		if i.ID == id {
			return i, true, nil
		}
	}
	return api.QueueItem{}, false, nil
}

func (l *line) Discard(id string) (bool, bool, error) {
	l.gone = append(l.gone, id)
	return true, true, nil
}

func (l *line) Retry(_ context.Context, id string) (string, bool, error) {
	l.gone = append(l.gone, id)
	return "9", true, nil
}

func (l *line) Last(key []byte) (api.QueueItem, bool, error) {
	for _, i := range l.items() {
		if i.Key == string(key) {
			return i, true, nil
		}
	}
	return api.QueueItem{}, false, nil
}

func TestTheQueueShowsWhatIsInside(t *testing.T) {
	l := &line{}
	q := Queue(l, "n/")
	items, err := q.List(api.QueueFilter{})
	if err != nil || len(items) != 2 || items[0].Key != "k" || items[0].Detail != `key "k"` || items[1].KeyBase64 != "/w==" {
		t.Errorf("listed %+v, %v", items, err)
	}
	if items, _ := q.List(api.QueueFilter{Prefix: "m/"}); len(items) != 0 {
		t.Errorf("listed under m/: %+v", items)
	}
	for _, wait := range []bool{false, true} {
		if i, found, _ := q.Get(t.Context(), "1", wait); found {
			t.Errorf("got %+v", i)
		}
		if i, found, _ := q.Get(t.Context(), "0", wait); !found || i.Key != "k" {
			t.Errorf("got %+v, found %v", i, found)
		}
	}
	_, discarded, _ := q.Discard("1")
	_, retried, _ := q.Retry(t.Context(), "1")
	if discarded || retried || len(l.gone) > 0 {
		t.Errorf("a write outside was discarded (%v) or retried (%v): %q", discarded, retried, l.gone)
	}
	if _, found, _ := q.Discard("0"); !found {
		t.Error("a write inside cannot be discarded")
	}
	if i, found, _ := q.Last([]byte("k")); !found || i.Key != "k" {
		t.Errorf("last is %+v, found %v", i, found)
	}
	if i, found, _ := q.Last([]byte("m/x")); found {
		t.Errorf("last of a key outside is %+v", i)
	}
}

func TestErrorsNameKeysAsTheyAreInside(t *testing.T) {
	n, _, _ := rig(t)
	_, err := n.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("none"), IgnoreValue: true}}})
	if err == nil || !strings.Contains(err.Error(), `"none"`) || strings.Contains(err.Error(), "n/") {
		t.Errorf("said %v", err)
	}
}

func TestRangesLieInside(t *testing.T) {
	for _, c := range []struct{ prefix, key, end, wantKey, wantEnd string }{
		{"n/", "k", "", "n/k", ""}, {"n/", "k", "l", "n/k", "n/l"}, {"n/", "k", "\x00", "n/k", "n0"}, {"n/", "\x00", "\x00", "n/\x00", "n0"},
		{"n/", "k", "a", "n/k", "n/a"}, {"n/", "k", "\xff\xff", "n/k", "n/\xff\xff"}, {"n/", "", "", "", ""}, {"n/", "", "\x00", "", ""}, {"n/", "", "z", "", ""},
		{"n\xff", "k", "\x00", "n\xffk", "o"}, {"\xff\xff", "k", "\x00", "\xff\xffk", "\x00"}, {"\x00", "k", "\x00", "\x00k", "\x01"},
	} {
		key, end := New(nil, c.prefix).span([]byte(c.key), []byte(c.end))
		if string(key) != c.wantKey || string(end) != c.wantEnd {
			t.Errorf("in %q %q to %q is %q to %q, want %q to %q", c.prefix, c.key, c.end, key, end, c.wantKey, c.wantEnd)
		}
	}
}
