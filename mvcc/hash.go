package mvcc

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// hashMax is how long a digest may take: until it ends the file cannot use again what is freed meanwhile.
const hashMax = 10 * time.Minute

// hashStep is how many changes are digested between two looks at the context.
const hashStep = 1024

// Hash digests the history up to and including rev, 0 for the newest. It covers every change after the compact revision,
// and each key as it stood there, so it is the same on all replicas that agree on Revision and Compact of the answer,
// whatever each has flushed or freed. The Revision of its Header is the newest then.
//
// It flushes, then reads the file in one transaction, beside everything else; nothing waits for it.
func (s *Store) Hash(ctx context.Context, rev int64) (kv.Hash, error) {
	sn, err := s.pin(false)
	if err != nil {
		return kv.Hash{}, err
	}
	h, err := sn.Hash(ctx, rev)
	if cerr := sn.Close(); err == nil {
		err = cerr
	}
	return h, err
}

// Hash digests the history in the snapshot; see Store.Hash.
func (sn *Snapshot) Hash(ctx context.Context, rev int64) (kv.Hash, error) {
	h := kv.Hash{Revision: rev, Compact: sn.state.Compact}
	h.Header = kv.Header{Epoch: sn.state.Epoch, Revision: sn.state.Revision}
	switch {
	case rev <= 0:
		h.Revision = sn.state.Revision
	case rev > sn.state.Revision:
		return h, future(rev, sn.state.Revision)
	case rev < h.Compact:
		return h, compacted(rev, h.Compact)
	}
	ctx, cancel := context.WithTimeout(ctx, hashMax)
	defer cancel()
	err := guard(func() (err error) {
		h.Sum, err = hashOf(ctx, sn.tx.Bucket(bucketRev), h.Revision, h.Compact)
		return err
	})
	if ctx.Err() != nil {
		return h, kv.Errorf(kv.Busy, "the history was not digested in time: %w", context.Cause(ctx))
	}
	return h, err
}

// hashOf adds up a hash of each change that counts. Which of the changes up to the compact revision are still there
// depends on how far the sweep is, but for those that stood at it: so when one that another replaced is met, it is taken
// off again. That makes the digest a sum: the order does not matter, each change has its revision in it.
func hashOf(ctx context.Context, revs *bbolt.Bucket, at, compact int64) (uint32, error) {
	var sum uint64
	var buf []byte
	add := func(rec *record, sign uint64) {
		if rec.ModRevision > compact || !rec.deleted {
			buf = appendHashed(buf[:0], rec)
			sum += sign * mixed(buf)
		}
	}
	c := revs.Cursor()
	n := 0
	for k, b := c.First(); k != nil; k, b = c.Next() {
		if n++; n%hashStep == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
		rec, err := viewRecord(k, b)
		if err != nil {
			return 0, err
		}
		if rec.ModRevision > at {
			break
		}
		add(rec, 1)
		if rec.ModRevision > compact || rec.prev.main == 0 {
			continue
		}
		replaced, err := recordIn(revs, rec.prev)
		if err != nil {
			return 0, err
		}
		if replaced != nil {
			add(replaced, ^uint64(0))
		}
	}
	return uint32(sum ^ sum>>32), nil
}

// mixed is FNV-1a with the finish of splitmix64, so that sums of it do not cancel out.
func mixed(b []byte) uint64 {
	f := fnv.New64a()
	_, _ = f.Write(b)
	z := f.Sum64()
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
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
