package etcd

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"holdfast/kv"
)

// An answer to a Range is encoded here, from what the Backend says: to make a message of each key first, and have the
// library find its way through those, was most of what the door spent on a cached read beside gRPC itself.

// The fields of a RangeResponse and of a KeyValue.
const (
	rangeHeader protowire.Number = 1
	rangeKVs    protowire.Number = 2
	rangeMore   protowire.Number = 3
	rangeCount  protowire.Number = 4

	pairKey     protowire.Number = 1
	pairCreate  protowire.Number = 2
	pairMod     protowire.Number = 3
	pairVersion protowire.Number = 4
	pairValue   protowire.Number = 5
	pairLease   protowire.Number = 6
)

// kvDesc is pb.KV_ServiceDesc with a Range that answers with what is encoded already.
func kvDesc() *grpc.ServiceDesc {
	d := pb.KV_ServiceDesc
	d.Methods = append([]grpc.MethodDesc(nil), d.Methods...)
	for i := range d.Methods {
		if d.Methods[i].MethodName == "Range" {
			d.Methods[i].Handler = handleRange
		}
	}
	return &d
}

//nolint:revive // the order is that of grpc.MethodDesc
func handleRange(srv any, ctx context.Context, decode func(any) error, unary grpc.UnaryServerInterceptor) (any, error) {
	r := new(pb.RangeRequest)
	if err := decode(r); err != nil {
		return nil, err
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: pb.KV_Range_FullMethodName}
	return unary(ctx, r, info, func(ctx context.Context, r any) (any, error) {
		return srv.(kvService).answerRange(ctx, r.(*pb.RangeRequest)) // as it was registered, and decoded
	})
}

// answerRange reads keys.
func (s kvService) answerRange(ctx context.Context, r *pb.RangeRequest) (*encoded, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	op := rangeOp(r)
	page, err := s.read(ctx, r.Serializable, op)
	if err != nil {
		return nil, err
	}
	return s.ranges.encode(&op, &page), nil
}

// What is kept of answers, encoded.
const (
	// keptLeast is how many keys an answer has at least.
	keptLeast = 16
	// keptBytes bounds all of it, and what the keys take beside it as long. When it is full all goes: what is asked for all the time is
	// back soon.
	keptBytes = 4 << 20
	// keptAnswers bounds their number, for requests that are about less.
	keptAnswers = 256
)

// keptRanges keeps the encoded keys of answers that came from a cache twice: one whose keys lie where they lay the last time is
// the same, as a cache says it (kv.OpResult). It decides nothing: who asks gets what the Backend said, which judged them. The zero
// value is empty; it is safe for concurrent use.
type keptRanges struct {
	mu    sync.Mutex
	all   map[rangeAsked]keptRange
	bytes int
}

// rangeAsked is what two requests have to have in common to get the same.
type rangeAsked struct {
	key, end string
	limit    int64
}

type keptRange struct {
	first *kv.KeyValue // which cannot lie elsewhere, and nothing else there, as long as this points to it
	keys  int
	count int64
	more  bool
	size  int
	field *mem.SliceBuffer // nil: it was asked for once
}

// encode is the answer to op.
func (k *keptRanges) encode(op *kv.Range, page *kv.Page) *encoded {
	res := &page.Ops[0]
	if page.Source != kv.SourceCache || len(res.KVs) < keptLeast || op.KeysOnly {
		return wholeRange(op, page)
	}
	asked := rangeAsked{string(op.Key), string(op.End), op.Limit}
	now := keptRange{first: &res.KVs[0], keys: len(res.KVs), count: res.Count, more: res.More}
	k.mu.Lock()
	was := k.all[asked]
	k.mu.Unlock()
	now.size, now.field = was.size, was.field
	switch {
	case now != was:
		now.size, now.field = foundSize(op, res), nil
		k.keep(asked, now)
		return wholeRange(op, page)
	case was.field == nil:
		b := mem.SliceBuffer(appendFound(make([]byte, 0, was.size), op, res))
		now.field = &b
		k.keep(asked, now)
	}
	m := &encoded{parts: make(mem.BufferSlice, 2)}
	start := mem.SliceBuffer(appendRangeHeader(make([]byte, 0, rangeHeaderMax), page.Header))
	m.parts[0], m.parts[1] = &start, now.field
	return m
}

func (k *keptRanges) keep(asked rangeAsked, now keptRange) {
	if now.size > keptBytes/4 {
		return // would push out all others
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if was, ok := k.all[asked]; ok {
		k.bytes -= was.size
	}
	if k.all == nil || k.bytes+now.size > keptBytes || len(k.all) >= keptAnswers {
		k.all, k.bytes = map[rangeAsked]keptRange{}, 0
	}
	k.all[asked] = now
	k.bytes += now.size
}

// rangeHeaderMax is the most that a header takes: four numbers, the tags, and its length.
const rangeHeaderMax = 4*(1+10) + 2

// wholeRange encodes all of an answer.
func wholeRange(op *kv.Range, page *kv.Page) *encoded {
	res := &page.Ops[0]
	most := rangeHeaderMax + foundSize(op, res)
	m := &encoded{parts: make(mem.BufferSlice, 1)}
	if mem.IsBelowBufferPoolingThreshold(most) {
		b := mem.SliceBuffer(appendFound(appendRangeHeader(make([]byte, 0, most), page.Header), op, res))
		m.parts[0] = &b
		return m
	}
	pool := mem.DefaultBufferPool()
	b := pool.Get(most)
	*b = appendFound(appendRangeHeader((*b)[:0], page.Header), op, res)
	m.parts[0] = mem.NewBuffer(b, pool) // gRPC gives it back once it is sent
	return m
}

func appendRangeHeader(b []byte, h kv.Header) []byte {
	var room [rangeHeaderMax]byte
	return protowire.AppendBytes(protowire.AppendTag(b, rangeHeader, protowire.BytesType), appendHeader(room[:0], h))
}

// appendFound encodes what an answer has beside its header.
func appendFound(b []byte, op *kv.Range, r *kv.OpResult) []byte {
	for i := range r.KVs {
		v := &r.KVs[i]
		lease := shownLease(op, v)
		b = protowire.AppendVarint(protowire.AppendTag(b, rangeKVs, protowire.BytesType), uint64(pairSize(v, lease))) //nolint:gosec // a size
		b = appendPair(b, v, lease)
	}
	if r.More {
		b = appendNumber(b, rangeMore, 1)
	}
	return appendNumber(b, rangeCount, uint64(r.Count)) //nolint:gosec // as the library encodes it
}

// foundSize is how many bytes appendFound appends, or a few more.
func foundSize(op *kv.Range, r *kv.OpResult) int {
	n := 2 + 1 + 10
	for i := range r.KVs {
		v := &r.KVs[i]
		n += 1 + protowire.SizeBytes(pairSize(v, shownLease(op, v)))
	}
	return n
}

// shownLease is the lease of a key as an answer has it: one without values has none, unless it is sorted by them, since etcd answers
// it from its index, which knows none.
func shownLease(op *kv.Range, v *kv.KeyValue) int64 {
	if op.KeysOnly && op.Sort != kv.TargetValue {
		return 0
	}
	return v.Lease
}

// appendPair encodes a key.
func appendPair(b []byte, v *kv.KeyValue, lease int64) []byte {
	b = appendText(b, pairKey, v.Key)
	b = appendNumber(b, pairCreate, uint64(v.CreateRevision)) //nolint:gosec // as the library encodes it
	b = appendNumber(b, pairMod, uint64(v.ModRevision))       //nolint:gosec // the same
	b = appendNumber(b, pairVersion, uint64(v.Version))       //nolint:gosec // the same
	b = appendText(b, pairValue, v.Value)
	return appendNumber(b, pairLease, uint64(lease)) //nolint:gosec // the same
}

func pairSize(v *kv.KeyValue, lease int64) (n int) {
	for _, text := range [2]int{len(v.Key), len(v.Value)} {
		if text > 0 {
			n += 1 + protowire.SizeBytes(text)
		}
	}
	for _, number := range [4]int64{v.CreateRevision, v.ModRevision, v.Version, lease} {
		if number != 0 {
			n += 1 + protowire.SizeVarint(uint64(number)) //nolint:gosec // the same
		}
	}
	return n
}

// appendText leaves out an empty one, as proto3 has it.
func appendText(b []byte, field protowire.Number, text []byte) []byte {
	if len(text) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), text)
}
