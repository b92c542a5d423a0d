package compat

import (
	"errors"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestClientLeaderMoves has the leadership handed from member to member, while keys are written.
func TestClientLeaderMoves(t *testing.T) {
	t.Parallel()
	newThree(t).converse(t, []conversation{
		{name: "round and round", hold: func(k *talk) error {
			all, err := k.each()
			if err != nil {
				return err
			}
			ids := make([]uint64, len(all))
			for i, m := range all {
				s, err := m.Status(k.ctx, k.side.members[i].addr)
				if err != nil {
					return err
				}
				ids[i] = s.Header.MemberId
			}
			for turn := range 4 {
				lead, err := k.leads(all)
				if err != nil {
					return err
				}
				next := (lead + 1) % len(all)
				_, err = all[next].MoveLeader(k.ctx, ids[next])
				k.say("asked of a follower", nil, err)
				_, err = all[lead].MoveLeader(k.ctx, 1234567)
				k.say("to nobody", nil, err)
				r, err := all[lead].MoveLeader(k.ctx, ids[next])
				k.say("moved", r, err)
				if err := k.await(all, next); err != nil {
					return err
				}
				p, err := all[turn%len(all)].Put(k.ctx, "moved", fmt.Sprint(turn), clientv3.WithPrevKV())
				k.say("put", p, err)
			}
			return nil
		}},
		{name: "equal hashes", hold: func(k *talk) error {
			all, err := k.each()
			if err != nil {
				return err
			}
			if err := k.puts("h=1", "h=2", "i=1"); err != nil {
				return err
			}
			rev, sums := k.rev(), map[uint32]bool{}
			for i, m := range all {
				if _, err := m.Get(k.ctx, "h"); err != nil { // it has the revision then
					return err
				}
				h, err := m.HashKV(k.ctx, k.side.members[i].addr, rev)
				if err != nil {
					return err
				}
				k.say("hashed", h.HashRevision-rev, nil)
				sums[h.Hash] = true
			}
			k.say("different hashes", len(sums), nil)
			return nil
		}},
	})
}

var errNoLead = errors.New("no member says that it leads")

// leads is the place of the member that leads, by its own account.
func (k *talk) leads(all []*talk) (int, error) {
	for i, m := range all {
		s, err := m.Status(k.ctx, k.side.members[i].addr)
		if err == nil && s.Leader == s.Header.MemberId {
			return i, nil
		}
	}
	return 0, errNoLead
}

// await waits until a member leads, and all say so.
func (k *talk) await(all []*talk, lead int) error {
	var last error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var named, self uint64
		last = nil
		for i, m := range all {
			s, err := m.Status(k.ctx, k.side.members[i].addr)
			switch {
			case err != nil:
				last = err
			case i > 0 && s.Leader != named:
				last = errNoLead
			}
			if err == nil {
				named = s.Leader
				if i == lead {
					self = s.Header.MemberId
				}
			}
		}
		if last == nil && named == self {
			return nil
		}
	}
	return errors.Join(errors.New("the leadership did not arrive"), last)
}
