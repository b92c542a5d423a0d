package proxy

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// late is a link on which the feed hears of nothing while gate is open, though all else works.
type late struct {
	*link
	gate chan struct{}
}

const feeds = "the feed"

func (l late) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		for b, err := range l.link.Watch(ctx, spec) {
			if spec.By.Node == feeds && (len(b.Events) > 0 || b.Progress) {
				select {
				case <-l.gate:
				case <-ctx.Done():
					return
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// A device that was shown how a key is now, in whatever way, does not read it older: neither by itself nor in a list.
func TestWhatWasShownInAnyWayIsNotReadOlder(t *testing.T) {
	key, end := kv.PrefixRange([]byte("k/"))
	all, last := kv.PrefixRange(nil)
	one, list, wide := kv.Range{Key: []byte("k/1")}, kv.Range{Key: key, End: end}, kv.Range{Key: all, End: last}
	read := func(ops ...kv.Op) func(*testing.T, *Proxy) {
		return func(t *testing.T, p *Proxy) {
			if _, err := p.Read(t.Context(), kv.Query{Ops: ops}); err != nil {
				t.Error(err)
			}
		}
	}
	short := wide
	short.Limit = 2
	ways := []struct {
		name string
		show func(*testing.T, *Proxy)
		only string // the change that is shown this way, "" for any
	}{
		{"list", read(wide), ""},
		{"page of a list", read(short), ""},
		{"list of keys", read(kv.Range{Key: all, End: last, KeysOnly: true}), ""},
		{"what has changed", read(kv.Range{Key: all, End: last, MinMod: 3}), "put"},
		{"two reads", read(one, list), ""},
		{"transaction", read(kv.Txn{Then: []kv.Op{kv.Txn{Compares: []kv.Compare{{Key: []byte("none"), Target: kv.TargetVersion, Num: 1}}, Else: []kv.Op{one}}}}), ""},
		{"transaction that writes", func(t *testing.T, p *Proxy) {
			if _, err := p.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Txn{Then: []kv.Op{kv.Put{Key: []byte("x")}, list}}}}); err != nil {
				t.Error(err)
			}
		}, ""},
		{"watch", func(t *testing.T, p *Proxy) {
			for b, err := range p.Watch(t.Context(), kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: all, End: last, From: 2}}}) {
				if err != nil {
					t.Error(err)
				}
				for _, e := range b.Events {
					if string(e.KV.Key) == "k/1" && (e.Delete || string(e.KV.Value) == "new") {
						return
					}
				}
			}
		}, ""},
		{"precondition that failed", func(t *testing.T, p *Proxy) {
			_, err := p.Do(t.Context(), kv.Command{Guards: []kv.Guard{{Compare: kv.Compare{Key: []byte("k/1"), Target: kv.TargetMod, Num: 2}}},
				Ops: []kv.Op{kv.Put{Key: []byte("k/1"), Value: []byte("mine")}}})
			if kv.CodeOf(err) != kv.PreconditionFailed {
				t.Errorf("got %v", err)
			}
		}, ""},
	}
	for _, way := range ways {
		for _, mirror := range []string{"", "k/"} {
			for _, change := range []string{"put", "delete"} {
				if way.only != "" && way.only != change {
					continue
				}
				t.Run(way.name+"/"+change+"/mirror "+mirror, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { shownOnce(t, mirror, change, false, way.show) })
				})
				if mirror != "" {
					continue
				}
				t.Run(way.name+"/"+change+"/while an older answer is under way", func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { shownOnce(t, mirror, change, true, way.show) })
				})
			}
		}
	}
}

// shownOnce changes k/1, which was read before or, with underWay, is being read, shows it and looks at what is read then.
func shownOnce(t *testing.T, mirror, change string, underWay bool, show func(*testing.T, *Proxy)) {
	l := late{newLink(), make(chan struct{})}
	put(t, l.link, "k/1", "old")
	put(t, l.link, "k/2", "other")
	p, shut := openWith(t, l.link, t.TempDir(), func(o *Options) {
		o.Upstream, o.Self.Node = l, feeds
		if mirror != "" {
			o.Prefixes = [][]byte{[]byte(mirror)}
		}
	})
	defer shut()
	time.Sleep(time.Second)
	first := func() {
		if _, v, err := get(p, "k/1", kv.Query{MaxAge: kv.Unlimited}); err != nil || v != "old" {
			t.Errorf("at first %q, %v", v, err)
		}
	}
	arrive := func() {}
	if underWay {
		arrive = l.holdAnswers()
		go first()
		synctest.Wait()
		l.holdNoMore()
	} else {
		first()
	}
	op, want := kv.Op(kv.Put{Key: []byte("k/1"), Value: []byte("new")}), "new"
	if change == "delete" {
		op, want = kv.Delete{Key: []byte("k/1")}, ""
	}
	if _, err := l.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{op}}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	show(t, p)
	arrive()
	synctest.Wait()
	key, end := kv.PrefixRange([]byte("k/"))
	for _, q := range []kv.Query{local, {MaxAge: kv.Unlimited}} {
		if _, v, err := get(p, "k/1", q); err == nil && v != want || err != nil && (kv.CodeOf(err) != kv.NotCached || !q.LocalOnly) {
			t.Errorf("afterwards it is read as %q, %v, local only: %v; want %q", v, err, q.LocalOnly, want)
		}
		q.Ops = []kv.Op{kv.Range{Key: key, End: end}}
		page, err := p.Read(t.Context(), q)
		if err != nil {
			if kv.CodeOf(err) != kv.NotCached || !q.LocalOnly {
				t.Error(err)
			}
			continue
		}
		if v := page.Ops[0].KVs[0]; string(v.Key) == "k/1" && string(v.Value) != want || want != "" && string(v.Key) != "k/1" {
			t.Errorf("afterwards it is listed as %s = %s, local only: %v; want %q", v.Key, v.Value, q.LocalOnly, want)
		}
	}
	close(l.gate)
	time.Sleep(time.Second)
	if _, v, err := get(p, "k/2", kv.Query{MaxAge: kv.Unlimited}); err != nil || v != "other" {
		t.Errorf("another key is read as %q, %v", v, err)
	}
	if _, v, err := get(p, "k/1", kv.Query{MaxAge: kv.Unlimited}); err != nil || v != want {
		t.Errorf("in the end it is read as %q, %v", v, err)
	}
}

// ownAhead opens a proxy whose feed has come to revision fed, where k/1 and k/2 are "old", and brings nothing any more. Since then another node has
// written k/1, and this one k/2 at revision own.
func ownAhead(t *testing.T, check func(p *Proxy, all kv.Range, fed, own int64)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := late{newLink(), make(chan struct{})}
		put(t, l.link, "k/1", "old")
		fed := put(t, l.link, "k/2", "old")
		p, shut := openWith(t, l.link, t.TempDir(), func(o *Options) {
			o.Upstream, o.Self.Node, o.Prefixes = l, feeds, [][]byte{[]byte("k/")}
		})
		defer shut()
		time.Sleep(time.Second)
		put(t, l.link, "k/1", "by another")
		own := put(t, p, "k/2", "own")
		key, end := kv.PrefixRange([]byte("k/"))
		check(p, kv.Range{Key: key, End: end}, fed, own)
		close(l.gate)
	})
}

// A list that has a write of this node which the feed has not brought says how far it is otherwise.
func TestAListSaysUpToWhereItIsWhole(t *testing.T) {
	ownAhead(t, func(p *Proxy, all kv.Range, fed, _ int64) {
		page, err := p.Read(t.Context(), kv.Query{MaxAge: kv.Unlimited, LocalOnly: true, Ops: []kv.Op{all}})
		if err != nil {
			t.Error(err)
			return
		}
		if kvs := page.Ops[0].KVs; page.Revision != fed || string(kvs[0].Value) != "old" || string(kvs[1].Value) != "own" {
			t.Errorf("a list at revision %d has %s and %s; want %d, old and own", page.Revision, kvs[0].Value, kvs[1].Value, fed)
		}
	})
}

// A list that says nothing of its age is as of one revision: one that meets a write of this node which the feed has not brought is asked for
// upstream. Here that write ends between the round that the list takes and the look into the cache.
func TestAListThatMeetsAnOwnWriteIsOfOneRevision(t *testing.T) {
	ownAhead(t, func(p *Proxy, all kv.Range, fed, own int64) {
		page, err := p.local(t.Context(), kv.Query{Ops: []kv.Op{all}}, all, 0, fed) // as of a round that found fed
		if err != nil {
			t.Error(err)
			return
		}
		if kvs := page.Ops[0].KVs; page.Revision != own || page.Source != kv.SourceUpstream || string(kvs[0].Value) != "by another" || string(kvs[1].Value) != "own" {
			t.Errorf("a list at revision %d from %v has %s and %s; want %d, by another and own", page.Revision, page.Source, kvs[0].Value, kvs[1].Value, own)
		}
	})
}

// What the feed brought last was not written down as a whole revision when the process was killed. Offline it is shown all the same,
// by the next process and the one after that, as of the revision that it was changed at.
func TestAKeyIsNotShownAsOfBeforeItsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k/1", "one")
		dir := t.TempDir()
		p, shut := open(t, l, dir, "k/")
		synctest.Wait()
		rev := put(t, l, "k/2", "by another")
		synctest.Wait()
		for life := range 3 {
			page, v, err := get(p, "k/2", local)
			if err != nil || v != "by another" || page.Revision < rev || page.Ops[0].KVs[0].ModRevision != rev {
				t.Errorf("life %d: %q as of revision %d, %v; changed at %d", life, v, page.Revision, err, rev)
			}
			dir = crash(t, dir)
			shut()
			if life == 0 {
				l.setCut(true)
			}
			p, shut = open(t, l, dir, "k/")
		}
		shut()
	})
}
