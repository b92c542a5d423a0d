package cache

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"holdfast/kv"
)

// slow is Range as it can be read in the contract, without anything that is kept.
func slow(t *testing.T, c *Cache, key, end []byte, asOf int64) (kvs []kv.KeyValue, ahead int64) {
	t.Helper()
	found, err := c.scan(key, end)
	if err != nil {
		t.Fatal(err)
	}
	for k, e := range c.own {
		was, there := found[k]
		if !kv.Contains(key, end, []byte(k)) || asOf != 0 && e.KV.ModRevision > asOf || there && was.ModRevision >= e.KV.ModRevision {
			continue
		}
		ahead = max(ahead, e.KV.ModRevision)
		if delete(found, k); !e.Delete {
			found[k] = e.KV
		}
	}
	kvs = slices.Collect(maps.Values(found))
	slices.SortFunc(kvs, func(a, b kv.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return kvs, ahead
}

func words(kvs []kv.KeyValue) string {
	var b []byte
	for _, v := range kvs {
		b = fmt.Appendf(b, "%s=%s@%d ", v.Key, v.Value, v.ModRevision)
	}
	return string(b)
}

// Whatever changes a key, in whatever order it is written down: a list is what the keys are, and what was handed out stays as
// it was.
func TestListsAreWhatTheKeysAre(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c := open(t, filepath.Join(t.TempDir(), "c"), boot1)
	s := all
	s.Revision = 1
	if err := c.Load(epoch, s, nil); err != nil {
		t.Fatal(err)
	}
	key := func() string { return fmt.Sprintf("a/%02d", r.IntN(60)) }
	type shown struct {
		kvs   []kv.KeyValue
		words string
	}
	var before []shown
	rev := int64(1)
	for step := range 3000 {
		switch rev++; r.IntN(12) {
		case 0:
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
		case 1:
			if _, err := c.Own(event(key(), fmt.Sprint("own", step), rev), true); err != nil {
				t.Fatal(err)
			}
		case 2:
			if _, err := c.Own(kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte(key()), ModRevision: rev}}, false); err != nil {
				t.Fatal(err)
			}
		case 3:
			apply(t, c, kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte(key()), ModRevision: rev}})
		case 4, 5:
			apply(t, c, event(key(), fmt.Sprint(step), rev), event(key(), fmt.Sprint(step, "b"), rev))
		}
		from, to := []byte(key()), []byte(key())
		switch r.IntN(3) {
		case 0:
			from, to = all.Key, all.End
		case 1:
			to = all.End
		}
		asOf := []int64{0, rev, rev - 3}[r.IntN(3)]
		got, f, covered, err := c.Range(from, to, asOf)
		if err != nil || !covered {
			t.Fatalf("covered %v, %v", covered, err)
		}
		want, ahead := slow(t, c, from, to, asOf)
		if words(got) != words(want) || f.Ahead != ahead {
			t.Fatalf("step %d, [%s, %s) as of %d: got %s, ahead %d\nwant %s, ahead %d", step, from, to, asOf, words(got), f.Ahead, words(want), ahead)
		}
		before = append(before, shown{got, words(got)})
	}
	for i, b := range before {
		if words(b.kvs) != b.words {
			t.Fatalf("what was handed out in step %d has changed", i)
		}
	}
	if c.lists.bytes > listsMax || len(c.lists.all) > listsLen {
		t.Errorf("%d bytes in %d lists are kept, at most %d in %d are to be", c.lists.bytes, len(c.lists.all), listsMax, listsLen)
	}
}

// What did not change lies where it lay: whoever encodes it need not do so again.
func TestAListThatDidNotChangeIsTheSameMemory(t *testing.T) {
	c := loaded(t, filepath.Join(t.TempDir(), "c"))
	for i := range listLeast {
		apply(t, c, event(fmt.Sprintf("a/%02d", i), "v", int64(10+i)))
	}
	first := func() *kv.KeyValue {
		kvs, _, _, err := c.Range(all.Key, all.End, 0)
		if err != nil || len(kvs) == 0 {
			t.Fatal(kvs, err)
		}
		return &kvs[0]
	}
	was := first()
	c.Progress(1000)
	if first() != was {
		t.Error("it lies elsewhere though nothing has changed")
	}
	for i, change := range []func(){
		func() { apply(t, c, event("a/03", "w", 1001)) },
		func() {
			if _, err := c.Own(event("a/99", "w", 1002), true); err != nil {
				t.Fatal(err)
			}
		},
	} {
		if change(); first() == was {
			t.Errorf("change %d: it lies where it lay", i)
		}
	}
}

// Lists that are too large for all to be kept push each other out, and one that is too large alone is not kept.
func TestListsAreBounded(t *testing.T) {
	var l lists
	large := make([]kv.KeyValue, listLeast)
	large[0].Value = make([]byte, listsMax/2)
	l.put([]byte("x"), []byte("y"), large)
	for i := range 3 * listsLen {
		l.put(fmt.Append(nil, i), fmt.Append(nil, i, "~"), make([]kv.KeyValue, 100*listLeast))
		if l.bytes > listsMax || len(l.all) > listsLen {
			t.Fatalf("%d bytes in %d lists", l.bytes, len(l.all))
		}
	}
	if _, ok := l.get([]byte("x"), []byte("y")); ok {
		t.Error("a list that is too large is kept")
	}
	l.put([]byte("k"), []byte("l"), make([]kv.KeyValue, listLeast-1))
	if _, ok := l.get([]byte("k"), []byte("l")); ok {
		t.Error("a list of few keys is kept")
	}
}
