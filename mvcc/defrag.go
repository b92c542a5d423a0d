package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

const (
	// catchUpBytes is how much may be left to copy when flushes are held up for it.
	catchUpBytes = 4 << 20
	// catchUps is how often what was written meanwhile is copied before that is given up as a race that is lost.
	catchUps = 16
	// defragMax is how long a defragmentation may take: meanwhile sweeps wait, and there are two files.
	defragMax = time.Hour
)

// defragPath is where a defragmentation builds the new file, beside the old one.
func defragPath(path string) string { return path + ".defrag" }

// Defragment puts a copy of the file without free pages in its place. It needs room for the copy. Reads, Apply and
// flushes go on while it copies, and sweeps wait; what was flushed meanwhile is copied after. Flushes are held up for
// the last few MiB and the renaming, Apply and reads for the moment in which the files change places.
//
//	copying -> copied (again while much was flushed) -> complete -> synced -> moved -> swapped
//
// An error or a crash up to synced leaves the old file in its place, one afterwards the new: both hold the same. The
// error is kv.Busy if more is written than can be copied, and if a restore or another defragmentation came between.
func (s *Store) Defragment(ctx context.Context) error {
	done := make(chan struct{})
	if !s.defragging.CompareAndSwap(nil, &done) {
		return kv.Errorf(kv.Busy, "the store is being defragmented already")
	}
	defer func() {
		s.defragging.Store(nil)
		close(done)
		wake(s.wakeSweep)
	}()
	ctx, cancel := context.WithTimeout(ctx, defragMax)
	defer cancel()
	d := &defrag{s: s, ctx: ctx, temp: defragPath(s.path)}
	err := d.run()
	if err != nil && !d.moved {
		err = errors.Join(err, d.giveUp())
	}
	if err != nil {
		return fmt.Errorf("defragment %s: %w", s.path, err)
	}
	return nil
}

// defrag is one run.
type defrag struct {
	s     *Store
	ctx   context.Context
	temp  string
	db    *bbolt.DB // the copy, while it is written
	from  *file     // what is copied
	done  state     // of the copy
	moved bool      // the copy has the file's name
}

func (d *defrag) run() error {
	if err := removeIfThere(d.temp); err != nil {
		return err
	}
	var err error
	if d.db, err = openBolt(d.temp, true, nil); err != nil {
		return err
	}
	d.db.AllocSize = allocBytes
	if err := d.copyAll(); err != nil {
		return err
	}
	for range catchUps {
		left, err := d.catchUp()
		if err != nil {
			return err
		}
		if left <= d.s.opts.catchUp {
			return d.finish()
		}
	}
	return kv.Errorf(kv.Busy, "more is written than can be copied beside it: try again at a quieter time")
}

// snapshot holds on to what the file has now.
func (d *defrag) snapshot() (*Snapshot, error) {
	sn, err := d.s.pin(false)
	if err == nil && d.from == nil {
		d.from = sn.file
	}
	if err == nil && sn.file != d.from {
		return nil, errors.Join(d.replaced(), sn.Close())
	}
	return sn, err
}

func (d *defrag) replaced() error {
	return kv.Errorf(kv.Busy, "a snapshot of another member has replaced the file meanwhile, which leaves no free pages")
}

// copyAll copies what is in the file now.
func (d *defrag) copyAll() error {
	sn, err := d.snapshot()
	if err != nil {
		return err
	}
	w := &batchWriter{db: d.db}
	err = guard(func() error {
		if err := d.s.opts.at("copying"); err != nil {
			return err
		}
		err := w.each(func(tx *bbolt.Tx) error { return makeBuckets(tx, state{Revision: 1}, sweep{}) })
		for _, b := range []struct {
			name   []byte
			fill   float64
			verify func(k, v []byte) error
		}{
			{bucketRev, recFill, verifyRecord},
			{bucketKey, indexFill, func(k, v []byte) error { return parseIndexEntry(&version{}, k, v) }},
		} {
			if err == nil {
				err = d.copyBucket(w, sn.tx, b.name, b.fill, b.verify)
			}
		}
		return err
	})
	d.done = sn.state
	return errors.Join(w.finish(err), sn.Close())
}

func (d *defrag) copyBucket(w *batchWriter, tx *bbolt.Tx, name []byte, fill float64, verify func(k, v []byte) error) error {
	c := tx.Bucket(name).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := verify(k, v); err != nil {
			return err
		}
		if err := w.put(name, fill, k, v); err != nil {
			return err
		}
		if w.bytes == 0 && d.ctx.Err() != nil {
			return d.stopped()
		}
	}
	return nil
}

func (d *defrag) stopped() error {
	return kv.Errorf(kv.Stopping, "stopped by the caller: %w", context.Cause(d.ctx))
}

// catchUp copies what was flushed since the last copy, and returns how much has been flushed again meanwhile.
func (d *defrag) catchUp() (left int64, err error) {
	if err := d.s.opts.at("copied"); err != nil {
		return 0, err
	}
	if d.ctx.Err() != nil {
		return 0, d.stopped()
	}
	sn, err := d.snapshot()
	if err != nil {
		return 0, err
	}
	n, err := d.copyNewer(sn.tx, sn.state)
	if err == nil {
		err = d.db.Sync() // here, where nothing waits for it
	}
	return n, errors.Join(err, sn.Close())
}

// copyNewer brings the copy to where the file is in tx: sweeps wait, so there are only more changes. It returns how many
// bytes they had, a measure of what will come meanwhile.
func (d *defrag) copyNewer(tx *bbolt.Tx, st state) (n int64, err error) {
	w := &batchWriter{db: d.db}
	err = guard(func() error {
		c := tx.Bucket(bucketRev).Cursor()
		for k, v := c.Seek(appendRevKey(nil, revision{main: d.done.Revision + 1})); k != nil; k, v = c.Next() {
			rec, err := viewRecord(k, v)
			if err == nil {
				err = w.put(bucketRev, recFill, k, v)
			}
			if err == nil {
				err = w.put(bucketKey, indexFill, rec.Key, appendIndexEntry(nil, rec))
			}
			if err != nil {
				return err
			}
			n += int64(len(k) + len(v))
		}
		return nil
	})
	d.done = st
	return n, w.finish(err)
}

// finish holds up flushes, copies the rest and puts the copy in the place of the file.
func (d *defrag) finish() error {
	s := d.s
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if err := s.failure(); err != nil {
		return err
	}
	if s.isClosed() {
		return errClosed()
	}
	old := s.layers.Load().file
	switch {
	case old != d.from:
		return d.replaced()
	case s.waiting != nil:
		return kv.Errorf(kv.NoSpace, "the state file cannot be written at present")
	}
	if err := d.complete(old); err != nil {
		return err
	}
	f, st, _, err := openFile(d.temp)
	if err != nil {
		return err
	}
	if err := s.opts.at("synced"); err != nil {
		return errors.Join(err, f.release())
	}
	if st.Applied != s.saved.Applied || st.Revision != s.saved.Revision {
		return errors.Join(corruptf("the copy has revision %d and the file %d", st.Revision, s.saved.Revision), f.release())
	}
	if err := os.Rename(d.temp, s.path); err != nil {
		return errors.Join(err, f.release())
	}
	d.moved = true
	err = s.opts.at("moved")
	if err == nil {
		err = syncDir(filepath.Dir(s.path))
	}
	if err != nil { // which of the two is there after a power cut is not known: both hold the same, up to here
		return s.fail(errors.Join(err, f.release()))
	}
	return d.swap(f, old)
}

// complete makes the copy the same as the file, and durable. The caller holds flushMu.
func (d *defrag) complete(old *file) error {
	s := d.s
	err := old.db.View(func(tx *bbolt.Tx) error {
		if _, err := d.copyNewer(tx, s.saved); err != nil {
			return err
		}
		return guard(func() error {
			return d.db.Update(func(to *bbolt.Tx) error {
				if err := copyOthers(tx, to); err != nil {
					return err
				}
				b := to.Bucket(bucketMeta)
				if err := b.Put(metaFormat, tx.Bucket(bucketMeta).Get(metaFormat)); err != nil {
					return err
				}
				if err := b.Put(metaSweep, s.sweep.append(nil)); err != nil {
					return err
				}
				return b.Put(metaState, s.saved.append(nil))
			})
		})
	})
	if err != nil {
		return err
	}
	if err := s.opts.at("complete"); err != nil {
		return err
	}
	if err := d.db.Sync(); err != nil {
		return err
	}
	db := d.db
	d.db = nil
	return db.Close()
}

// swap lets the store stand on f. What is in memory stays as it is: f holds what the old file held. The caller holds
// flushMu.
func (d *defrag) swap(f, old *file) error {
	s := d.s
	s.applyMu.Lock() // Apply reads the file without looking twice whether it is still the one
	l := s.layers.Load()
	s.layers.Store(&layers{active: l.active, flushing: l.flushing, file: f})
	s.applyMu.Unlock()
	err := old.release() // waits for readers of a moment; later ones find it closed and look again
	s.measure()
	if err != nil {
		return fmt.Errorf("close the former file: %w", err)
	}
	return s.opts.at("swapped")
}

// giveUp removes the copy.
func (d *defrag) giveUp() error {
	var err error
	if d.db != nil {
		err = d.db.Close()
	}
	return errors.Join(err, removeIfThere(d.temp))
}

// copyOthers copies every bucket but those of records, their index and meta: they are small and change anywhere.
func copyOthers(from, to *bbolt.Tx) error {
	own := [][]byte{bucketRev, bucketKey, bucketMeta}
	return from.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if slices.ContainsFunc(own, func(o []byte) bool { return bytes.Equal(o, name) }) {
			return nil
		}
		dst, err := to.CreateBucket(name)
		if err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				return corruptf("there is a bucket in the bucket %q", name)
			}
			return dst.Put(k, v)
		})
	})
}

// batchWriter writes to a file in transactions of about bulkBytes.
type batchWriter struct {
	db    *bbolt.DB
	tx    *bbolt.Tx
	bytes int
}

// each runs fn in the present transaction.
func (w *batchWriter) each(fn func(*bbolt.Tx) error) (err error) {
	if w.tx == nil {
		if w.tx, err = w.db.Begin(true); err != nil {
			return err
		}
	}
	return fn(w.tx)
}

// put stores a pair, whose value must stay as it is until the transaction ends.
func (w *batchWriter) put(bucket []byte, fill float64, k, v []byte) error {
	err := w.each(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		b.FillPercent = fill
		return b.Put(k, v)
	})
	if w.bytes += len(k) + len(v); err == nil && w.bytes >= bulkBytes {
		err = w.end()
	}
	return err
}

// finish ends the writing after err: it commits what is there if that is nil.
func (w *batchWriter) finish(err error) error {
	if err == nil {
		return w.end()
	}
	if w.tx != nil {
		err = errors.Join(err, w.tx.Rollback())
		w.tx = nil
	}
	return err
}

// end commits what is there.
func (w *batchWriter) end() error {
	w.bytes = 0
	if w.tx == nil {
		return nil
	}
	tx := w.tx
	w.tx = nil
	return tx.Commit()
}
