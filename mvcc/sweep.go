package mvcc

import (
	"bytes"
	"context"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// One batch of a sweep looks at so many changes at most, and frees so many in one transaction: it holds up a flush no
// longer than that takes.
const (
	sweepVisit = 8192
	sweepFree  = 1024
)

// victim is a record that a compaction has given up.
type victim struct {
	rev revision
	key []byte // of a deletion that is the newest version of its key: the key goes with it
}

// Sweep returns when the space of everything that a compaction at rev gives up is free for reuse: what kv.Compact asks
// for with Physical. The compaction must have been applied.
func (s *Store) Sweep(ctx context.Context, rev int64) error {
	for s.swept.Load() < rev {
		if compact := s.CompactRevision(); compact < rev {
			return future(rev, compact)
		}
		if s.isClosed() {
			return errClosed()
		}
		if err := s.awaitDefrag(ctx); err != nil {
			return err
		}
		if err := s.flush(false); err != nil {
			return err
		}
		if err := s.sweepUp(ctx); err != nil {
			return err
		}
	}
	return nil
}

// awaitDefrag returns when no defragmentation is under way: sweeps wait for it.
func (s *Store) awaitDefrag(ctx context.Context) error {
	done := s.defragging.Load()
	if done == nil {
		return nil
	}
	select {
	case <-*done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return errClosed()
	}
}

// sweepUp frees what the compactions known to the file have given up, batch by batch.
func (s *Store) sweepUp(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		more, err := s.sweepBatch()
		if err != nil || !more {
			return err
		}
	}
}

// sweepBatch does a bounded part of a sweep and reports whether there is more to do.
//
// What a compaction at C gives up beside what one at Done gave up: each version that is superseded by one between Done
// and C, and each deletion from Done on and before C. So it is enough to walk the revisions from Done to C. Only
// compactions that the file knows of count: after a crash the store must not promise what is gone.
func (s *Store) sweepBatch() (more bool, err error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if err := s.failure(); err != nil {
		return false, err
	}
	if s.isClosed() || s.defragging.Load() != nil {
		return false, nil // a defragmentation wakes the sweep when it ends
	}
	sw := s.sweep
	if sw.Target == sw.Done {
		if s.saved.Compact <= sw.Done {
			return false, nil
		}
		sw.Target, sw.Next = s.saved.Compact, revision{main: sw.Done}
	}
	var victims []victim
	err = guard(func() error {
		return s.layers.Load().file.db.View(func(tx *bbolt.Tx) error {
			victims, err = findVictims(tx, &sw)
			return err
		})
	})
	if err != nil {
		return false, err
	}
	if len(victims) > 0 {
		if err = s.opts.at("sweep"); err == nil {
			err = s.update(func(tx *bbolt.Tx) error { return free(tx, victims, sw) })
		}
		if noSpace(err) { // rolled back: the next sweep begins where this one did
			return false, &kv.Error{Code: kv.NoSpace, Detail: "space that was given up cannot be freed: " + err.Error(), Err: err}
		}
		if err != nil {
			return false, s.fail(err)
		}
		s.counts.freed.Add(int64(len(victims)))
	}
	// Without victims the progress is saved by the next flush: losing it costs another look.
	s.sweep = sw
	s.swept.Store(sw.Done)
	if len(victims) > 0 {
		s.measure()
	}
	return sw.Target != sw.Done || s.saved.Compact > sw.Done, nil
}

// findVictims goes on from sw.Next and moves it; at the end the target is done.
func findVictims(tx *bbolt.Tx, sw *sweep) ([]victim, error) {
	revs, index := tx.Bucket(bucketRev), tx.Bucket(bucketKey)
	var victims []victim
	visited := 0
	c := revs.Cursor()
	for k, b := c.Seek(appendRevKey(nil, sw.Next)); k != nil; k, b = c.Next() {
		rec, err := viewRecord(k, b)
		if err != nil {
			return nil, err
		}
		if rec.ModRevision > sw.Target {
			break
		}
		if visited++; visited > sweepVisit || len(victims) >= sweepFree {
			sw.Next = rec.rev()
			return victims, nil
		}
		if rec.prev.main > 0 && revs.Get(appendRevKey(nil, rec.prev)) != nil {
			victims = append(victims, victim{rev: rec.prev})
		}
		if !rec.deleted || rec.ModRevision == sw.Target {
			continue
		}
		v := victim{rev: rec.rev()}
		newest, err := indexed(index, rec.Key)
		if err != nil {
			return nil, err
		}
		if newest == v.rev {
			v.key = bytes.Clone(rec.Key)
		}
		victims = append(victims, v)
	}
	sw.Done, sw.Next = sw.Target, revision{}
	return victims, nil
}

// indexed returns the revision that the key index has for a key, zero for none.
func indexed(index *bbolt.Bucket, key []byte) (revision, error) {
	e := index.Get(key)
	if e == nil {
		return revision{}, nil
	}
	var v version
	err := parseIndexEntry(&v, key, e)
	return v.rev, err
}

// free deletes victims; one may be named twice.
func free(tx *bbolt.Tx, victims []victim, sw sweep) error {
	revs, index := tx.Bucket(bucketRev), tx.Bucket(bucketKey)
	revs.FillPercent = recFill
	var key []byte
	for _, v := range victims {
		if v.key != nil {
			if err := index.Delete(v.key); err != nil {
				return err
			}
		}
		key = appendRevKey(key[:0], v.rev)
		if err := revs.Delete(key); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketMeta).Put(metaSweep, sw.append(nil))
}
