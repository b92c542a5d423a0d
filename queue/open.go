package queue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"holdfast/kv"
)

// openersMax is how many segments are read at a time, if there are as many CPUs.
const openersMax = 4

// opening is a segment as it was found. Nothing of it is changed until all before it is known to be whole.
type opening struct {
	segment *segment
	bytes   int64 // of the file; what is beyond the segment's size was never acknowledged
	torn    bool  // and is more than zeros, which are filled ahead
	merge   func() error
	err     error
}

// names are the segments' files, in order.
func (l *log) names() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(l.dir, "*.seg"))
	slices.Sort(names)
	return names, err
}

// open reads all segments, some at a time. visitor is called for each: visit is given its records in order, and must not keep slices
// of them; merge is called when all of it has been read, and that of all segments before it. Calls of visit are concurrent with
// those of other segments and their merge; merges come one at a time. A damaged end of the last segment is cut off with
// a log line: it was never acknowledged. Damage anywhere else is refused, because behind it lie acknowledged writes.
func (l *log) open(names []string, visitor func() (visit func(record, place) error, merge func() error)) error {
	found := make([]chan opening, len(names))
	for i := range found {
		found[i] = make(chan opening, 1)
	}
	var next atomic.Int64
	var openers sync.WaitGroup
	defer openers.Wait()
	defer next.Store(int64(len(names))) // after a fault nobody looks at the rest
	for range min(len(names), openersMax, runtime.GOMAXPROCS(0)) {
		openers.Go(func() {
			var b []byte // memory of the file that is read
			for {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return
				}
				var o opening
				b, o = findSegment(names[i], b, l.dir, i == len(names)-1, visitor)
				found[i] <- o
			}
		})
	}
	for _, c := range found {
		o := <-c
		if o.err != nil {
			return o.err
		}
		if err := l.adopt(&o); err != nil {
			return err
		}
		if err := o.merge(); err != nil {
			return fmt.Errorf("queue: %s: %w", o.segment.path, err)
		}
	}
	return nil
}

// findSegment reads a file, into b if that is large enough.
func findSegment(path string, b []byte, dir string, last bool, visitor func() (visit func(record, place) error, merge func() error)) ([]byte, opening) {
	b, err := readInto(b, path)
	if err != nil {
		return b, opening{err: fmt.Errorf("queue: %w", err)}
	}
	o := opening{bytes: int64(len(b))}
	visit, merge := visitor()
	o.merge = merge
	o.segment, o.torn, o.err = readSegment(path, b, dir, last, visit)
	return b, o
}

// readSegment hands the records of a segment to visit, and says how far it goes.
func readSegment(path string, b []byte, dir string, last bool, visit func(record, place) error) (s *segment, torn bool, err error) {
	var id uint64
	name := strings.TrimSuffix(filepath.Base(path), ".seg")
	if _, err := fmt.Sscanf(name, "%016x", &id); err != nil {
		return nil, false, fmt.Errorf("queue: %s: not a segment; move it away", path)
	}
	s = &segment{path: path, id: id, size: int64(len(magic))}
	if len(b) < len(magic) && last { // cut while it was made
		return s, false, nil
	}
	if string(b[:min(len(b), len(magic))]) != magic {
		return nil, false, &kv.Error{Code: kv.Corrupt, Detail: fmt.Sprintf("queue: %s does not begin as a segment of version 1 does; a newer version wrote it, or the disk damaged it", path)}
	}
	rest := b[len(magic):]
	for len(rest) > 0 {
		body, after, err := nextFrame(rest)
		if err != nil {
			if !last || framesFollow(rest) {
				return nil, false, &kv.Error{Code: kv.Corrupt, Detail: fmt.Sprintf("queue: %s is damaged at byte %d, and acknowledged writes follow; restore the file, or move %s away to give up what was queued", path, s.size, dir)}
			}
			return s, !empty(rest), nil
		}
		for len(body) > 0 {
			r, more, err := nextRecord(body)
			if err != nil {
				return nil, false, &kv.Error{Code: kv.Corrupt, Detail: fmt.Sprintf("queue: %s at byte %d: %v", path, s.size, err)}
			}
			end := int64(len(b)-len(after)) - int64(len(more))
			if err := visit(r, place{seg: s, off: uint32(end - int64(len(r.command))), size: uint32(len(r.command))}); err != nil {
				return nil, false, fmt.Errorf("queue: %s at byte %d: %w", path, s.size, err)
			}
			body = more
		}
		s.size = int64(len(b) - len(after))
		rest = after
	}
	return s, false, nil
}

// adopt makes a segment one of the log's.
func (l *log) adopt(o *opening) error {
	s := o.segment
	if o.bytes < int64(len(magic)) {
		if err := os.WriteFile(s.path, []byte(magic), 0o600); err != nil {
			return fmt.Errorf("queue: %w", err)
		}
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	s.f = newTail(f, s.size)
	l.segments = append(l.segments, s)
	if s.size >= o.bytes {
		return nil
	}
	if o.torn {
		l.slog.Warn("queue tail cut off: a commit was interrupted", "file", s.path, "at", s.size, "bytes", o.bytes-s.size)
	}
	if err := errors.Join(s.f.Truncate(s.size), s.f.Sync()); err != nil {
		return fmt.Errorf("queue: cut the end off %s: %w", s.path, err)
	}
	return nil
}

// readInto is os.ReadFile into the memory of b.
func readInto(b []byte, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		b = slices.Grow(b[:0], int(info.Size()))[:info.Size()]
		_, err = io.ReadFull(f, b)
	}
	return b, errors.Join(err, f.Close())
}

// empty reports whether there is nothing but zeros.
func empty(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// framesFollow reports whether a whole frame stands anywhere behind a damaged one.
func framesFollow(b []byte) bool {
	for i := 1; i+frameHeader < len(b); i++ {
		if body, _, err := nextFrame(b[i:]); err == nil {
			if _, _, err := nextRecord(body); err == nil {
				return true
			}
		}
	}
	return false
}
