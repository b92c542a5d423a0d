package mvcc

import (
	"bytes"

	"go.etcd.io/bbolt"
)

// purgeBatch is how many records one transaction of a purge removes.
const purgeBatch = 1024

// purge removes what a flush has left that was cut short: records beyond the state. The log brings them back, but until
// it does they are not part of the history, and a log that was cut short too might bring others. It goes from the
// newest record backwards, and may itself be cut short.
func (f *file) purge(revision int64) error {
	for more := true; more; {
		err := f.db.View(func(tx *bbolt.Tx) error {
			k, _ := tx.Bucket(bucketRev).Cursor().Last()
			rev, err := parseRevKey(k)
			more = k != nil && err == nil && rev.main > revision
			if k == nil {
				return nil
			}
			return err
		})
		if err != nil || !more {
			return err
		}
		if err := f.db.Update(func(tx *bbolt.Tx) error { return purgeSome(tx, revision) }); err != nil {
			return err
		}
	}
	return nil
}

func purgeSome(tx *bbolt.Tx, revision int64) error {
	revs := tx.Bucket(bucketRev)
	for range purgeBatch {
		k, b := revs.Cursor().Last()
		if k == nil {
			return nil
		}
		r, err := viewRecord(k, b)
		if err != nil {
			return err
		}
		if r.ModRevision <= revision {
			return nil
		}
		if err := unindex(tx, r); err != nil {
			return err
		}
		if err := revs.Delete(bytes.Clone(k)); err != nil {
			return err
		}
	}
	return nil
}

// unindex makes the version before r the newest of its key, if r is that.
func unindex(tx *bbolt.Tx, r *record) error {
	index := tx.Bucket(bucketKey)
	key := bytes.Clone(r.Key)
	newest, err := indexed(index, key)
	if err != nil || newest != r.rev() {
		return err
	}
	older, err := recordIn(tx.Bucket(bucketRev), r.prev)
	if err != nil {
		return err
	}
	if older == nil {
		return index.Delete(key)
	}
	return index.Put(key, appendIndexEntry(nil, older))
}
