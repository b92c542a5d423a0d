package mvcc

import (
	"encoding/binary"
	"errors"
	"math"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// The state of etcd 3.4 to 3.7 is a bbolt file too, the db of its data dir and of a snapshot. What of it is read here:
//
//	key    main(8) '_' sub(8), and 't' for a deletion -> mvccpb.KeyValue
//	lease  id(8) -> leasepb.Lease
//	meta   scheduledCompactRev, finishedCompactRev -> main(8) '_' sub(8)
//	auth, authUsers, authRoles: see etcdauth.go
var (
	etcdKey   = []byte("key")
	etcdLease = []byte("lease")
	etcdMeta  = []byte("meta")
	etcdAuth  = []byte("auth")
	etcdUsers = []byte("authUsers")
	etcdRoles = []byte("authRoles")

	etcdCompacts    = [2]string{"scheduledCompactRev", "finishedCompactRev"}
	etcdAuthEnabled = []byte("authEnabled")
)

const etcdRevLen = 8 + 1 + 8

// Imported is what came out of a file of etcd.
type Imported struct {
	Contents
	Users   int  // how many users were taken over
	Enabled bool // authentication is on
	// Freed is how many keys named a lease that was not there any more; they live under none now, as they did in etcd.
	Freed int64
}

// IsEtcd reports whether the first size bytes at path are the state of an etcd.
func IsEtcd(path string, size int64) (is bool, err error) {
	err = withBolt(path, size, func(tx *bbolt.Tx) error {
		is = isEtcd(tx)
		return nil
	})
	return is, err
}

// isEtcd tells the two apart: the names of two of the buckets are the same.
func isEtcd(tx *bbolt.Tx) bool {
	return tx.Bucket(etcdKey) != nil && tx.Bucket(etcdMeta) != nil && tx.Bucket(bucketRev) == nil
}

// withBolt reads a bbolt file that may hold anything.
func withBolt(path string, size int64, read func(*bbolt.Tx) error) error {
	sn, err := openBare(path, size)
	if err != nil {
		return err
	}
	err = guard(func() error { return read(sn.tx) })
	return errors.Join(imageError(path, err), sn.closeImage(err))
}

// ImportEtcd makes, at to, a state file of the state of an etcd that the first size bytes at from hold: all keys with
// their history, revisions and versions, the leases, and, unless they are to be dropped, users and roles. It is the state of a
// log that begins, as after Renew.
func ImportEtcd(from string, size int64, to string, epoch kv.Epoch, dropUsers bool, stop <-chan struct{}) (im Imported, err error) {
	err = withBolt(from, size, func(src *bbolt.Tx) error {
		return makeFile(to, func(db *bbolt.DB) error {
			b := &etcdImport{src: src, db: db, stop: stop, dropUsers: dropUsers, state: state{Revision: 1, Epoch: epoch}}
			if err := b.run(); err != nil {
				return err
			}
			im.Users, im.Enabled, im.Freed = b.users, b.enabled, b.freed
			return nil
		})
	})
	if err != nil {
		return Imported{}, err
	}
	im.Contents, err = examineOwn(to, stop)
	return im, err
}

// etcdImport writes a file of ours from one of etcd.
type etcdImport struct {
	src  *bbolt.Tx
	db   *bbolt.DB
	stop <-chan struct{}

	tx     *bbolt.Tx
	bytes  int // put into tx
	state  state
	group  []*record      // of one revision
	places map[string]int // of keys in group
	freed  int64

	dropUsers bool
	users     int
	enabled   bool
}

func (b *etcdImport) run() (err error) {
	if !isEtcd(b.src) {
		return kv.Errorf(kv.Corrupt, "it does not have the buckets of an etcd")
	}
	if b.tx, err = b.db.Begin(true); err != nil {
		return err
	}
	defer func() {
		if err != nil && b.tx != nil {
			_ = b.tx.Rollback() // the file is thrown away; the cause is returned
		}
	}()
	if err := makeBuckets(b.tx, b.state, sweep{}); err != nil {
		return err
	}
	if err := b.compacted(); err != nil {
		return err
	}
	if err := b.records(); err != nil {
		return err
	}
	if err := b.leases(); err != nil {
		return err
	}
	if !b.dropUsers {
		if err := b.policy(); err != nil {
			return err
		}
	}
	if err := putMeta(b.tx, b.state); err != nil {
		return err
	}
	return b.tx.Commit()
}

// compacted reads how far the history is gone. What etcd has not freed of it yet, the first sweep does.
func (b *etcdImport) compacted() error {
	meta := b.src.Bucket(etcdMeta)
	for _, name := range etcdCompacts {
		v := meta.Get([]byte(name))
		if v == nil {
			continue
		}
		rev, _, err := parseEtcdRev(v)
		if err != nil {
			return err
		}
		b.state.Compact = max(b.state.Compact, rev.main)
	}
	b.state.Revision = max(b.state.Revision, b.state.Compact)
	return nil
}

func parseEtcdRev(k []byte) (rev revision, deleted bool, err error) {
	bad := len(k) != etcdRevLen && (len(k) != etcdRevLen+1 || k[etcdRevLen] != 't') || k[8] != '_'
	if bad {
		return rev, false, corruptEtcd("a revision has the form %q", k)
	}
	main, sub := binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[9:])
	if main == 0 || main > math.MaxInt64/2 || sub > math.MaxUint32 {
		return rev, false, corruptEtcd("a revision is %d.%d", main, sub)
	}
	return revision{int64(main), uint32(sub)}, len(k) > etcdRevLen, nil
}

func corruptEtcd(format string, args ...any) *kv.Error {
	return kv.Errorf(kv.Corrupt, "the state of etcd is damaged: "+format, args...)
}

// records copies the history.
func (b *etcdImport) records() error {
	var of int64 // the revision that group is of
	c := b.src.Bucket(etcdKey).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		rev, deleted, err := parseEtcdRev(k)
		if err != nil {
			return err
		}
		r, err := parseEtcdKeyValue(v)
		if err != nil {
			return err
		}
		if err := checkEtcd(r, rev, deleted); err != nil {
			return err
		}
		if rev.main < of {
			return corruptEtcd("revision %v is out of order", rev)
		}
		if rev.main > of {
			if err := b.flush(); err != nil {
				return err
			}
			of = rev.main
		}
		b.add(r)
	}
	return b.flush()
}

// checkEtcd completes a record and refuses what this store has no room for.
func checkEtcd(r *record, rev revision, deleted bool) error {
	switch {
	case len(r.Key) == 0:
		return corruptEtcd("revision %v is of no key", rev)
	case len(r.Key) > MaxKeyBytes, r.Lease != 0 && len(r.Key) > MaxLeaseKeyBytes:
		return kv.Errorf(kv.TooLarge, "the key %.40q... has %d bytes, the limit is %d, under a lease %d: delete it in etcd first",
			r.Key, len(r.Key), MaxKeyBytes, MaxLeaseKeyBytes)
	case deleted:
		*r = record{KeyValue: kv.KeyValue{Key: r.Key}, deleted: true}
	case r.ModRevision != rev.main || r.CreateRevision < 1 || r.CreateRevision > rev.main || r.Version < 1:
		return corruptEtcd("revision %v says that it is of %d, made at %d, version %d", rev, r.ModRevision, r.CreateRevision, r.Version)
	}
	r.ModRevision, r.sub = rev.main, rev.sub
	return nil
}

// add puts a record into the group of its revision. A key that one transaction has changed twice, which etcd overlooks
// in some of them, stands there as the last change left it.
func (b *etcdImport) add(r *record) {
	if b.places == nil {
		b.places = map[string]int{}
	}
	if at, twice := b.places[string(r.Key)]; twice {
		b.group = append(b.group[:at], b.group[at+1:]...)
		for k, n := range b.places {
			if n > at {
				b.places[k] = n - 1
			}
		}
	}
	b.places[string(r.Key)] = len(b.group)
	b.group = append(b.group, r)
}

// flush writes a group.
func (b *etcdImport) flush() error {
	revs, index := b.tx.Bucket(bucketRev), b.tx.Bucket(bucketKey)
	revs.FillPercent, index.FillPercent = recFill, indexFill
	for _, r := range b.group {
		prev, err := indexed(index, r.Key)
		if err != nil {
			return err
		}
		r.prev = prev
		if err := putRecord(revs, index, r); err != nil {
			return err
		}
		b.state.Revision = max(b.state.Revision, r.ModRevision)
		b.bytes += 2*len(r.Key) + len(r.Value)
	}
	b.group, b.places = b.group[:0], nil
	return b.turn()
}

func putRecord(revs, index *bbolt.Bucket, r *record) error {
	if err := revs.Put(appendRevKey(nil, r.rev()), appendRecord(nil, r)); err != nil {
		return err
	}
	return index.Put(r.Key, appendIndexEntry(nil, r))
}

// turn begins another transaction when the present one is large.
func (b *etcdImport) turn() (err error) {
	select {
	case <-b.stop:
		return kv.Errorf(kv.Stopping, "stopped by the caller")
	default:
	}
	if b.bytes < bulkBytes {
		return nil
	}
	if err := b.tx.Commit(); err != nil {
		return err
	}
	b.bytes = 0
	b.tx, err = b.db.Begin(true)
	return err
}

// leases copies the leases, and lists the keys that live under them.
func (b *etcdImport) leases() error {
	sides, err := b.tx.CreateBucketIfNotExists(bucketSide)
	if err != nil {
		return err
	}
	if src := b.src.Bucket(etcdLease); src != nil {
		c := src.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			id, ttl, err := parseEtcdLease(v)
			if err != nil {
				return err
			}
			if len(k) != 8 || binary.BigEndian.Uint64(k) != uint64(id) || id == 0 || ttl > MaxLeaseTTL {
				return corruptEtcd("the lease %x has the id %016x and lives %d s", k, uint64(id), ttl)
			}
			key := []byte(leaseName(id))
			if err := sides.Put(key, sealSide(key, binary.AppendUvarint(nil, uint64(max(ttl, MinLeaseTTL))))); err != nil {
				return err
			}
		}
	}
	return b.leasedKeys(sides)
}

func (b *etcdImport) leasedKeys(sides *bbolt.Bucket) error {
	revs, index := b.tx.Bucket(bucketRev), b.tx.Bucket(bucketKey)
	var dangling []revision
	var v version
	c := index.Cursor()
	for k, e := c.First(); k != nil; k, e = c.Next() {
		if err := parseIndexEntry(&v, k, e); err != nil {
			return err
		}
		if v.deleted || v.lease == 0 {
			continue
		}
		if sides.Get([]byte(leaseName(v.lease))) == nil {
			dangling = append(dangling, v.rev)
			continue
		}
		key := append(leaseKeyPrefix(v.lease), k...)
		if err := sides.Put(key, sealSide(key, nil)); err != nil {
			return err
		}
	}
	for _, rev := range dangling {
		r, err := recordIn(revs, rev)
		if err != nil {
			return err
		}
		r = r.clone()
		r.Lease = 0
		if err := putRecord(revs, index, r); err != nil {
			return err
		}
		b.freed++
	}
	return nil
}

// parseEtcdKeyValue reads a mvccpb.KeyValue: 1 key, 2 create revision, 3 mod revision, 4 version, 5 value, 6 lease. The
// record shares the bytes of b.
func parseEtcdKeyValue(b []byte) (*record, error) {
	r := &record{}
	err := protoFields(b, func(field uint64, n uint64, bytes []byte) {
		switch field {
		case 1:
			r.Key = bytes
		case 2:
			r.CreateRevision = int64(n)
		case 3:
			r.ModRevision = int64(n)
		case 4:
			r.Version = int64(n)
		case 5:
			r.Value = bytes
		case 6:
			r.Lease = int64(n)
		}
	})
	return r, err
}

// parseEtcdLease reads a leasepb.Lease: 1 id, 2 TTL in seconds. What it had left is not looked at: it gets its TTL anew.
func parseEtcdLease(b []byte) (id, ttl int64, err error) {
	err = protoFields(b, func(field uint64, n uint64, _ []byte) {
		switch field {
		case 1:
			id = int64(n)
		case 2:
			ttl = int64(n)
		}
	})
	return id, ttl, err
}

// protoFields calls f for each field of a message of protobuf that is a number or bytes.
func protoFields(b []byte, f func(field uint64, n uint64, bytes []byte)) error {
	bad := corruptEtcd("a message of protobuf is malformed")
	for len(b) > 0 {
		tag, w := binary.Uvarint(b)
		if w <= 0 {
			return bad
		}
		b = b[w:]
		var n uint64
		switch tag & 7 {
		case 0:
			if n, w = binary.Uvarint(b); w <= 0 {
				return bad
			}
			f(tag>>3, n, nil)
			b = b[w:]
		case 2:
			if n, w = binary.Uvarint(b); w <= 0 || n > uint64(len(b)-w) {
				return bad
			}
			end := w + int(n)
			f(tag>>3, 0, b[w:end:end])
			b = b[end:]
		default:
			return bad
		}
	}
	return nil
}
