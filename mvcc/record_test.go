package mvcc

import (
	"reflect"
	"testing"

	"holdfast/kv"
)

func FuzzRecord(f *testing.F) {
	r := &record{KeyValue: kv.KeyValue{Key: []byte("k"), Value: []byte("v"), CreateRevision: 2, ModRevision: 5, Version: 3, Lease: -1}, sub: 4, prev: revision{4, 9}}
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
	f.Add(r.Key, appendIndexEntry(nil, r))
	r.deleted = true
	f.Add(r.Key, appendIndexEntry(nil, r))
	f.Fuzz(func(t *testing.T, key, b []byte) {
		if len(b) >= crcLen {
			sum := checksum(key, b[crcLen:])
			b = append([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}, b[crcLen:]...)
		}
		var v version
		if err := parseIndexEntry(&v, key, b); err != nil {
			return
		}
		r := &record{sub: v.rev.sub, deleted: v.deleted}
		r.Key, r.ModRevision, r.CreateRevision, r.Version, r.Lease = v.key, v.rev.main, v.create, v.number, v.lease
		var again version
		if err := parseIndexEntry(&again, key, appendIndexEntry(nil, r)); err != nil || !reflect.DeepEqual(v, again) {
			t.Fatalf("%+v comes back as %+v, %v", v, again, err)
		}
	})
}
