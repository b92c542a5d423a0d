package compat

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestClientCorners has the corners in which stores that speak etcd's API usually differ from it, a row each.
func TestClientCorners(t *testing.T) {
	t.Parallel()
	put := func(key, value string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
	}
	txn := func(k *talk, ops ...*pb.RequestOp) {
		r, err := pb.NewKVClient(k.ActiveConnection()).Txn(k.ctx, &pb.TxnRequest{Success: ops})
		k.say("txn", r, err)
	}
	// last is five versions of a key, of which the first three are given up, and the revision before them.
	last := func(k *talk) (before int64, err error) {
		before = k.rev()
		if err := k.puts("c=1", "c=2", "c=3", "c=4", "c=5"); err != nil {
			return 0, err
		}
		r, err := k.Compact(k.ctx, before+4)
		k.say("compact", r, err)
		return before, err
	}
	converse(t, []conversation{
		{name: "an empty value", hold: func(k *talk) error {
			if err := k.puts("e=", "e=x", "e="); err != nil {
				return err
			}
			k.get("e")
			k.get("e", clientv3.WithKeysOnly())
			r, err := k.Txn(k.ctx).If(clientv3.Compare(clientv3.Value("e"), "=", "")).Then(clientv3.OpGet("e")).Commit()
			k.say("compared", r, err)
			d, err := k.Delete(k.ctx, "e", clientv3.WithPrevKV())
			k.say("delete", d, err)
			return nil
		}},
		{name: `the key \x00`, hold: func(k *talk) error {
			if err := k.puts("\x00=1", "\x00\x00=2", "a=3"); err != nil {
				return err
			}
			k.get("\x00")
			k.get("\x00", clientv3.WithRange("\x00\x00"))
			d, err := k.Delete(k.ctx, "\x00", clientv3.WithPrevKV())
			k.say("delete", d, err)
			k.get("\x00", clientv3.WithFromKey())
			return nil
		}},
		{name: `a range that ends with \x00`, hold: func(k *talk) error {
			if err := k.puts("a=1", "b=2", "\xff\xff=3"); err != nil {
				return err
			}
			for _, key := range []string{"\x00", "a", "b", "b\x00", "\xff\xff", "\xff\xff\xff"} {
				k.get(key, clientv3.WithRange("\x00"))
			}
			w := k.Watch(k.ctx, "b", clientv3.WithRange("\x00"), clientv3.WithRev(k.rev()-1))
			if _, err := k.events("watch", w, 2); err != nil {
				return err
			}
			d, err := k.Delete(k.ctx, "b", clientv3.WithRange("\x00"), clientv3.WithPrevKV())
			k.say("delete", d, err)
			k.get("\x00", clientv3.WithRange("\x00"))
			return nil
		}},
		{name: "a limit, and the count", hold: func(k *talk) error {
			if err := k.pages(); err != nil {
				return err
			}
			for _, limit := range []int64{1, 22, 23, 24} {
				k.get("page/", clientv3.WithPrefix(), clientv3.WithLimit(limit), clientv3.WithKeysOnly())
				k.get("page/", clientv3.WithPrefix(), clientv3.WithLimit(limit), clientv3.WithCountOnly())
				k.get("page/", clientv3.WithPrefix(), clientv3.WithLimit(limit), clientv3.WithMinModRev(k.rev()-1))
			}
			return nil
		}},
		{name: "sorted by value", hold: func(k *talk) error {
			if err := k.puts("s/1=b", "s/2=", "s/3=a\x00", "s/4=a", "s/5=\xff", "s/6=B"); err != nil {
				return err
			}
			for _, order := range []clientv3.SortOrder{clientv3.SortNone, clientv3.SortAscend, clientv3.SortDescend} {
				for _, limit := range []int64{0, 2} {
					k.get("s/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByValue, order), clientv3.WithLimit(limit))
				}
			}
			return nil
		}},
		{name: "revisions that are compacted or in the future", hold: func(k *talk) error {
			before, err := last(k)
			if err != nil {
				return err
			}
			for rev := before - 1; rev < before+8; rev++ {
				k.get("c", clientv3.WithRev(rev))
				k.get("c", clientv3.WithRev(rev), clientv3.WithSerializable())
			}
			for _, rev := range []int64{before + 3, before + 4, before + 6} {
				r, err := k.Compact(k.ctx, rev)
				k.say("compact", r, err)
			}
			return nil
		}},
		{name: "a lease that is not there", hold: func(k *talk) error {
			p, err := k.Put(k.ctx, "l", "1", clientv3.WithLease(77))
			k.say("put", p, err)
			txn(k, put("m", "1"), &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("n"), Lease: 77}}})
			r, err := k.Revoke(k.ctx, 77)
			k.say("revoke", r, err)
			a, err := k.KeepAliveOnce(k.ctx, 77)
			k.say("keep alive", a, err)
			l, err := k.TimeToLive(k.ctx, 77, clientv3.WithAttachedKeys())
			k.say("time to live", l, err)
			k.get("l", clientv3.WithFromKey())
			return nil
		}},
		{name: "a key twice in a transaction", hold: func(k *talk) error {
			txn(k, put("a", "1"), put("b", "1"), put("a", "2"))
			txn(k, put("a", "1"), put("b", "1"))
			k.get("a", clientv3.WithFromKey())
			return nil
		}},
		{name: "too many operations", hold: func(k *talk) error {
			for _, n := range []int{128, 129} {
				var ops []*pb.RequestOp
				for i := range n {
					ops = append(ops, put(fmt.Sprintf("%d/%03d", n, i), ""))
				}
				txn(k, ops...)
			}
			k.get("1", clientv3.WithPrefix(), clientv3.WithCountOnly())
			return nil
		}},
		{name: "a request that is too large", hold: func(k *talk) error {
			for _, n := range []int{1536<<10 - 100, 1536 << 10, 2<<20 + 1} {
				r, err := k.Put(k.ctx, "large", strings.Repeat("v", n))
				k.say(fmt.Sprintf("put %d", n), r, err)
			}
			k.get("large", clientv3.WithKeysOnly())
			return nil
		}},
		{name: "a watch from what is compacted", hold: func(k *talk) error {
			before, err := last(k)
			if err != nil {
				return err
			}
			r, err := k.next(k.Watch(k.ctx, "c", clientv3.WithRev(before+3)))
			k.say("client", r, err)
			w, err := k.rawWatch()
			if err != nil {
				return err
			}
			for _, from := range []int64{before + 1, before + 3, before + 4} { // the first two are begun, and ended
				if err := w.create(&pb.WatchCreateRequest{Key: []byte("c"), StartRevision: from, WatchId: from - before}); err != nil {
					return err
				}
				if err := w.hear(2); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "progress of an idle watch", hold: func(k *talk) error {
			w, err := k.rawWatch()
			if err != nil {
				return err
			}
			ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
			if err := w.Send(ask); err != nil { // nobody is told: no watch is there
				return err
			}
			for _, r := range []*pb.WatchCreateRequest{{Key: []byte("idle")}, {Key: []byte("idle/"), RangeEnd: []byte("idle0"), WatchId: 9}} {
				if err := w.create(r); err != nil {
					return err
				}
				if err := w.hear(1); err != nil {
					return err
				}
			}
			if err := k.puts("elsewhere=1"); err != nil {
				return err
			}
			// The first one is asked for again and again: etcd answers none while a watch has not caught up.
			for end := time.Now().Add(talkLimit / 2); ; {
				if err := w.Send(ask); err != nil {
					return err
				}
				heard := make(chan error, 1)
				go func() { heard <- w.hear(1) }() // it ends with the stream at the latest
				select {
				case err := <-heard:
					return err
				case <-time.After(time.Second):
				}
				if time.Now().After(end) {
					return fmt.Errorf("no answer to %v of asking", talkLimit/2)
				}
			}
		}},
	})
}
