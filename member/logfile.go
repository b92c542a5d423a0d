package member

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lni/vfs"
)

const (
	// fillStep is how far a log file is filled with zeros ahead of what is written. Overwriting blocks that are
	// written already costs a sync one block and no file system journal: measured on ext4, 4.4 kB instead of 8.4 kB
	// to the device and 0.10 ms instead of 0.16 ms for a lone commit. A step is one write of this size in a thousand
	// such commits.
	fillStep = 256 << 10
	// smallSync is the size of a sync up to which filling ahead pays: beyond it the zeros cost more than the journal.
	smallSync = 8 << 10
	// spaceStep is how far space is reserved ahead of what is written, so that a log that has room for a while does
	// not fail in the middle of it.
	spaceStep = 1 << 20
	// spaceRetry is how often a write that found the disk full is tried again.
	spaceRetry = 250 * time.Millisecond
)

// fillPage is how much is filled at once.
const fillPage = 4 << 10

var zeros [fillPage]byte

// raftFS is the file system the raft log and its snapshots are kept on. It makes syncs cheap (see logFile) and errors
// orderly: the library panics when one reaches it. Until armed errors are returned, so that a start fails with a
// reason. Once armed a full disk makes the writer wait until there is room, and any other failed write or sync halts
// the replica. A sync is never tried again: after a failed one nothing is known about the file.
type raftFS struct {
	vfs.FS
	halt  *halt
	full  func(waiting bool, err error) // told when a writer begins and ceases to wait for room
	armed atomic.Bool
	done  atomic.Bool // closing: waiting for room is over

	synced func(took time.Duration) // told of each sync of a log

	syncs   atomic.Uint64 // of files and directories
	written atomic.Uint64 // bytes, fill included

	mu   sync.Mutex
	logs map[*logFile]struct{} // open for writing
}

func newRaftFS(h *halt, full func(waiting bool, err error)) *raftFS {
	return &raftFS{FS: vfs.Default, halt: h, full: full, synced: func(time.Duration) {}, logs: make(map[*logFile]struct{})}
}

// Create makes log files logFiles. Before an index file is begun, what it will point into is made durable: tan writes
// the index of a log first and closes the log, without a sync, afterwards.
func (fs *raftFS) Create(name string) (vfs.File, error) {
	if filepath.Ext(name) == ".idxtmp" {
		if err := fs.syncLogs(filepath.Dir(name)); err != nil {
			return nil, err
		}
	}
	var file vfs.File
	err := fs.patiently(func() (err error) {
		file, err = fs.FS.Create(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	osf, ok := file.(*os.File)
	if !ok || filepath.Ext(name) != ".log" {
		return &guardedFile{File: file, fs: fs}, nil
	}
	l := &logFile{File: osf, fs: fs}
	fs.mu.Lock()
	fs.logs[l] = struct{}{}
	fs.mu.Unlock()
	return l, nil
}

func (fs *raftFS) syncLogs(dir string) error {
	fs.mu.Lock()
	var logs []*logFile
	for l := range fs.logs {
		if filepath.Dir(l.Name()) == dir {
			logs = append(logs, l)
		}
	}
	fs.mu.Unlock()
	for _, l := range logs {
		if err := l.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// Open opens a file or a directory; the latter are opened to be synced.
func (fs *raftFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name)
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(f)
	}
	if end, live := fs.endOf(name); live {
		f = &logReader{File: f, SectionReader: io.NewSectionReader(f, 0, end)}
	}
	return &guardedFile{File: f, fs: fs}, nil
}

// endOf returns where a log that is open for writing ends, without the zeros ahead.
func (fs *raftFS) endOf(name string) (end int64, live bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for l := range fs.logs {
		if l.Name() == name {
			return l.ended.Load(), true
		}
	}
	return 0, false
}

// logReader reads a log that is open for writing up to where it ended when the reader was opened: tan reads on until
// it finds the end of the file, and takes the zeros ahead for damage.
type logReader struct {
	vfs.File
	*io.SectionReader
}

func (r *logReader) Read(p []byte) (int, error)              { return r.SectionReader.Read(p) }
func (r *logReader) ReadAt(p []byte, off int64) (int, error) { return r.SectionReader.ReadAt(p, off) }
func (r *logReader) Seek(off int64, whence int) (int64, error) {
	return r.SectionReader.Seek(off, whence)
}

// OpenDir opens a directory for syncing.
func (fs *raftFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardedFile{File: f, fs: fs}, nil
}

// Rename may need room for the directory.
func (fs *raftFS) Rename(from, to string) error {
	return fs.patiently(func() error { return fs.FS.Rename(from, to) })
}

// MkdirAll may need room for the directory.
func (fs *raftFS) MkdirAll(dir string, perm os.FileMode) error {
	return fs.patiently(func() error { return fs.FS.MkdirAll(dir, perm) })
}

// patiently does op until it no longer fails for want of room, if armed. Another error is returned.
func (fs *raftFS) patiently(op func() error) error {
	err := op()
	if !noRoom(err) || !fs.armed.Load() {
		return err
	}
	fs.full(true, err)
	defer fs.full(false, nil)
	for noRoom(err) {
		if fs.done.Load() {
			fs.halt.stop(fmt.Errorf("no room on disk to finish writing before the stop: %w", err))
		}
		time.Sleep(spaceRetry)
		err = op()
	}
	return err
}

// check returns err, or halts the replica with it if armed.
func (fs *raftFS) check(doing, name string, err error) error {
	if err != nil && fs.armed.Load() {
		fs.halt.stop(fmt.Errorf("%s %s: %w", doing, name, err))
	}
	return err
}

func noRoom(err error) bool {
	return err != nil && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}

// guardedFile is a file whose failures raftFS takes care of.
type guardedFile struct {
	vfs.File
	fs *raftFS
}

func (f *guardedFile) Write(p []byte) (int, error) {
	n := 0
	err := f.fs.patiently(func() error {
		m, err := f.File.Write(p[n:])
		n += m
		return err
	})
	f.fs.written.Add(uint64(n))
	return n, f.fs.check("write", fileName(f.File), err)
}

func (f *guardedFile) Sync() error {
	f.fs.syncs.Add(1)
	return f.fs.check("sync", fileName(f.File), f.File.Sync())
}

func fileName(f vfs.File) string {
	if n, ok := f.(interface{ Name() string }); ok {
		return n.Name()
	}
	return "a file"
}

// logFile is a log that is written at its end and synced after each write or few. While syncs are small it keeps zeros
// ahead of the end, which a reader after a crash has to take off again (trimLog); Close does so itself.
//
// tan may write from one goroutine and sync from another, and may sync a file that it has closed meanwhile.
type logFile struct {
	*os.File
	fs *raftFS

	ended atomic.Int64 // end, for readers

	mu       sync.Mutex
	end      int64 // of what was written
	filled   int64 // of the zeros behind it
	reserved int64 // of the space allocated
	dirty    bool  // written since the last sync
	pending  int64 // bytes written since the last sync
	typical  int64 // moving average of pending at a sync
	closed   bool
}

// Write appends p.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.makeRoom(int64(len(p))); err != nil {
		return 0, err
	}
	n := 0
	err := l.fs.patiently(func() error {
		m, err := l.File.Write(p[n:])
		n += m
		return err
	})
	l.end += int64(n)
	l.ended.Store(l.end)
	l.pending += int64(n)
	l.dirty = l.dirty || n > 0
	l.fs.written.Add(uint64(n))
	return n, l.fs.check("write", l.Name(), err)
}

// makeRoom prepares the file for n bytes more. To fail in this is no error as long as the write itself succeeds.
func (l *logFile) makeRoom(n int64) error {
	if l.end+n > l.reserved {
		if allocate(l.File, l.reserved, max(spaceStep, n)) == nil {
			l.reserved += max(spaceStep, n)
		}
	}
	if l.end+n <= l.filled || n > smallSync || l.typical > smallSync {
		return nil
	}
	from := max(l.end, l.filled)
	to := min(from+fillStep, max(l.reserved, from))
	for l.filled = from; l.filled < to; {
		// A page at a time: what is written at once is cached as one large page, which the kernel then counts in full
		// whenever a part of it becomes dirty.
		m, err := l.WriteAt(zeros[:min(fillPage-l.filled%fillPage, to-l.filled)], l.filled)
		l.filled += int64(m)
		l.fs.written.Add(uint64(m))
		if noRoom(err) {
			return nil
		}
		if err != nil {
			return l.fs.check("write", l.Name(), err)
		}
	}
	return nil
}

// Sync returns once all that was written is durable. After Close it has nothing to do.
func (l *logFile) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sync()
}

func (l *logFile) sync() error {
	if l.closed || !l.dirty {
		return nil
	}
	l.fs.syncs.Add(1)
	began := time.Now()
	if err := datasync(l.File); err != nil {
		return l.fs.check("sync", l.Name(), err)
	}
	l.fs.synced(time.Since(began))
	l.dirty = false
	l.typical += (l.pending - l.typical) / 8
	l.pending = 0
	return nil
}

// Close takes off what was allocated and not written, and makes the rest durable.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if l.filled > l.end || l.reserved > l.end {
		if err := l.Truncate(l.end); err != nil {
			return l.fs.check("truncate", l.Name(), err)
		}
		l.dirty = true
	}
	if err := l.sync(); err != nil {
		return err
	}
	l.closed = true
	l.fs.mu.Lock()
	delete(l.fs.logs, l)
	l.fs.mu.Unlock()
	return l.File.Close()
}

// isLogName reports whether base names a log file of tan.
func isLogName(base string) bool {
	num, ok := strings.CutSuffix(base, ".log")
	return ok && num != "" && strings.Trim(num, "0123456789") == ""
}
