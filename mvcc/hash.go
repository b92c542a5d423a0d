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

func (r *reader) hash(at, compact int64) (uint32, error) {
	r.floor = compact
	var sum uint32
	var b, key []byte
	m := r.sources(nil, last(newest))
	for r.fail == nil {
		v := m.at()
		if v == nil {
			break
		}
		key = append(key[:0], v.key...)
		if v.rev.main > at {
			m.seek(key, last(at))
			continue
		}
		if v.rev.main > compact || !v.deleted {
			var err error
			if b, err = r.appendHashed(b[:0], v); err != nil {
				return 0, err
			}
			sum = crc32.Update(sum, castagnoli, b)
		}
		if v.rev.main > compact {
			m.next()
		} else {
			m.seek(key, revision{}) // what is older is given up
		}
	}
	return sum, r.fail
}

// appendHashed appends what Hash covers of a version, unambiguously.
func (r *reader) appendHashed(b []byte, v *version) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(v.key)))
	b = append(b, v.key...)
	b = appendRevKey(b, v.rev)
	b = append(b, flags(v.deleted))
	if v.deleted {
		return b, nil
	}
	rec, err := r.record(v)
	if err != nil {
		return nil, err
	}
	b = appendNumbers(b, rec.ModRevision, rec.CreateRevision, rec.Version, rec.Lease)
	b = binary.AppendUvarint(b, uint64(len(rec.Value)))
	return append(b, rec.Value...), nil
}
