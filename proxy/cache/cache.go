// Package cache holds what a proxy knows of the cluster's keys, on disk, so that it is still known after a reboot.
//
// A Cache is a set of spans, each a range of keys that is mirrored whole; a set of keys held one by one, because somebody
// asked for them; and the newest known version of every key in either. A key that is absent from a span, or held and
// absent, is known not to exist. Over that lie this node's own writes that the feed has not brought yet. Changes are kept
// in memory and written in one transaction from time to time, together with the revision each span has reached: what a cut
// loses can be fetched again. How old the contents are is not the cache's business.
//
// Three locks, taken in this order: flushing (one flush at a time), writing (changes happen in the order in which the
// journal has them), mu (memory). Nobody who reads waits for a disk that writes: mu is not held over that.
package cache

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"holdfast/kv"
)

// Bounds of a cache that have no setting.
const (
	dirtyMax    = 4 << 20 // bytes of changes in memory; beyond it whoever changes something writes them down first
	openTimeout = 5 * time.Second
	format      = 2  // 1 held no single keys
	overhead    = 64 // bytes a key costs beside its own and its value's

	// mapped is how much of the file is mapped from the start: addresses only, no memory. When a file outgrows what is
	// mapped, bbolt copies all that the running transaction has, which for a mirror of 10,000 keys was 20 MB.
	mapped = 64 << 20
)

var (
	bucketKeys = []byte("keys")
	bucketHeld = []byte("held")
	bucketMeta = []byte("meta")
	keyFormat  = []byte("format")
	keyState   = []byte("state")
)

// ErrFull says that a span does not fit the bytes allowed.
var ErrFull = errors.New("cache is full")

// Span is a range of keys: everything in it is known as of Revision.
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

// overlaps reports whether a range of keys has one in common with s.
func (s Span) overlaps(key, end []byte) bool {
	if len(end) == 0 {
		return kv.Contains(s.Key, s.End, key)
	}
	return kv.Contains(key, end, s.Key) || kv.Contains(s.Key, s.End, key)
}

// Cache is safe for concurrent use.
type Cache struct {
	db       *bolt.DB
	maxBytes int64

	flushing sync.Mutex

	writing sync.Mutex
	journal journal

	mu      sync.RWMutex
	epoch   kv.Epoch
	spans   []Span
	held    map[string]*held
	floor   int64 // what is kept of held is known as of this revision at least
	bytes   int64
	dirty   map[string]*kv.KeyValue // nil value: known to be absent
	frozen  map[string]*kv.KeyValue // changes before those in dirty, which a flush is writing
	size    int64                   // of dirty
	changed map[string]struct{}     // keys whose record in held differs from the one on disk
	stale   bool                    // what state says has changed since the last flush, beyond progress
	moved   bool                    // there was progress since the last flush
	partial bool                    // the machine went down since the last flush: an absent key may have existed
	own     map[string]kv.Event     // writes of this node that the feed has not brought yet
	veils   []veil                  // what of the spans may not be shown
	asked   map[string]*Ask         // keys that are being asked for upstream
	taking  *taking                 // what is being held at this moment, nil for nothing; writing is held for it
	missed  ring                    // keys that were turned away of late
	gone    [][]byte                // held keys that were let go, for whoever asks
	leaving [][]byte                // and for the journal

	seen  atomic.Int64 // the newest revision that was acknowledged or shown through this node
	hot   hot
	lists lists
}

// Open opens or makes the file at path. A file that cannot be used, damaged or of a newer version, is an error; the
// caller may remove it, since everything in it can be fetched again.
//
// boot names the machine's present boot. In another one than that of the last change the contents may lack the newest
// changes: then keys that are there are served for what they are, and Partial says that absent ones are not known to be
// absent until the spans have been loaded again.
func Open(path string, maxBytes int64, boot [16]byte) (*Cache, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openTimeout, FreelistType: bolt.FreelistMapType, InitialMmapSize: mapped})
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", path, err)
	}
	c := &Cache{db: db, maxBytes: maxBytes, journal: journal{path: path + ".journal", boot: boot, mark: boot}}
	c.empty(kv.Epoch{})
	err = c.load()
	if err == nil {
		err = c.recover()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cache %s: %w", path, err), db.Close())
	}
	return c, nil
}

// empty forgets everything in memory, for another history.
func (c *Cache) empty(epoch kv.Epoch) {
	c.epoch, c.spans, c.floor, c.bytes, c.size, c.stale, c.moved = epoch, nil, 0, 0, 0, false, false
	c.held, c.dirty, c.frozen = map[string]*held{}, map[string]*kv.KeyValue{}, nil
	c.changed, c.own, c.asked, c.gone, c.leaving = map[string]struct{}{}, map[string]kv.Event{}, map[string]*Ask{}, nil, nil
	c.veils = nil
	c.seen.Store(0)
	c.hot.clear()
	c.lists.clear()
}

func (c *Cache) load() error {
	return c.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketKeys, bucketHeld} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if f := meta.Get(keyFormat); f != nil && f[0] > format {
			return fmt.Errorf("format %d: a newer version wrote it", f[0])
		} else if f == nil || f[0] < format {
			if err := meta.Put(keyFormat, []byte{format}); err != nil {
				return err
			}
		}
		st, err := decodeState(meta.Get(keyState))
		if err != nil {
			return err
		}
		c.epoch, c.spans, c.bytes, c.floor = st.epoch, st.spans, st.bytes, st.floor
		return tx.Bucket(bucketHeld).ForEach(func(k, b []byte) error {
			h, err := decodeHeld(k, b)
			if err == nil {
				c.held[string(k)] = h
			}
			return err
		})
	})
}

// Close writes what is in memory, progress included, and closes the file.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.stale = c.stale || c.moved
	c.mu.Unlock()
	return errors.Join(c.Flush(), c.db.Close())
}

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

// Partial reports whether a key that is absent from a span may exist all the same.
func (c *Cache) Partial() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.partial
}

// Saw says that a revision was acknowledged or shown through this node, or will be once Saw has returned.
func (c *Cache) Saw(revision int64) {
	for was := c.seen.Load(); was < revision && !c.seen.CompareAndSwap(was, revision); {
		was = c.seen.Load()
	}
}

// Newest is the highest revision that the cache knows of.
func (c *Cache) Newest() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	rev := c.floor
	for _, s := range c.spans {
		rev = max(rev, s.Revision)
	}
	for _, h := range c.held {
		rev = max(rev, h.rev)
	}
	for _, e := range c.own {
		rev = max(rev, e.KV.ModRevision)
	}
	return rev
}
