package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"sync/atomic"

	"holdfast/kv"
)

// HeldMax bounds the keys that are held one by one, because each is a watch upstream: about half a kilobyte at the member
// and as much here, and thirty bytes and its key on the link whenever that comes back. A thousand are what the devices of
// a box ask for by name; who needs more of a prefix mirrors it (proxy.prefixes), which is one watch.
const HeldMax = 1024

// heldShare is the part of the cache that one held key may take: one in heldShare.
const heldShare = 16

// held is a key that is known by itself.
//
//	fresh --every event up to the floor was applied--> kept
//
// What is fresh is known as of rev; what is kept, as of rev or the cache's floor, whichever is later.
type held struct {
	key  []byte
	rev  int64
	kept bool
	used atomic.Int64 // when it was last read, in reads
}

func (h *held) span(floor int64) Span {
	s := Span{Key: h.key, Revision: h.rev}
	if h.kept {
		s.Revision = max(s.Revision, floor)
	}
	return s
}

func (h *held) append(dst []byte) []byte {
	kept := byte(0)
	if h.kept {
		kept = 1
	}
	return binary.AppendVarint(append(dst, kept), h.rev)
}

func decodeHeld(key, b []byte) (*held, error) {
	if len(b) < 2 || b[0] > 1 {
		return nil, &kv.Error{Code: kv.Corrupt, Detail: fmt.Sprintf("cache: the record of the held key %q is damaged", key)}
	}
	rev, n := binary.Varint(b[1:])
	if n <= 0 {
		return nil, &kv.Error{Code: kv.Corrupt, Detail: fmt.Sprintf("cache: the revision of the held key %q is damaged", key)}
	}
	return &held{key: bytes.Clone(key), rev: rev, kept: b[0] == 1}, nil
}

// heldAt returns the held key that is the whole of a range. mu is held.
func (c *Cache) heldAt(key, end []byte) *held {
	if len(end) > 0 {
		return nil
	}
	return c.held[string(key)]
}

// Ask is a key that is being asked for upstream. It begins before the question is sent, so that what this node writes
// meanwhile is known when the answer comes, which may be older.
type Ask struct {
	key    string
	asking int
	wrote  int64 // the newest revision of it that was acknowledged or shown here since
}

// Ask begins one; Hold or Leave ends it.
func (c *Cache) Ask(key []byte) *Ask {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.asked[string(key)]
	if a == nil {
		a = &Ask{key: string(key)}
		c.asked[a.key] = a
	}
	a.asking++
	return a
}

// Key is what is asked for.
func (a *Ask) Key() string { return a.key }

// Leave ends an Ask without an answer.
func (c *Cache) Leave(a *Ask) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(a)
}

// leave reports whether the Ask still counts.
func (c *Cache) leave(a *Ask) bool {
	if c.asked[a.key] != a {
		return false // the cache holds another history now
	}
	if a.asking--; a.asking == 0 {
		delete(c.asked, a.key)
	}
	return true
}

// Shown says that a range was answered by the upstream as of a revision: older answers that are still on their way are not
// held any more. One that has been admitted already is held when Shown returns, so that Older tells of it.
func (c *Cache) Shown(key, end []byte, revision int64) {
	if done := c.shown(key, end, revision); done != nil {
		<-done
	}
}

// shown returns what to wait for, nil for nothing.
func (c *Cache) shown(key, end []byte, revision int64) (done <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, a := range c.asked {
		if kv.Contains(key, end, []byte(k)) {
			a.wrote = max(a.wrote, revision)
		}
	}
	if t := c.taking; t != nil && kv.Contains(key, end, []byte(t.key)) {
		return t.done
	}
	return nil
}

// taking is an answer between the decision to hold it and its place in memory, while the journal gets it.
type taking struct {
	key  string
	done chan struct{} // closed when it is held, or is not to be after all
}

// taken ends what admit began. mu is held.
func (c *Cache) taken() {
	close(c.taking.done)
	c.taking = nil
}

// Hold takes in the answer to an Ask: the key as of revision, nil if it does not exist. It reports whether the key is held
// now. A key is let in when it is first read while there is room. Else the one that was read longest ago makes room, but
// only for a key that is asked for a second time within a thousand others: reading through many keys once changes nothing.
//
// An answer that is older than what the cache has, or than what was written or shown here while it was on its way, is left
// out. Evicted says which keys had to go.
func (c *Cache) Hold(a *Ask, epoch kv.Epoch, v *kv.KeyValue, revision int64) (held bool, err error) {
	err = c.write(func() error {
		held, err = c.hold(a, epoch, v, revision)
		return err
	})
	return held, err
}

func (c *Cache) hold(a *Ask, epoch kv.Epoch, v *kv.KeyValue, revision int64) (bool, error) {
	key := []byte(a.key)
	if !c.admit(a, epoch, v, revision) {
		return false, nil
	}
	e := kv.Event{Delete: true, KV: kv.KeyValue{Key: key, ModRevision: revision}}
	if v != nil {
		e = kv.Event{KV: *v}
	}
	at, ok := c.at(key, nil)
	known := ok && at >= revision // as of later; the journal gets only what has an effect, since a replay may not tell
	var err error
	if !known {
		err = c.journal.add(change{Event: e, held: revision}) // it is held all the same: it may be shown as soon as this returns
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.taken()
	if known {
		return true, nil
	}
	err = errors.Join(err, c.take(e, revision), c.fit())
	return c.held[a.key] != nil, err
}

// take makes a key held as of revision, whether there is room or not. mu is held.
func (c *Cache) take(e kv.Event, revision int64) error {
	k := string(e.KV.Key)
	was, err := c.peek(e.KV.Key)
	if err != nil {
		return err
	}
	h := c.held[k]
	if h == nil {
		h = &held{key: []byte(k)}
		h.used.Store(c.missed.now.Add(1))
		c.held[k] = h
	} else if h.span(c.floor).Revision >= revision {
		return nil
	}
	h.rev = revision
	c.changed[k], c.stale = struct{}{}, true
	defer c.settle()
	if was == nil && e.Delete || was != nil && !e.Delete && was.ModRevision >= e.KV.ModRevision {
		return nil // as it was; an own write may even be ahead
	}
	return c.change(e)
}

// admit decides whether an answer is worth holding, and ends its Ask. True is to be followed by taken; writing is held until then.
func (c *Cache) admit(a *Ask, epoch kv.Epoch, v *kv.KeyValue, revision int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.worth(a, epoch, v, revision) {
		return false
	}
	c.taking = &taking{a.key, make(chan struct{})}
	return true
}

// worth is what admit decides. mu is held.
func (c *Cache) worth(a *Ask, epoch kv.Epoch, v *kv.KeyValue, revision int64) bool {
	if !c.leave(a) || c.epoch != epoch || revision <= 0 {
		return false
	}
	wrote := a.wrote
	a.wrote = max(a.wrote, revision) // for others who ask
	key := []byte(a.key)
	if _, mirrored := c.mirrored(key, nil); mirrored {
		return false
	}
	if c.held[a.key] != nil {
		return true // who asked is shown this, so nothing older may be read from here on; own writes lie over it
	}
	if wrote > revision {
		return false
	}
	size := int64(len(key)) + overhead
	if v != nil {
		size = weight(*v)
	}
	if size > c.maxBytes/heldShare {
		return false
	}
	if len(c.held) < HeldMax && c.bytes+size <= c.maxBytes {
		return true
	}
	return len(c.held) > 0 && c.missed.again(key)
}

// makeRoom lets held keys go until size more bytes fit, the one that was read longest ago first. mu is held.
func (c *Cache) makeRoom(size int64) error {
	for c.maxBytes > 0 && c.bytes+size > c.maxBytes {
		if len(c.held) == 0 {
			return ErrFull
		}
		if err := c.evict(); err != nil {
			return err
		}
	}
	return nil
}

// fit lets held keys go until there are no more of them and of bytes than allowed. mu is held.
func (c *Cache) fit() error {
	for len(c.held) > HeldMax {
		if err := c.evict(); err != nil {
			return err
		}
	}
	return c.makeRoom(0)
}

// evict lets the held key go that was read longest ago. mu is held.
func (c *Cache) evict() error {
	oldest, used := "", int64(0)
	for k, h := range c.held {
		if at := h.used.Load(); oldest == "" || at < used {
			oldest, used = k, at
		}
	}
	return c.release(oldest)
}

// release forgets a held key. mu is held.
func (c *Cache) release(k string) error {
	c.letGo(k)
	c.stale = true
	if _, still := c.mirrored([]byte(k), nil); still {
		return nil
	}
	c.settle()
	return c.change(kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte(k)}})
}

func (c *Cache) letGo(k string) {
	if a := c.asked[k]; a != nil { // an answer that is older than what was shown here is no longer wanted
		a.wrote = max(a.wrote, c.held[k].span(c.floor).Revision)
	}
	delete(c.held, k)
	c.changed[k] = struct{}{}
	c.gone = append(c.gone, []byte(k))
	c.leaving = append(c.leaving, []byte(k))
}

// depart notes in the journal which keys were let go: a killed process must not come back with what it knew of them
// then, since newer versions may have been read or written through it. writing is held.
func (c *Cache) depart() (err error) {
	c.mu.Lock()
	leaving := c.leaving
	c.leaving = nil
	c.mu.Unlock()
	for _, k := range leaving {
		err = errors.Join(err, c.journal.add(change{Event: kv.Event{Delete: true, KV: kv.KeyValue{Key: k}}, gone: true}))
	}
	return err
}

// Evicted returns the held keys that were let go since it was last called.
func (c *Cache) Evicted() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := c.gone
	c.gone = nil
	return gone
}

// Held returns the keys that are held, each with the revision up to which it is known.
func (c *Cache) Held() (all []Span) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, h := range c.held {
		all = append(all, h.span(c.floor))
	}
	return all
}

// HeldLen is the number of keys that are held.
func (c *Cache) HeldLen() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.held)
}

// Keep says that everything up to the floor, present and to come, has been applied to these keys.
func (c *Cache) Keep(keys []string, kept bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		h := c.held[k]
		if h == nil || h.kept == kept {
			continue
		}
		h.rev, h.kept = h.span(c.floor).Revision, kept
		c.changed[k] = struct{}{}
		c.stale = c.stale || !kept // the floor on disk must not speak for it any more
	}
	c.settle()
}

// ring remembers keys that were turned away, as many as may be held.
type ring struct {
	now  atomic.Int64 // counts reads of held keys
	seed maphash.Seed
	at   int
	last []uint64
}

// again reports whether a key was turned away of late, and notes that it is now.
func (r *ring) again(key []byte) bool {
	if r.last == nil {
		r.seed, r.last = maphash.MakeSeed(), make([]uint64, HeldMax)
	}
	h := maphash.Bytes(r.seed, key) | 1 // 0 is an empty place
	for i, was := range r.last {
		if was == h {
			r.last[i] = 0
			return true
		}
	}
	r.last[r.at] = h
	r.at = (r.at + 1) % len(r.last)
	return false
}
