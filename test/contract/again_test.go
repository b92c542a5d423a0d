package contract

import (
	"fmt"
	"testing"

	"holdfast/api"
	"holdfast/kv"
	"holdfast/queue"
)

// A request with a retry key is one write: one receipt while it waits in the queue of a node, one answer of the cluster's
// afterwards, whichever node is asked.
func TestARetryKeyIsOneWriteInTheQueueAndOut(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (*queue.Queue, api.Backend){
		"a member": func(t *testing.T) (*queue.Queue, api.Backend) {
			m := openMember(t)
			return openQueue(t, m, [16]byte{7}), m
		},
		"a proxy": func(t *testing.T) (*queue.Queue, api.Backend) {
			m := openMember(t)
			up, origin := upstreamOf(t, m)
			p := openProxy(t, up, "")
			synced(t, p)
			return openQueue(t, p, origin), m
		},
	} {
		t.Run(name, func(t *testing.T) {
			q, member := open(t)
			put := func(b api.Backend, w kv.Write, value string) (kv.Result, error) {
				return b.Do(t.Context(), kv.Command{ID: kv.ID{Key: [16]byte{1: 9}}, Write: w, Ops: []kv.Op{kv.Put{Key: []byte("k"), Value: []byte(value)}}})
			}
			if err := q.Pause(); err != nil {
				t.Fatal(err)
			}
			ids := map[string]int{}
			for _, w := range []kv.Write{kv.WriteQueue, kv.WriteAuto, kv.WriteQueue} {
				res, err := put(q, w, "v")
				if err != nil || res.Queued == nil {
					t.Fatalf("got %+v, %v, want a receipt", res, err)
				}
				ids[res.Queued.ID]++
			}
			if len(ids) != 1 {
				t.Errorf("receipts %v, want one three times", ids)
			}
			if _, err := put(q, kv.WriteAuto, "w"); kv.CodeOf(err) != kv.Reused {
				t.Errorf("another value: %v, want reused", err)
			}
			if err := q.Resume(); err != nil {
				t.Fatal(err)
			}
			for id := range ids {
				if i, found, err := q.Wait(t.Context(), id); err != nil || !found || i.State != queue.Committed {
					t.Fatalf("%s: %+v, %v, %v, want it committed", id, i, found, err)
				}
			}
			answers := map[string]int{}
			for _, b := range []api.Backend{member, q, member} {
				res, err := put(b, kv.WriteAuto, "v")
				if err != nil || len(res.Ops) != 1 {
					t.Fatalf("got %+v, %v, want the answer of the first", res, err)
				}
				answers[fmt.Sprint(res.Revision, res.Ops[0].Created)]++
				if _, err := put(b, kv.WriteAuto, "w"); kv.CodeOf(err) != kv.Reused {
					t.Errorf("another value: %v, want reused", err)
				}
			}
			if len(answers) != 1 {
				t.Errorf("answers %v, want one three times", answers)
			}
			page, err := member.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("k")}}})
			if err != nil || len(page.Ops[0].KVs) != 1 || page.Ops[0].KVs[0].Version != 1 || string(page.Ops[0].KVs[0].Value) != "v" {
				t.Errorf("the key is %+v, %v, want v in its first version", page.Ops, err)
			}
		})
	}
}
