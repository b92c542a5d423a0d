package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// bulkBytes is how much a restore puts into one transaction.
const bulkBytes = 4 << 20

// restorePath is where a restore builds the new file, beside the old one.
func restorePath(path string) string { return path + ".restore" }

// Restore replaces the store by the snapshot in r. Until the new file is complete and synced, nothing changes, and an
// error leaves the store as it was; a crash at any point leaves the old or the new state. Reads go on meanwhile. Streams
// of Watch read on in the new history if it continues the old one (the same epoch, and no older), else their watches
// are cancelled. It ends with kv.Stopping when stop is closed; nil is never. No Apply may run at the same time.
//
//	building -> synced -> renamed -> adopted
func (s *Store) Restore(r io.Reader, stop <-chan struct{}) error {
	temp := restorePath(s.path)
	if err := s.build(temp, r, stop); err != nil {
		return errors.Join(fmt.Errorf("restore %s: %w", s.path, err), removeIfThere(temp))
	}
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.failure(); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	if s.isClosed() {
		return errors.Join(errClosed(), removeIfThere(temp))
	}
	if err := s.replace(temp); err != nil {
		return s.fail(fmt.Errorf("restore: %w", err))
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// replace puts a complete file in the place of the present one. The caller holds flushMu and applyMu.
func (s *Store) replace(temp string) error {
	if err := s.opts.at("synced"); err != nil {
		return err
	}
	if err := os.Rename(temp, s.path); err != nil {
		return err
	}
	if err := s.opts.at("renamed"); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return err
	}
	f, st, sw, err := openFile(s.path)
	if err != nil {
		return err
	}
	old := s.layers.Load().file
	s.adopt(f, st, sw)
	s.records.Add(1)
	return old.release()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// build makes a file of a snapshot, complete and synced when it returns. Nobody relies on it before it is renamed, so it
// is synced once, at the end.
func (s *Store) build(temp string, r io.Reader, stop <-chan struct{}) error {
	return makeFile(temp, func(db *bbolt.DB) error {
		b := &builder{db: db, fr: frameReader{r: r, stop: stop}}
		if err := b.run(); err != nil {
			return err
		}
		return s.opts.at("building")
	})
}

// builder fills an empty file from a snapshot.
type builder struct {
	db    *bbolt.DB
	fr    frameReader
	tx    *bbolt.Tx
	bytes int // put into tx

	state   state
	sweep   sweep
	seen    bool // the state
	recs    uint64
	last    revision // of the records
	keys    uint64
	lastKey []byte // of the index
	reached uint64 // records

	lastSide []byte // key of the side table
}

func (b *builder) run() error {
	format, err := b.fr.header()
	if err != nil {
		return err
	}
	if err := b.begin(); err != nil {
		return err
	}
	defer func() {
		if b.tx != nil {
			_ = b.tx.Rollback() // the file is thrown away
		}
	}()
	if err := makeBuckets(b.tx, state{Revision: 1}, sweep{}); err != nil {
		return err
	}
	if err := raiseFormat(b.tx, format); err != nil {
		return err
	}
	for {
		kind, payload, err := b.fr.next()
		if err != nil {
			return err
		}
		done := kind == frameEnd
		switch {
		case done:
			err = b.end(payload)
		case kind == frameState && !b.seen:
			err = b.takeState(payload)
		case kind == frameRecords && b.seen && b.keys == 0:
			err = b.takeRecords(payload)
		case kind == frameIndex && b.seen && b.lastSide == nil:
			err = b.takeIndex(payload)
		case kind == frameSides && b.seen:
			err = b.takeSides(payload)
		default:
			err = damaged("frame %d of kind %q is out of place", b.fr.n-1, kind)
		}
		if err != nil {
			return err
		}
		if done || b.bytes >= bulkBytes {
			tx := b.tx
			b.tx = nil
			if err := tx.Commit(); err != nil {
				return err
			}
		}
		if done {
			return nil
		}
		if b.tx == nil {
			if err := b.begin(); err != nil {
				return err
			}
		}
	}
}

func (b *builder) begin() (err error) {
	b.bytes = 0
	b.tx, err = b.db.Begin(true)
	return err
}

func (b *builder) takeState(p []byte) error {
	if len(p) != stateLen+sweepLen {
		return damaged("its state has %d bytes", len(p))
	}
	if err := b.state.parse(p[:stateLen]); err != nil {
		return err
	}
	b.seen = true
	return b.sweep.parse(p[stateLen:])
}

func (b *builder) takeRecords(p []byte) error {
	revs := b.tx.Bucket(bucketRev)
	revs.FillPercent = recFill
	// bbolt keeps the slices it is given until the commit.
	p = bytes.Clone(p)
	for len(p) > 0 {
		if len(p) < revKeyLen {
			return damaged("a record is cut short")
		}
		k, rest := p[:revKeyLen], p[revKeyLen:]
		n, w := binary.Uvarint(rest)
		if w <= 0 || n > uint64(len(rest)-w) {
			return damaged("a record is cut short")
		}
		rec := rest[w : w+int(n)]
		p = rest[w+int(n):]
		r, err := viewRecord(k, rec)
		if err != nil {
			return err
		}
		if !r.rev().after(b.last) || r.ModRevision > b.state.Revision || len(r.Key) > MaxKeyBytes {
			return damaged("the record of revision %v is out of place", r.rev())
		}
		b.last = r.rev()
		b.recs++
		b.bytes += len(k) + len(rec)
		if err := revs.Put(k, rec); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) takeIndex(p []byte) error {
	revs, index := b.tx.Bucket(bucketRev), b.tx.Bucket(bucketKey)
	index.FillPercent = indexFill
	for len(p) > 0 {
		main, w := binary.Uvarint(p)
		sub, w2 := binary.Uvarint(p[max(w, 0):])
		if w <= 0 || w2 <= 0 || main > uint64(b.last.main) || sub > math.MaxUint32 {
			return damaged("the list of its keys is malformed")
		}
		p = p[w+w2:]
		r, err := recordIn(revs, revision{int64(main), uint32(sub)})
		if err != nil {
			return err
		}
		if r == nil || bytes.Compare(r.Key, b.lastKey) <= 0 {
			return damaged("the list of its keys is wrong at revision %d.%d", main, sub)
		}
		b.lastKey = bytes.Clone(r.Key)
		b.keys++
		entry := appendIndexEntry(nil, r)
		b.bytes += len(r.Key) + len(entry)
		if err := index.Put(b.lastKey, entry); err != nil {
			return err
		}
		if err := b.follow(revs, r); err != nil {
			return err
		}
	}
	return nil
}

// follow counts the records that can be reached from the newest of a key. In the end that must be all of them, or the
// list of keys is not what it should be.
func (b *builder) follow(revs *bbolt.Bucket, r *record) error {
	for b.reached++; r.prev.main > 0; b.reached++ {
		older, err := recordIn(revs, r.prev)
		if err != nil {
			return err
		}
		if older == nil {
			return nil
		}
		if !bytes.Equal(older.Key, r.Key) {
			return damaged("the record of revision %v is linked to that of another key", r.rev())
		}
		r = older
	}
	return nil
}

// recordIn returns a record as it lies in bucket rev, nil if it is not there.
func recordIn(revs *bbolt.Bucket, rev revision) (*record, error) {
	key := appendRevKey(nil, rev)
	b := revs.Get(key)
	if b == nil {
		return nil, nil
	}
	return viewRecord(key, b)
}

func (b *builder) takeSides(p []byte) error {
	sides, err := b.tx.CreateBucketIfNotExists(bucketSide)
	if err != nil {
		return err
	}
	p = bytes.Clone(p) // bbolt keeps the slices it is given until the commit
	part := func() ([]byte, bool) {
		n, w := binary.Uvarint(p)
		if w <= 0 || n > uint64(len(p)-w) {
			return nil, false
		}
		v := p[w : w+int(n) : w+int(n)]
		p = p[w+int(n):]
		return v, true
	}
	for len(p) > 0 {
		k, ok := part()
		v, ok2 := part()
		if !ok || !ok2 || len(k) == 0 || bytes.Compare(k, b.lastSide) <= 0 {
			return damaged("an entry of the side table is cut short or out of order")
		}
		if _, err := openSide(k, v); err != nil {
			return err
		}
		b.lastSide = k
		b.bytes += len(k) + len(v)
		if err := sides.Put(k, v); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) end(p []byte) error {
	if len(p) != 16 || !b.seen || binary.BigEndian.Uint64(p) != b.recs || b.reached != b.recs ||
		binary.BigEndian.Uint64(p[8:]) != b.keys {
		return damaged("it does not hold as many records as it says")
	}
	if err := b.state.loadSides(b.tx.Bucket(bucketSide)); err != nil {
		return err
	}
	meta := b.tx.Bucket(bucketMeta)
	if err := meta.Put(metaSweep, b.sweep.append(nil)); err != nil {
		return err
	}
	return meta.Put(metaState, b.state.append(nil))
}
