package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"holdfast/kv"
)

// A file has the lowest format that says what is in it, so that former versions read what they can.
const (
	formatFirst   = 1
	formatLeases  = 2 // the side table has leases, alarms or a feature level
	formatRetries = 3 // it has writes with a retry key, which an earlier version would apply again
	formatAuth    = 4 // it has users, roles or device tokens, by which an earlier version would not judge
	formatVersion = formatAuth
)

var (
	bucketRev  = []byte("rev")
	bucketKey  = []byte("key")
	bucketMeta = []byte("meta")

	metaFormat = []byte("format")
	metaState  = []byte("state")
	metaSweep  = []byte("sweep")
)

const (
	// pageSize is the same on every machine, so that a file may move between them.
	pageSize = 4096
	// emptyBytes is the least that bbolt makes.
	emptyBytes = 4 * pageSize
	// firstAllocBytes and allocBytes are by how much the file is extended. The extension is sparse, but each costs an
	// fsync: small for an empty store, larger for one that is written to.
	firstAllocBytes = pageSize
	allocBytes      = 128 << 10
	// mapBytes is address space, not memory. Growing the map has to wait for every reader, so it is made large enough
	// for several times the usual quota; machines of 32 bits have less to give.
	mapBytes   = 16 << 30
	mapBytes32 = 256 << 20
	// lockTimeout is how long Open waits for another process that has the file open.
	lockTimeout = time.Second
)

// file is an open bbolt file of a known format. The store and each snapshot hold on to it; the last to let go closes
// it.
type file struct {
	db     *bbolt.DB
	handle *os.File
	refs   atomic.Int32
}

func (f *file) release() error {
	if f.refs.Add(-1) > 0 {
		return nil
	}
	return f.db.Close()
}

// openFile opens or makes the file, and reads where it stands.
func openFile(path string) (f *file, st state, sw sweep, err error) {
	if info, err := os.Stat(path); err == nil && info.Size() > 0 && info.Size() < emptyBytes {
		return nil, st, sw, fmt.Errorf("open store %s: %w", path, corruptf("it has %d bytes only: it was cut short", info.Size()))
	}
	var handle *os.File
	err = guard(func() error {
		db, err := openBolt(path, false, &handle)
		if err != nil {
			return err
		}
		f = &file{db: db, handle: handle}
		f.refs.Store(1)
		if st, sw, err = f.load(); err != nil {
			return errors.Join(err, db.Close())
		}
		db.AllocSize = allocBytes
		if err := f.purge(st.Revision); err != nil {
			return errors.Join(err, db.Close())
		}
		return nil
	})
	if err == nil {
		return f, st, sw, nil
	}
	if _, stuck := errors.AsType[*pagePanic](err); stuck && handle != nil {
		err = errors.Join(err, abandon(handle))
	}
	return nil, state{}, sweep{}, fmt.Errorf("open store %s: %w", path, err)
}

// abandon lets go of a file that bbolt can no longer close, because a panic left it with its locks held. Its map of the
// file keeps the lock of the file alive beyond the handle, so that is given back first.
func abandon(handle *os.File) error {
	return errors.Join(syscall.Flock(int(handle.Fd()), syscall.LOCK_UN), handle.Close())
}

// openBolt opens a bbolt file, for bulk loading without any fsync, and leaves its handle in handle if that is not nil.
func openBolt(path string, bulk bool, handle **os.File) (*bbolt.DB, error) {
	size := int64(mapBytes)
	if strconv.IntSize == 32 {
		size = mapBytes32
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         lockTimeout,
		FreelistType:    bbolt.FreelistMapType, // the other one takes a scan for each page it gives out
		InitialMmapSize: int(size),
		PageSize:        pageSize,
		NoSync:          bulk,
		NoGrowSync:      bulk,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, perm)
			if handle != nil {
				*handle = f
			}
			return f, err
		},
	})
	if err != nil {
		return nil, boltError(err)
	}
	db.AllocSize = firstAllocBytes
	return db, nil
}

// openBoltReadOnly opens a bbolt file that is there, and leaves its handle in handle.
func openBoltReadOnly(path string, handle **os.File) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{
		Timeout:  lockTimeout,
		ReadOnly: true,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, perm)
			*handle = f
			return f, err
		},
	})
	return db, boltError(err)
}

// boltError gives the errors of an open a code.
func boltError(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return kv.Errorf(kv.Busy, "another process has it open: %w", err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch):
		return corruptf("this is not a store, or its first pages are damaged (%v)", err)
	}
	return err
}

// load reads meta, and makes the buckets if the file is new.
func (f *file) load() (st state, sw sweep, err error) {
	fresh := false
	err = f.db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(f.db.Path())
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return corruptf("the file has %d bytes and needs %d: it was cut short", info.Size(), tx.Size())
		}
		b := tx.Bucket(bucketMeta)
		if b == nil {
			fresh = true
			return nil
		}
		if st, sw, err = readMeta(b); err != nil {
			return err
		}
		if tx.Bucket(bucketRev) == nil || tx.Bucket(bucketKey) == nil {
			return corruptf("a bucket is missing")
		}
		return st.loadSides(tx.Bucket(bucketSide))
	})
	if err != nil || !fresh {
		return st, sw, err
	}
	st = state{Revision: 1}
	return st, sw, f.db.Update(func(tx *bbolt.Tx) error { return makeBuckets(tx, st, sw) })
}

func makeBuckets(tx *bbolt.Tx, st state, sw sweep) error {
	for _, name := range [][]byte{bucketRev, bucketKey, bucketMeta} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	b := tx.Bucket(bucketMeta)
	if err := b.Put(metaFormat, binary.BigEndian.AppendUint32(nil, formatFirst)); err != nil {
		return err
	}
	if err := b.Put(metaSweep, sw.append(nil)); err != nil {
		return err
	}
	return b.Put(metaState, st.append(nil))
}

func readMeta(b *bbolt.Bucket) (st state, sw sweep, err error) {
	if _, err := readFormat(b); err != nil {
		return st, sw, err
	}
	err = errors.Join(st.parse(b.Get(metaState)), sw.parse(b.Get(metaSweep)))
	return st, sw, err
}

// readFormat reads the format number in bucket meta.
func readFormat(b *bbolt.Bucket) (uint32, error) {
	format := b.Get(metaFormat)
	if len(format) != 4 {
		return 0, corruptf("the format number is missing")
	}
	n := binary.BigEndian.Uint32(format)
	if n < formatFirst || n > formatVersion {
		return 0, kv.Errorf(kv.Unsupported,
			"the store has format %d and this version reads up to %d: run the version that wrote it, or a newer one", n, formatVersion)
	}
	return n, nil
}

// size returns the bytes of the file that are in use or free for reuse, and those free for reuse.
func (f *file) size() (used, free int64) {
	st := f.db.Stats()
	if err := f.db.View(func(tx *bbolt.Tx) error { used = tx.Size(); return nil }); err != nil {
		return 0, 0
	}
	return used, int64(st.FreePageN+st.PendingPageN) * pageSize
}

// guard runs fn, which works on pages of the file. bbolt trusts its pages: a damaged one makes it panic, and one that
// points beyond the end of the file makes the mapped memory fault, which would end the process. Both become an error
// here. A page that cannot be read (an I/O error under the map) faults in the same way.
func guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			err = &pagePanic{corruptf("a page of the store is damaged or unreadable (%v)", p), stack()}
		}
	}()
	return fn()
}

// pagePanic is the error of a guard that caught a panic: the transaction it interrupted may still hold locks of bbolt.
type pagePanic struct {
	err   *kv.Error
	stack []byte
}

func (p *pagePanic) Error() string { return p.err.Error() + "\n" + string(p.stack) }
func (p *pagePanic) Unwrap() error { return p.err }

func stack() []byte {
	b := make([]byte, 4096)
	return b[:runtime.Stack(b, false)]
}
