package queue

import (
	"errors"
	"os"
	"syscall"
)

// The same bounds as the raft log's (member/logfile.go), from the same measurement.
const (
	// fillStep is how far a segment is filled with zeros ahead of its end. To overwrite blocks that are written already
	// costs a sync one block and no journal of the file system. A step is one write of this size in a thousand commits
	// of a lone writer.
	fillStep = 256 << 10
	// smallSync is the size of a commit up to which that pays: beyond it the zeros cost more than the journal.
	smallSync = 8 << 10
	fillPage  = 4 << 10 // filled at once: the kernel counts what is written at once in full when a part of it is dirty
)

var zeros [fillPage]byte

// tail is a segment that is appended to. While commits are small it keeps zeros ahead of its end, which whoever reads it after a
// crash takes for that: no frame has a length of zero. Trim takes them off. One goroutine writes; ReadAt is for any.
type tail struct {
	*os.File
	end     int64 // of what was written
	filled  int64 // of the zeros behind it, if that is more
	pending int64 // bytes written since the last sync
	typical int64 // moving average of pending at a sync
}

func newTail(f *os.File, end int64) *tail { return &tail{File: f, end: end} }

// Write puts b behind what is there.
func (t *tail) Write(b []byte) (int, error) {
	t.fill(int64(len(b)))
	n, err := t.WriteAt(b, t.end)
	t.end += int64(n)
	t.pending += int64(n)
	return n, err
}

// fill makes ready for n bytes more. If it cannot, the write itself will tell.
func (t *tail) fill(n int64) {
	if t.end+n <= t.filled || max(n, t.typical) > smallSync {
		return
	}
	t.filled = max(t.filled, t.end)
	for to := t.filled + fillStep; t.filled < to; {
		m, err := t.WriteAt(zeros[:min(fillPage-t.filled%fillPage, to-t.filled)], t.filled)
		t.filled += int64(m)
		if err != nil {
			return
		}
	}
}

// Sync makes what was written durable, and the size of the file.
func (t *tail) Sync() error {
	t.typical += (t.pending - t.typical) / 8
	t.pending = 0
	return datasync(t.File)
}

// Truncate cuts the file off, so that what is written next stands at size.
func (t *tail) Truncate(size int64) error {
	t.end, t.filled = size, size
	return t.File.Truncate(size)
}

// Trim takes the zeros off for good.
func (t *tail) Trim() error {
	if t.filled <= t.end {
		return nil
	}
	return errors.Join(t.Truncate(t.end), datasync(t.File))
}

// datasync is fsync without the times of the file, which nobody needs.
func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) {
		for {
			if serr = fdatasync(int(fd)); serr != syscall.EINTR { //nolint:errorlint // a number
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", serr)
}
