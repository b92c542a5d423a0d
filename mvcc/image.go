package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Image is the file as of the snapshot, a whole bbolt file, and its size. It is read without a lock, while the snapshot
// is open.
func (sn *Snapshot) Image() (r io.ReaderAt, size int64, err error) {
	head := &headWriter{}
	if _, err := sn.tx.WriteTo(head); !errors.Is(err, errEnough) {
		return nil, 0, fmt.Errorf("copy of %s: its first pages: %w", sn.file.db.Path(), errors.Join(err, io.ErrUnexpectedEOF))
	}
	return &image{head: head.buf.Bytes(), pages: sn.file.handle}, sn.tx.Size(), nil
}

// headBytes is the two meta pages, which a copy has in a form of its own: everything behind them stays as it is while the
// transaction is open.
const headBytes = 2 * pageSize

// image is a file with other first pages than it has.
type image struct {
	head  []byte
	pages io.ReaderAt
}

func (m *image) ReadAt(p []byte, off int64) (n int, err error) {
	if off < headBytes {
		n = copy(p, m.head[off:])
	}
	if n == len(p) {
		return n, nil
	}
	more, err := m.pages.ReadAt(p[n:], off+int64(n))
	return n + more, err
}

// headWriter takes the meta pages and nothing more.
type headWriter struct{ buf bytes.Buffer }

var errEnough = errors.New("enough")

func (w *headWriter) Write(p []byte) (int, error) {
	if w.buf.Len() >= headBytes {
		return 0, errEnough
	}
	return w.buf.Write(p)
}
