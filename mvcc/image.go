package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Image is the file as of the snapshot, a whole bbolt file, and its size. It is read without a lock, while the snapshot
// is open.
func (sn *Snapshot) Image() (r io.Reader, size int64, err error) {
	head := &headWriter{}
	if _, err := sn.tx.WriteTo(head); !errors.Is(err, errEnough) {
		return nil, 0, fmt.Errorf("copy of %s: its first pages: %w", sn.file.db.Path(), errors.Join(err, io.ErrUnexpectedEOF))
	}
	size = sn.tx.Size()
	pages := io.NewSectionReader(sn.file.handle, headBytes, size-headBytes)
	return io.MultiReader(&head.buf, pages), size, nil
}

// headBytes is the two meta pages, which a copy has in a form of its own: everything behind them stays as it is while the
// transaction is open.
const headBytes = 2 * pageSize

// headWriter takes the meta pages and nothing more.
type headWriter struct{ buf bytes.Buffer }

var errEnough = errors.New("enough")

func (w *headWriter) Write(p []byte) (int, error) {
	if w.buf.Len() >= headBytes {
		return 0, errEnough
	}
	return w.buf.Write(p)
}
