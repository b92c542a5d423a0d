package mvcc

import (
	"bytes"
	"reflect"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"holdfast/kv"
)

func TestEscapingKeepsTheOrderOfKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 0xfe, 0xff}), 1, 6)
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		ea, eb := appendEscaped(nil, a), appendEscaped(nil, b)
		if bytes.Compare(a, b) != bytes.Compare(ea, eb) {
			t.Fatalf("%x and %x become %x and %x", a, b, ea, eb)
		}
		if !bytes.Equal(a, b) && bytes.HasPrefix(ea, eb) {
			t.Fatalf("%x begins with %x", ea, eb)
		}
		key, rest, ok := parseEscaped(nil, append(ea, "rest"...))
		if !ok || !bytes.Equal(key, a) || string(rest) != "rest" {
			t.Fatalf("%x comes back as %x and %q", a, key, rest)
		}
	})
}

func TestIndexKeysListTheNewestVersionFirst(t *testing.T) {
	keys := [][]byte{
		appendIndexKey(nil, []byte("a"), revision{9, 1}), appendIndexKey(nil, []byte("a"), revision{9, 0}),
		appendIndexKey(nil, []byte("a"), revision{2, 7}), appendIndexKey(nil, []byte("a\x00"), revision{99, 0}),
		appendIndexKey(nil, []byte("b"), revision{1 << 40, 0}), appendIndexKey(nil, []byte("b"), revision{}),
	}
	if !sort.SliceIsSorted(keys, func(i, j int) bool { return bytes.Compare(keys[i], keys[j]) < 0 }) {
		t.Errorf("got %x", keys)
	}
}

func FuzzRecord(f *testing.F) {
	r := &record{KeyValue: kv.KeyValue{Key: []byte("k"), Value: []byte("v"), CreateRevision: 2, ModRevision: 5, Version: 3, Lease: -1}, sub: 4}
	f.Add(appendRevKey(nil, r.rev()), appendRecord(nil, r))
	r = &record{KeyValue: kv.KeyValue{Key: []byte("k"), ModRevision: 5}, deleted: true}
	f.Add(appendRevKey(nil, r.rev()), appendRecord(nil, r))
	f.Fuzz(func(t *testing.T, key, b []byte) {
		if len(b) >= crcLen { // make the checksum right, so that what is behind it is fuzzed
			sum := checksum(key, b[crcLen:])
			b = append([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}, b[crcLen:]...)
		}
		r, err := parseRecord(key, b)
		if err != nil {
			return
		}
		again, err := parseRecord(appendRevKey(nil, r.rev()), appendRecord(nil, r))
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v comes back as %+v, %v", r, again, err)
		}
	})
}

func FuzzIndexEntry(f *testing.F) {
	r := &record{KeyValue: kv.KeyValue{Key: []byte("k\x00"), CreateRevision: 2, ModRevision: 5, Version: 3, Lease: 1 << 62}, sub: 4}
	key := appendIndexKey(nil, r.Key, r.rev())
	f.Add(key, appendIndexEntry(nil, key, r))
	r.deleted = true
	f.Add(key, appendIndexEntry(nil, key, r))
	f.Fuzz(func(t *testing.T, key, b []byte) {
		if len(b) >= crcLen {
			sum := checksum(key, b[crcLen:])
			b = append([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}, b[crcLen:]...)
		}
		var v version
		if _, err := parseIndexEntry(&v, nil, key, b); err != nil {
			return
		}
		if got := appendIndexKey(nil, v.key, v.rev); !bytes.Equal(got, key) {
			t.Fatalf("%x comes back as %x", key, got)
		}
		r := &record{sub: v.rev.sub, deleted: v.deleted}
		r.Key, r.ModRevision, r.CreateRevision, r.Version, r.Lease = v.key, v.rev.main, v.create, v.number, v.lease
		var again version
		if _, err := parseIndexEntry(&again, nil, key, appendIndexEntry(nil, key, r)); err != nil || !reflect.DeepEqual(v, again) {
			t.Fatalf("%+v comes back as %+v, %v", v, again, err)
		}
	})
}
