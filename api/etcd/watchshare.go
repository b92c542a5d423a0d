package etcd

import (
	"sync/atomic"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"holdfast/kv"
)

// A change that many watch is the same bytes in each of their messages, and to encode it was a fifth of what it cost to
// tell one of them. So the newest small changes are kept encoded, and a message is its beginning and, by reference, the
// changes in it. Most streams have one watch, whose id is the same on each of them: the last message with a change alone
// is kept whole, and is what the next of them gets.
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

// encoded is a message that the codec sends as it is. Nobody changes it: it may be on its way to many.
type encoded struct {
	begin beginning
	parts mem.BufferSlice
}

// beginning is what a message says beside the changes.
type beginning struct {
	cluster, member uint64
	revision        int64
	term            uint64
	watchID         int64
}

// sharedEvents are changes by revision. The zero value is empty; it is safe for concurrent use.
type sharedEvents [sharedSlots]atomic.Pointer[sharedEvent]

// sharedEvent is a change as the field of a message.
type sharedEvent struct {
	key      *byte // of the change: it is told by where its key is, which stays there as long as this points to it
	revision int64
	field    mem.SliceBuffer

	alone atomic.Pointer[encoded] // the last message with this change alone
}

// find returns a change as the field of a message that it comes in.
func (s *sharedEvents) find(e *kv.Event) *sharedEvent {
	if len(e.KV.Key) == 0 {
		return &sharedEvent{field: eventField(e)}
	}
	slot := &s[uint64(e.KV.ModRevision)%sharedSlots]
	if kept := slot.Load(); kept != nil && kept.key == &e.KV.Key[0] && kept.revision == e.KV.ModRevision {
		return kept
	}
	one := &sharedEvent{key: &e.KV.Key[0], revision: e.KV.ModRevision, field: eventField(e)}
	if len(one.field) <= sharedBytes {
		slot.Store(one)
	}
	return one
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

// share is the message with the changes of a watch, which are one at least.
func (s *sharedEvents) share(h kv.Header, watchID int64, changes []kv.Event) *encoded {
	begin := beginning{h.Epoch.Cluster, h.Member, h.Revision, h.Term, watchID}
	first := s.find(&changes[0])
	if len(changes) == 1 {
		if kept := first.alone.Load(); kept != nil && kept.begin == begin {
			return kept
		}
	}
	m := &encoded{begin, make(mem.BufferSlice, 2, 1+len(changes))}
	m.parts[0], m.parts[1] = begin.encode(), &first.field
	rest := changes[1:]
	for i := range rest {
		m.parts = append(m.parts, &s.find(&rest[i]).field)
	}
	if len(changes) == 1 {
		first.alone.Store(m)
	}
	return m
}

// responseStartMax is the most that a message begins with: five numbers, the tags, and the length of the header.
const responseStartMax = 5*(1+10) + 2

// encode is what a message has before its events.
func (m *beginning) encode() mem.SliceBuffer {
	var header [4 * (1 + 10)]byte
	b := appendHeader(header[:0], kv.Header{Epoch: kv.Epoch{Cluster: m.cluster}, Member: m.member, Revision: m.revision, Term: m.term})
	start := make([]byte, 0, responseStartMax)
	start = protowire.AppendBytes(protowire.AppendTag(start, responseHeader, protowire.BytesType), b)
	return appendNumber(start, responseWatchID, uint64(m.watchID)) //nolint:gosec // the same
}

// appendHeader encodes the fields of the header of an answer.
func appendHeader(b []byte, h kv.Header) []byte {
	b = appendNumber(b, headerCluster, h.Epoch.Cluster)
	b = appendNumber(b, headerMember, h.Member)
	b = appendNumber(b, headerRevision, uint64(h.Revision)) //nolint:gosec // as the library encodes it
	return appendNumber(b, headerTerm, h.Term)
}

// appendNumber leaves out a zero, as proto3 has it.
func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}
