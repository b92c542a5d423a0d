package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/kv"
)

func randomPair(r *rand.Rand) (v kv.KeyValue) {
	number := func() int64 { return r.Int64() >> r.IntN(64) }
	v = kv.KeyValue{CreateRevision: number(), ModRevision: number(), Version: number(), Lease: number()}
	v.Key, v.Value = make([]byte, 1+r.IntN(40)), make([]byte, r.IntN(300))
	for i := range v.Value {
		v.Value[i] = byte(r.Uint32())
	}
	return v
}

func randomPage(r *rand.Rand, keys int) kv.Page {
	p := kv.Page{Header: kv.Header{Epoch: kv.Epoch{Cluster: r.Uint64()}, Member: r.Uint64(), Term: r.Uint64() >> r.IntN(64), Revision: r.Int64()}}
	res := kv.OpResult{Count: r.Int64() >> r.IntN(64), More: r.IntN(2) == 0}
	for range keys {
		res.KVs = append(res.KVs, randomPair(r))
	}
	p.Ops = []kv.OpResult{res}
	return p
}

// What is encoded here is what the library would have sent, byte for byte, the first time and when it is kept.
func TestRangesAreEncodedAsTheLibraryDoes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var kept keptRanges
	check := func(what string, op kv.Range, p kv.Page) *encoded {
		t.Helper()
		want := rangeResponse(op, p.Ops[0])
		want.Header = (&Server{}).header(p.Header)
		b, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got := kept.encode(&op, &p)
		if string(got.parts.Materialize()) != string(b) {
			var m pb.RangeResponse
			err := proto.Unmarshal(got.parts.Materialize(), &m)
			t.Fatalf("%s, %+v: got %d bytes, %v, %v\nwant %d bytes, %v", what, op, got.parts.Len(), &m, err, len(b), want)
		}
		return got
	}
	for i := range 300 {
		op := kv.Range{Key: fmt.Append(nil, i), End: []byte("~"), KeysOnly: r.IntN(4) == 0, Sort: kv.Target(r.IntN(5))}
		p := randomPage(r, r.IntN(3)*r.IntN(2*keptLeast))
		if i == 0 {
			p = kv.Page{Ops: []kv.OpResult{{}}}
		}
		check("a member's", op, p)
		p.Source = kv.SourceCache
		for range 3 {
			p.Revision++
			p.Age = 1
			check("a cache's", op, p)
		}
		if len(p.Ops[0].KVs) == 0 {
			continue
		}
		p.Ops = []kv.OpResult{p.Ops[0]}
		p.Ops[0].KVs = slices.Clone(p.Ops[0].KVs)
		p.Ops[0].KVs[0].Value = []byte("changed")
		check("a changed one", op, p)
		check("a changed one again", op, p)
		p.Ops[0].KVs = p.Ops[0].KVs[:len(p.Ops[0].KVs)-1]
		check("a shorter one", op, p)
		p.Ops[0].Count++
		check("one with another count", op, p)
	}
}

// The third answer with the same keys is sent from memory that the second was.
func TestAnAnswerThatComesAgainIsNotEncodedAgain(t *testing.T) {
	var kept keptRanges
	op := kv.Range{Key: []byte("a"), End: []byte("b")}
	p := randomPage(rand.New(rand.NewPCG(1, 1)), 1000)
	p.Source = kv.SourceCache
	for range 2 {
		kept.encode(&op, &p)
	}
	if n := testing.AllocsPerRun(100, func() { kept.encode(&op, &p) }); n > 5 {
		t.Errorf("%v objects for an answer that is kept, want 5 at most", n)
	}
}

func TestKeptAnswersAreBounded(t *testing.T) {
	var kept keptRanges
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 3 * keptAnswers {
		keys := keptLeast
		if i%8 == 0 {
			keys = 100 * keptLeast
		}
		p := randomPage(r, keys)
		p.Source = kv.SourceCache
		op := kv.Range{Key: fmt.Append(nil, i)}
		for range 2 {
			kept.encode(&op, &p)
		}
		sum := 0
		for _, one := range kept.all {
			sum += one.size
		}
		if sum != kept.bytes || sum > keptBytes || len(kept.all) > keptAnswers {
			t.Fatalf("%d answers of %d bytes, counted as %d", len(kept.all), sum, kept.bytes)
		}
	}
	p := randomPage(r, keptLeast)
	p.Source, p.Ops[0].KVs[0].Value = kv.SourceCache, make([]byte, keptBytes/4)
	op := kv.Range{Key: []byte("large")}
	kept.encode(&op, &p)
	if _, ok := kept.all[rangeAsked{key: "large"}]; ok {
		t.Error("an answer that is too large is kept")
	}
}

// listing is a proxy that lets nobody but alice have its list.
type listing struct {
	api.Backend
	page atomic.Pointer[kv.Page]
}

func (l *listing) Read(_ context.Context, q kv.Query) (kv.Page, error) {
	if q.By.Token != "alice" {
		return kv.Page{}, kv.Errorf(kv.PermissionDenied, "permission denied")
	}
	return *l.page.Load(), nil
}

// What is kept of an answer is for those whom the Backend allows it, and for as long as that says the same.
func TestKeptAnswersAreForWhoMayHaveThem(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	l := &listing{Backend: apitest.NewMemory()}
	next := func() *kv.Page {
		p := randomPage(r, 2*keptLeast)
		p.Source = kv.SourceCache
		l.page.Store(&p)
		return &p
	}
	now := next()
	c := serve(t, Options{Backend: l, Log: discard}).kv
	ask := func(who string) (*pb.RangeResponse, error) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.TokenFieldNameGRPC, who)
		return c.Range(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), Serializable: true})
	}
	for i := range 10 {
		if i%4 == 3 {
			now = next()
		}
		want := rangeResponse(kv.Range{}, now.Ops[0])
		want.Header = (&Server{}).header(now.Header)
		if got, err := ask("alice"); err != nil || !proto.Equal(got, want) {
			t.Fatalf("call %d: got %v, %v, want %v", i, got, err, want)
		}
		if got, err := ask("bob"); status.Code(err) != codes.PermissionDenied {
			t.Fatalf("call %d: bob got %v, %v", i, got, err)
		}
	}
}
