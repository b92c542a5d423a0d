package mvcc

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// What the log says beside keys is kept in a table of its own, bucket side: the cluster's records, the queue epoch of
// each origin, where each of its lanes stands, and how writes with a retry key ended. It has no history and never moves the revision. A key begins with
// the kind of what it holds.
const (
	sideRecord = 'r' // | name -> version (uvarint), value
	sideEpoch  = 'e' // | origin(16) -> queue epoch (uvarint), nonce(16) of the history that granted it; in old files without
	sideLane   = 'q' // | origin(16), lane(1) -> laneState
)

var bucketSide = []byte("side")

// sideOverhead is what an entry costs in memory beside its key and value.
const sideOverhead = 64

// sides are entries that are not in the file yet; a nil value is one that is to be removed. Apply is the one writer.
type sides struct {
	mu sync.RWMutex
	m  map[string][]byte
}

func (t *sides) get(key string) (v []byte, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok = t.m[key]
	return v, ok
}

// set returns by how much the memory of the table has grown.
func (t *sides) set(key string, v []byte) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string][]byte{}
	}
	was, had := t.m[key]
	t.m[key] = v
	if had {
		return int64(len(v) - len(was))
	}
	return int64(sideOverhead + len(key) + len(v))
}

// collect puts the entries under a prefix over those in all.
func (t *sides) collect(prefix string, all map[string][]byte) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for k, v := range t.m {
		if strings.HasPrefix(k, prefix) {
			all[k] = v
		}
	}
}

// setSide changes the table. Only Apply calls it, once the command it belongs to cannot fail any more.
func (s *Store) setSide(r *reader, key string, v []byte) {
	o := r.l.active
	o.bytes.Add(o.sides.set(key, v))
	s.unsaved = true
	if key[0] == sideRecord {
		s.records.Add(1)
	}
}

// side returns an entry, nil if there is none.
func (r *reader) side(key string) ([]byte, error) {
	for _, o := range [2]*overlay{r.l.active, r.l.flushing} {
		if o == nil {
			continue
		}
		if v, ok := o.sides.get(key); ok {
			return v, nil
		}
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	b := r.tx.Bucket(bucketSide)
	if b == nil {
		return nil, nil
	}
	v := b.Get([]byte(key))
	if v == nil {
		return nil, nil
	}
	r.entries++
	return openSide([]byte(key), v)
}

// sidesUnder returns the entries under a prefix, in order of key.
func (r *reader) sidesUnder(prefix string) (keys []string, values [][]byte, err error) {
	all := map[string][]byte{}
	if err := r.open(); err != nil {
		return nil, nil, err
	}
	if b := r.tx.Bucket(bucketSide); b != nil {
		c := b.Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			r.entries++
			if all[string(k)], err = openSide(k, v); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, o := range [2]*overlay{r.l.flushing, r.l.active} { // the newer one last
		if o != nil {
			o.sides.collect(prefix, all)
		}
	}
	for k, v := range all {
		if v != nil {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		values = append(values, all[k])
	}
	return keys, values, nil
}

// sealSide is an entry as the file has it: crc32c(4) over key and value, value.
func sealSide(key, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, crcLen+len(v)), checksum(key, v)), v...)
}

// openSide verifies an entry and copies its value.
func openSide(key, b []byte) ([]byte, error) {
	if len(b) < crcLen || binary.BigEndian.Uint32(b) != checksum(key, b[crcLen:]) {
		return nil, corruptf("the side entry %q fails its checksum", key)
	}
	return append([]byte{}, b[crcLen:]...), nil
}

// writeSides puts what an overlay has of the table into a transaction.
func writeSides(tx *bbolt.Tx, o *overlay) error {
	o.sides.mu.RLock()
	defer o.sides.mu.RUnlock()
	if len(o.sides.m) == 0 {
		return nil
	}
	b, err := tx.CreateBucketIfNotExists(bucketSide)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(o.sides.m))
	for k := range o.sides.m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		key := []byte(k)
		if v := o.sides.m[k]; v == nil {
			err = b.Delete(key)
		} else {
			err = b.Put(key, sealSide(key, v))
		}
		if err != nil {
			return err
		}
	}
	return raiseFormat(tx, formatOf(o.sides.m))
}

// MaxRecordName is the longest name of a record.
const MaxRecordName = 1024

// setRecord stages a change of one of the cluster's records.
func (x *exec) setRecord(op kv.SetRecord) (res kv.OpResult, err error) {
	if op.Term != 0 && op.Term != x.control.term {
		return res, kv.Errorf(kv.NoLeader, "the leader that wanted record %q changed leads no more", op.Name)
	}
	key := string(sideRecord) + string(op.Name)
	b, err := x.staged(key)
	if err != nil {
		return res, err
	}
	var version int64
	if b != nil {
		n, w := binary.Uvarint(b)
		if w <= 0 {
			return res, corruptf("the record %q is malformed", op.Name)
		}
		version = int64(n)
	}
	if op.Have >= 0 && op.Have != version {
		e := kv.Errorf(kv.PreconditionFailed, "record %q is at version %d, not %d", op.Name, version, op.Have)
		e.Revision = version
		return res, e
	}
	var v []byte
	if op.Value != nil {
		res.Count = version + 1
		v = append(binary.AppendUvarint(nil, uint64(res.Count)), op.Value...)
	}
	x.stageSide(key, v)
	return res, nil
}

// listRecords answers kv.Records.
func (x *exec) listRecords(op kv.Records) (res kv.OpResult, err error) {
	keys, values, err := x.r.sidesUnder(string(sideRecord) + string(op.Prefix))
	if err != nil {
		return res, err
	}
	for i, k := range keys {
		n, w := binary.Uvarint(values[i])
		if w <= 0 {
			return res, corruptf("the record %q is malformed", k[1:])
		}
		res.KVs = append(res.KVs, kv.KeyValue{Key: []byte(k[1:]), Value: values[i][w:], Version: int64(n)})
	}
	res.Count = int64(len(res.KVs))
	return res, nil
}

// openQueue grants the next queue epoch of an origin.
func (x *exec) openQueue(op kv.OpenQueue) (res kv.OpResult, err error) {
	key := epochKey(op.Origin)
	b, err := x.staged(key)
	if err != nil {
		return res, err
	}
	present, _, err := parseEpoch(b)
	if err != nil {
		return res, err
	}
	if present != op.Have {
		e := kv.Errorf(kv.PreconditionFailed, "the queue epoch of this origin is %d, not %d", present, op.Have)
		e.Revision = int64(present)
		return res, e
	}
	x.stageSide(key, append(binary.AppendUvarint(nil, present+1), x.r.s.state.Epoch.Nonce[:]...))
	res.Count = int64(present + 1)
	return res, nil
}

// staged reads an entry as the command has left it so far.
func (x *exec) staged(key string) ([]byte, error) {
	if v, ok := x.sides[key]; ok {
		return v, nil
	}
	return x.r.side(key)
}

func (x *exec) stageSide(key string, v []byte) {
	if x.sides == nil {
		x.sides = map[string][]byte{}
	}
	x.sides[key] = v
}

func epochKey(origin [16]byte) string { return string(sideEpoch) + string(origin[:]) }

// parseEpoch reads a queue epoch and the nonce of the history that granted it, nil if that is not known.
func parseEpoch(b []byte) (n uint64, nonce []byte, err error) {
	if b == nil {
		return 0, nil, nil
	}
	n, w := binary.Uvarint(b)
	if w <= 0 || len(b) != w && len(b) != w+len(kv.Epoch{}.Nonce) {
		return 0, nil, corruptf("a queue epoch is malformed")
	}
	if len(b) > w {
		nonce = b[w:]
	}
	return n, nonce, nil
}
