package mvcc

import (
	"bytes"
	"errors"
	"runtime"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"holdfast/kv"
)

// A bbolt transaction of a reader is given up after so many entries or bytes and another one begun: an old transaction
// keeps pages from being reused, and a growing map has to wait for it.
const (
	readEntriesMax = 4096
	readBytesMax   = 4 << 20
)

// errPassed is for a reader whose revision was compacted, or whose file was replaced, while it was reading.
var errPassed = errors.New("the history moved on under a reader")

// layers is where records are, at one moment. Only a holder of flushMu replaces it.
type layers struct {
	active   *overlay
	flushing *overlay // nil while no flush is under way
	file     *file
}

// reader reads at one or several revisions, none older than floor. It is for one goroutine, and must be closed.
type reader struct {
	s     *Store
	l     *layers
	stage *stage // nil but in Apply
	base  int64  // in Apply: the newest revision in the overlay
	floor int64  // the oldest revision read; errPassed if a compaction passes it

	tx      *bbolt.Tx // nil while no record was needed from the file
	rev     *bbolt.Bucket
	key     *bbolt.Cursor // for get
	seq     int           // counts the transactions
	entries int           // visited in this transaction
	bytes   int
	scratch []byte
	v       version
	fail    error // what ended a source early
}

// reader makes one for what is there at this moment. While a restore replaces everything there is nothing.
func (s *Store) reader(floor int64) *reader {
	return &reader{s: s, l: s.layers.Load(), floor: floor}
}

// now is a reader for the newest revision, which it is named. Its revision and its layers belong to one history: a
// restore puts layers without a file in between, changes the revision, and then puts the new ones.
func (s *Store) now() (*reader, kv.Header) {
	for {
		before := s.layers.Load().file
		h := s.header()
		r := s.reader(h.Revision)
		if before != nil && before == r.l.file {
			return r, h
		}
		runtime.Gosched()
	}
}

// close ends the transaction. The reader may be used again, and begins another one then.
func (r *reader) close() {
	if r.tx == nil {
		return
	}
	// Rollback of a read transaction fails only if it is closed already.
	_ = r.tx.Rollback()
	r.tx, r.rev, r.key = nil, nil, nil
}

// open begins the transaction if there is none. Everything compaction has done to the file by now was announced in
// compact before.
func (r *reader) open() error {
	if r.tx != nil {
		return nil
	}
	tx, err := r.l.file.db.Begin(false)
	switch {
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen) && r.s.isClosed():
		return errClosed()
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return errPassed // a restore has replaced the file
	case err != nil:
		return err
	}
	if r.s.compact.Load() > r.floor {
		_ = tx.Rollback()
		return errPassed
	}
	r.tx, r.rev, r.key = tx, tx.Bucket(bucketRev), tx.Bucket(bucketKey).Cursor()
	r.seq++
	r.entries, r.bytes = 0, 0
	return nil
}

// refresh begins another transaction if the present one has read enough. What was read in it must not be used any more.
func (r *reader) refresh() error {
	if r.tx == nil || r.entries < readEntriesMax && r.bytes < readBytesMax {
		return nil
	}
	r.close()
	return r.open()
}

// get returns the newest version of key at or before main, deleted or not, nil if there is none. It is valid until the
// next call.
func (r *reader) get(key []byte, main int64) (*version, error) {
	if r.stage != nil {
		if rec := r.stage.get(key); rec != nil && rec.ModRevision <= main {
			r.v.set(rec)
			return &r.v, nil
		}
	}
	if rec := r.unflushed(key, main); rec != nil {
		r.v.set(rec)
		return &r.v, nil
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	r.entries++
	k, e := r.key.Seek(key)
	if k == nil || !bytes.Equal(k, key) {
		return nil, nil
	}
	if err := parseIndexEntry(&r.v, key, e); err != nil {
		return nil, err
	}
	if ok, err := r.older(&r.v, main); !ok || err != nil {
		return nil, err
	}
	return &r.v, nil
}

// unflushed is get for what is not in the file yet.
func (r *reader) unflushed(key []byte, main int64) (rec *record) {
	if r.stage != nil && main >= r.base {
		rec = r.l.active.getForWrite(key, main)
	} else {
		rec = r.l.active.get(key, main)
	}
	if rec == nil && r.l.flushing != nil {
		rec = r.l.flushing.get(key, main)
	}
	return rec
}

// older goes from a version that is in the file back to the newest at or before main, by the links from each record to
// the one that it replaced. It reports whether there is one. The transaction must be open.
func (r *reader) older(v *version, main int64) (bool, error) {
	if v.rev.main <= main {
		return true, nil
	}
	for {
		rec, err := r.view(v)
		switch {
		case err != nil || rec == nil:
			return false, err
		case rec.ModRevision <= main:
			v.describe(rec)
			return true, nil
		case rec.prev.main == 0:
			return false, nil
		}
		v.rev = rec.prev
	}
}

// view returns the record of a version as it lies in the file, valid until the transaction ends. It is nil if a
// compaction has freed it: nothing that may be read is behind it then.
func (r *reader) view(v *version) (*record, error) {
	var key [revKeyLen]byte
	k := appendRevKey(key[:0], v.rev)
	b := r.rev.Get(k)
	if b == nil {
		if v.rev.main < r.s.compact.Load() {
			return nil, nil
		}
		return nil, corruptf("the record of key %q at revision %v is missing", v.key, v.rev)
	}
	rec, err := viewRecord(k, b)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(rec.Key, v.key) {
		return nil, corruptf("the record of key %q at revision %v is that of another key", v.key, v.rev)
	}
	r.entries++
	r.bytes += len(b)
	return rec, nil
}

// record returns the whole record of a version that is not a delete. It must be called before the source of v moves.
func (r *reader) record(v *version) (*record, error) {
	if v.rec != nil {
		return v.rec, nil
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	rec, err := r.view(v)
	if err != nil {
		return nil, err
	}
	if rec == nil || rec.deleted != v.deleted {
		return nil, corruptf("the record of key %q at revision %v is not what the key index says", v.key, v.rev)
	}
	return rec.clone(), nil
}

// sources merges everything the reader sees, all versions of all keys, from (key, rev) on.
func (r *reader) sources(key []byte, rev revision) *merge {
	m := &merge{src: make([]source, 0, 4)}
	if r.stage != nil && len(r.stage.recs) > 0 {
		m.src = append(m.src, &stageSource{s: r.stage})
	}
	if r.l.active.count.Load() > 0 {
		m.src = append(m.src, &memSource{o: r.l.active})
	}
	if r.l.flushing != nil {
		m.src = append(m.src, &memSource{o: r.l.flushing})
	}
	m.src = append(m.src, &fileSource{r: r})
	m.seek(key, rev)
	return m
}

// scan calls fn for every key of the range that exists at main, in order, until fn returns false. The version it gets
// is valid during the call.
func (r *reader) scan(key, end []byte, main int64, fn func(*version) (bool, error)) error {
	upTo := bounded(end)
	m := r.sources(key, last(main))
	for {
		v := m.at()
		if r.fail != nil || v == nil || upTo && bytes.Compare(v.key, end) >= 0 {
			return r.fail
		}
		r.scratch = append(r.scratch[:0], v.key...)
		if v.rev.main > main {
			m.seek(r.scratch, last(main))
			continue
		}
		if !v.deleted {
			if more, err := fn(v); !more || err != nil {
				return err
			}
		}
		m.seek(r.scratch, revision{})
	}
}

// bounded reports whether a range with this End stops at it. One without an End, for a single key, is not for scan.
func bounded(end []byte) bool { return len(end) != 1 || end[0] != 0 }

// fileSource walks bucket key; see source. An error ends it and is left in the reader's fail.
type fileSource struct {
	r   *reader
	c   *bbolt.Cursor
	seq int    // of the reader's transaction that c belongs to
	pos []byte // the present key, a copy: it outlives the transaction
	v   version
	ok  bool
}

func (s *fileSource) at() *version {
	if !s.ok {
		return nil
	}
	return &s.v
}

func (s *fileSource) seek(key []byte, rev revision) {
	if s.r.fail != nil || s.c != nil && !s.ok {
		return // at its end
	}
	var err error
	if !s.ok || bytes.Compare(s.pos, key) < 0 {
		err = s.forward(key)
	}
	if err == nil && s.ok && bytes.Equal(s.pos, key) && s.v.rev.after(rev) {
		found := false
		if rev.main > 0 {
			found, err = s.r.older(&s.v, rev.main)
		}
		if err == nil && !found {
			err = s.skip()
		}
	}
	if err != nil {
		s.ok, s.r.fail = false, err
	}
}

// ready makes the cursor one of the reader's present transaction. It reports whether it had to be made.
func (s *fileSource) ready() (fresh bool, err error) {
	if err := s.r.open(); err != nil {
		return false, err
	}
	if err := s.r.refresh(); err != nil {
		return false, err
	}
	if s.c != nil && s.seq == s.r.seq {
		return false, nil
	}
	s.c, s.seq = s.r.tx.Bucket(bucketKey).Cursor(), s.r.seq
	return true, nil
}

// forward goes to the first key that does not come before key.
func (s *fileSource) forward(key []byte) error {
	fresh, err := s.ready()
	if err != nil {
		return err
	}
	if !fresh && s.ok {
		// Most seeks go to a neighbour: try a few steps before a search from the root.
		for range 3 {
			k, e := s.c.Next()
			s.r.entries++
			if k == nil || bytes.Compare(k, key) >= 0 {
				return s.load(k, e)
			}
		}
	}
	return s.load(s.c.Seek(key))
}

// skip goes to the next key.
func (s *fileSource) skip() error {
	fresh, err := s.ready()
	if err != nil {
		return err
	}
	if fresh {
		// The present key may be gone, deleted and compacted; then Seek is at the next one already.
		if k, e := s.c.Seek(s.pos); !bytes.Equal(k, s.pos) {
			return s.load(k, e)
		}
	}
	return s.load(s.c.Next())
}

func (s *fileSource) load(k, e []byte) error {
	s.r.entries++
	if s.ok = k != nil; !s.ok {
		return nil
	}
	s.pos = append(s.pos[:0], k...)
	return parseIndexEntry(&s.v, s.pos, e)
}
