package compat

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// history is what the tests of watches read: it returns the revision before it.
func (k *talk) history() (int64, error) {
	before := k.rev()
	if err := k.puts("w/a=1", "w/b=1", "w/a=2", "v=1"); err != nil {
		return 0, err
	}
	if _, err := k.Txn(k.ctx).Then(clientv3.OpPut("w/c", "1"), clientv3.OpDelete("w/a"), clientv3.OpPut("v", "2")).Commit(); err != nil {
		return 0, err
	}
	return before, k.puts("w/a=3")
}

// rawWatch is a stream of one's own, on which each answer is seen as it is sent.
type rawWatch struct {
	*talk
	pb.Watch_WatchClient
}

func (k *talk) rawWatch() (rawWatch, error) {
	s, err := pb.NewWatchClient(k.ActiveConnection()).Watch(k.ctx)
	return rawWatch{k, s}, err
}

func (w rawWatch) create(r *pb.WatchCreateRequest) error {
	return w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

// hear notes the next n answers.
func (w rawWatch) hear(n int) error {
	for range n {
		r, err := w.Recv()
		w.say("heard", r, err)
		if err != nil {
			return err
		}
	}
	return nil
}

// hearEvents hears one event on each of the watches 0 to n-1, in whatever order they come.
func (w rawWatch) hearEvents(n int) error {
	heard := make([]*pb.WatchResponse, n)
	for range n {
		r, err := w.Recv()
		if err != nil {
			return err
		}
		if id := r.GetWatchId(); id < 0 || int(id) >= n || heard[id] != nil {
			w.say("unexpected", r, nil)
			continue
		}
		heard[r.GetWatchId()] = r
	}
	for _, r := range heard {
		w.say("heard", r, nil)
	}
	return nil
}

func TestClientWatches(t *testing.T) {
	t.Parallel()
	converse(t, []conversation{
		{name: "past", hold: func(k *talk) error {
			before, err := k.history()
			if err != nil {
				return err
			}
			for _, c := range []struct {
				name string
				key  string
				n    int
				opts []clientv3.OpOption
			}{
				{"prefix", "w/", 6, []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(before + 1)}},
				{"one", "w/a", 4, []clientv3.OpOption{clientv3.WithRev(before + 1)}},
				{"range", "w/a", 5, []clientv3.OpOption{clientv3.WithRange("w/c"), clientv3.WithRev(before + 1)}},
				{"from key", "w/b", 2, []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithRev(before + 1)}},
				{"later", "w/", 3, []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(before + 5)}},
				{"previous", "w/", 6, []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(before + 1), clientv3.WithPrevKV()}},
				{"no deletes", "w/", 5, []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(before + 1), clientv3.WithFilterDelete()}},
				{"only deletes", "w/", 1, []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(before + 1), clientv3.WithFilterPut(), clientv3.WithPrevKV()}},
				{"fragments", "w/", 6, []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(before + 1), clientv3.WithFragment()}},
			} {
				ctx, cancel := context.WithCancel(k.ctx)
				_, err := k.events(c.name, k.Watch(ctx, c.key, c.opts...), c.n)
				cancel()
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "live", hold: func(k *talk) error {
			w := k.Watch(k.ctx, "live/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithPrevKV())
			created, err := k.next(w)
			k.say("created", created, err)
			if err := k.puts("live/a=1", "other=1", "live/b=2", "live/a=3"); err != nil {
				return err
			}
			d, err := k.Delete(k.ctx, "live/", clientv3.WithPrefix())
			k.say("delete", d, err)
			_, err = k.events("live", w, 5)
			return err
		}},
		{name: "from the future", hold: func(k *talk) error {
			w := k.Watch(k.ctx, "f", clientv3.WithRev(k.rev()+3), clientv3.WithCreatedNotify())
			created, err := k.next(w)
			k.say("created", created, err)
			if err := k.puts("f=1", "f=2", "f=3", "f=4"); err != nil {
				return err
			}
			_, err = k.events("future", w, 2)
			return err
		}},
		{name: "compacted", hold: func(k *talk) error {
			before, err := k.history()
			if err != nil {
				return err
			}
			c, err := k.Compact(k.ctx, before+4)
			k.say("compact", c, err)
			r, err := k.next(k.Watch(k.ctx, "w/", clientv3.WithPrefix(), clientv3.WithRev(before+2)))
			k.say("compacted", r, err)
			w := k.Watch(k.ctx, "w/", clientv3.WithPrefix(), clientv3.WithRev(before+4), clientv3.WithPrevKV())
			_, err = k.events("at the edge", w, 3)
			return err
		}},
		{name: "progress", hold: func(k *talk) error {
			ctx, cancel := context.WithCancel(k.ctx)
			defer cancel()
			w := k.Watch(ctx, "p/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
			created, err := k.next(w)
			k.say("created", created, err)
			if err := k.puts("elsewhere=1", "elsewhere=2"); err != nil {
				return err
			}
			if err := k.RequestProgress(ctx); err != nil {
				return err
			}
			r, err := k.next(w)
			k.say("progress", r, err)
			k.say("is it", r.IsProgressNotify(), nil)
			return k.puts("p/a=1")
		}},
		{name: "raw", hold: func(k *talk) error {
			before, err := k.history()
			if err != nil {
				return err
			}
			w, err := k.rawWatch()
			if err != nil {
				return err
			}
			all := func(r *pb.WatchCreateRequest) *pb.WatchCreateRequest {
				r.Key, r.RangeEnd = []byte("w/"), []byte("w0")
				return r
			}
			steps := []struct {
				r *pb.WatchCreateRequest
				n int
			}{
				{all(&pb.WatchCreateRequest{}), 1},
				{all(&pb.WatchCreateRequest{WatchId: 7}), 1},
				{all(&pb.WatchCreateRequest{WatchId: 7}), 1},
				{all(&pb.WatchCreateRequest{WatchId: 1}), 1},
				{all(&pb.WatchCreateRequest{}), 1},
				{&pb.WatchCreateRequest{Key: []byte("z"), RangeEnd: []byte("a")}, 1},
				{&pb.WatchCreateRequest{Key: []byte("z"), RangeEnd: []byte("z")}, 1},
				{all(&pb.WatchCreateRequest{StartRevision: before + 1}), 2},
				{all(&pb.WatchCreateRequest{StartRevision: before + 6, Fragment: true}), 2},
				{all(&pb.WatchCreateRequest{StartRevision: before + 100}), 1},
				{&pb.WatchCreateRequest{}, 1},
			}
			for _, s := range steps {
				if err := w.create(s.r); err != nil {
					return err
				}
				if err := w.hear(s.n); err != nil {
					return err
				}
			}
			cancel := func(id int64) error {
				return w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
			}
			for _, id := range []int64{7, 7, 9999} { // only the first is answered
				if err := cancel(id); err != nil {
					return err
				}
			}
			return w.hear(1)
		}},
		{name: "raw progress", hold: func(k *talk) error {
			w, err := k.rawWatch()
			if err != nil {
				return err
			}
			ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
			for range 2 {
				if err := w.create(&pb.WatchCreateRequest{Key: []byte("r"), ProgressNotify: true}); err != nil {
					return err
				}
				if err := w.hear(1); err != nil {
					return err
				}
			}
			for _, pair := range []string{"r=1", "elsewhere=1"} {
				if err := k.puts(pair); err != nil {
					return err
				}
				if pair == "r=1" {
					if err := w.hearEvents(2); err != nil {
						return err
					}
				}
				if err := w.Send(ask); err != nil {
					return err
				}
				if err := w.hear(1); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "large events in fragments", hold: func(k *talk) error {
			before := k.rev()
			v := strings.Repeat("f", 700<<10)
			for i := range 5 {
				if _, err := k.Put(k.ctx, fmt.Sprintf("frag/%d", i), v); err != nil {
					return err
				}
			}
			for _, fragment := range []bool{false, true} {
				opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(before + 1)}
				if fragment {
					opts = append(opts, clientv3.WithFragment())
				}
				if _, err := k.events(fmt.Sprint(fragment), k.Watch(k.ctx, "frag/", opts...), 5); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "many on one stream", hold: func(k *talk) error {
			const watches = 50
			var all []clientv3.WatchChan
			for range watches {
				w := k.Watch(k.ctx, "m/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
				if _, err := k.next(w); err != nil {
					return err
				}
				all = append(all, w)
			}
			if err := k.puts("m/a=1", "m/b=2"); err != nil {
				return err
			}
			for i, w := range all {
				if _, err := k.events(fmt.Sprintf("watch %d", i), w, 2); err != nil {
					return err
				}
			}
			return nil
		}},
	})
}

func TestClientLeases(t *testing.T) {
	t.Parallel()
	converse(t, []conversation{
		{name: "life", hold: func(k *talk) error {
			raw := pb.NewLeaseClient(k.ActiveConnection())
			for i, r := range []*pb.LeaseGrantRequest{
				{TTL: 100, ID: 1000}, {TTL: 100, ID: 1000}, {TTL: 0, ID: 1001}, {TTL: -1, ID: 1002}, {TTL: 9_000_000_000, ID: 1003}, {TTL: 9_000_000_001, ID: 1004},
				{TTL: 100, ID: -5}, {TTL: 1, ID: 1<<63 - 1},
			} {
				a, err := raw.LeaseGrant(k.ctx, r)
				k.say(fmt.Sprintf("grant %d", i), a, err)
			}
			a, err := raw.LeaseLeases(k.ctx, &pb.LeaseLeasesRequest{})
			var ids []int64
			for _, l := range a.GetLeases() {
				if l.GetID() != 1<<63-1 { // which may have run out
					ids = append(ids, l.GetID())
				}
			}
			slices.Sort(ids)
			k.say("leases", ids, err)
			for _, id := range []clientv3.LeaseID{1000, 1003, -5, 4242, 0} {
				r, err := k.Revoke(k.ctx, id)
				k.say(fmt.Sprintf("revoke %d", id), r, err)
			}
			r, err := k.Revoke(k.ctx, 1000)
			k.say("revoke again", r, err)
			return nil
		}},
		{name: "attached keys", hold: func(k *talk) error {
			for _, id := range []int64{2000, 2001} {
				a, err := pb.NewLeaseClient(k.ActiveConnection()).LeaseGrant(k.ctx, &pb.LeaseGrantRequest{TTL: 500, ID: id})
				k.say("grant", a, err)
			}
			ttl := func(id clientv3.LeaseID) {
				r, err := k.TimeToLive(k.ctx, id, clientv3.WithAttachedKeys())
				if err != nil {
					k.say("ttl", nil, err)
					return
				}
				var keys []string
				for _, key := range r.Keys {
					keys = append(keys, string(key))
				}
				slices.Sort(keys)
				k.say("ttl", fmt.Sprint(r.ID, r.GrantedTTL, keys, r.TTL > 400, r.TTL), nil)
			}
			put := func(key string, opts ...clientv3.OpOption) {
				r, err := k.Put(k.ctx, key, "v", opts...)
				k.say("put "+key, r, err)
			}
			put("l/a", clientv3.WithLease(2000))
			put("l/b", clientv3.WithLease(2000))
			put("l/c", clientv3.WithLease(2001))
			put("l/d", clientv3.WithLease(3000))
			ttl(2000)
			put("l/b", clientv3.WithLease(2001)) // moves
			put("l/a")                           // detaches
			put("l/c", clientv3.WithIgnoreLease())
			ttl(2000)
			ttl(2001)
			d, err := k.Delete(k.ctx, "l/b")
			k.say("delete", d, err)
			ttl(2001)
			x, err := k.Txn(k.ctx).If(clientv3.Compare(clientv3.LeaseValue("l/c"), "=", 2001)).Then(clientv3.OpPut("l/e", "1", clientv3.WithLease(2001)), clientv3.OpPut("l/f", "1", clientv3.WithLease(2000))).Commit()
			k.say("txn", x, err)
			x, err = k.Txn(k.ctx).Then(clientv3.OpPut("l/g", "1"), clientv3.OpPut("l/h", "1", clientv3.WithLease(77))).Commit()
			k.say("txn", x, err)
			before := k.rev()
			r, err := k.Revoke(k.ctx, 2001)
			k.say("revoke", r, err)
			k.get("l/", clientv3.WithPrefix())
			if _, err := k.events("revoked", k.Watch(k.ctx, "l/", clientv3.WithPrefix(), clientv3.WithRev(before+1), clientv3.WithPrevKV()), 2); err != nil {
				return err
			}
			r, err = k.Revoke(k.ctx, 2000)
			k.say("revoke", r, err)
			k.get("l/", clientv3.WithPrefix())
			ttl(2000)
			ttl(4242)
			return nil
		}},
		{name: "kept alive", hold: func(k *talk) error {
			a, err := pb.NewLeaseClient(k.ActiveConnection()).LeaseGrant(k.ctx, &pb.LeaseGrantRequest{TTL: 60, ID: 5000})
			k.say("grant", a, err)
			once, err := k.KeepAliveOnce(k.ctx, 5000)
			k.say("once", once, err)
			once, err = k.KeepAliveOnce(k.ctx, 5001)
			k.say("once", once, err)
			ctx, cancel := context.WithCancel(k.ctx)
			defer cancel()
			ch, err := k.KeepAlive(ctx, 5000)
			if err != nil {
				return err
			}
			k.say("first", <-ch, nil)
			s, err := pb.NewLeaseClient(k.ActiveConnection()).LeaseKeepAlive(ctx)
			if err != nil {
				return err
			}
			for _, id := range []int64{5000, 77, 0, 5000} {
				if err := s.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
					return err
				}
				r, err := s.Recv()
				k.say("raw", r, err)
			}
			return nil
		}},
		{name: "runs out", hold: func(k *talk) error {
			l, err := k.Grant(k.ctx, 4)
			k.say("grant", l, err)
			if err != nil {
				return err
			}
			before := k.rev()
			if _, err := k.Put(k.ctx, "short", "1", clientv3.WithLease(l.ID)); err != nil {
				return err
			}
			w := k.Watch(k.ctx, "short", clientv3.WithRev(before+1), clientv3.WithPrevKV())
			if _, err := k.events("short", w, 2); err != nil {
				return err
			}
			r, err := k.TimeToLive(k.ctx, l.ID)
			if err != nil {
				return err
			}
			k.say("ttl", fmt.Sprint(r.TTL, r.GrantedTTL), nil)
			return k.puts("short=2")
		}},
		{name: "kept from running out", hold: func(k *talk) error {
			l, err := k.Grant(k.ctx, 3)
			if err != nil {
				return err
			}
			if _, err := k.Put(k.ctx, "kept", "1", clientv3.WithLease(l.ID)); err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(k.ctx)
			defer cancel()
			alive, err := k.KeepAlive(ctx, l.ID)
			if err != nil {
				return err
			}
			for end := time.After(5 * time.Second); ; {
				select {
				case r := <-alive:
					if r == nil {
						return fmt.Errorf("the lease was lost")
					}
					continue
				case <-end:
				}
				break
			}
			k.get("kept")
			return nil
		}},
		{name: "events have the lease", hold: func(k *talk) error {
			if _, err := pb.NewLeaseClient(k.ActiveConnection()).LeaseGrant(k.ctx, &pb.LeaseGrantRequest{TTL: 60, ID: 6000}); err != nil {
				return err
			}
			before := k.rev()
			p, err := k.Put(k.ctx, "e", "1", clientv3.WithLease(6000))
			k.say("put", p, err)
			r, err := k.next(k.Watch(k.ctx, "e", clientv3.WithRev(before+1)))
			k.say("event", r, err)
			if err == nil && len(r.Events) == 1 {
				k.say("type", r.Events[0].Type == mvccpb.Event_PUT, nil)
			}
			return nil
		}},
	})
}
