package apitest

import (
	"fmt"
	"time"

	"holdfast/kv"
)

var watchClaims = []claim{
	{name: "is confirmed before anything else, with where it stands", test: func(n *node) {
		at := n.put("k", "v")
		w := n.open(n.watchAll(0))
		b := w.next()
		if !b.Created || b.Canceled || b.WatchID != 0 || len(b.Events) > 0 {
			n.Fatalf("the first batch is %+v, want the confirmation of watch 0", b)
		}
		if b.Revision < at.Revision || b.Epoch != at.Epoch {
			n.Errorf("confirmed at revision %d of epoch %v, want at least %d of %v", b.Revision, b.Epoch, at.Revision, at.Epoch)
		}
	}},
	{name: "shows puts and deletes as they are", test: func(n *node) {
		n.put("k", "before")
		w := n.watch(n.watchAll(0))
		n.put("k", "1")
		first := n.get("k")
		n.put("new", "")
		second := n.get("new")
		gone := n.delete("k").Revision
		n.put("k", "2")
		last := n.get("k")
		events := w.events(0, 4)
		n.wantEvents(events, putEvent(first), putEvent(second), n.deleteEvent("k", gone), putEvent(last))
		for i, create := range []bool{false, true, false, true} {
			if events[i].IsCreate() != create {
				n.Errorf("event %d: IsCreate is %v, want %v", i, !create, create)
			}
			if events[i].Prev != nil {
				n.Errorf("event %d has a previous value though none was asked for", i)
			}
		}
		w.silent()
	}},
	{name: "does not show what was before it", test: func(n *node) {
		n.put("k", "before")
		w := n.watch(n.watchAll(0))
		w.silent()
	}},
	{name: "keeps to its key", test: func(n *node) {
		w := n.watch(kv.Watch{Key: n.key("b")})
		for _, name := range []string{"a", "b", "b/", "b\x00", "c"} {
			n.put(name, "")
		}
		n.wantEvents(w.events(0, 1), putEvent(n.get("b")))
		w.silent()
	}},
	{name: "keeps to its range", test: func(n *node) {
		w := n.watch(kv.Watch{Key: n.key("b"), End: n.key("d")})
		for _, name := range []string{"a", "b", "c", "c\xff", "d", "e"} {
			n.put(name, "")
		}
		n.wantEvents(w.events(0, 3), putEvent(n.get("b")), putEvent(n.get("c")), putEvent(n.get("c\xff")))
		w.silent()
	}},
	{name: "sees each key of a range delete, in order", test: func(n *node) {
		for _, name := range []string{"c", "a", "b"} {
			n.put(name, "")
		}
		w := n.watch(n.watchAll(0))
		all := n.all()
		at := n.do(kv.Delete{Key: all.Key, End: all.End}).Revision
		n.wantEvents(w.events(0, 3), n.deleteEvent("a", at), n.deleteEvent("b", at), n.deleteEvent("c", at))
	}},
	{name: "gets one revision in one batch, in the order of its ops", test: func(n *node) {
		w := n.watch(n.watchAll(0))
		n.do(kv.Put{Key: n.key("z")}, kv.Put{Key: n.key("a")}, kv.Put{Key: n.key("m")})
		b := w.next()
		n.wantEvents(b.Events, putEvent(n.get("z")), putEvent(n.get("a")), putEvent(n.get("m")))
		if len(b.Events) > 0 && b.Revision < b.Events[len(b.Events)-1].KV.ModRevision {
			n.Errorf("the batch says revision %d, its events are of %d", b.Revision, b.Events[len(b.Events)-1].KV.ModRevision)
		}
	}},
	{name: "shows the past from the revision asked for", test: func(n *node) {
		n.put("k", "0")
		from := n.put("k", "1").Revision
		one := n.get("k")
		gone := n.delete("k").Revision
		n.put("k", "2")
		two := n.get("k")
		w := n.watch(n.watchAll(from))
		n.wantEvents(w.events(0, 3), putEvent(one), n.deleteEvent("k", gone), putEvent(two))
		n.put("k", "3")
		n.wantEvents(w.events(0, 1), putEvent(n.get("k")))
	}},
	{name: "goes from the past to the present without gap or double", test: func(n *node) {
		const before, after = 500, 500
		from := n.put("k", "0").Revision
		for i := 1; i < before; i++ {
			n.put("k", fmt.Sprint(i))
		}
		done := make(chan error, 1)
		go func() {
			for i := before; i < before+after; i++ {
				if _, err := n.try(kv.Put{Key: n.key("k"), Value: []byte(fmt.Sprint(i))}); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		w := n.watch(n.watchAll(from))
		for i, e := range w.events(0, before+after) {
			if string(e.KV.Value) != fmt.Sprint(i) {
				n.Fatalf("event %d shows %q at revision %d", i, e.KV.Value, e.KV.ModRevision)
			}
		}
		if err := <-done; err != nil {
			n.Error(err)
		}
		w.silent()
	}},
	{name: "from a later revision waits for it", test: func(n *node) {
		from := n.revision() + 3
		w := n.watch(n.watchAll(from))
		for i := range 4 {
			n.put("k", fmt.Sprint(i))
		}
		if e := w.events(0, 2); e[0].KV.ModRevision != from || e[1].KV.ModRevision != from+1 {
			n.Errorf("events of revisions %d and %d, want %d and the next", e[0].KV.ModRevision, e[1].KV.ModRevision, from)
		}
		w.silent()
	}},
	{name: "brings what was replaced when asked", test: func(n *node) {
		n.put("k", "0")
		old := n.get("k")
		spec := n.watchAll(0)
		spec.PrevKV = true
		w := n.watch(spec)
		n.put("k", "1")
		one := n.get("k")
		n.delete("k")
		n.put("k", "2")
		e := w.events(0, 3)
		if e[0].Prev == nil || !sameKV(*e[0].Prev, old) {
			n.Errorf("put: previous %v, want %s", e[0].Prev, showKV(old))
		}
		if e[1].Prev == nil || !sameKV(*e[1].Prev, one) {
			n.Errorf("delete: previous %v, want %s", e[1].Prev, showKV(one))
		}
		if e[2].Prev != nil {
			n.Errorf("put of a new key: previous %s, want none", showKV(*e[2].Prev))
		}
	}},
	{name: "leaves out what it does not want", test: func(n *node) {
		puts, deletes := n.watchAll(0), n.watchAll(0)
		puts.ID, puts.NoDeletes = 1, true
		deletes.ID, deletes.NoPuts = 2, true
		w := n.open(puts, deletes)
		w.created(1)
		w.created(2)
		n.put("k", "v")
		item := n.get("k")
		gone := n.delete("k").Revision
		n.wantEvents(w.events(1, 1), putEvent(item))
		n.wantEvents(w.events(2, 1), n.deleteEvent("k", gone))
		w.silent()
	}},
	{name: "from before a compaction is refused, from there on it is not", fresh: true, test: func(n *node) {
		for i := range 5 {
			n.put("k", fmt.Sprint(i))
		}
		cut := n.revision() - 1
		n.do(kv.Compact{Revision: cut})
		w := n.open(n.watchAll(cut - 1))
		if e := w.canceled(0); e == nil || e.Code != kv.Compacted || e.Revision != cut {
			n.Errorf("refused with %+v, want compacted, oldest revision %d", e, cut)
		}
		e := n.watch(n.watchAll(cut)).events(0, 2)
		if e[0].KV.ModRevision != cut || e[1].KV.ModRevision != cut+1 {
			n.Errorf("events of revisions %d and %d, want %d and the next", e[0].KV.ModRevision, e[1].KV.ModRevision, cut)
		}
	}},
	{name: "keeps a delete at the compacted revision", fresh: true, test: func(n *node) {
		n.put("k", "v")
		cut := n.delete("k").Revision
		n.do(kv.Compact{Revision: cut})
		n.wantEvents(n.watch(n.watchAll(cut)).events(0, 1), n.deleteEvent("k", cut))
	}},
	{name: "that is up to date survives a compaction", fresh: true, test: func(n *node) {
		w := n.watch(n.watchAll(0))
		n.put("k", "1")
		w.events(0, 1)
		n.do(kv.Compact{Revision: n.revision()})
		n.put("k", "2")
		n.wantEvents(w.events(0, 1), putEvent(n.get("k")))
	}},
}

var streamClaims = []claim{
	{name: "carries many watches and tells them apart", test: func(n *node) {
		const count = 200
		var specs []kv.Watch
		for i := range count {
			specs = append(specs, kv.Watch{ID: int64(1000 + i), Key: n.key(fmt.Sprintf("k%03d", i))})
		}
		w := n.open(specs...)
		for i := range count {
			w.created(int64(1000 + i))
		}
		for i := range count {
			n.put(fmt.Sprintf("k%03d", i), fmt.Sprint(i))
		}
		for i := range count {
			e := w.events(int64(1000+i), 1)[0]
			if string(e.KV.Value) != fmt.Sprint(i) {
				n.Errorf("watch %d got %s", i, showKV(e.KV))
			}
		}
		w.silent()
	}},
	{name: "brings an event to every watch that covers it", test: func(n *node) {
		one, all := kv.Watch{ID: 1, Key: n.key("k")}, n.watchAll(0)
		all.ID = 2
		w := n.open(one, all)
		w.created(1)
		w.created(2)
		n.put("k", "v")
		want := putEvent(n.get("k"))
		n.wantEvents(w.events(1, 1), want)
		n.wantEvents(w.events(2, 1), want)
	}},
	{name: "takes watches while it runs", test: func(n *node) {
		w := n.open()
		w.ask(kv.WatchControl{Add: &kv.Watch{ID: 7, Key: n.key("a")}})
		w.created(7)
		n.put("a", "1")
		first := putEvent(n.get("a"))
		w.ask(kv.WatchControl{Add: &kv.Watch{ID: 8, Key: n.key("b")}})
		w.created(8)
		n.put("b", "1")
		n.wantEvents(w.events(7, 1), first)
		n.wantEvents(w.events(8, 1), putEvent(n.get("b")))
	}},
	{name: "ends one watch and keeps the others", test: func(n *node) {
		a, b := kv.Watch{ID: 1, Key: n.key("k")}, kv.Watch{ID: 2, Key: n.key("k")}
		w := n.open(a, b)
		w.created(1)
		w.created(2)
		w.ask(kv.WatchControl{Cancel: 1})
		if err := w.canceled(1); err != nil {
			n.Errorf("ended with %v, want no error: it was asked for", err)
		}
		n.put("k", "v")
		w.events(2, 1)
		w.silent()
	}},
	{name: "says how far it is when asked, behind the events", test: func(n *node) {
		w := n.watch(n.watchAll(0))
		at := n.put("k", "v").Revision
		if got := w.progress(); got < at {
			n.Errorf("progress %d after a write at %d was answered", got, at)
		}
		if len(w.pending[0]) != 1 {
			n.Errorf("%d events before the progress, want 1", len(w.pending[0]))
		}
	}},
	{name: "never says it is further than it is", test: func(n *node) {
		w := n.watch(n.watchAll(0))
		var said int64
		n.whileWriting(func(i int) []kv.Op {
			return []kv.Op{kv.Put{Key: n.key("k"), Value: []byte(fmt.Sprint(i))}}
		}, func() {
			before := said
			said = w.progress()
			for _, e := range w.pending[0] {
				if e.KV.ModRevision <= before {
					n.Fatalf("an event of revision %d came behind progress %d", e.KV.ModRevision, before)
				}
			}
			w.pending[0] = nil
		})
	}},
	{name: "ends with its context", test: func(n *node) {
		w := n.watch(n.watchAll(0))
		w.cancel()
		w.wantEnd()
		n.put("k", "the node goes on")
	}},
	{name: "ends when its last watch is gone and no more can come", test: func(n *node) {
		w := n.watch(n.watchAll(0))
		w.ask(kv.WatchControl{Cancel: 0})
		if err := w.canceled(0); err != nil {
			n.Errorf("ended with %v, want no error: it was asked for", err)
		}
		close(w.control)
		w.wantEnd()
	}},
	{name: "goes on without control while a watch is left", test: func(n *node) {
		w := n.watch(n.watchAll(0))
		close(w.control)
		time.Sleep(20 * time.Millisecond) // whoever ends with it has ended by now
		for range 5 {
			n.put("k", "v")
			w.events(0, 1)
		}
	}},
	{name: "ends when its consumer stops", test: func(n *node) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			n.b.Watch(n.ctx, kv.WatchSpec{Watches: []kv.Watch{n.watchAll(0)}})(func(kv.Batch, error) bool { return false })
		}()
		select {
		case <-ended:
		case <-time.After(n.h.patience):
			n.Errorf("still running %v after the consumer stopped", n.h.patience)
		}
	}},
	{name: "whose consumer is slow loses nothing and holds nobody up", test: func(n *node) {
		const count, together = 3000, 10 // many events in few commits: the disk is not what is tested
		slow, quick := n.watch(n.watchAll(0)), n.watch(n.watchAll(0))
		written := make(chan error, 1)
		go func() {
			for i := 0; i < count; i += together {
				var puts []kv.Op
				for k := range together {
					puts = append(puts, kv.Put{Key: n.key(fmt.Sprint("k", k)), Value: []byte(fmt.Sprint(i + k))})
				}
				if _, err := n.try(puts...); err != nil {
					written <- fmt.Errorf("put %d: %w", i, err)
					return
				}
			}
			written <- nil
		}()
		if err := <-written; err != nil { // though nobody reads yet
			n.Fatal(err)
		}
		for _, w := range []*watcher{quick, slow} {
			for i, e := range w.events(0, count) {
				if string(e.KV.Value) != fmt.Sprint(i) {
					n.Fatalf("event %d shows %q at revision %d", i, e.KV.Value, e.KV.ModRevision)
				}
			}
		}
	}},
	{name: "is one of many that all see everything", test: func(n *node) {
		const streams, count = 50, 50
		var open []*watcher
		for range streams {
			open = append(open, n.watch(n.watchAll(0)))
		}
		for i := range count {
			n.put("k", fmt.Sprint(i))
		}
		for s, w := range open {
			for i, e := range w.events(0, count) {
				if string(e.KV.Value) != fmt.Sprint(i) {
					n.Fatalf("stream %d, event %d shows %q", s, i, e.KV.Value)
				}
			}
		}
	}},
}
