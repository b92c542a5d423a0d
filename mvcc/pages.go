package mvcc

import (
	"encoding/binary"
	"hash/fnv"
	"io"
	"math"
	"math/bits"

	"holdfast/kv"
)

// A bbolt file that comes from elsewhere is walked before bbolt opens it: bbolt trusts its pages, and a tree that leads
// back to itself would keep it busy for ever. The layout is that of bbolt 1.x (its internal/common), version 2, in the byte
// order of the machine that wrote it.
//
//	page    id(8) flags(2) count(2) overflow(4) | elements | keys and values
//	meta    magic(4) version(4) page size(4) flags(4) root(8) sequence(8) freelist(8) pages(8) txid(8) fnv64a(8)
//	branch  pos(4) key size(4) page(8), pos counted from the element
//	leaf    flags(4) pos(4) key size(4) value size(4), likewise
//	bucket  a value with the flag: root(8) sequence(8), and if root is 0 the page of the bucket itself
const (
	pageHead   = 16
	elemLen    = 16
	bucketHead = 16
	metaLen    = 64

	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageBranch = 0x01
	pageLeaf   = 0x02

	elemBucket = 0x01

	pageSizeMin = 1 << 10
	pageSizeMax = 64 << 10
	// pageBytesMax is the longest run of pages that is read at once, for one very large value.
	pageBytesMax = frameMax
)

// checkPages fails with kv.Corrupt unless the first size bytes of r hold a bbolt file whose trees stay within it and come
// to an end. It reads each page once, and what it allocates is bounded by size.
func checkPages(r io.ReaderAt, size int64) error {
	m, err := newestMeta(r, size)
	if err != nil {
		return err
	}
	w := &pageWalk{r: r, pageSize: int64(m.pageSize), pages: m.pages, seen: make([]uint64, m.pages/64+1)}
	return w.tree(m.root, 0)
}

// boltMeta is what a meta page says.
type boltMeta struct {
	pageSize    uint32
	root, pages uint64
	txid        uint64
}

// newestMeta finds the meta page that bbolt would go by.
func newestMeta(r io.ReaderAt, size int64) (best boltMeta, err error) {
	found := false
	for _, at := range metaPlaces(r, size) {
		m, ok := readBoltMeta(r, at)
		if ok && (!found || m.txid > best.txid) {
			best, found = m, true
		}
	}
	switch {
	case !found:
		return best, kv.Errorf(kv.Corrupt, "it has no page that says what it is: this is no bbolt file, or its head is damaged")
	case best.pages < 2 || best.pages > uint64(size)/uint64(best.pageSize):
		return best, kv.Errorf(kv.Corrupt, "it has %d bytes and needs %d pages of %d: it was cut short", size, best.pages, best.pageSize)
	}
	return best, nil
}

// metaPlaces is where meta pages may lie: at 0, and at one page of whatever size.
func metaPlaces(r io.ReaderAt, size int64) (at []int64) {
	if m, ok := readBoltMeta(r, 0); ok {
		return []int64{0, int64(m.pageSize)}
	}
	for n := int64(pageSizeMin); n <= pageSizeMax && n < size; n *= 2 {
		if m, ok := readBoltMeta(r, n); ok && int64(m.pageSize) == n {
			at = append(at, n)
		}
	}
	return at
}

func readBoltMeta(r io.ReaderAt, at int64) (m boltMeta, ok bool) {
	var b [pageHead + metaLen]byte
	if _, err := r.ReadAt(b[:], at); err != nil {
		return m, false
	}
	e, p := binary.NativeEndian, b[pageHead:]
	sum := fnv.New64a()
	_, _ = sum.Write(p[:metaLen-8])
	if e.Uint32(p) != boltMagic || e.Uint32(p[4:]) != boltVersion || e.Uint64(p[metaLen-8:]) != sum.Sum64() {
		return m, false
	}
	m = boltMeta{pageSize: e.Uint32(p[8:]), root: e.Uint64(p[16:]), pages: e.Uint64(p[40:]), txid: e.Uint64(p[48:])}
	ok = m.pageSize >= pageSizeMin && m.pageSize <= pageSizeMax && bits.OnesCount32(m.pageSize) == 1
	return m, ok
}

// pageWalk goes through the trees of a file.
type pageWalk struct {
	r        io.ReaderAt
	pageSize int64
	pages    uint64
	seen     []uint64 // a bit for each page
}

// treeDepthMax is far beyond what a file can need: a branch page has at least two ways on.
const treeDepthMax = 64

// tree walks the pages below one, buckets included.
func (w *pageWalk) tree(id uint64, depth int) error {
	page, err := w.take(id, depth)
	if err != nil {
		return err
	}
	e := binary.NativeEndian
	switch flags := e.Uint16(page[8:]); flags {
	case pageBranch:
		n := int(e.Uint16(page[10:]))
		if n == 0 {
			return damagedPage(id, "it is a branch that leads nowhere")
		}
		for i := range n {
			elem, ok := element(page, i)
			if !ok || !within(elem, e.Uint32(elem), e.Uint32(elem[4:])) {
				return damagedPage(id, "an entry lies beyond its end")
			}
			if err := w.tree(e.Uint64(elem[8:]), depth+1); err != nil {
				return err
			}
		}
		return nil
	case pageLeaf:
		return w.leaf(id, page, depth, false)
	default:
		return damagedPage(id, "its kind is unknown")
	}
}

// leaf checks the entries of a leaf page, which may lie inside a value of another, and walks its buckets.
func (w *pageWalk) leaf(id uint64, page []byte, depth int, inline bool) error {
	e := binary.NativeEndian
	for i := range int(e.Uint16(page[10:])) {
		elem, ok := element(page, i)
		if !ok || !within(elem, e.Uint32(elem[4:]), e.Uint32(elem[8:])) || !within(elem, e.Uint32(elem[4:]), e.Uint32(elem[8:]), e.Uint32(elem[12:])) {
			return damagedPage(id, "an entry lies beyond its end")
		}
		if e.Uint32(elem)&elemBucket == 0 {
			continue
		}
		from := uint64(e.Uint32(elem[4:])) + uint64(e.Uint32(elem[8:]))
		bucket := elem[from : from+uint64(e.Uint32(elem[12:]))]
		switch {
		case inline || len(bucket) < bucketHead:
			return damagedPage(id, "a bucket is malformed")
		case e.Uint64(bucket) != 0:
			if err := w.tree(e.Uint64(bucket), depth+1); err != nil {
				return err
			}
		default:
			own := bucket[bucketHead:]
			if len(own) < pageHead || e.Uint16(own[8:]) != pageLeaf {
				return damagedPage(id, "a bucket is malformed")
			}
			if err := w.leaf(id, own, depth+1, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// take reads a page, with the pages it runs on into, none of which may have been read before.
func (w *pageWalk) take(id uint64, depth int) ([]byte, error) {
	if id < 2 || id >= w.pages || depth > treeDepthMax {
		return nil, damagedPage(id, "nothing of the kind is there")
	}
	var head [pageHead]byte
	if _, err := w.r.ReadAt(head[:], int64(id)*w.pageSize); err != nil {
		return nil, err
	}
	e := binary.NativeEndian
	run := uint64(e.Uint32(head[12:])) + 1
	if e.Uint64(head[:]) != id || run > w.pages-id || run > pageBytesMax/uint64(w.pageSize) {
		return nil, damagedPage(id, "its head is wrong")
	}
	for n := id; n < id+run; n++ {
		if w.seen[n/64]&(1<<(n%64)) != 0 {
			return nil, damagedPage(n, "two ways lead to it")
		}
		w.seen[n/64] |= 1 << (n % 64)
	}
	page := make([]byte, int64(run)*w.pageSize)
	_, err := w.r.ReadAt(page, int64(id)*w.pageSize)
	return page, err
}

// element is the ith of a page and everything behind it.
func element(page []byte, i int) ([]byte, bool) {
	at := pageHead + i*elemLen
	if at+elemLen > len(page) {
		return nil, false
	}
	return page[at:], true
}

// within reports whether so many bytes, one behind the other, end within b.
func within(b []byte, parts ...uint32) bool {
	sum := uint64(0)
	for _, n := range parts {
		sum += uint64(n)
	}
	return sum <= min(uint64(len(b)), math.MaxInt32)
}

func damagedPage(id uint64, what string) *kv.Error {
	return kv.Errorf(kv.Corrupt, "page %d of it is damaged: %s", id, what)
}
