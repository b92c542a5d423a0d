package cache

import (
	"bytes"
	"sort"
	"sync"

	bolt "go.etcd.io/bbolt"

	"holdfast/kv"
)

// Bounds of lists.
const (
	listsMax  = 4 << 20 // bytes of keys, values and what Go takes for them: some ten thousand small keys
	listsLen  = 32      // ranges; each change looks at all of them
	listLeast = 16      // keys; a range with fewer is as soon read
	entrySize = 112     // of a kv.KeyValue
)

// lists is ranges that were read of late, whole and in order, so that reading them again, or a part of them, costs neither a
// transaction nor a copy. What is in one is what the feed has brought: a change of a key takes out the lists that it lies in. When
// it is full all of it goes, as in hot.
type lists struct {
	mu    sync.RWMutex
	all   []list
	bytes int64
}

// list is a range with its keys, which are shared and never changed.
type list struct {
	key, end []byte
	kvs      []kv.KeyValue
	bytes    int64
}

// get returns what is known of a range, if that lies in one that was read.
func (l *lists) get(key, end []byte) ([]kv.KeyValue, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := range l.all {
		one := &l.all[i]
		if (Span{Key: one.key, End: one.end}).contains(key, end) {
			return within(one.kvs, key, end), true
		}
	}
	return nil, false
}

// within cuts a range out of keys in order.
func within(kvs []kv.KeyValue, key, end []byte) []kv.KeyValue {
	from := sort.Search(len(kvs), func(i int) bool { return bytes.Compare(kvs[i].Key, key) >= 0 })
	if bytes.Equal(end, kv.FromKey()) {
		return kvs[from:]
	}
	n := sort.Search(len(kvs)-from, func(i int) bool { return bytes.Compare(kvs[from+i].Key, end) >= 0 })
	return kvs[from : from+n : from+n]
}

func (l *lists) put(key, end []byte, kvs []kv.KeyValue) {
	if len(kvs) < listLeast {
		return
	}
	one := list{key: bytes.Clone(key), end: bytes.Clone(end), kvs: kvs, bytes: int64(cap(kvs)) * entrySize}
	for i := range kvs {
		one.bytes += int64(len(kvs[i].Key) + len(kvs[i].Value))
	}
	if one.bytes > listsMax/2 {
		return // would push out all others
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == listsLen || l.bytes+one.bytes > listsMax {
		l.all, l.bytes = nil, 0
	}
	l.all = append(l.all, one)
	l.bytes += one.bytes
}

// drop takes out the lists that a key lies in.
func (l *lists) drop(key []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.all[:0]
	for _, one := range l.all {
		if kv.Contains(one.key, one.end, key) {
			l.bytes -= one.bytes
		} else {
			kept = append(kept, one)
		}
	}
	clear(l.all[len(kept):])
	l.all = kept
}

func (l *lists) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all, l.bytes = nil, 0
}

// list returns what the feed has brought of a covered range, in order. It is shared. mu is held, so that nothing changes between
// the reading and the keeping.
func (c *Cache) list(key, end []byte) ([]kv.KeyValue, error) {
	if kvs, ok := c.lists.get(key, end); ok {
		return kvs, nil
	}
	kvs, err := c.read(key, end)
	if err == nil {
		c.lists.put(key, end, kvs)
	}
	return kvs, err
}

// read merges what the file has of a range with the changes that are not in it. mu is held.
func (c *Cache) read(key, end []byte) (kvs []kv.KeyValue, err error) {
	changed := c.changes(key, end)
	err = c.db.View(func(tx *bolt.Tx) error {
		cur := tx.Bucket(bucketKeys).Cursor()
		for k, b := cur.Seek(key); k != nil && kv.Contains(key, end, k); k, b = cur.Next() {
			for len(changed) > 0 && changed[0].key < string(k) {
				kvs, changed = changed[0].appendTo(kvs), changed[1:]
			}
			if len(changed) > 0 && changed[0].key == string(k) {
				continue // it comes instead
			}
			v, err := decodeValue(bytes.Clone(k), b)
			if err != nil {
				return err
			}
			kvs = append(kvs, v)
		}
		return nil
	})
	for _, one := range changed {
		kvs = one.appendTo(kvs)
	}
	return kvs, err
}

// unwritten is a key that the file does not have as it is.
type unwritten struct {
	key string
	now *kv.KeyValue // nil: it does not exist
}

func (u unwritten) appendTo(kvs []kv.KeyValue) []kv.KeyValue {
	if u.now == nil {
		return kvs
	}
	return append(kvs, *u.now)
}

// changes are the keys of a range that are not in the file as they are, in order. mu is held.
func (c *Cache) changes(key, end []byte) (changed []unwritten) {
	for k, p := range c.dirty {
		if kv.Contains(key, end, []byte(k)) {
			changed = append(changed, unwritten{k, p})
		}
	}
	for k, p := range c.frozen {
		if _, newer := c.dirty[k]; !newer && kv.Contains(key, end, []byte(k)) {
			changed = append(changed, unwritten{k, p})
		}
	}
	sort.Slice(changed, func(i, j int) bool { return changed[i].key < changed[j].key })
	return changed
}
