package mvcc

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"holdfast/kv"
)

// Hash is a checksum over the history up to and including rev, 0 for the newest, with the revision of the store and the
// compact revision that it holds for. It covers every change after the compact revision, and each key as it stood
// there, so it is the same on all replicas that agree on rev and compact, whatever each has flushed or freed. It reads
// the whole store.
func (s *Store) Hash(rev int64) (hash uint32, revision, compact int64, err error) {
	for range readAttempts {
		r, h := s.now()
		compact = s.compact.Load()
		at := rev
		switch {
		case compact > h.Revision:
			continue // both have moved since
		case at <= 0:
			at = h.Revision
		case at > h.Revision:
			return 0, h.Revision, compact, future(at, h.Revision)
		case at < compact:
			return 0, h.Revision, compact, compacted(at, compact)
		}
		err = guard(func() error {
			defer r.close()
			hash, err = r.hash(at, compact)
			return err
		})
		if !errors.Is(err, errPassed) {
			return hash, h.Revision, compact, asError(err)
		}
	}
	return 0, 0, 0, kv.Errorf(kv.Busy, "the history was compacted while it was being read: try again")
}

func (r *reader) hash(at, compact int64) (sum uint32, err error) {
	r.floor = compact
	var b []byte
	for from := int64(0); from <= at; {
		recs, end, err := r.s.historyAbove(from, at, compact)
		if err != nil {
			return 0, err
		}
		for _, rec := range recs {
			counts, err := r.counts(rec, compact)
			if err != nil {
				return 0, err
			}
			if counts {
				b = appendHashed(b[:0], rec)
				sum = crc32.Update(sum, castagnoli, b)
			}
		}
		from = end + 1
	}
	return sum, nil
}

// counts reports whether a compaction at compact has left a change.
func (r *reader) counts(rec *record, compact int64) (bool, error) {
	if rec.ModRevision > compact || rec.deleted {
		return rec.ModRevision > compact, nil
	}
	if err := r.refresh(); err != nil {
		return false, err
	}
	v, err := r.get(rec.Key, compact)
	return err == nil && v != nil && v.rev == rec.rev(), err
}

// appendHashed appends what Hash covers of a change, unambiguously.
func appendHashed(b []byte, rec *record) []byte {
	b = binary.AppendUvarint(b, uint64(len(rec.Key)))
	b = append(b, rec.Key...)
	b = appendRevKey(b, rec.rev())
	b = append(b, flags(rec.deleted))
	if rec.deleted {
		return b
	}
	b = appendNumbers(b, rec.ModRevision, rec.CreateRevision, rec.Version, rec.Lease)
	b = binary.AppendUvarint(b, uint64(len(rec.Value)))
	return append(b, rec.Value...)
}
