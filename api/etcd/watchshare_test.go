package etcd

import (
	"bytes"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"holdfast/kv"
)

func change(key, value string, revision int64) kv.Event {
	return kv.Event{KV: kv.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: 2, ModRevision: revision, Version: 3, Lease: -7}}
}

// What is put together from parts is, byte by byte, what the library makes of the whole.
func TestSharedMessageIsTheWholeOne(t *testing.T) {
	gone := kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte("gone"), ModRevision: 9}}
	full := kv.Header{Epoch: kv.Epoch{Cluster: 1 << 63}, Member: 7, Revision: 1 << 40, Term: 3}
	for _, c := range []struct {
		name    string
		header  kv.Header
		watchID int64
		events  []kv.Event
	}{
		{"a put", full, 5, []kv.Event{change("k", "v", 8)}},
		{"a delete", full, 1 << 40, []kv.Event{gone}},
		{"several", full, 0, []kv.Event{change("a", "", 8), gone, change("b", strings.Repeat("x", 300), 10)}},
		{"a negative id", kv.Header{}, -4, []kv.Event{change("k", "v", 8)}},
		{"a large one", full, 1, []kv.Event{change("k", strings.Repeat("x", sharedBytes), 8)}},
	} {
		var s sharedEvents
		header := &pb.ResponseHeader{ClusterId: c.header.Epoch.Cluster, MemberId: c.header.Member, Revision: c.header.Revision, RaftTerm: c.header.Term}
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(&pb.WatchResponse{Header: header, WatchId: c.watchID, Events: events(c.events)})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // made, and kept
			data, err := codec{newMetrics(nil)}.Marshal(s.share(c.header, c.watchID, c.events))
			if err != nil {
				t.Fatal(err)
			}
			if got := data.Materialize(); !bytes.Equal(got, want) {
				t.Errorf("%s: got %x, want %x", c.name, got, want)
			}
		}
	}
}

func TestSharedChangeIsEncodedOnce(t *testing.T) {
	var s sharedEvents
	e := change("k", "v", 8)
	same := e
	if s.find(&e) != s.find(&same) {
		t.Error("the same change was encoded twice")
	}
	large := change("k", strings.Repeat("x", sharedBytes), 9)
	s.find(&large)
	for i := range s {
		if kept := s[i].Load(); kept != nil && len(kept.field) > sharedBytes {
			t.Errorf("%d bytes are kept, the limit is %d", len(kept.field), sharedBytes)
		}
	}
}

// The same message is one; what another watch gets, or the same one from another stand, is not taken for it.
func TestSharedMessageIsMadeOnce(t *testing.T) {
	var s sharedEvents
	e := change("k", "v", 8)
	h := kv.Header{Epoch: kv.Epoch{Cluster: 1}, Member: 2, Term: 3, Revision: 8}
	first := s.share(h, 0, []kv.Event{e})
	if s.share(h, 0, []kv.Event{e}) != first {
		t.Error("the same message was made twice")
	}
	later, term := h, h
	later.Revision, term.Term = 9, 4
	for i, other := range []*encoded{
		s.share(h, 1, []kv.Event{e}), s.share(later, 0, []kv.Event{e}), s.share(term, 0, []kv.Event{e}), s.share(h, 0, []kv.Event{e, change("l", "v", 8)}),
	} {
		if bytes.Equal(other.parts.Materialize(), first.parts.Materialize()) {
			t.Errorf("message %d is taken for another", i)
		}
	}
}

// Another history may have the same revisions, and another change of a transaction has the same revision.
func TestSharedChangesOfOneRevisionAreToldApart(t *testing.T) {
	var s sharedEvents
	a, b := change("a", "one", 8), change("b", "two", 8)
	again := change("a", "of another history", 8)
	for _, e := range []*kv.Event{&a, &b, &again, &a} {
		if got := s.find(e).field; !bytes.Equal(got, eventField(e)) {
			t.Errorf("%s: got %q", e.KV.Value, got)
		}
	}
	before := b
	before.Prev = &kv.KeyValue{Key: []byte("b")}
	if shareable([]kv.Event{a, before}) {
		t.Error("a change with what it replaced is taken for what others get")
	}
	if shareable(make([]kv.Event, sharedMax+1)) {
		t.Error("a long message is put together from parts")
	}
}
