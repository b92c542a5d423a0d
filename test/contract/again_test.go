package contract

import (
	"context"
	"fmt"
	"testing"
	"time"

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

// deaf is a node on whose way back the answer to queued writes is lost each time: they are carried out and sent again, as a member
// does that has lost its leader, and the second answer arrives.
type deaf struct{ queue.Next }

func (d deaf) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	res, err := d.Next.Do(ctx, c)
	if _, batch := c.Ops[0].(kv.Each); batch && err == nil {
		return d.Next.Do(ctx, c)
	}
	return res, err
}

// A queued write whose answer was lost on the way is answered as if it had not been: to who waits for it, and to who sends the
// same request again once it is drained, to this node or to another one. What has deleted a key does not become a 404 by that.
func TestAQueuedWriteWhoseAnswerWasLostIsAnsweredAsItEnded(t *testing.T) {
	type answer struct {
		code    kv.Code
		created bool
		deleted int64
	}
	said := func(res kv.Result, err error) (a answer) {
		if a.code = kv.CodeOf(err); err == nil && len(res.Ops) == 1 {
			a.created, a.deleted = res.Ops[0].Created, res.Ops[0].Count
		}
		return a
	}
	const (
		unguarded = -2
		unchanged = -1 // since it was seen
		absent    = 0
		changed   = 1 // the key is not at that any more
	)
	for name, open := range map[string]func(t *testing.T) (next queue.Next, origin [16]byte, member api.Backend){
		"a member": func(t *testing.T) (queue.Next, [16]byte, api.Backend) {
			m := openMember(t)
			return m, [16]byte{7}, m
		},
		"a proxy": func(t *testing.T) (queue.Next, [16]byte, api.Backend) {
			m := openMember(t)
			up, origin := upstreamOf(t, m)
			p := openProxy(t, up, "")
			synced(t, p)
			return p, origin, m
		},
	} {
		t.Run(name, func(t *testing.T) {
			next, origin, member := open(t)
			q := openQueue(t, deaf{next}, origin)
			must := func(op kv.Op) int64 {
				t.Helper()
				res, err := member.Do(t.Context(), kv.Command{Ops: []kv.Op{op}})
				if err != nil {
					t.Fatal(err)
				}
				return res.Revision
			}
			put := func(key string) kv.Op { return kv.Put{Key: []byte(key), Value: []byte("v")} }
			del := func(key string) kv.Op { return kv.Delete{Key: []byte(key)} }
			for i, c := range []struct {
				what  string
				there bool
				op    func(key string) kv.Op
				guard int64
				want  answer
			}{
				{"a new key", false, put, unguarded, answer{created: true}},
				{"a key that is there", true, put, unguarded, answer{}},
				{"a key that has to be new", false, put, absent, answer{created: true}},
				{"a key that has to be new and is not", true, put, absent, answer{code: kv.PreconditionFailed}},
				{"a key as it was seen", true, put, unchanged, answer{}},
				{"a key that has changed", true, put, changed, answer{code: kv.PreconditionFailed}},
				{"a deletion", true, del, unguarded, answer{deleted: 1}},
				{"a deletion of nothing", false, del, unguarded, answer{}},
				{"a deletion of a key as it was seen", true, del, unchanged, answer{deleted: 1}},
				{"a deletion of a key that has changed", true, del, changed, answer{code: kv.PreconditionFailed}},
			} {
				for j, way := range []string{"waited for", "waited for, with a retry key", "left to the queue"} {
					key, said := fmt.Sprintf("%d/%d", i, j), func(b api.Backend, cmd kv.Command) answer { return said(b.Do(t.Context(), cmd)) }
					cmd := kv.Command{Write: kv.WriteAuto, Wait: time.Minute, Ops: []kv.Op{c.op(key)}}
					rev := c.guard
					seen := must(put(key))
					if !c.there { // and the newest revision is that of a deletion by somebody else
						must(del(key))
					}
					if rev == unchanged {
						rev = seen
					}
					if c.guard != unguarded {
						cmd.Guards = []kv.Guard{{Compare: kv.Compare{Key: []byte(key), Target: kv.TargetMod, Relation: kv.Equal, Num: rev}}}
					}
					if j > 0 {
						cmd.ID.Key = [16]byte{byte(i), byte(j)}
					}
					if j < 2 {
						if got := said(q, cmd); got != c.want {
							t.Errorf("%s, %s: %+v, want %+v", c.what, way, got, c.want)
						}
					} else {
						cmd.Write = kv.WriteQueue
						if err := q.Pause(); err != nil {
							t.Fatal(err)
						}
						res, err := q.Do(t.Context(), cmd)
						if err != nil || res.Queued == nil {
							t.Fatalf("%s, %s: %+v, %v, want a receipt", c.what, way, res, err)
						}
						if err := q.Resume(); err != nil {
							t.Fatal(err)
						}
						want := queue.Committed
						if c.want.code != kv.OK {
							want = queue.Conflict
						}
						if i, found, err := q.Wait(t.Context(), res.Queued.ID); err != nil || !found || i.State != want {
							t.Errorf("%s, %s: it ended as %+v, %v, %v, want %v", c.what, way, i, found, err, want)
						}
						cmd.Write = kv.WriteAuto
					}
					for _, b := range []api.Backend{q, member, q} {
						if j == 0 {
							break // without a retry key it would be another write
						}
						if got := said(b, cmd); got != c.want {
							t.Errorf("%s, %s, and sent again to %T: %+v, want %+v", c.what, way, b, got, c.want)
						}
					}
				}
			}
		})
	}
}
