package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/bbolt"

	"holdfast/auth"
	"holdfast/kv"
)

// Contents is what a state file holds.
type Contents struct {
	Format   uint32
	Epoch    kv.Epoch
	Revision int64 // newest
	Compact  int64 // oldest that can be read, 0 for all
	Applied  uint64
	Keys     int64 // that exist
	Changes  int64 // of keys, deletions included: the history
	Leases   int64
	Alarms   []kv.Alarm
}

// Examine reads the state file, or the copy of one, that the first size bytes at path hold. It opens it for reading only,
// trusts nothing in it, and verifies each record, the newest version of each key and each entry of the side table. It
// ends with kv.Stopping when stop is closed; nil is never.
func Examine(path string, size int64, stop <-chan struct{}) (c Contents, err error) {
	sn, err := openImage(path, size)
	if err != nil {
		return c, err
	}
	err = guard(func() error {
		if err := sn.write(&frameWriter{w: io.Discard, stop: stop}); err != nil {
			return err
		}
		c, err = sn.contents()
		return err
	})
	if err = errors.Join(imageError(path, err), sn.closeImage(err)); err != nil {
		return Contents{}, err
	}
	return c, nil
}

func imageError(path string, err error) error {
	if err != nil {
		return fmt.Errorf("state file %s: %w", path, err)
	}
	return nil
}

// openImage opens a state file that nobody else writes, and that may be anything, for reading. It is closed by closeImage.
func openImage(path string, size int64) (*Snapshot, error) {
	sn, err := openBare(path, size)
	if err != nil {
		return nil, err
	}
	if err := guard(sn.load); err != nil {
		return nil, imageError(path, errors.Join(err, sn.closeImage(err)))
	}
	return sn, nil
}

// openBare opens a bbolt file likewise, and looks at nothing in it.
func openBare(path string, size int64) (sn *Snapshot, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = errors.Join(checkPages(f, size), f.Close())
	if err != nil {
		return nil, imageError(path, err)
	}
	var handle *os.File
	err = guard(func() error {
		db, err := openBoltReadOnly(path, &handle)
		if err != nil {
			return err
		}
		sn = &Snapshot{file: &file{db: db, handle: handle}}
		sn.file.refs.Store(1)
		if sn.tx, err = db.Begin(false); err != nil {
			err = errors.Join(err, sn.closeImage(err))
		}
		return err
	})
	if err != nil {
		return nil, imageError(path, err)
	}
	return sn, nil
}

// load reads where the file stands.
func (sn *Snapshot) load() (err error) {
	for _, name := range [][]byte{bucketMeta, bucketRev, bucketKey} {
		if sn.tx.Bucket(name) == nil {
			return corruptf("it has no bucket %q: it is not a state file", name)
		}
	}
	if sn.state, sn.sweep, err = readMeta(sn.tx.Bucket(bucketMeta)); err != nil {
		return err
	}
	return sn.state.loadSides(sn.tx.Bucket(bucketSide))
}

// closeImage closes what openImage opened, unless a page fault on the way has left bbolt with its locks held.
func (sn *Snapshot) closeImage(why error) error {
	if _, stuck := errors.AsType[*pagePanic](why); stuck {
		return abandon(sn.file.handle)
	}
	if sn.tx == nil {
		return sn.file.release()
	}
	return sn.Close()
}

func (sn *Snapshot) contents() (c Contents, err error) {
	st := sn.state
	c = Contents{Epoch: st.Epoch, Revision: st.Revision, Compact: st.Compact, Applied: st.Applied, Alarms: st.Alarms}
	if c.Format, err = readFormat(sn.tx.Bucket(bucketMeta)); err != nil {
		return c, err
	}
	revs := sn.tx.Bucket(bucketRev)
	cur := revs.Cursor()
	for k, _ := cur.First(); k != nil; k, _ = cur.Next() {
		c.Changes++
	}
	var v version
	cur = sn.tx.Bucket(bucketKey).Cursor()
	for k, b := cur.First(); k != nil; k, b = cur.Next() {
		if err := parseIndexEntry(&v, k, b); err != nil {
			return c, err
		}
		r, err := recordIn(revs, v.rev)
		if err != nil {
			return c, err
		}
		if r == nil || !bytes.Equal(r.Key, k) {
			return c, corruptf("the newest record of key %q, at revision %v, is missing", k, v.rev)
		}
		if !v.deleted {
			c.Keys++
		}
	}
	if sides := sn.tx.Bucket(bucketSide); sides != nil {
		cur = sides.Cursor()
		prefix := []byte{sideLease}
		for k, _ := cur.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = cur.Next() {
			c.Leases++
		}
	}
	return c, nil
}

// Renewal is what a state becomes the start of.
type Renewal struct {
	Epoch kv.Epoch
	// Drop reports the records of the cluster, by name, that the new one does not take over. Nil: none.
	Drop func(name []byte) bool
	// Bump raises the newest revision by so much, so that no client sees a revision again that it has seen before. The
	// history ends there then: what is older counts as compacted. 0: the history goes on where it is.
	Bump int64
	// DropUsers leaves out who may do what in the state of an etcd.
	DropUsers bool
}

// Renew makes, at to, a state file of what the first size bytes at from hold, as the state of a log that begins: applied
// up to index 0, in another epoch, without a term, without the key for tokens, without alarms, which name members that are
// no more. Everything is
// verified, from is not changed, and to is synced. An error leaves nothing at to.
func Renew(from string, size int64, to string, r Renewal, stop <-chan struct{}) (c Contents, err error) {
	sn, err := openImage(from, size)
	if err != nil {
		return c, err
	}
	pr, pw := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := sn.WriteTo(pw, stop)
		_ = pw.CloseWithError(err) // never fails
		wrote <- err
	}()
	err = makeFile(to, func(db *bbolt.DB) error {
		b := &builder{db: db, fr: frameReader{r: pr, stop: stop}}
		if err := b.run(); err != nil {
			return err
		}
		return db.Update(func(tx *bbolt.Tx) error { return renew(tx, b.state, r) })
	})
	_ = pr.Close() // never fails; lets the writer go
	werr := <-wrote
	if werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		err = werr // the cause of what the reader says
	}
	if err = errors.Join(err, sn.closeImage(werr)); err != nil {
		return c, errors.Join(imageError(from, err), removeIfThere(to))
	}
	return examineOwn(to, stop)
}

// examineOwn examines a file that was just made.
func examineOwn(path string, stop <-chan struct{}) (Contents, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Contents{}, err
	}
	return Examine(path, info.Size(), stop)
}

// makeFile makes a bbolt file at path, synced when it returns, or nothing.
func makeFile(path string, fill func(*bbolt.DB) error) error {
	if err := removeIfThere(path); err != nil {
		return err
	}
	db, err := openBolt(path, true, nil)
	if err != nil {
		return err
	}
	db.AllocSize = allocBytes
	err = guard(func() error {
		if err := fill(db); err != nil {
			return err
		}
		return db.Sync()
	})
	if _, stuck := errors.AsType[*pagePanic](err); !stuck {
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		return errors.Join(err, removeIfThere(path))
	}
	return nil
}

// renew changes what a state says of itself.
func renew(tx *bbolt.Tx, st state, r Renewal) error {
	if sides := tx.Bucket(bucketSide); sides != nil {
		var gone [][]byte
		c := sides.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if k[0] == sideAlarm || k[0] == sidePolicy && auth.IsKey(string(k[1:])) || k[0] == sideRecord && r.Drop != nil && r.Drop(k[1:]) {
				gone = append(gone, bytes.Clone(k))
			}
		}
		for _, k := range gone {
			if err := sides.Delete(k); err != nil {
				return err
			}
		}
	}
	st.Applied, st.Term, st.Epoch, st.Alarms = 0, 0, r.Epoch, nil
	if r.Bump > 0 {
		st.Revision += r.Bump
		st.Compact = st.Revision
	}
	return tx.Bucket(bucketMeta).Put(metaState, st.append(nil))
}

// putMeta fills in what an import has made.
func putMeta(tx *bbolt.Tx, st state) error {
	b := tx.Bucket(bucketMeta)
	if err := b.Put(metaFormat, binary.BigEndian.AppendUint32(nil, formatLeases)); err != nil {
		return err
	}
	return b.Put(metaState, st.append(nil))
}
