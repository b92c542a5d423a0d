package mvcc

import (
	"bytes"

	"go.etcd.io/bbolt"
)

// tb is what the helpers need of a testing.T or a rapid.T, which shrinks what it fails on.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

func must(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// checkFile verifies the file of a store as a whole: bbolt's own pages, every checksum, and that the two buckets
// describe the same records.
func checkFile(t tb, s *Store) (records int) {
	t.Helper()
	err := s.layers.Load().file.db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt: %v", err)
		}
		revs, index := tx.Bucket(bucketRev), tx.Bucket(bucketKey)
		entries := 0
		if err := revs.ForEach(func(k, b []byte) error {
			records++
			r, err := parseRecord(k, b)
			if err != nil {
				return err
			}
			ik := appendIndexKey(nil, r.Key, r.rev())
			if e := index.Get(ik); !bytes.Equal(e, appendIndexEntry(nil, ik, r)) {
				t.Errorf("the index entry of %q at %v is %x", r.Key, r.rev(), e)
			}
			return nil
		}); err != nil {
			return err
		}
		if err := index.ForEach(func(_, _ []byte) error { entries++; return nil }); err != nil {
			return err
		}
		if entries != records {
			t.Errorf("there are %d index entries and %d records", entries, records)
		}
		return nil
	})
	must(t, err)
	return records
}
