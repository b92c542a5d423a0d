package compat

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// puts puts "key=value" pairs, which have to go through.
func (k *talk) puts(pairs ...string) error {
	for _, p := range pairs {
		key, value, _ := strings.Cut(p, "=")
		r, err := k.Put(k.ctx, key, value)
		k.say("put "+p, r, err)
		if err != nil {
			return fmt.Errorf("put %s: %w", p, err)
		}
	}
	return nil
}

// rev is the revision that the store is at.
func (k *talk) rev() int64 {
	r, err := k.Get(k.ctx, "any")
	if err != nil {
		return 0 // what is asked next says why
	}
	return r.Header.Revision
}

func (k *talk) get(key string, opts ...clientv3.OpOption) *clientv3.GetResponse {
	r, err := k.Get(k.ctx, key, opts...)
	k.say("get "+key, r, err)
	return r
}

// pages puts what the tests of ranges read.
func (k *talk) pages() error {
	for i := range 23 {
		if err := k.puts(fmt.Sprintf("page/%02d=%d", i, i*7%5)); err != nil {
			return err
		}
	}
	return k.puts("page/03=9", "page/11=x")
}

func TestClientKeys(t *testing.T) {
	t.Parallel()
	converse(t, []conversation{
		{name: "pages", hold: func(k *talk) error {
			if err := k.pages(); err != nil {
				return err
			}
			first := k.get("page/", clientv3.WithPrefix(), clientv3.WithLimit(5))
			for key, end := "page/", clientv3.GetPrefixRangeEnd("page/"); ; {
				r, err := k.Get(k.ctx, key, clientv3.WithRange(end), clientv3.WithLimit(5), clientv3.WithRev(first.Header.Revision))
				k.say("page", r, err)
				if err != nil {
					return err
				}
				if !r.More {
					return nil
				}
				key = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
			}
		}},
		{name: "orders", hold: func(k *talk) error {
			// No two are equal in anything: etcd's sort is not stable, so that it promises no order of equals.
			for i := range 7 {
				for version := range 1 + i*3%7 {
					if err := k.puts(fmt.Sprintf("page/%d=%d", i*5%7, version*10+i)); err != nil {
						return err
					}
				}
			}
			for _, target := range []clientv3.SortTarget{clientv3.SortByKey, clientv3.SortByVersion, clientv3.SortByCreateRevision, clientv3.SortByModRevision, clientv3.SortByValue} {
				for _, order := range []clientv3.SortOrder{clientv3.SortNone, clientv3.SortAscend, clientv3.SortDescend} {
					for _, limit := range []int64{0, 1, 4, 7, 8} {
						r, err := k.Get(k.ctx, "page/", clientv3.WithPrefix(), clientv3.WithSort(target, order), clientv3.WithLimit(limit))
						k.say(fmt.Sprintf("by %v, order %v, limit %d", target, order, limit), r, err)
					}
				}
			}
			k.get("page/", clientv3.WithFirstCreate()...)
			k.get("page/", clientv3.WithLastCreate()...)
			k.get("page/", clientv3.WithFirstKey()...)
			k.get("page/", clientv3.WithLastKey()...)
			k.get("page/", clientv3.WithFirstRev()...)
			k.get("page/", clientv3.WithLastRev()...)
			return nil
		}},
		{name: "filters", hold: func(k *talk) error {
			if err := k.pages(); err != nil {
				return err
			}
			mid := k.rev() - 15
			for _, o := range [][]clientv3.OpOption{
				{clientv3.WithMinModRev(mid)}, {clientv3.WithMaxModRev(mid)}, {clientv3.WithMinCreateRev(mid)}, {clientv3.WithMaxCreateRev(mid)},
				{clientv3.WithMinModRev(mid), clientv3.WithMaxModRev(mid + 2)}, {clientv3.WithMinModRev(mid + 2), clientv3.WithMaxModRev(mid)},
				{clientv3.WithMinModRev(mid), clientv3.WithLimit(2)}, {clientv3.WithMinModRev(mid), clientv3.WithCountOnly()},
				{clientv3.WithKeysOnly(), clientv3.WithLimit(2)}, {clientv3.WithCountOnly(), clientv3.WithLimit(2)},
				{clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend), clientv3.WithLimit(2)},
				{clientv3.WithCountOnly(), clientv3.WithKeysOnly()}, {clientv3.WithSerializable(), clientv3.WithLimit(1)},
			} {
				k.get("page/", append(o, clientv3.WithPrefix())...)
			}
			return nil
		}},
		{name: "bytes", hold: func(k *talk) error {
			odd := []string{"\x00", "\x00\x00", "\xff", "\xff\xff", "a\x00b", "ü", " ", "\n"}
			for _, key := range odd {
				r, err := k.Put(k.ctx, key, "v"+key)
				k.say(fmt.Sprintf("put %q", key), r, err)
			}
			for _, key := range odd {
				k.get(key)
				k.get(key, clientv3.WithPrefix())
				k.get(key, clientv3.WithFromKey())
			}
			k.get("", clientv3.WithPrefix(), clientv3.WithKeysOnly())
			k.get("", clientv3.WithFromKey(), clientv3.WithCountOnly())
			r, err := k.Delete(k.ctx, "\xff", clientv3.WithFromKey(), clientv3.WithPrevKV())
			k.say("delete", r, err)
			return nil
		}},
		{name: "sizes", hold: func(k *talk) error {
			for _, n := range []int{1 << 20, 1536<<10 - 64, 1536 << 10, 1600 << 10, 3 << 20} {
				r, err := k.Put(k.ctx, "big", strings.Repeat("v", n))
				k.say(fmt.Sprintf("put %d", n), r, err)
			}
			k.get("big")
			for i := range 8 { // an answer of more than 4 MiB, gRPC's own default
				if _, err := k.Put(k.ctx, fmt.Sprintf("many/%d", i), strings.Repeat("m", 1<<20)); err != nil {
					return err
				}
			}
			k.get("many/", clientv3.WithPrefix())
			d, err := k.Delete(k.ctx, "many/", clientv3.WithPrefix(), clientv3.WithPrevKV())
			k.say("delete", d, err)
			return nil
		}},
		{name: "long keys", hold: func(k *talk) error {
			for _, n := range []int{1 << 10, 4 << 10, 16 << 10} {
				long := strings.Repeat("k", n)
				r, err := k.Put(k.ctx, long, "v")
				k.say("put", r, err)
				k.get(long)
			}
			return nil
		}},
		{name: "huge keys", hold: func(k *talk) error {
			r, err := k.Put(k.ctx, strings.Repeat("k", 1<<20), "v")
			k.say("put", r, err)
			return nil
		}, gaps: map[string]string{"put": "keys have a limit of their own"}},
		{name: "streamed range", hold: func(k *talk) error {
			if err := k.pages(); err != nil {
				return err
			}
			for _, o := range [][]clientv3.OpOption{{}, {clientv3.WithLimit(3)}, {clientv3.WithRev(k.rev() - 10)}, {clientv3.WithRev(99999)}, {clientv3.WithKeysOnly()}, {clientv3.WithCountOnly()}} {
				ch, err := k.GetStream(k.ctx, "page/", append(o, clientv3.WithPrefix())...)
				if err != nil {
					k.say("stream", nil, err)
					continue
				}
				r, err := clientv3.GetStreamToGetResponse(ch)
				k.say("stream", r, err)
			}
			// Of ten keys, one chunk, and all of them: etcd sorts by something else within a chunk, and then goes on, and counts,
			// behind the key that came last.
			for _, by := range []clientv3.SortTarget{clientv3.SortByValue, clientv3.SortByModRevision, clientv3.SortByVersion, clientv3.SortByCreateRevision} {
				ch, err := k.GetStream(k.ctx, "page/0", clientv3.WithPrefix(), clientv3.WithSort(by, clientv3.SortNone))
				if err != nil {
					return err
				}
				r, err := clientv3.GetStreamToGetResponse(ch)
				k.say("sorted stream", r, err)
			}
			return nil
		}},
		{name: "raw requests", hold: func(k *talk) error {
			if err := k.pages(); err != nil {
				return err
			}
			kv, mid := pb.NewKVClient(k.ActiveConnection()), k.rev()-15
			for i, r := range []*pb.RangeRequest{
				{}, {Key: nil, RangeEnd: []byte("z")}, {Key: []byte("a"), Revision: -5}, {Key: []byte("a"), Limit: -1},
				{Key: []byte("page/"), RangeEnd: []byte{0}, SortOrder: 7}, {Key: []byte("page/"), RangeEnd: []byte{0}, SortTarget: 9},
				{Key: []byte("page/"), RangeEnd: []byte{0}, SortTarget: pb.RangeRequest_MOD, Limit: 4},
				{Key: []byte("z"), RangeEnd: []byte("a")}, {Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true},
				{Key: []byte("page/00"), MinModRevision: -1}, {Key: []byte("page/00"), RangeEnd: []byte("page/00")},
			} {
				a, err := kv.Range(k.ctx, r)
				k.say(fmt.Sprintf("range %d", i), a, err)
			}
			for i, r := range []*pb.PutRequest{
				{}, {Key: []byte("p"), IgnoreValue: true, Value: []byte("v")}, {Key: []byte("p"), IgnoreLease: true, Lease: 5},
				{Key: []byte("p"), IgnoreLease: true, IgnoreValue: true}, {Key: []byte("p"), Lease: -1}, {Key: []byte("p"), Lease: 42},
				{Key: []byte("p"), PrevKv: true}, {Key: []byte("p"), IgnoreLease: true, IgnoreValue: true, PrevKv: true},
			} {
				a, err := kv.Put(k.ctx, r)
				k.say(fmt.Sprintf("put %d", i), a, err)
			}
			for i, r := range []*pb.DeleteRangeRequest{{}, {RangeEnd: []byte{0}}, {Key: []byte("p"), RangeEnd: []byte("a"), PrevKv: true}, {Key: []byte("p"), PrevKv: true}} {
				a, err := kv.DeleteRange(k.ctx, r)
				k.say(fmt.Sprintf("delete %d", i), a, err)
			}
			for i, r := range []*pb.CompactionRequest{{}, {Revision: -1}, {Revision: 1 << 60}, {Revision: mid}, {Revision: mid}, {Revision: mid - 1}, {Revision: mid + 2, Physical: true}} {
				a, err := kv.Compact(k.ctx, r)
				k.say(fmt.Sprintf("compact %d", i), a, err)
			}
			k.get("page/", clientv3.WithPrefix(), clientv3.WithRev(mid+1))
			k.get("page/", clientv3.WithPrefix(), clientv3.WithRev(mid+2))
			k.get("page/", clientv3.WithPrefix(), clientv3.WithRev(mid+3))
			return nil
		}},
		{name: "canceled", hold: func(k *talk) error {
			if err := k.puts("page/00=1"); err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(k.ctx)
			cancel()
			_, err := k.Get(ctx, "page/00")
			k.say("get", nil, err)
			_, err = k.Put(ctx, "page/00", "x")
			k.say("put", nil, err)
			k.get("page/00")
			return nil
		}},
	})
}

func TestClientTransactions(t *testing.T) {
	t.Parallel()
	put := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("v"), PrevKv: true}}}
	}
	del := func(key, end string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: true}}}
	}
	get := func(key, end string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
	}
	nest := func(r *pb.TxnRequest) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
	}
	then := func(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: ops} }
	many := func(n int) *pb.TxnRequest {
		r := &pb.TxnRequest{}
		for i := range n {
			r.Success = append(r.Success, put(fmt.Sprintf("n/%03d", i)))
		}
		return r
	}
	deep := func(n int) *pb.TxnRequest {
		r := then(put("deep"))
		for range n {
			r = then(nest(r))
		}
		return r
	}
	send := func(list ...*pb.TxnRequest) func(k *talk) error {
		return func(k *talk) error {
			kv := pb.NewKVClient(k.ActiveConnection())
			for i, r := range list {
				a, err := kv.Txn(k.ctx, r)
				k.say(fmt.Sprintf("txn %d", i), a, err)
			}
			return nil
		}
	}
	converse(t, []conversation{
		{name: "empty", hold: send(&pb.TxnRequest{}, then(), then(&pb.RequestOp{}), &pb.TxnRequest{Failure: []*pb.RequestOp{put("never")}})},
		{name: "in order", hold: send(
			then(put("a"), get("a", ""), put("b"), get("a", "c"), del("x", ""), get("a", "z")),
			then(get("a", "z"), del("a", ""), get("a", "z")),
			then(del("b", "c"), del("b", "c"), get("b", "")),
			then(get("a", "z")))},
		{name: "twice the same key", hold: send(
			then(put("a"), put("a")), then(put("a"), del("a", "")), then(del("a", ""), put("a")), then(put("b"), del("a", "c")),
			then(del("c", "a"), put("b")), then(del("a", "b"), put("b")),
			then(put("a"), nest(then(put("a")))), then(nest(then(put("a"))), nest(then(put("a")))),
			then(nest(&pb.TxnRequest{Success: []*pb.RequestOp{put("a")}, Failure: []*pb.RequestOp{put("a")}})),
			then(nest(then(del("a", "c"))), put("b")), then(nest(then(put("b"))), del("a", "c")),
			then(nest(then(del("a", "c"))), nest(then(put("b")))),
			then(get("a", "z")))},
		// What etcd's check lets through. With a put that relies on what was there (ignore_value) the first makes it panic.
		{name: "twice, unseen by etcd", hold: send(
			then(del("a", "\x00"), put("b")), then(del("\x00", "\x00"), put("b")), then(nest(then(put("b"))), nest(then(del("a", "c"))))),
			gaps: map[string]string{"txn 0": "changes a key twice", "txn 1": "changes a key twice", "txn 2": "changes a key twice"}},
		{name: "nested", hold: send(
			then(put("o"), nest(&pb.TxnRequest{
				Compare: []*pb.Compare{{Key: []byte("o"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: 0}}},
				Success: []*pb.RequestOp{put("i"), get("o", "")}, Failure: []*pb.RequestOp{get("i", "")},
			}), get("i", "")),
			then(put("o2"), nest(&pb.TxnRequest{
				Compare: []*pb.Compare{{Key: []byte("o2"), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 0}}},
				Success: []*pb.RequestOp{put("seen-before")}, Failure: []*pb.RequestOp{put("seen-after")},
			})),
			deep(1), deep(3), deep(15), deep(16), deep(20), deep(127), deep(128), deep(200))},
		{name: "limits", hold: send(many(128), many(129), then(nest(many(127))), then(nest(many(128))), then(put("x"), nest(many(126))), then(put("x"), nest(many(127))))},
		{name: "compares", hold: func(k *talk) error {
			if err := k.puts("c=5", "d/1=a", "d/2=b"); err != nil {
				return err
			}
			for i, c := range []clientv3.Cmp{
				clientv3.Compare(clientv3.Value("c"), "=", "5"), clientv3.Compare(clientv3.Value("c"), "!=", "5"), clientv3.Compare(clientv3.Value("c"), "<", "6"),
				clientv3.Compare(clientv3.Value("c"), ">", "5"), clientv3.Compare(clientv3.Version("c"), "=", 1), clientv3.Compare(clientv3.Version("none"), "=", 0),
				clientv3.Compare(clientv3.Version("none"), "!=", 0), clientv3.Compare(clientv3.Version("none"), "<", 1), clientv3.Compare(clientv3.Value("none"), "=", ""),
				clientv3.Compare(clientv3.Value("none"), "!=", "x"), clientv3.Compare(clientv3.Value("none"), "<", "x"), clientv3.Compare(clientv3.ModRevision("none"), "=", 0),
				clientv3.Compare(clientv3.CreateRevision("none"), "<", 1), clientv3.Compare(clientv3.LeaseValue("none"), "=", 0), clientv3.Compare(clientv3.LeaseValue("c"), "=", 0),
				clientv3.Compare(clientv3.LeaseValue("c"), ">", 0), clientv3.Compare(clientv3.Value("d/"), "!=", "z").WithPrefix(), clientv3.Compare(clientv3.Value("d/"), "=", "a").WithPrefix(),
				clientv3.Compare(clientv3.Version("d/"), "=", 1).WithPrefix(), clientv3.Compare(clientv3.Version("nothing/"), "=", 0).WithPrefix(), clientv3.Compare(clientv3.Version("nothing/"), ">", 0).WithPrefix(),
				clientv3.Compare(clientv3.Value("nothing/"), "=", "x").WithPrefix(), clientv3.Compare(clientv3.CreateRevision("d/1"), "<", 1000).WithRange("d/9"), clientv3.Compare(clientv3.Version("d/9"), "=", 1).WithRange("d/1"),
			} {
				r, err := k.Txn(k.ctx).If(c).Then(clientv3.OpGet("c")).Else(clientv3.OpGet("d/1")).Commit()
				k.say(fmt.Sprintf("compare %d", i), r, err)
			}
			return nil
		}},
		{name: "odd compares", hold: send(
			&pb.TxnRequest{Compare: []*pb.Compare{{}}}, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("c")}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("c"), Target: pb.Compare_VALUE}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("c"), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_Value{Value: []byte("5")}}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{RangeEnd: []byte{0}, Target: pb.Compare_VERSION}}})},
		{name: "unknown compares", hold: send(
			then(put("there")),
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("c"), Result: 9}}}, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("c"), Target: 9}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("there"), Result: 9}}}, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("there"), Target: 9}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("there"), Target: 9, Result: pb.Compare_NOT_EQUAL}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("there"), Target: 9, Result: pb.Compare_LESS}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("there"), Target: 9, Result: 9}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("there"), Target: pb.Compare_VALUE, Result: 9}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("not-there"), Target: pb.Compare_VALUE, Result: 9}}},
			&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a"), RangeEnd: []byte("z"), Target: pb.Compare_LEASE, Result: 9}}})},
		{name: "refused inside", hold: send(
			then(put("")), then(get("", "")), then(del("", "")), then(put("kept"), nest(then(put("")))),
			then(put("kept"), &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), Revision: 99999}}}),
			then(put("kept"), &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("b"), Lease: 99}}}),
			then(put("kept"), &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("zz"), IgnoreValue: true}}}),
			then(put("kept"), &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("zz"), IgnoreLease: true}}}),
			then(put("kept"), &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), SortOrder: 9}}}),
			then(get("kept", "")))},
		{name: "past revisions", hold: func(k *talk) error {
			if err := k.puts("c=5"); err != nil {
				return err
			}
			a := k.get("c")
			if err := k.puts("c=6", "c=7"); err != nil {
				return err
			}
			rev := a.Header.Revision
			r, err := k.Txn(k.ctx).Then(clientv3.OpPut("c", "8"), clientv3.OpGet("c", clientv3.WithRev(rev)), clientv3.OpGet("c", clientv3.WithRev(rev+1)),
				clientv3.OpGet("c", clientv3.WithRev(rev+2)), clientv3.OpGet("c")).Commit()
			k.say("txn", r, err)
			// The revision that this transaction makes is not there yet for it to be named.
			r, err = k.Txn(k.ctx).Then(clientv3.OpPut("c", "9"), clientv3.OpGet("c", clientv3.WithRev(rev+4))).Commit()
			k.say("own revision", r, err)
			k.get("c")
			return nil
		}},
		{name: "reads only change nothing", hold: func(k *talk) error {
			if err := k.puts("c=5"); err != nil {
				return err
			}
			a := k.get("c")
			for range 3 {
				r, err := k.Txn(k.ctx).Then(clientv3.OpGet("c"), clientv3.OpDelete("not-there")).Commit()
				k.say("txn", r, err)
			}
			b := k.get("c")
			k.say("revisions", b.Header.Revision-a.Header.Revision, nil)
			return nil
		}},
		{name: "too large", hold: func(k *talk) error {
			v := bytes.Repeat([]byte("v"), 400<<10)
			var ops []clientv3.Op
			for i := range 4 {
				ops = append(ops, clientv3.OpPut(fmt.Sprintf("large/%d", i), string(v)))
			}
			r, err := k.Txn(k.ctx).Then(ops...).Commit()
			k.say("txn", r, err)
			r, err = k.Txn(k.ctx).Then(ops[:3]...).Commit()
			k.say("txn", r, err)
			k.get("large/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
			return nil
		}},
	})
}
