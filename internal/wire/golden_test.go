package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

var writeMissing = flag.Bool("write-missing", false, "write fixtures that are not there; those that are never change")

func fixtureID(b byte) (id [16]byte) {
	for i := range id {
		id[i] = b + byte(i)
	}
	return id
}

// fixtures are values whose bytes are kept. Once a version is released its fixtures only ever get company.
func fixtures() map[string]any {
	key, end, value := []byte("site/42/temp"), []byte("site/42/tenq"), []byte("21.5")
	epoch := kv.Epoch{Cluster: 0x1122334455667788, Nonce: fixtureID(0xa0)}
	header := kv.Header{Epoch: epoch, Member: 3, Term: 9, Revision: 700}
	by := kv.By{Principal: "meter-7", AuthRevision: 12, Node: "0f3a"}
	seq := kv.Seq{Origin: fixtureID(0x10), Epoch: 2, Lane: kv.LaneBulk, N: 300}
	compare := kv.Compare{Key: key, End: end, Target: kv.TargetMod, Relation: kv.Less, Num: 701, Value: value}
	stored := kv.KeyValue{Key: key, Value: value, CreateRevision: 2, ModRevision: 700, Version: 5, Lease: -7}
	refusal := &kv.Error{Code: kv.Compacted, Detail: "history before 90 is gone", Revision: 90, RetryAfter: 1500 * time.Millisecond}
	cmd := func(ops ...kv.Op) kv.Command { return kv.Command{Ops: ops} }
	return map[string]any{
		"command-empty": cmd(),
		"command-full": kv.Command{ID: kv.ID{Seq: seq, Key: fixtureID(0x40)}, By: by,
			Guards: []kv.Guard{{Compare: compare, Or: kv.Seq{Origin: fixtureID(0x20), N: 299}}, {Compare: kv.Compare{Key: key}}},
			Ops:    []kv.Op{kv.Put{Key: key, Value: value}}},
		"op-put":              cmd(kv.Put{Key: key, Value: value, Lease: 77, PrevKV: true, IgnoreValue: true, IgnoreLease: true}),
		"op-put-plain":        cmd(kv.Put{Key: key, Value: value}),
		"op-delete":           cmd(kv.Delete{Key: key, End: end, PrevKV: true}),
		"op-range-uncounted":  cmd(kv.Range{Key: key, End: []byte{0}, Limit: 10, Uncounted: true}),
		"op-range":            cmd(kv.Range{Key: key, End: []byte{0}, Limit: 100, Revision: 650, Sort: kv.TargetValue, Order: kv.OrderDescend, KeysOnly: true, CountOnly: true, MinMod: 1, MaxMod: 2, MinCreate: 3, MaxCreate: 4}),
		"op-range-plain":      cmd(kv.Range{Key: key}),
		"op-txn":              cmd(kv.Txn{Compares: []kv.Compare{compare}, Then: []kv.Op{kv.Put{Key: key}, kv.Txn{Else: []kv.Op{kv.Delete{Key: key}}}}, Else: []kv.Op{kv.Range{Key: key}}}),
		"op-compact":          cmd(kv.Compact{Revision: 600, Physical: true, Term: 1 << 63}),
		"op-leader-term":      cmd(kv.LeaderTerm{Nonce: 0x0102030405060708}),
		"op-open-epoch":       cmd(kv.OpenEpoch{Epoch: epoch}),
		"op-lease-grant":      cmd(kv.LeaseGrant{ID: 1 << 62, TTL: 60}),
		"op-lease-revoke":     cmd(kv.LeaseRevoke{ID: 77, Term: 5}),
		"op-lease-keepalive":  cmd(kv.LeaseKeepAlive{ID: 77}),
		"op-lease-ttl":        cmd(kv.LeaseTTL{ID: 77, Keys: true}),
		"op-lease-list":       cmd(kv.LeaseList{}),
		"op-each":             cmd(kv.Each{Commands: []kv.Command{{ID: kv.ID{Seq: seq}, Ops: []kv.Op{kv.Put{Key: key}}}, {ID: kv.ID{Seq: seq}, Ops: []kv.Op{kv.Skip{From: 3}}}}}),
		"op-skip":             kv.Command{ID: kv.ID{Seq: seq}, Ops: []kv.Op{kv.Skip{From: 290}}},
		"op-set-record":       cmd(kv.SetRecord{Name: key, Value: value, Have: 3}),
		"op-set-record-empty": cmd(kv.SetRecord{Name: key, Value: []byte{}}),
		"op-set-record-term":  cmd(kv.SetRecord{Name: key, Value: value, Have: 3, Term: 0x0102030405060708}),
		"op-remove-record":    cmd(kv.SetRecord{Name: key, Have: 3}),
		"op-records":          cmd(kv.Records{Prefix: key}),
		"op-open-queue":       cmd(kv.OpenQueue{Origin: fixtureID(0x30), Have: 4}),
		"op-raise-alarm":      cmd(kv.SetAlarm{Alarm: kv.Alarm{Member: 300, Kind: kv.AlarmCorrupt}, Raise: true}),
		"op-disarm-alarm":     cmd(kv.SetAlarm{Alarm: kv.Alarm{Member: 1, Kind: kv.AlarmNoSpace}}),
		"op-alarms":           cmd(kv.Alarms{}),
		"op-set-feature":      cmd(kv.SetFeature{Level: 200}),
		"op-audit":            cmd(kv.Audit{Term: 0x0102030405060708, Revision: 700, Compact: 90, Sum: 0xdeadbeef}),
		"command-token":       kv.Command{By: kv.By{Token: "Bearer a.b.c", Node: "0f3a"}, Ops: []kv.Op{kv.Put{Key: key, Value: value}}},
		"op-set-auth": cmd(kv.SetAuth{Do: kv.AuthRevokePermission, User: "meter", Role: "meters", Key: key, End: end,
			Permission: kv.PermitReadWrite, NoPassword: true, Secret: value}),
		"op-set-device": cmd(kv.SetDevice{ID: "a7", Device: &kv.Device{Name: "pump-7", Hash: [32]byte{1, 2, 3}, Verbs: kv.VerbGet | kv.VerbWatch,
			Prefixes: []string{"site/42/", ""}, Expires: 1_800_000_000, Rate: 50, Share: 4096}}),
		"op-remove-device": cmd(kv.SetDevice{ID: "a7"}),
		"op-set-scope":     cmd(kv.SetScope{Node: "0f3a", Scope: &kv.NodeScope{Roles: []string{}, Prefixes: []string{"site/42/"}}}),
		"op-remove-scope":  cmd(kv.SetScope{Node: "0f3a"}),
		"query-auth":       kv.Query{By: kv.By{Token: "Basic bWU6"}, Ops: []kv.Op{kv.ReadAuth{What: kv.AuthRole, Name: "meters"}}},
		"query-token":      kv.Query{Ops: []kv.Op{kv.Authenticate{User: "meter", Password: "secret", From: "192.0.2.7"}}},
		"watch-spec-token": kv.WatchSpec{By: kv.By{Token: "x"}, Watches: []kv.Watch{{ID: 1, Key: key}}},
		"outcome-alarms": kv.Outcome{Result: kv.Result{Ops: []kv.OpResult{{Count: 1, Created: true,
			Alarms: []kv.Alarm{{Member: 300, Kind: kv.AlarmNoSpace}, {Member: 301, Kind: kv.AlarmCorrupt}}}}}},
		"outcome-put": kv.Outcome{Result: kv.Result{Header: kv.Header{Revision: 8}, Ops: []kv.OpResult{{Created: true}}}},
		"outcome-full": kv.Outcome{Err: refusal, Result: kv.Result{Header: header,
			Queued: &kv.Receipt{ID: "n-300", Expires: time.Date(2026, 7, 1, 12, 0, 0, 5, time.UTC)},
			Ops: []kv.OpResult{{Count: 2, More: true, Succeeded: true, KVs: []kv.KeyValue{stored},
				Ops: []kv.OpResult{{Count: 1}}, Leases: []kv.Lease{{ID: 77, TTL: -1, Granted: 60}}}}}},
		"outcome-each": kv.Outcome{Result: kv.Result{Ops: []kv.OpResult{{Each: []kv.Outcome{
			{Result: kv.Result{Header: kv.Header{Revision: 8}, Ops: []kv.OpResult{{Created: true}}}}, {Err: refusal}}}}}},
		"query": kv.Query{By: by, Ops: []kv.Op{kv.Range{Key: key}}, MaxAge: 5 * time.Second, StaleIfError: kv.Unlimited,
			MinRevision: 700, Wait: time.Minute, LocalOnly: true},
		"page": kv.Page{Header: header, Source: kv.SourceCache, Age: kv.AgeUnknown, Pending: 3,
			Ops: []kv.OpResult{{Count: 1, KVs: []kv.KeyValue{stored}}}},
		"watch-spec": kv.WatchSpec{By: by, Watches: []kv.Watch{
			{ID: 1, Key: key, End: end, From: 699, PrevKV: true, NoDeletes: true, Fragment: true}, {ID: -2, Progress: true, NoPuts: true}}},
		"watch-control-add":      kv.WatchControl{Add: &kv.Watch{ID: 3, Key: key}},
		"watch-control-cancel":   kv.WatchControl{Cancel: 3},
		"watch-control-progress": kv.WatchControl{Progress: true},
		"batch": kv.Batch{Header: header, WatchID: 1, Created: true, Progress: true, Fragment: true, State: kv.WatchResync,
			Events: []kv.Event{{KV: stored, Prev: &kv.KeyValue{Key: key}}, {Delete: true, KV: kv.KeyValue{Key: key, ModRevision: 701}}}},
		"batch-canceled": kv.Batch{WatchID: kv.WatchAll, Canceled: true, Err: refusal},
		"error":          refusal,
	}
}

func encodeAny(t *testing.T, v any) ([]byte, func([]byte) (any, error)) {
	t.Helper()
	for _, c := range codecs() {
		b, ok := func() (b []byte, ok bool) {
			defer func() { ok = recover() == nil }() // another codec's value
			return c.enc(nil, v), false
		}()
		if ok {
			return b, c.dec
		}
	}
	t.Fatalf("no codec for a %T", v)
	return nil, nil
}

func TestVersion1ReadsAndWritesItsFixtures(t *testing.T) {
	seen := []string{}
	for name, want := range fixtures() {
		seen = append(seen, name+".hex")
		t.Run(name, func(t *testing.T) {
			b, dec := encodeAny(t, want)
			path := filepath.Join("testdata", "v1", name+".hex")
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && *writeMissing {
				text = hex.AppendEncode(nil, b)
				err = os.WriteFile(path, append(text, '\n'), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			kept, err := hex.DecodeString(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, kept) {
				t.Errorf("the format has changed: give it a new version\ngot  %x\nwant %x", b, kept)
			}
			got, err := dec(kept)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
	files, err := os.ReadDir(filepath.Join("testdata", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(seen, f.Name()) {
			t.Errorf("nothing tests %s", f.Name())
		}
	}
}
