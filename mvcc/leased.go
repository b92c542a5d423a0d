package mvcc

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/bbolt"
)

// leaseKey says whether a key lives under a lease.
type leaseKey struct {
	lease int64
	key   string
	there bool
}

// compare is the order of the side table.
func (k leaseKey) compare(o leaseKey) int {
	return cmp.Or(cmp.Compare(uint64(k.lease), uint64(o.lease)), strings.Compare(k.key, o.key))
}

// leasedOverhead is what an entry costs in memory beside its key. Most of that is for the flush: what is far apart in
// the side table changes as many of its pages, which bbolt holds in memory until the commit.
const leasedOverhead = 256

// leased is which keys have come under leases, and have left them, that is not in the file yet. Apply is the one writer.
type leased struct {
	mu sync.RWMutex
	m  map[int64]map[string]bool
}

// set returns by how much the memory has grown.
func (l *leased) set(k leaseKey) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := l.m[k.lease]
	if keys == nil {
		if l.m == nil {
			l.m = map[int64]map[string]bool{}
		}
		keys = map[string]bool{}
		l.m[k.lease] = keys
	}
	_, had := keys[k.key]
	keys[k.key] = k.there
	if had {
		return 0
	}
	return int64(leasedOverhead + len(k.key))
}

// collect puts what is known of a lease over what is in all.
func (l *leased) collect(lease int64, all map[string]bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for k, there := range l.m[lease] {
		all[k] = there
	}
}

// list returns everything, in the order of the side table.
func (l *leased) list() (all []leaseKey) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for lease, keys := range l.m {
		for k, there := range keys {
			all = append(all, leaseKey{lease, k, there})
		}
	}
	slices.SortFunc(all, leaseKey.compare)
	return all
}

// writeLeased puts what an overlay has into a transaction: the last of a flush, so that after a crash the log is
// replayed on what belongs to the state in the file.
func writeLeased(tx *bbolt.Tx, o *overlay) error {
	all := o.leased.list()
	if len(all) == 0 {
		return nil
	}
	b, err := tx.CreateBucketIfNotExists(bucketSide)
	if err != nil {
		return err
	}
	for _, k := range all {
		name := append(leaseKeyPrefix(k.lease), k.key...)
		if k.there {
			err = b.Put(name, sealSide(name, nil))
		} else {
			err = b.Delete(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// formatOf is the format that a file needs for what the side table holds.
func formatOf(sides map[string][]byte) uint32 {
	format := uint32(formatFirst)
	for k := range sides {
		switch k[0] {
		case sideRetryNext:
			format = max(format, formatRetries)
		case sidePolicy:
			return formatAuth
		case sideLease, sideAlarm, sideFeature:
			format = max(format, formatLeases)
		}
	}
	return format
}

// raiseFormat makes a file one that versions before a format refuse.
func raiseFormat(tx *bbolt.Tx, format uint32) error {
	b := tx.Bucket(bucketMeta)
	has, err := readFormat(b)
	if err != nil || has >= format {
		return err
	}
	return b.Put(metaFormat, binary.BigEndian.AppendUint32(nil, format))
}
