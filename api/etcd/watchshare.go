package etcd

import (
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"holdfast/kv"
)

// A change that many watch is the same bytes in each of their messages, and to encode it was a fifth of what it cost to
// tell one of them. So the newest small changes are kept encoded, and a message is its beginning and, by reference, the
// changes in it.
const (
	// sharedSlots is how many changes are kept, each in the slot that its revision gives it.
	sharedSlots = 64
	// sharedBytes is the largest change that is kept, encoded: all of them take 1 MiB at most.
	sharedBytes = 16 << 10
	// sharedMax is how many changes a message may have and be put together this way. One of more is what a watch gets that
	// catches up, and nobody else gets the same.
	sharedMax = 8
)

// The fields of a WatchResponse that its events come in, in the order of their numbers, and those of its header.
const (
	responseHeader  protowire.Number = 1
	responseWatchID protowire.Number = 2
	responseEvents  protowire.Number = 11

	headerCluster  protowire.Number = 1
	headerMember   protowire.Number = 2
	headerRevision protowire.Number = 3
	headerTerm     protowire.Number = 4
)

// encoded is a message that the codec sends as it is.
type encoded mem.BufferSlice

// sharedEvents are changes by revision. The zero value is empty; it is safe for concurrent use.
type sharedEvents [sharedSlots]atomic.Pointer[sharedEvent]

// sharedEvent is a change as the field of a message.
type sharedEvent struct {
	key      *byte // of the change: it is told by where its key is, which stays there as long as this points to it
	revision int64
	field    mem.SliceBuffer
}

// field is a change as the field of a message that it comes in. What is returned is not changed any more.
func (s *sharedEvents) field(e *kv.Event) mem.SliceBuffer {
	if len(e.KV.Key) == 0 {
		return eventField(e)
	}
	slot := &s[uint64(e.KV.ModRevision)%sharedSlots]
	if kept := slot.Load(); kept != nil && kept.key == &e.KV.Key[0] && kept.revision == e.KV.ModRevision {
		return kept.field
	}
	field := eventField(e)
	if len(field) <= sharedBytes {
		slot.Store(&sharedEvent{key: &e.KV.Key[0], revision: e.KV.ModRevision, field: field})
	}
	return field
}

// eventField encodes a change.
func eventField(e *kv.Event) mem.SliceBuffer {
	m := events([]kv.Event{*e})[0]
	size := proto.Size(m)
	b := make([]byte, 0, protowire.SizeTag(responseEvents)+protowire.SizeBytes(size))
	b = protowire.AppendVarint(protowire.AppendTag(b, responseEvents, protowire.BytesType), uint64(size))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
	if err != nil {
		panic(err) // of a message without text, whose fields are all set here
	}
	return b
}

// shareable reports whether a message of these changes is the same as what others get.
func shareable(changes []kv.Event) bool {
	for i := range changes {
		if changes[i].Prev != nil { // as some watches ask for it, and others do not
			return false
		}
	}
	return len(changes) <= sharedMax
}

// share is the message with the changes of a watch.
func (s *sharedEvents) share(h *pb.ResponseHeader, watchID int64, changes []kv.Event) encoded {
	m := make(encoded, 1, 1+len(changes))
	m[0] = responseStart(h, watchID)
	for i := range changes {
		m = append(m, s.field(&changes[i]))
	}
	return m
}

// responseStartMax is the most that a message begins with: five numbers, the tags, and the length of the header.
const responseStartMax = 5*(1+10) + 2

// responseStart encodes what a message has before its events.
func responseStart(h *pb.ResponseHeader, watchID int64) mem.SliceBuffer {
	var header [4 * (1 + 10)]byte
	b := header[:0]
	b = appendNumber(b, headerCluster, h.ClusterId)
	b = appendNumber(b, headerMember, h.MemberId)
	b = appendNumber(b, headerRevision, uint64(h.Revision))
	b = appendNumber(b, headerTerm, h.RaftTerm)
	start := make([]byte, 0, responseStartMax)
	start = protowire.AppendBytes(protowire.AppendTag(start, responseHeader, protowire.BytesType), b)
	return appendNumber(start, responseWatchID, uint64(watchID))
}

// appendNumber leaves out a zero, as proto3 has it.
func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}
