package etcd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func keys(kvs []*mvccpb.KeyValue) string {
	var all []string
	for _, one := range kvs {
		all = append(all, string(one.Key))
	}
	return strings.Join(all, " ")
}

func TestPutAnswersWithAFullHeaderAndThePreviousValue(t *testing.T) {
	n := serve(t, Options{})
	r := n.put(t, "a", "1")
	if r.Header.ClusterId == 0 || r.Header.MemberId != 1 || r.Header.RaftTerm != 1 || r.Header.Revision != 2 || r.PrevKv != nil {
		t.Errorf("first put: %v", r)
	}
	r2, err := n.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true})
	if must(t, r2, err); r2.Header.Revision != 3 || string(r2.PrevKv.GetValue()) != "1" || r2.PrevKv.ModRevision != 2 {
		t.Errorf("second put: %v", r2)
	}
	r3, err := n.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), IgnoreValue: true})
	if must(t, r3, err); r3.Header.Revision != 4 {
		t.Errorf("put of the same value: %v", r3)
	}
	got := n.get(t, &pb.RangeRequest{Key: []byte("a")})
	want := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("2"), CreateRevision: 2, ModRevision: 4, Version: 3}
	if len(got.Kvs) != 1 || !proto.Equal(got.Kvs[0], want) {
		t.Errorf("got %v, want %v", got.Kvs, want)
	}
}

func TestRangeHonoursEveryField(t *testing.T) {
	n := serve(t, Options{})
	n.put(t, "a", "3") // 2
	n.put(t, "b", "1") // 3
	n.put(t, "c", "2") // 4
	n.put(t, "a", "3") // 5
	all := func(r *pb.RangeRequest) *pb.RangeRequest {
		r.Key, r.RangeEnd = []byte{0}, []byte{0}
		return r
	}
	for name, c := range map[string]struct {
		r     *pb.RangeRequest
		keys  string
		count int64
		more  bool
	}{
		"all":                 {all(&pb.RangeRequest{}), "a b c", 3, false},
		"from a key":          {&pb.RangeRequest{Key: []byte("b"), RangeEnd: []byte{0}}, "b c", 2, false},
		"half open":           {&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c")}, "a b", 2, false},
		"empty range":         {&pb.RangeRequest{Key: []byte("c"), RangeEnd: []byte("a")}, "", 0, false},
		"limit":               {all(&pb.RangeRequest{Limit: 2}), "a b", 3, true},
		"limit that is met":   {all(&pb.RangeRequest{Limit: 3}), "a b c", 3, false},
		"negative limit":      {all(&pb.RangeRequest{Limit: -1}), "a b c", 3, false},
		"descending":          {all(&pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND}), "c b a", 3, false},
		"by value":            {all(&pb.RangeRequest{SortTarget: pb.RangeRequest_VALUE}), "b c a", 3, false},
		"by mod, descending":  {all(&pb.RangeRequest{SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_DESCEND, Limit: 1}), "a", 3, true},
		"by version":          {all(&pb.RangeRequest{SortTarget: pb.RangeRequest_VERSION, SortOrder: pb.RangeRequest_DESCEND, Limit: 1}), "a", 3, true},
		"by create":           {all(&pb.RangeRequest{SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_DESCEND}), "c b a", 3, false},
		"count only":          {all(&pb.RangeRequest{CountOnly: true, Limit: 1}), "", 3, false},
		"min mod":             {all(&pb.RangeRequest{MinModRevision: 4}), "a c", 3, false},
		"max mod":             {all(&pb.RangeRequest{MaxModRevision: 4}), "b c", 3, false},
		"min create":          {all(&pb.RangeRequest{MinCreateRevision: 3}), "b c", 3, false},
		"max create":          {all(&pb.RangeRequest{MaxCreateRevision: 2}), "a", 3, false},
		"an earlier revision": {all(&pb.RangeRequest{Revision: 3}), "a b", 2, false},
		"a negative revision": {all(&pb.RangeRequest{Revision: -3}), "a b c", 3, false},
		"serializable":        {all(&pb.RangeRequest{Serializable: true}), "a b c", 3, false},
	} {
		got := n.get(t, c.r)
		if keys(got.Kvs) != c.keys || got.Count != c.count || got.More != c.more || got.Header.Revision != 5 {
			t.Errorf("%s: keys %q, count %d, more %v at %d; want %q, %d, %v", name, keys(got.Kvs), got.Count, got.More, got.Header.Revision, c.keys, c.count, c.more)
		}
	}
	only := n.get(t, all(&pb.RangeRequest{KeysOnly: true}))
	for _, one := range only.Kvs {
		if one.Value != nil || one.ModRevision == 0 {
			t.Errorf("keys only: %v", one)
		}
	}
}

func TestRefusalsAreEtcdsLetterForLetter(t *testing.T) {
	n := serve(t, Options{})
	n.put(t, "a", "1")
	n.put(t, "a", "2")
	must(t, any(nil), func() error {
		_, err := n.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 3})
		return err
	}())
	op := func(r any) *pb.RequestOp {
		switch r := r.(type) {
		case *pb.PutRequest:
			return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
		case *pb.RangeRequest:
			return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
		case *pb.DeleteRangeRequest:
			return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
		case *pb.TxnRequest:
			return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
		}
		return &pb.RequestOp{}
	}
	put := func(key string) *pb.RequestOp { return op(&pb.PutRequest{Key: []byte(key)}) }
	many := func(n int) (ops []*pb.RequestOp) {
		for i := range n {
			ops = append(ops, put(fmt.Sprint(i)))
		}
		return ops
	}
	then := func(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: ops} }
	for name, c := range map[string]struct {
		r    any
		want error
	}{
		"range without key":      {&pb.RangeRequest{}, rpctypes.ErrGRPCEmptyKey},
		"key before sort":        {&pb.RangeRequest{SortOrder: 9}, rpctypes.ErrGRPCEmptyKey},
		"sort order":             {&pb.RangeRequest{Key: []byte("a"), SortOrder: 3}, rpctypes.ErrGRPCInvalidSortOption},
		"sort target":            {&pb.RangeRequest{Key: []byte("a"), SortTarget: 5}, rpctypes.ErrGRPCInvalidSortOption},
		"compacted":              {&pb.RangeRequest{Key: []byte("a"), Revision: 2}, rpctypes.ErrGRPCCompacted},
		"future":                 {&pb.RangeRequest{Key: []byte("a"), Revision: 9}, rpctypes.ErrGRPCFutureRev},
		"put without key":        {&pb.PutRequest{Value: []byte("v")}, rpctypes.ErrGRPCEmptyKey},
		"value is provided":      {&pb.PutRequest{Key: []byte("a"), Value: []byte("v"), IgnoreValue: true}, rpctypes.ErrGRPCValueProvided},
		"lease is provided":      {&pb.PutRequest{Key: []byte("a"), Lease: 7, IgnoreLease: true}, rpctypes.ErrGRPCLeaseProvided},
		"nothing to keep":        {&pb.PutRequest{Key: []byte("none"), IgnoreValue: true}, rpctypes.ErrGRPCKeyNotFound},
		"no such lease":          {&pb.PutRequest{Key: []byte("a"), Lease: 7}, rpctypes.ErrGRPCLeaseNotFound},
		"delete without key":     {&pb.DeleteRangeRequest{}, rpctypes.ErrGRPCEmptyKey},
		"compact again":          {&pb.CompactionRequest{Revision: 3}, rpctypes.ErrGRPCCompacted},
		"compact the future":     {&pb.CompactionRequest{Revision: 99}, rpctypes.ErrGRPCFutureRev},
		"put twice":              {then(put("k"), put("k")), rpctypes.ErrGRPCDuplicateKey},
		"put and delete":         {then(put("k"), op(&pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z")})), rpctypes.ErrGRPCDuplicateKey},
		"put in both, nested":    {then(put("k"), op(then(put("k")))), rpctypes.ErrGRPCDuplicateKey},
		"no kind":                {then(op(nil)), rpctypes.ErrGRPCKeyNotFound},
		"compare without key":    {&pb.TxnRequest{Compare: []*pb.Compare{{}}}, rpctypes.ErrGRPCEmptyKey},
		"op without key":         {then(op(&pb.RangeRequest{})), rpctypes.ErrGRPCEmptyKey},
		"too many":               {then(many(129)...), rpctypes.ErrGRPCTooManyOps},
		"too many, nested":       {then(append(many(127), op(then(put("x"), put("y"))))...), rpctypes.ErrGRPCTooManyOps},
		"compacted in txn":       {then(op(&pb.RangeRequest{Key: []byte("a"), Revision: 2}), put("b")), rpctypes.ErrGRPCCompacted},
		"future in txn":          {then(op(&pb.RangeRequest{Key: []byte("a"), Revision: 77})), rpctypes.ErrGRPCFutureRev},
		"too large for a client": {&pb.PutRequest{Key: []byte("a"), Value: make([]byte, 3<<20)}, status.Error(codes.ResourceExhausted, "grpc: received message larger than max (3145736 vs. 2097152)")},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			switch r := c.r.(type) {
			case *pb.RangeRequest:
				_, err = n.kv.Range(t.Context(), r)
			case *pb.PutRequest:
				_, err = n.kv.Put(t.Context(), r)
			case *pb.DeleteRangeRequest:
				_, err = n.kv.DeleteRange(t.Context(), r)
			case *pb.TxnRequest:
				_, err = n.kv.Txn(t.Context(), r)
			case *pb.CompactionRequest:
				_, err = n.kv.Compact(t.Context(), r)
			}
			refused(t, err, c.want)
		})
	}
	if r := n.get(t, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}); r.Header.Revision != 3 {
		t.Errorf("a refused request left the store at revision %d, want 3", r.Header.Revision)
	}
	must(t, any(nil), func() error {
		_, err := n.kv.Txn(t.Context(), then(many(128)...))
		return err
	}())
}

func TestDeleteRangeCountsAndReturnsWhatWasThere(t *testing.T) {
	n := serve(t, Options{})
	n.put(t, "a", "1")
	n.put(t, "b", "2")
	r, err := n.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), PrevKv: true})
	if must(t, r, err); r.Deleted != 2 || keys(r.PrevKvs) != "a b" || r.Header.Revision != 4 {
		t.Errorf("delete: %v", r)
	}
	r, err = n.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a")})
	if must(t, r, err); r.Deleted != 0 || r.Header.Revision != 4 {
		t.Errorf("delete of nothing: %v", r)
	}
}

func TestOperationsOfATransactionNameTheRevisionTheySaw(t *testing.T) {
	n := serve(t, Options{})
	n.put(t, "a", "1")
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true}}}
	nothing := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("none")}}}
	nested := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("a"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("1")}}}, Success: []*pb.RequestOp{get}}}}
	r, err := n.kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{get, nothing, put, get, nested}})
	must(t, r, err)
	var revs []int64
	for _, op := range r.Responses[:4] {
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			revs = append(revs, op.ResponseRange.Header.Revision)
		case *pb.ResponseOp_ResponsePut:
			revs = append(revs, op.ResponsePut.Header.Revision)
		case *pb.ResponseOp_ResponseDeleteRange:
			revs = append(revs, op.ResponseDeleteRange.Header.Revision)
		}
	}
	if got := fmt.Sprint(revs); got != "[2 2 3 3]" || !r.Succeeded || r.Header.Revision != 3 || r.Header.MemberId == 0 {
		t.Errorf("revisions %s, header %v; want [2 2 3 3] and 3", got, r.Header)
	}
	in := r.Responses[4].GetResponseTxn()
	if !in.GetSucceeded() || in.Header == nil || in.Header.Revision != 0 || string(in.Responses[0].GetResponseRange().Kvs[0].Value) != "2" {
		t.Errorf("nested: %v; want an empty header and what the transaction has put", in)
	}
	if prev := r.Responses[2].GetResponsePut().PrevKv; string(prev.GetValue()) != "1" {
		t.Errorf("previous value %v", prev)
	}
}

func TestComparesOfEveryTarget(t *testing.T) {
	n := serve(t, Options{})
	n.put(t, "a", "1")
	n.put(t, "a", "2")
	n.put(t, "b", "2")
	cmp := func(key string, c *pb.Compare) *pb.Compare { c.Key = []byte(key); return c }
	for name, c := range map[string]struct {
		compare *pb.Compare
		want    bool
	}{
		"version":          {cmp("a", &pb.Compare{Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 2}}), true},
		"version less":     {cmp("a", &pb.Compare{Result: pb.Compare_LESS, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 2}}), false},
		"create":           {cmp("a", &pb.Compare{Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 2}}), true},
		"mod greater":      {cmp("a", &pb.Compare{Result: pb.Compare_GREATER, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: 2}}), true},
		"value not equal":  {cmp("a", &pb.Compare{Result: pb.Compare_NOT_EQUAL, Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("2")}}), false},
		"lease":            {cmp("a", &pb.Compare{Target: pb.Compare_LEASE, TargetUnion: &pb.Compare_Lease{}}), true},
		"range holds":      {cmp("a", &pb.Compare{RangeEnd: []byte{0}, Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("2")}}), true},
		"range fails":      {cmp("a", &pb.Compare{RangeEnd: []byte("z"), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 2}}), false},
		"absent":           {cmp("none", &pb.Compare{Target: pb.Compare_VERSION}), true},
		"value of absent":  {cmp("none", &pb.Compare{Result: pb.Compare_NOT_EQUAL, Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("x")}}), false},
		"of another union": {cmp("a", &pb.Compare{Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Lease{Lease: 2}}), false},
	} {
		r, err := n.kv.Txn(t.Context(), &pb.TxnRequest{Compare: []*pb.Compare{c.compare}})
		if must(t, r, err); r.Succeeded != c.want || r.Header.Revision != 4 {
			t.Errorf("%s: %v, want %v", name, r, c.want)
		}
	}
	const unknown = 256
	for _, c := range []struct {
		key  string
		c    *pb.Compare
		want bool
	}{
		{"a", &pb.Compare{Target: unknown}, true},
		{"none", &pb.Compare{Target: unknown}, true},
		{"a", &pb.Compare{Target: unknown, Result: unknown}, true},
		{"a", &pb.Compare{Target: unknown, Result: pb.Compare_NOT_EQUAL}, false},
		{"none", &pb.Compare{Target: unknown, Result: pb.Compare_GREATER}, false},
		{"a", &pb.Compare{Target: pb.Compare_VERSION, Result: unknown}, true},
		{"none", &pb.Compare{Target: pb.Compare_LEASE, Result: unknown}, true},
		{"a", &pb.Compare{Target: pb.Compare_VALUE, Result: unknown}, true},
		{"none", &pb.Compare{Target: pb.Compare_VALUE, Result: unknown}, false},
	} {
		r := ok[*pb.TxnResponse](t)(n.kv.Txn(t.Context(), &pb.TxnRequest{Compare: []*pb.Compare{cmp(c.key, c.c)}}))
		if r.Succeeded != c.want {
			t.Errorf("%s, %v: %v", c.key, c.c, r.Succeeded)
		}
	}
}

func TestRangeStreamIsTheRangeInChunks(t *testing.T) {
	n := serve(t, Options{RequestMax: 4 << 10})
	for i := range 200 {
		n.put(t, fmt.Sprintf("k%03d", i), strings.Repeat("v", 100)+fmt.Sprintf("%03d", i*7%200))
	}
	for name, r := range map[string]*pb.RangeRequest{
		"all":        {Key: []byte("k"), RangeEnd: []byte("l")},
		"limited":    {Key: []byte("k"), RangeEnd: []byte("l"), Limit: 57},
		"exactly":    {Key: []byte("k"), RangeEnd: []byte("l"), Limit: 200},
		"one":        {Key: []byte("k007")},
		"none":       {Key: []byte("none")},
		"count":      {Key: []byte("k"), RangeEnd: []byte("l"), CountOnly: true},
		"keys":       {Key: []byte("k"), RangeEnd: []byte("l"), KeysOnly: true},
		"historical": {Key: []byte("k"), RangeEnd: []byte("l"), Revision: 101},
		"by value":   {Key: []byte("k"), RangeEnd: []byte("l"), SortTarget: pb.RangeRequest_VALUE},
		"by version": {Key: []byte("k"), RangeEnd: []byte("l"), SortTarget: pb.RangeRequest_VERSION, Limit: 57, KeysOnly: true},
	} {
		stream, err := n.kv.RangeStream(t.Context(), r)
		must(t, stream, err)
		got, chunks := &pb.RangeResponse{}, 0
		for {
			one, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, one, err)
			chunks++
			proto.Merge(got, one.RangeResponse)
		}
		want := n.get(t, r)
		if !proto.Equal(got, want) {
			t.Errorf("%s: %d keys, count %d, more %v, header %v; want %d, %d, %v, %v", name, len(got.Kvs), got.Count, got.More, got.Header,
				len(want.Kvs), want.Count, want.More, want.Header)
		}
		if name == "all" && chunks < 4 {
			t.Errorf("200 keys came in %d chunks", chunks)
		}
	}
	stream, err := n.kv.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("k"), SortOrder: pb.RangeRequest_DESCEND})
	must(t, stream, err)
	if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("a sorted stream: %v", err)
	}
}

func TestLargestRequestIsTaken(t *testing.T) {
	n := serve(t, Options{})
	value := bytes.Repeat([]byte("x"), 1<<20)
	n.put(t, "a", string(value))
	if got := n.get(t, &pb.RangeRequest{Key: []byte("a")}); !bytes.Equal(got.Kvs[0].Value, value) {
		t.Error("a value of 1 MiB came back changed")
	}
}
