package mvcc

import (
	"errors"

	"holdfast/kv"
)

// A chunk of history is at most so many changes or bytes, but never less than a whole revision.
const (
	chunkLen   = 512
	chunkBytes = 1 << 20
)

// chunk gathers the changes of whole revisions.
type chunk struct {
	recs  []*record
	bytes int64
	full  bool
}

// add reports whether there is room for more.
func (c *chunk) add(r *record) bool {
	if n := len(c.recs); n > 0 && (n >= chunkLen || c.bytes >= chunkBytes) && c.recs[n-1].ModRevision != r.ModRevision {
		c.full = true
		return false
	}
	c.recs = append(c.recs, r)
	c.bytes += r.size()
	return true
}

// history returns changes in order, beginning with those of revision from: all up to and including revision end, which
// is upTo unless there are too many. It fails with errPassed if a compaction has passed from and the changes are no
// longer in memory. What it returns is in the room of into, as far as that goes.
func (s *Store) history(into []*record, from, upTo int64) (recs []*record, end int64, err error) {
	for {
		c := chunk{recs: into[:0]}
		start := s.tail.blocks.Load().start
		if s.tail.from(from, upTo, c.add) {
			end = upTo
		} else if end, err = s.historyFromFile(&c, from, min(upTo, max(start, from))); err != nil {
			if errors.Is(err, errPassed) && s.compact.Load() <= from {
				continue // a restore has replaced the file
			}
			return nil, 0, err
		}
		if c.full {
			end = c.recs[len(c.recs)-1].ModRevision
		}
		return c.recs, end, nil
	}
}

// historyFromFile reads up to upTo, which was in the file when the caller found that it is no longer in memory.
func (s *Store) historyFromFile(c *chunk, from, upTo int64) (int64, error) {
	r := s.reader(from)
	defer r.close()
	if r.l.file == nil {
		return 0, errPassed
	}
	return upTo, guard(func() error {
		if err := r.open(); err != nil {
			return err
		}
		return r.replay(c, from, upTo)
	})
}

func (r *reader) replay(c *chunk, from, upTo int64) error {
	cur := r.rev.Cursor()
	for k, b := cur.Seek(appendRevKey(nil, revision{main: from})); k != nil; k, b = cur.Next() {
		rec, err := parseRecord(k, b)
		if err != nil {
			return err
		}
		if rec.ModRevision > upTo || !c.add(rec) {
			return nil
		}
	}
	return nil
}

// previous looks up what the changes at the indices wanted replaced. It answers by index, and with nil for what did not
// exist or is compacted.
func (s *Store) previous(recs []*record, wanted []int) (map[int]*kv.KeyValue, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	prev := make(map[int]*kv.KeyValue, len(wanted))
	r, _ := s.now()
	defer func() { r.close() }()
	err := guard(func() error {
		for _, i := range wanted {
			r.floor = recs[i].ModRevision - 1
			if r.floor < s.compact.Load() {
				continue
			}
			rec, err := r.replaced(recs[i])
			for errors.Is(err, errPassed) && s.compact.Load() <= r.floor { // the file was replaced by a copy
				r.close()
				r, _ = s.now()
				r.floor = recs[i].ModRevision - 1
				rec, err = r.replaced(recs[i])
			}
			switch {
			case errors.Is(err, errPassed):
			case err != nil:
				return err
			case rec != nil:
				prev[i] = &rec.KeyValue
			}
		}
		return nil
	})
	return prev, err
}

// replaced returns the record that rec took the place of, nil if it was a deletion or is given up.
func (r *reader) replaced(rec *record) (*record, error) {
	if rec.prev.main == 0 {
		return nil, nil
	}
	for _, o := range [2]*overlay{r.l.active, r.l.flushing} {
		if o == nil {
			continue
		}
		if p := o.get(rec.Key, rec.prev.main); p != nil && p.rev() == rec.prev {
			return p.unlessDeleted(), nil
		}
	}
	if err := r.refresh(); err != nil {
		return nil, err
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	p, err := r.view(&version{key: rec.Key, rev: rec.prev})
	if err != nil || p == nil || p.deleted {
		return nil, err
	}
	return p.clone(), nil
}

func (r *record) unlessDeleted() *record {
	if r.deleted {
		return nil
	}
	return r
}
