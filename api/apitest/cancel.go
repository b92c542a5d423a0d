package apitest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"holdfast/kv"
)

var cancelClaims = []claim{
	{name: "before a write refuses it, and what is refused is not there", test: func(n *node) {
		ctx, cancel := context.WithCancel(n.ctx)
		cancel()
		began := time.Now()
		_, err := n.b.Do(ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: n.key("k")}}})
		if err == nil {
			n.Fatal("a write without time to live was answered")
		}
		if took := time.Since(began); took > n.h.patience {
			n.Errorf("refused after %v", took)
		}
		if n.get("k").ModRevision != 0 && kv.CodeOf(err) != kv.OutcomeUnknown {
			n.Errorf("refused as %v and there all the same", kv.CodeOf(err))
		}
		if _, ok := asError(err); !ok {
			n.Errorf("error of type %T, want a *kv.Error", err)
		}
	}},
	{name: "before a read refuses it", test: func(n *node) {
		ctx, cancel := context.WithCancel(n.ctx)
		cancel()
		if _, err := n.b.Read(ctx, kv.Query{Ops: []kv.Op{n.all()}}); err == nil {
			n.Error("a read without time to live was answered")
		}
	}},
	{name: "ends a read that waits", test: func(n *node) {
		ctx, cancel := context.WithTimeout(n.ctx, 20*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := n.b.Read(ctx, kv.Query{Ops: []kv.Op{n.all()}, MinRevision: n.revision() + 1000, Wait: 2 * n.h.patience})
		if err == nil || time.Since(began) > n.h.patience {
			n.Errorf("%v after %v, want a prompt refusal", err, time.Since(began))
		}
	}},
	{name: "at any moment leaves a write that is honest about its outcome", test: func(n *node) {
		const writers, each = 8, 40
		codes := make([][each]kv.Code, writers)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					ctx, cancel := context.WithTimeout(n.ctx, time.Duration(i*i)*time.Microsecond)
					_, err := n.b.Do(ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: n.key(fmt.Sprintf("%d/%d", w, i))}}})
					cancel()
					codes[w][i] = kv.CodeOf(err)
				}
			})
		}
		wg.Wait()
		n.put("last", "") // whatever was on its way is decided before this
		seen := map[kv.Code]int{}
		for w := range writers {
			for i := range each {
				code := codes[w][i]
				there := n.get(fmt.Sprintf("%d/%d", w, i)).ModRevision != 0
				seen[code]++
				if code == kv.OK && !there {
					n.Errorf("write %d/%d was answered and is not there", w, i)
				}
				if code != kv.OK && code != kv.OutcomeUnknown && there {
					n.Errorf("write %d/%d was refused as %v and is there", w, i, code)
				}
				if code == kv.Internal {
					n.Errorf("write %d/%d: an ended context is no fault of the node", w, i)
				}
			}
		}
		n.Logf("outcomes: %v", seen)
	}},
}
