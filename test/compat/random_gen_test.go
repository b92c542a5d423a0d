package compat

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Sizes of the world in which random operations happen. There are few keys, so that they meet, and not more than etcd
// sorts in a stable way (12, below which Go's sort inserts): it promises no order of equals.
const (
	genKeys   = 12
	genLeases = 4
	genDepth  = 3 // of transactions
)

// generator makes random operations, most of which mean something in the present state.
type generator struct {
	*rand.Rand
	rev, compacted int64
	refused        int
}

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

// key is one of "a" to "d" with "", "/x" or "/y" behind it.
func (g *generator) key() []byte {
	return []byte(string(rune('a'+g.IntN(4))) + []string{"", "/x", "/y"}[g.IntN(genKeys/4)])
}

// end is the end of a range: none, of any kind, or wrong.
func (g *generator) end(key []byte) []byte {
	switch g.IntN(10) {
	case 0, 1:
		return []byte{0}
	case 2, 3:
		return append(bytes.Clone(key), 0xff)
	case 4, 5:
		return g.key()
	default:
		return nil
	}
}

func (g *generator) lease() int64 {
	switch {
	case g.chance(80):
		return 0
	case g.chance(10):
		return 999 // never granted
	default:
		return int64(100 + g.IntN(genLeases))
	}
}

// revision is mostly one that can be read.
func (g *generator) revision() int64 {
	switch n := g.IntN(100); {
	case n < 50:
		return 0
	case n < 53:
		return g.rev + 1 + int64(g.IntN(3))
	case n < 56:
		return g.compacted - int64(g.IntN(3))
	default:
		return g.compacted + g.Int64N(g.rev-g.compacted+1)
	}
}

func (g *generator) next() operation {
	switch n := g.IntN(100); {
	case n < 30:
		return operation{"put", g.put()}
	case n < 40:
		return operation{"delete", g.remove()}
	case n < 65:
		return operation{"range", g.read()}
	case n < 85:
		return operation{"txn", g.txn(genDepth)}
	case n < 87:
		return operation{"compact", &pb.CompactionRequest{Revision: g.compactRevision(), Physical: g.chance(20)}}
	case n < 91:
		return operation{"grant", &pb.LeaseGrantRequest{ID: int64(100 + g.IntN(genLeases)), TTL: 3600}}
	case n < 94:
		return operation{"revoke", &pb.LeaseRevokeRequest{ID: int64(100 + g.IntN(genLeases))}}
	default:
		return operation{"ttl", &pb.LeaseTimeToLiveRequest{ID: int64(100 + g.IntN(genLeases)), Keys: true}}
	}
}

// compactRevision never is the newest: what is watched there is still to be seen.
func (g *generator) compactRevision() int64 {
	if g.chance(20) {
		return g.compacted - int64(g.IntN(2)) + 3*int64(g.IntN(2))*g.rev // long gone, or not there yet
	}
	return max(1, g.rev-20-int64(g.IntN(100)))
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: fmt.Appendf(nil, "%d", g.IntN(20)), Lease: g.lease(), PrevKv: g.chance(30)}
	if g.chance(5) {
		r.IgnoreValue, r.Value = true, nil
	}
	if g.chance(5) {
		r.IgnoreLease, r.Lease = true, 0
	}
	return r
}

func (g *generator) remove() *pb.DeleteRangeRequest {
	key := g.key()
	r := &pb.DeleteRangeRequest{Key: key, PrevKv: g.chance(50)}
	if g.chance(40) {
		r.RangeEnd = g.end(key)
	}
	return r
}

func (g *generator) read() *pb.RangeRequest {
	key := g.key()
	r := &pb.RangeRequest{
		Key: key, RangeEnd: g.end(key), Revision: g.revision(), Serializable: g.chance(20), KeysOnly: g.chance(10), CountOnly: g.chance(10),
	}
	if g.chance(30) {
		r.Limit = int64(g.IntN(6))
	}
	if g.chance(40) {
		r.SortOrder, r.SortTarget = pb.RangeRequest_SortOrder(g.IntN(3)), pb.RangeRequest_SortTarget(g.IntN(5))
	}
	for _, bound := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
		if g.chance(8) {
			*bound = g.Int64N(g.rev + 2)
		}
	}
	return r
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	r.Success, r.Failure = g.branch(g.IntN(4), depth), g.branch(g.IntN(3), depth)
	return r
}

// branch has at most one transaction in it: of two, etcd lets the second delete what the first has put, which the agent
// refuses as it refuses everything else that changes a key twice.
func (g *generator) branch(n, depth int) (ops []*pb.RequestOp) {
	for range n {
		op := g.op(depth)
		if op.GetRequestTxn() != nil {
			depth = 0
		}
		ops = append(ops, op)
	}
	return ops
}

func (g *generator) op(depth int) *pb.RequestOp {
	switch n := g.IntN(10); {
	case n < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	case n < 6:
		r := g.remove()
		if bytes.Equal(r.RangeEnd, []byte{0}) {
			// Such a range is not seen by etcd's check that nothing is changed twice. A put behind it that relies on
			// what was there (ignore_value, ignore_lease) makes etcd panic, and after each restart again.
			r.RangeEnd = []byte("z")
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	case n < 9 || depth == 0:
		r := g.read()
		r.Revision = max(r.Revision, 0) // after a compaction etcd refuses a negative one here, and nowhere else
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
	default:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth - 1)}}
	}
}

func (g *generator) compare() *pb.Compare {
	key := g.key()
	c := &pb.Compare{Key: key, Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5))}
	if g.chance(20) {
		c.RangeEnd = g.end(key)
	}
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(g.IntN(4))}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.Int64N(g.rev + 1)}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.Int64N(g.rev + 1)}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: fmt.Appendf(nil, "%d", g.IntN(20))}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: int64(99 + g.IntN(3))}
	}
	return c
}

// learn takes the state from an answer.
func (g *generator) learn(o operation, answer proto.Message, err error) {
	if err != nil {
		g.refused++
		return
	}
	if a, ok := answer.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		g.rev = max(g.rev, a.GetHeader().GetRevision())
	}
	if c, ok := o.request.(*pb.CompactionRequest); ok {
		g.compacted = max(g.compacted, c.GetRevision())
	}
}

func sorted(keys [][]byte) [][]byte {
	slices.SortFunc(keys, bytes.Compare)
	return keys
}
