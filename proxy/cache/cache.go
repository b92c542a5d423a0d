// Package cache holds what a proxy knows of the cluster's keys, on disk, so that it is still known after a reboot.
//
// A Cache is a set of spans, each a range of keys that is mirrored whole, and the newest known version of every key in
// them. A key that is absent from a span is known not to exist. Changes are kept in memory and written in one
// transaction from time to time, together with the revision each span has reached: what a cut loses can be fetched
// again. How old the contents are is not the cache's business.
package cache

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"holdfast/kv"
)

// Bounds of a cache that have no setting.
const (
	dirtyMax    = 4 << 20 // bytes of changes in memory; beyond it Apply writes them down itself
	openTimeout = 5 * time.Second
	format      = 1
	overhead    = 64 // bytes a key costs beside its own and its value's
)

var (
	bucketKeys = []byte("keys")
	bucketMeta = []byte("meta")
	keyFormat  = []byte("format")
	keyState   = []byte("state")
)

// ErrFull says that a span does not fit the bytes allowed.
var ErrFull = errors.New("cache is full")

// Span is a mirrored range of keys: everything in it is known as of Revision.
type Span struct {
	Key, End []byte
	Revision int64
}

func (s Span) contains(key, end []byte) bool {
	if len(end) == 0 {
		return kv.Contains(s.Key, s.End, key)
	}
	if bytes.Compare(key, s.Key) < 0 {
		return false
	}
	if bytes.Equal(s.End, kv.FromKey()) {
		return true
	}
	return !bytes.Equal(end, kv.FromKey()) && bytes.Compare(end, s.End) <= 0
}

// Cache is safe for concurrent use.
type Cache struct {
	db       *bolt.DB
	maxBytes int64

	mu    sync.RWMutex
	epoch kv.Epoch
	spans []Span
	bytes int64
	dirty map[string]*kv.KeyValue // nil value: known to be absent
	size  int64                   // of dirty
	stale bool                    // spans or epoch changed since the last flush

	journal journal
	partial bool // the machine went down since the last flush: an absent key may have existed
}

// Open opens or makes the file at path. A file that cannot be used, damaged or of a newer version, is an error; the
// caller may remove it, since everything in it can be fetched again.
//
// boot names the machine's present boot. In another one than that of the last change the contents may lack the newest
// changes: then keys that are there are served for what they are, and Partial says that absent ones are not known to be
// absent until the spans have been loaded again.
func Open(path string, maxBytes int64, boot [16]byte) (*Cache, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openTimeout, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", path, err)
	}
	c := &Cache{db: db, maxBytes: maxBytes, dirty: map[string]*kv.KeyValue{}, journal: journal{path: path + ".journal", boot: boot, mark: boot}}
	err = c.load()
	if err == nil {
		err = c.recover()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cache %s: %w", path, err), db.Close())
	}
	return c, nil
}

func (c *Cache) load() error {
	return c.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(bucketKeys); err != nil {
			return err
		}
		switch f := meta.Get(keyFormat); {
		case f == nil:
			return meta.Put(keyFormat, []byte{format})
		case f[0] > format:
			return fmt.Errorf("format %d: a newer version wrote it", f[0])
		}
		st, err := decodeState(meta.Get(keyState))
		if err != nil {
			return err
		}
		c.epoch, c.spans, c.bytes = st.epoch, st.spans, st.bytes
		return nil
	})
}

// recover takes in what an earlier process had not flushed. Changes may be in it twice, and own writes before others.
func (c *Cache) recover() error {
	events, partial, err := c.journal.replay()
	if err != nil {
		return err
	}
	if c.partial = partial; partial {
		c.journal.mark[0] ^= 0xff
	}
	newest := map[string]int64{}
	for _, e := range events {
		k := string(e.KV.Key)
		if e.KV.ModRevision < newest[k] {
			continue
		}
		if _, covered := c.covered(e.KV.Key, nil); covered {
			newest[k] = e.KV.ModRevision
			if err := c.change(e); err != nil {
				return err
			}
		}
	}
	if len(events) == 0 || partial {
		return nil // the mark stays until what it warns of is over
	}
	return errors.Join(c.flush(), c.journal.forget())
}

// Partial reports whether a key that is absent from a span may exist all the same.
func (c *Cache) Partial() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.partial
}

// Whole says that every span has been brought up to date: what is absent does not exist.
func (c *Cache) Whole() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partial = false
	err := c.flush()
	if c.journal.mark != c.journal.boot {
		c.journal.mark = c.journal.boot
		err = errors.Join(err, c.journal.forget())
	}
	return err
}

// Own makes a write of this node, which the feed will bring later, survive a killed process.
func (c *Cache) Own(e kv.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.journal.add(e)
}

// Close writes what is in memory and closes the file.
func (c *Cache) Close() error { return errors.Join(c.Flush(), c.db.Close()) }

// Epoch is the history that the contents belong to; zero for an empty cache.
func (c *Cache) Epoch() kv.Epoch {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.epoch
}

// Spans is what is mirrored.
func (c *Cache) Spans() []Span {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.spans)
}

// Bytes is the size of keys and values held.
func (c *Cache) Bytes() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.bytes
}

// Covered returns the span that holds the whole range, if there is one.
func (c *Cache) Covered(key, end []byte) (Span, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.covered(key, end)
}

func (c *Cache) covered(key, end []byte) (Span, bool) {
	for _, s := range c.spans {
		if s.contains(key, end) {
			return s, true
		}
	}
	return Span{}, false
}

// Get returns a key. Covered false: the cache does not know; found false: the key does not exist as of Revision of span.
func (c *Cache) Get(key []byte) (v kv.KeyValue, found bool, span Span, covered bool, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if span, covered = c.covered(key, nil); !covered {
		return v, false, span, false, nil
	}
	if p, ok := c.dirty[string(key)]; ok {
		if p == nil {
			return v, false, span, true, nil
		}
		return *p, true, span, true, nil
	}
	err = c.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketKeys).Get(key); b != nil {
			found = true
			v, err = decodeValue(bytes.Clone(key), b)
		}
		return err
	})
	return v, found, span, true, err
}

// Range returns the keys of a covered range in order, and the span's revision.
func (c *Cache) Range(key, end []byte) (kvs []kv.KeyValue, span Span, covered bool, err error) {
	if len(end) == 0 {
		v, found, span, covered, err := c.Get(key)
		if found {
			kvs = []kv.KeyValue{v}
		}
		return kvs, span, covered, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if span, covered = c.covered(key, end); !covered {
		return nil, span, false, nil
	}
	for k, p := range c.dirty {
		if p != nil && kv.Contains(key, end, []byte(k)) {
			kvs = append(kvs, *p)
		}
	}
	err = c.db.View(func(tx *bolt.Tx) error {
		cur := tx.Bucket(bucketKeys).Cursor()
		for k, b := cur.Seek(key); k != nil && kv.Contains(key, end, k); k, b = cur.Next() {
			if _, newer := c.dirty[string(k)]; newer {
				continue
			}
			v, err := decodeValue(bytes.Clone(k), b)
			if err != nil {
				return err
			}
			kvs = append(kvs, v)
		}
		return nil
	})
	slices.SortFunc(kvs, func(a, b kv.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return kvs, span, true, err
}

// Load makes a span hold exactly kvs as of revision, replacing what was known of the range. It returns the changes
// against what was known, as events. ErrFull: the span is not taken and no longer covered.
func (c *Cache) Load(epoch kv.Epoch, s Span, kvs []kv.KeyValue) ([]kv.Event, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		if err := c.reset(epoch); err != nil {
			return nil, err
		}
	}
	old, err := c.scan(s.Key, s.End)
	if err != nil {
		return nil, err
	}
	var events []kv.Event
	for _, v := range kvs {
		if was, ok := old[string(v.Key)]; !ok || was.ModRevision != v.ModRevision {
			e := kv.Event{KV: v}
			if ok {
				e.Prev = &was
			}
			events = append(events, e)
		}
		delete(old, string(v.Key))
	}
	for _, v := range old {
		gone := v
		events = append(events, kv.Event{Delete: true, KV: kv.KeyValue{Key: v.Key, ModRevision: s.Revision}, Prev: &gone})
	}
	slices.SortFunc(events, func(a, b kv.Event) int {
		return cmp.Or(cmp.Compare(a.KV.ModRevision, b.KV.ModRevision), bytes.Compare(a.KV.Key, b.KV.Key))
	})
	c.spans = slices.DeleteFunc(c.spans, func(t Span) bool { return bytes.Equal(t.Key, s.Key) && bytes.Equal(t.End, s.End) })
	c.stale = true
	for _, e := range events {
		if err := c.change(e); err != nil {
			return nil, err
		}
	}
	if c.maxBytes > 0 && c.bytes > c.maxBytes {
		return nil, errors.Join(ErrFull, c.clear(s.Key, s.End))
	}
	c.spans = append(c.spans, s)
	return events, c.flushIfLarge()
}

// scan returns what is known of a range, whether covered or not.
func (c *Cache) scan(key, end []byte) (map[string]kv.KeyValue, error) {
	all := map[string]kv.KeyValue{}
	err := c.db.View(func(tx *bolt.Tx) error {
		cur := tx.Bucket(bucketKeys).Cursor()
		for k, b := cur.Seek(key); k != nil && kv.Contains(key, end, k); k, b = cur.Next() {
			v, err := decodeValue(bytes.Clone(k), b)
			if err != nil {
				return err
			}
			all[string(k)] = v
		}
		return nil
	})
	for k, p := range c.dirty {
		if !kv.Contains(key, end, []byte(k)) {
			continue
		}
		if delete(all, k); p != nil {
			all[k] = *p
		}
	}
	return all, err
}

func (c *Cache) clear(key, end []byte) error {
	all, err := c.scan(key, end)
	if err != nil {
		return err
	}
	for k, v := range all {
		if _, still := c.covered([]byte(k), nil); !still {
			if err := c.change(kv.Event{Delete: true, KV: kv.KeyValue{Key: v.Key, ModRevision: v.ModRevision}}); err != nil {
				return err
			}
		}
	}
	return c.flushIfLarge()
}

// Apply takes in the events of a span in order and moves it to revision. Events that the cache is ahead of are left out.
func (c *Cache) Apply(key, end []byte, events []kv.Event, revision int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.spans, func(s Span) bool { return bytes.Equal(s.Key, key) && bytes.Equal(s.End, end) })
	if i < 0 {
		return nil
	}
	for _, e := range events {
		if e.KV.ModRevision > c.spans[i].Revision {
			if err := c.set(e); err != nil {
				return err
			}
		}
	}
	if len(events) > 0 {
		c.stale = true // progress alone is not worth a write
	}
	c.spans[i].Revision = max(c.spans[i].Revision, revision)
	return c.flushIfLarge()
}

// Drop forgets a span.
func (c *Cache) Drop(key, end []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = slices.DeleteFunc(c.spans, func(t Span) bool { return bytes.Equal(t.Key, key) && bytes.Equal(t.End, end) })
	c.stale = true
	return c.clear(key, end)
}

// set changes one key, in memory and in the journal.
func (c *Cache) set(e kv.Event) error {
	if err := c.journal.add(e); err != nil {
		return err
	}
	return c.change(e)
}

// change changes one key in memory.
func (c *Cache) change(e kv.Event) error {
	k := string(e.KV.Key)
	was, found, err := c.peek(e.KV.Key)
	if err != nil {
		return err
	}
	if found {
		c.bytes -= weight(was)
	}
	if old, ok := c.dirty[k]; ok && old != nil {
		c.size -= weight(*old)
	}
	if e.Delete {
		c.dirty[k] = nil
		c.size += overhead
		return nil
	}
	v := e.KV
	c.dirty[k] = &v
	c.bytes += weight(v)
	c.size += weight(v)
	return nil
}

func (c *Cache) peek(key []byte) (v kv.KeyValue, found bool, err error) {
	if p, ok := c.dirty[string(key)]; ok {
		if p == nil {
			return v, false, nil
		}
		return *p, true, nil
	}
	err = c.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketKeys).Get(key); b != nil {
			found = true
			v, err = decodeValue(key, b)
		}
		return err
	})
	return v, found, err
}

func weight(v kv.KeyValue) int64 { return int64(len(v.Key)+len(v.Value)) + overhead }

// reset empties the cache for another history.
func (c *Cache) reset(epoch kv.Epoch) error {
	err := c.db.Update(func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(bucketKeys); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketKeys); err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyState, state{epoch: epoch}.append(nil))
	})
	if err != nil {
		return fmt.Errorf("empty the cache for another epoch: %w", err)
	}
	c.epoch, c.spans, c.bytes, c.dirty, c.size, c.stale = epoch, nil, 0, map[string]*kv.KeyValue{}, 0, false
	return nil
}

func (c *Cache) flushIfLarge() error {
	if c.size < dirtyMax {
		return nil
	}
	return c.flush()
}

// Flush writes what changed, in one transaction. Nothing changed: nothing is written.
func (c *Cache) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

func (c *Cache) flush() error {
	if len(c.dirty) == 0 && !c.stale {
		if c.partial {
			return nil
		}
		return c.journal.end()
	}
	keys := make([]string, 0, len(c.dirty))
	for k := range c.dirty {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	err := c.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketKeys)
		for _, k := range keys {
			var err error
			if v := c.dirty[k]; v == nil {
				err = b.Delete([]byte(k))
			} else {
				err = b.Put([]byte(k), appendValue(nil, *v))
			}
			if err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyState, state{epoch: c.epoch, spans: c.spans, bytes: c.bytes}.append(nil))
	})
	if err != nil {
		return fmt.Errorf("write the cache: %w", err)
	}
	c.dirty, c.size, c.stale = map[string]*kv.KeyValue{}, 0, false
	if c.partial {
		return nil
	}
	return c.journal.end()
}
