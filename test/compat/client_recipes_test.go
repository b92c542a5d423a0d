package compat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
)

// sessions opens n sessions, each on a client of its own.
func (k *talk) sessions(n int) (list []*concurrency.Session, end func(), err error) {
	var clients []*clientv3.Client
	end = func() {
		for _, s := range list {
			_ = s.Close() // some are closed by the test
		}
		for _, c := range clients {
			_ = c.Close()
		}
	}
	for range n {
		c, err := k.another()
		if err != nil {
			return nil, end, err
		}
		clients = append(clients, c)
		s, err := concurrency.NewSession(c, concurrency.WithTTL(30), concurrency.WithContext(k.ctx))
		if err != nil {
			return nil, end, err
		}
		list = append(list, s)
	}
	return list, end, nil
}

func TestClientRecipes(t *testing.T) {
	t.Parallel()
	converse(t, []conversation{
		{name: "mutex", hold: func(k *talk) error {
			s, end, err := k.sessions(2)
			defer end()
			if err != nil {
				return err
			}
			a, b := concurrency.NewMutex(s[0], "lock"), concurrency.NewMutex(s[1], "lock")
			k.say("lock", nil, a.Lock(k.ctx))
			k.say("try", nil, b.TryLock(k.ctx))
			r, err := k.Txn(k.ctx).If(a.IsOwner()).Then(clientv3.OpPut("owned", "1")).Commit()
			k.say("owner writes", r, err)
			got := make(chan error, 1)
			go func() { got <- b.Lock(k.ctx) }()
			k.say("unlock", nil, a.Unlock(k.ctx))
			k.say("second", nil, <-got)
			k.say("try again", nil, a.TryLock(k.ctx))
			// The session's end frees it.
			go func() { got <- a.Lock(k.ctx) }()
			k.say("close", nil, s[1].Close())
			k.say("first again", nil, <-got)
			k.say("unlock", nil, a.Unlock(k.ctx))
			k.say("left", k.get("lock", clientv3.WithPrefix()).Count, nil)
			return nil
		}},
		{name: "mutex counts", hold: func(k *talk) error {
			const workers, rounds = 4, 5
			s, end, err := k.sessions(workers)
			defer end()
			if err != nil {
				return err
			}
			var wg sync.WaitGroup
			failed := make([]error, workers)
			for i, session := range s {
				wg.Go(func() { failed[i] = count(k.ctx, session, rounds) })
			}
			wg.Wait()
			if err := errors.Join(failed...); err != nil {
				return err
			}
			k.say("sum", string(k.value("counter")), nil)
			return nil
		}},
		{name: "election", hold: func(k *talk) error {
			s, end, err := k.sessions(2)
			defer end()
			if err != nil {
				return err
			}
			a, b := concurrency.NewElection(s[0], "chief"), concurrency.NewElection(s[1], "chief")
			_, err = a.Leader(k.ctx)
			k.say("nobody", nil, err)
			ctx, cancel := context.WithCancel(k.ctx)
			defer cancel()
			seen := concurrency.NewElection(s[1], "chief").Observe(ctx)
			k.say("campaign", nil, a.Campaign(k.ctx, "one"))
			k.say("seen", string((<-seen).Kvs[0].Value), nil)
			k.say("proclaim", nil, a.Proclaim(k.ctx, "uno"))
			k.say("seen", string((<-seen).Kvs[0].Value), nil)
			got := make(chan error, 1)
			go func() { got <- b.Campaign(k.ctx, "two") }()
			k.say("resign", nil, a.Resign(k.ctx))
			k.say("second", nil, <-got)
			k.say("seen", string((<-seen).Kvs[0].Value), nil)
			k.say("not leader", nil, a.Proclaim(k.ctx, "x"))
			l, err := b.Leader(k.ctx)
			if err != nil {
				return err
			}
			k.say("leader", string(l.Kvs[0].Value), nil)
			r := concurrency.ResumeElection(s[1], "chief", b.Key(), b.Rev())
			k.say("resumed", nil, r.Proclaim(k.ctx, "due"))
			k.say("resign", nil, r.Resign(k.ctx))
			_, err = a.Leader(k.ctx)
			k.say("nobody", nil, err)
			return nil
		}},
		{name: "transactional memory", hold: func(k *talk) error {
			if err := k.puts("from=100", "to=0"); err != nil {
				return err
			}
			move := func(s concurrency.STM) error {
				from, err := strconv.Atoi(s.Get("from"))
				if err != nil {
					return err
				}
				to, err := strconv.Atoi(s.Get("to"))
				if err != nil {
					return err
				}
				s.Put("from", strconv.Itoa(from-1))
				s.Put("to", strconv.Itoa(to+1))
				return nil
			}
			for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
				var wg sync.WaitGroup
				failed := make([]error, 4)
				for i := range failed {
					wg.Go(func() {
						_, failed[i] = concurrency.NewSTM(k.Client, move, concurrency.WithIsolation(level), concurrency.WithPrefetch("from"))
					})
				}
				wg.Wait()
				if err := errors.Join(failed...); err != nil {
					return err
				}
				k.say("moved", fmt.Sprintf("%s %s", k.value("from"), k.value("to")), nil)
			}
			_, err := concurrency.NewSTM(k.Client, func(s concurrency.STM) error { s.Del("from"); return errors.New("changed my mind") })
			k.say("given up", nil, err)
			_, err = concurrency.NewSTM(k.Client, func(s concurrency.STM) error {
				if s.Rev("to") > 0 && s.Get("none") == "" {
					s.Del("to")
				}
				return nil
			}, concurrency.WithIsolation(concurrency.ReadCommitted))
			k.say("deleted", nil, err)
			k.get("to")
			return nil
		}},
		{name: "namespace", hold: func(k *talk) error {
			kv, w, l := namespace.NewKV(k.KV, "ns/"), namespace.NewWatcher(k.Watcher, "ns/"), namespace.NewLease(k.Lease, "ns/")
			before := k.rev()
			p, err := kv.Put(k.ctx, "a", "1")
			k.say("put", p, err)
			lease, err := l.Grant(k.ctx, 60)
			if err != nil {
				return err
			}
			p, err = kv.Put(k.ctx, "b", "2", clientv3.WithLease(lease.ID), clientv3.WithPrevKV())
			k.say("put", p, err)
			g, err := kv.Get(k.ctx, "", clientv3.WithFromKey())
			k.say("all", g, err)
			x, err := kv.Txn(k.ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).Then(clientv3.OpPut("c", "3"), clientv3.OpGet("", clientv3.WithPrefix())).Commit()
			k.say("txn", x, err)
			ttl, err := l.TimeToLive(k.ctx, lease.ID, clientv3.WithAttachedKeys())
			if err != nil {
				return err
			}
			k.say("attached", fmt.Sprintf("%q", ttl.Keys), nil)
			if _, err := k.events("watch", w.Watch(k.ctx, "", clientv3.WithPrefix(), clientv3.WithRev(before+1)), 3); err != nil {
				return err
			}
			d, err := kv.Delete(k.ctx, "", clientv3.WithPrefix(), clientv3.WithPrevKV())
			k.say("delete", d, err)
			k.get("", clientv3.WithPrefix())
			return nil
		}},
		{name: "leasing", hold: func(k *talk) error {
			a, closeA, err := leasing.NewKV(k.Client, "lease/")
			if err != nil {
				return err
			}
			defer closeA()
			c, err := k.another()
			if err != nil {
				return err
			}
			defer c.Close()
			b, closeB, err := leasing.NewKV(c, "lease/")
			if err != nil {
				return err
			}
			defer closeB()
			for _, step := range []struct {
				name string
				do   func() (*clientv3.GetResponse, error)
			}{
				{"a owns", func() (*clientv3.GetResponse, error) { return a.Get(k.ctx, "x") }},
				{"from its cache", func() (*clientv3.GetResponse, error) { return a.Get(k.ctx, "x") }},
				{"b asks", func() (*clientv3.GetResponse, error) { return b.Get(k.ctx, "x") }},
				{"b takes it away", func() (*clientv3.GetResponse, error) {
					if _, err := b.Put(k.ctx, "x", "2"); err != nil {
						return nil, err
					}
					return a.Get(k.ctx, "x")
				}},
				{"in a transaction", func() (*clientv3.GetResponse, error) {
					if _, err := a.Txn(k.ctx).If(clientv3.Compare(clientv3.Value("x"), "=", "2")).Then(clientv3.OpPut("x", "3")).Commit(); err != nil {
						return nil, err
					}
					return b.Get(k.ctx, "x")
				}},
			} {
				r, err := step.do()
				if err != nil {
					return fmt.Errorf("%s: %w", step.name, err)
				}
				var values []string
				for _, kv := range r.Kvs {
					values = append(values, fmt.Sprintf("%s=%s version %d", kv.Key, kv.Value, kv.Version))
				}
				k.say(step.name, values, nil)
			}
			d, err := b.Delete(k.ctx, "x")
			if err != nil {
				return err
			}
			k.say("deleted", d.Deleted, nil)
			return nil
		}},
		{name: "mirror", hold: func(k *talk) error {
			for i := range 30 {
				if err := k.puts(fmt.Sprintf("mirror/%02d=%d", i, i)); err != nil {
					return err
				}
			}
			s := mirror.NewSyncer(k.Client, "mirror/", 0)
			ch, failed := s.SyncBase(k.ctx)
			n := 0
			for r := range ch {
				n += len(r.Kvs)
			}
			k.say("base", n, nil)
			for err := range failed {
				k.say("failed", nil, err)
			}
			w := s.SyncUpdates(k.ctx)
			if err := k.puts("mirror/00=new"); err != nil {
				return err
			}
			d, err := k.Delete(k.ctx, "mirror/01")
			k.say("delete", d, err)
			_, err = k.events("update", w, 2)
			return err
		}},
		{name: "ordering", hold: func(k *talk) error {
			kv := ordering.NewKV(k.KV, func(clientv3.Op, clientv3.OpResponse, int64) error { return errors.New("went back") })
			for i := range 5 {
				p, err := kv.Put(k.ctx, "o", strconv.Itoa(i))
				k.say("put", p, err)
				g, err := kv.Get(k.ctx, "o", clientv3.WithSerializable())
				k.say("get", g, err)
				x, err := kv.Txn(k.ctx).If(clientv3util.KeyExists("o"), clientv3util.KeyMissing("none")).Then(clientv3.OpGet("o")).Commit()
				k.say("txn", x, err)
			}
			return nil
		}},
		{name: "naming", hold: func(k *talk) error {
			m, err := endpoints.NewManager(k.Client, "service")
			if err != nil {
				return err
			}
			ch, err := m.NewWatchChannel(k.ctx)
			if err != nil {
				return err
			}
			for _, addr := range []string{"10.0.0.1:1", "10.0.0.2:2"} {
				if err := m.AddEndpoint(k.ctx, "service/"+addr, endpoints.Endpoint{Addr: addr, Metadata: "m"}); err != nil {
					return err
				}
				for _, u := range <-ch {
					k.say("update", fmt.Sprintf("%v %s %s", u.Op, u.Key, u.Endpoint.Addr), nil)
				}
			}
			all, err := m.List(k.ctx)
			if err != nil {
				return err
			}
			k.say("list", slices.Sorted(maps.Keys(all)), nil)
			if err := m.DeleteEndpoint(k.ctx, "service/10.0.0.1:1"); err != nil {
				return err
			}
			for _, u := range <-ch {
				k.say("update", fmt.Sprintf("%v %s", u.Op, u.Key), nil)
			}
			return nil
		}},
	})
}

// value is the value of a key.
func (k *talk) value(key string) []byte {
	r, err := k.Get(k.ctx, key)
	if err != nil || len(r.Kvs) == 0 {
		return fmt.Append(nil, "none: ", err)
	}
	return r.Kvs[0].Value
}

// count adds to a counter under a lock, without any other care.
func count(ctx context.Context, s *concurrency.Session, rounds int) error {
	m := concurrency.NewMutex(s, "counting")
	for range rounds {
		if err := m.Lock(ctx); err != nil {
			return err
		}
		r, err := s.Client().Get(ctx, "counter")
		if err != nil {
			return err
		}
		n := 0
		if len(r.Kvs) > 0 {
			if n, err = strconv.Atoi(string(r.Kvs[0].Value)); err != nil {
				return err
			}
		}
		if _, err := s.Client().Put(ctx, "counter", strconv.Itoa(n+1)); err != nil {
			return err
		}
		if err := m.Unlock(ctx); err != nil {
			return err
		}
	}
	return nil
}
