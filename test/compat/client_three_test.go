package compat

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// each is the conversation continued with each member. They end with it.
func (k *talk) each() ([]*talk, error) {
	var all []*talk
	for _, s := range k.side.members {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.addr}, DialTimeout: 5 * time.Second, Logger: k.GetLogger(), Context: k.ctx})
		if err != nil {
			return nil, err
		}
		all = append(all, &talk{Client: c, side: k.side, ctx: k.ctx})
	}
	return all, nil
}

// TestClientThreeMembers holds conversations that move from member to member.
func TestClientThreeMembers(t *testing.T) {
	t.Parallel()
	newThree(t).converse(t, []conversation{
		{name: "written on one, read on all", hold: func(k *talk) error {
			all, err := k.each()
			if err != nil {
				return err
			}
			for i, m := range all {
				p, err := m.Put(k.ctx, "moves", fmt.Sprint(i), clientv3.WithPrevKV())
				k.say("put", p, err)
				for _, other := range all {
					g, err := other.Get(k.ctx, "moves")
					k.say("get", g, err)
				}
			}
			return nil
		}},
		{name: "watched on all", hold: func(k *talk) error {
			all, err := k.each()
			if err != nil {
				return err
			}
			before := k.rev()
			for i, m := range all {
				if _, err := m.Txn(k.ctx).Then(clientv3.OpPut(fmt.Sprintf("w/%d", i), "1"), clientv3.OpPut("w/same", fmt.Sprint(i))).Commit(); err != nil {
					return err
				}
			}
			if _, err := all[1].Delete(k.ctx, "w/", clientv3.WithPrefix()); err != nil {
				return err
			}
			for i, m := range all {
				w := m.Watch(k.ctx, "w/", clientv3.WithPrefix(), clientv3.WithRev(before+1), clientv3.WithPrevKV())
				if _, err := k.events(fmt.Sprint(i), w, 10); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "leased", hold: func(k *talk) error {
			all, err := k.each()
			if err != nil {
				return err
			}
			l, err := all[0].Grant(k.ctx, 60)
			if err != nil {
				return err
			}
			p, err := all[1].Put(k.ctx, "leased", "1", clientv3.WithLease(l.ID))
			k.say("put", p, err)
			for _, m := range all {
				a, err := m.KeepAliveOnce(k.ctx, l.ID) // its header has the revision that this member is at
				if err != nil {
					return err
				}
				k.say("alive", a.TTL, nil)
				ttl, err := m.TimeToLive(k.ctx, l.ID, clientv3.WithAttachedKeys())
				if err != nil {
					return err
				}
				k.say("ttl", fmt.Sprintf("%d %q %v", ttl.GrantedTTL, ttl.Keys, ttl.TTL > 50), nil)
			}
			r, err := all[2].Revoke(k.ctx, l.ID)
			k.say("revoke", r, err)
			for _, m := range all {
				g, err := m.Get(k.ctx, "leased")
				k.say("get", g, err)
			}
			return nil
		}},
		{name: "compacted", hold: func(k *talk) error {
			all, err := k.each()
			if err != nil {
				return err
			}
			before := k.rev()
			if err := k.puts("c=1", "c=2", "c=3"); err != nil {
				return err
			}
			c, err := all[1].Compact(k.ctx, before+2)
			k.say("compact", c, err)
			for _, m := range all {
				g, err := m.Get(k.ctx, "c") // it has the compaction then
				k.say("get", g, err)
				for rev := before; rev <= before+4; rev++ {
					g, err := m.Get(k.ctx, "c", clientv3.WithRev(rev))
					k.say("past", g, err)
				}
			}
			return nil
		}},
		{name: "counted under a lock", hold: func(k *talk) error {
			all, err := k.each()
			if err != nil {
				return err
			}
			failed := make([]error, len(all))
			var wg sync.WaitGroup
			for i, m := range all {
				wg.Go(func() {
					s, err := concurrency.NewSession(m.Client, concurrency.WithTTL(30), concurrency.WithContext(k.ctx))
					if err != nil {
						failed[i] = err
						return
					}
					failed[i] = errors.Join(count(k.ctx, s, 5), s.Close())
				})
			}
			wg.Wait()
			if err := errors.Join(failed...); err != nil {
				return err
			}
			k.say("sum", string(k.value("counter")), nil)
			return nil
		}},
		{name: "one after the other", hold: func(k *talk) error {
			var endpoints []string
			for _, m := range k.side.members {
				endpoints = append(endpoints, m.addr)
			}
			c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: k.GetLogger(), Context: k.ctx})
			if err != nil {
				return err
			}
			defer c.Close()
			for i := range 10 {
				p, err := c.Put(k.ctx, "any", fmt.Sprint(i), clientv3.WithPrevKV())
				k.say("put", p, err)
				g, err := c.Get(k.ctx, "any")
				k.say("get", g, err)
			}
			return nil
		}},
	})
}
