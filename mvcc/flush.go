package mvcc

import (
	"bytes"
	"errors"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// Flush returns when everything applied before the call is in the file, the applied index included.
func (s *Store) Flush() error { return s.flush(true) }

// flush writes the active overlay, and then the state that counts it in. If nothing but the applied index has changed
// it writes only when told that the index matters.
//
//	frozen -> (records, index -> part)... -> (index, state) -> committed -> dropped
//
// A crash before the last commit leaves records beyond the state, which Open removes, and the log brings them back; a
// crash after it loses nothing.
func (s *Store) flush(index bool) error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if err := s.failure(); err != nil {
		return err
	}
	if s.waiting != nil { // what was frozen before and found no space
		if err := s.commitFrozen(*s.waiting); err != nil {
			return err
		}
	}
	st, ok := s.freeze(index)
	if !ok {
		return nil
	}
	return s.commitFrozen(st)
}

// commitFrozen writes the frozen overlay. A disk without space is not the end: bbolt has rolled the transaction back, and
// without the last one nothing counts. The overlay stays where readers find it, and the next flush writes the same once
// more: links were settled when the records were applied. The caller holds flushMu.
func (s *Store) commitFrozen(st state) error {
	l := s.layers.Load()
	start := time.Now()
	err := s.opts.at("frozen")
	if err == nil {
		err = s.write(st, l.flushing)
	}
	if noSpace(err) {
		s.waiting = &st
		if !s.full.Swap(true) {
			s.opts.Log.Warn("no space to write the state file; changes stay in memory and in the log until there is", "path", s.path, "err", err)
		}
		return &kv.Error{Code: kv.NoSpace, Detail: "the state file " + s.path + " cannot be written: " + err.Error(), Err: err}
	}
	if err == nil {
		err = s.opts.at("committed")
	}
	if err != nil {
		return s.fail(err)
	}
	if s.waiting = nil; s.full.Swap(false) {
		s.opts.Log.Info("state file written again: there is space", "path", s.path)
	}
	s.saved = st
	s.durable.Store(st.Applied)
	s.layers.Store(&layers{active: l.active, file: l.file})
	s.tail.flushed(st.Revision)
	if st.Compact > s.sweep.Done {
		wake(s.wakeSweep)
	}
	s.measure()
	s.counts.flushes.Add(1)
	s.counts.flushNanos.Add(int64(time.Since(start)))
	return s.opts.at("dropped")
}

// noSpace reports whether a write failed for want of space, which others may give back at any time.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// freeze puts a new overlay in front of the active one. The caller holds flushMu.
func (s *Store) freeze(index bool) (state, bool) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if !s.unsaved && (!index || s.state.Applied == s.durable.Load()) {
		return state{}, false
	}
	s.unsaved = false
	old := s.layers.Load()
	l := &layers{active: newOverlay(), flushing: old.active, file: old.file}
	s.layers.Store(l)
	return s.state, true
}

// flushNodes is how many pages of the key index one transaction may change. bbolt holds each in memory until the commit,
// taken apart: some 10 KiB.
const flushNodes = 1024

// write puts an overlay and the state it leads to into the file: in one transaction, unless it changes very much of the
// key index. The keys come in order, so that no page is changed by two of them.
func (s *Store) write(st state, o *overlay) error {
	recs, index := retained(o, st.Compact)
	slices.SortFunc(recs, func(a, b *record) int { return a.rev().compare(b.rev()) })
	for done := false; !done; {
		err := s.update(func(tx *bbolt.Tx) error {
			err := writeRecords(tx, recs)
			if err != nil {
				return err
			}
			recs = nil
			if index, err = writeIndex(tx, index, s.opts.nodes); err != nil || len(index) > 0 {
				return err
			}
			done = true
			if err := writeSides(tx, o); err != nil {
				return err
			}
			if err := writeLeased(tx, o); err != nil {
				return err
			}
			b := tx.Bucket(bucketMeta)
			if err := b.Put(metaSweep, s.sweep.append(nil)); err != nil {
				return err
			}
			return b.Put(metaState, st.append(nil))
		})
		if err == nil && !done {
			err = s.opts.at("part")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// retained lists the records of an overlay in order of key, without those that an applied compaction has given up, and
// the newest record of each key. A deletion is always kept: older versions of its key may be in the file.
func retained(o *overlay, compact int64) (recs, index []*record) {
	recs = make([]*record, 0, o.count.Load())
	var newer *record
	for r := range o.all {
		n := len(recs) - 1
		switch {
		case newer == nil || !bytes.Equal(newer.Key, r.Key):
			index, recs = append(index, r), append(recs, r)
		case newer.ModRevision <= compact && r.ModRevision < compact:
			// Readers have the record of the newer version, so the link past this one goes into a copy.
			link := *recs[n]
			link.prev = r.prev
			recs[n] = &link
		default:
			recs = append(recs, r)
		}
		newer = r
	}
	return recs, index
}

// How full pages are left. Bucket rev is only ever appended to; keys of the key index come in between.
const (
	recFill   = 1.0
	indexFill = 0.7
)

func writeRecords(tx *bbolt.Tx, recs []*record) error {
	b := tx.Bucket(bucketRev)
	b.FillPercent = recFill
	var key []byte
	for _, r := range recs {
		key = appendRevKey(key[:0], r.rev())
		if err := b.Put(key, appendRecord(make([]byte, 0, len(r.Key)+len(r.Value)+32), r)); err != nil {
			return err
		}
	}
	return nil
}

// writeIndex returns what is left when the transaction has changed so many nodes.
func writeIndex(tx *bbolt.Tx, recs []*record, nodes int64) ([]*record, error) {
	b := tx.Bucket(bucketKey)
	b.FillPercent = indexFill
	for i, r := range recs {
		if i%16 == 15 {
			if st := tx.Stats(); st.GetNodeCount() > nodes {
				return recs[i:], nil
			}
		}
		if err := b.Put(r.Key, appendIndexEntry(make([]byte, 0, 24), r)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// update runs a write transaction. The caller holds flushMu, and stops the store if it fails.
func (s *Store) update(fn func(*bbolt.Tx) error) error {
	err := guard(func() error { return s.layers.Load().file.db.Update(fn) })
	if _, ok := errors.AsType[*pagePanic](err); ok {
		s.stuck = true
	}
	return err
}
