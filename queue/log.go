package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"holdfast/kv"
)

// Segments are cut at segmentBytes; a commit gathers at most commitBytes of records. Both bound what one fsync and one
// read in memory cost.
const (
	segmentBytes = 4 << 20
	commitBytes  = 1 << 20
)

// disk is what the log needs from a folder; a test makes it fail.
type disk interface {
	create(path string) (file, error) // for appending, durable in its folder
	remove(path string) error
}

type file interface {
	Write([]byte) (int, error)
	ReadAt([]byte, int64) (int, error)
	Truncate(size int64) error
	Sync() error // durable, size included
	Trim() error // the file ends for good with what was written
	Close() error
}

// log is the append-only file behind a queue. append returns when its records are on disk; those that arrive while a
// commit is under way share the next one. A failed fsync ends it: what is on disk is unknown until a restart has read it
// again, so nothing is acknowledged any more.
type log struct {
	dir  string
	disk disk
	slog *slog.Logger

	// checkpoint returns the records without which what was said in earlier segments could not be understood. It is
	// called without locks held.
	checkpoint func() []byte

	mu       sync.Mutex
	filling  *commit
	writing  *commit // by a leader; nil: there is none
	ended    bool    // nothing is appended any more; see end
	segments []*segment
	failed   error
	commits  uint64
	spare    []byte // memory of a commit that is over, for the next; nil: there is none

	frame []byte // memory of write
}

// spareMax is how much memory is kept from one commit to the next.
const spareMax = 64 << 10

// segment is one file of the log. live counts what still needs it: pending ops and kept outcomes.
type segment struct {
	path string
	id   uint64
	f    file
	size int64
	live int
}

// place is where a record's command is: enough to read it again. A segment and the last frame in it are far below 4 GiB.
type place struct {
	seg  *segment
	off  uint32
	size uint32
}

// commit is one group of records on its way to disk.
type commit struct {
	body   []byte
	places []placeWant
	done   chan struct{}
	next   chan struct{} // given to one waiter: write the following commit
	err    error
}

type placeWant struct {
	off, size int
	dst       *place
}

// append makes records durable. For ops, at receives where each command is.
func (l *log) append(recs []record, at []*place) error {
	c, err := l.join(recs, at)
	if err != nil {
		return err
	}
	for {
		if c.finished() {
			l.mu.Unlock()
			return c.err
		}
		if l.writing == nil && l.filling == c {
			l.writing, l.filling = c, nil
			l.mu.Unlock()
			c.err = l.write(c)
			l.mu.Lock()
			l.writing = nil
			if c.err != nil && l.failed == nil && kv.CodeOf(c.err) != kv.NoSpace {
				l.failed = c.err
			}
			close(c.done)
			if f := l.filling; f != nil && f.next != nil {
				close(f.next)
				f.next = nil
			}
			l.mu.Unlock()
			return c.err
		}
		if c.next == nil {
			c.next = make(chan struct{})
		}
		next := c.next
		l.mu.Unlock()
		select {
		case <-c.done:
		case <-next:
		}
		l.mu.Lock()
	}
}

// join adds records to the commit being gathered and returns with l.mu held, or an error without. A full commit is
// waited for: that is the back-pressure of a slow disk.
func (l *log) join(recs []record, at []*place) (*commit, error) {
	for i := range recs {
		if len(recs[i].command)+len(recs[i].outcome) > recordMax {
			return nil, kv.Errorf(kv.TooLarge, "queue: %d bytes are more than a record may have (%d)", len(recs[i].command), recordMax)
		}
	}
	l.mu.Lock()
	for l.failed == nil && l.filling != nil && len(l.filling.body) >= commitBytes {
		full := l.filling
		l.mu.Unlock()
		<-full.done
		l.mu.Lock()
	}
	switch {
	case l.failed != nil:
		defer l.mu.Unlock()
		return nil, l.failed
	case l.ended:
		defer l.mu.Unlock()
		return nil, kv.Errorf(kv.Stopping, "this node is stopping; nothing was stored: ask another one, or this one once it is back")
	}
	if l.filling == nil {
		l.filling = &commit{done: make(chan struct{}), body: l.spare}
		l.spare = nil
	}
	c := l.filling
	for i := range recs {
		c.body = appendRecord(c.body, &recs[i])
		if at != nil && at[i] != nil {
			n := len(recs[i].command)
			c.places = append(c.places, placeWant{off: len(c.body) - n, size: n, dst: at[i]})
		}
	}
	return c, nil
}

func (c *commit) finished() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// write puts one commit behind what is there and fsyncs it. Only one runs at a time.
func (l *log) write(c *commit) error {
	seg, fresh, err := l.tail()
	if err != nil {
		return err
	}
	frame := l.frame[:0]
	if fresh { // so that the segments before it can go
		if head := l.checkpoint(); len(head) > 0 {
			frame = appendFrame(frame, head)
		}
	}
	start := int64(len(frame))
	frame = appendFrame(frame, c.body)
	if cap(frame) <= spareMax {
		l.frame = frame
	}
	if _, err := seg.f.Write(frame); err != nil {
		if terr := seg.f.Truncate(seg.size); terr != nil {
			return fmt.Errorf("queue: write %s: %w; taking it back: %w; restart the agent to read what is there", seg.path, err, terr)
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return &kv.Error{Code: kv.NoSpace, Detail: "queue: no space left on " + filepath.Dir(seg.path) + "; nothing was stored", Err: err}
		}
		return fmt.Errorf("queue: write %s: %w", seg.path, err)
	}
	if err := seg.f.Sync(); err != nil {
		return fmt.Errorf("queue: fsync %s: %w; nothing more is acknowledged until the agent is restarted and has read what is there", seg.path, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits++
	if cap(c.body) <= spareMax {
		l.spare = c.body[:0]
	}
	for _, p := range c.places {
		*p.dst = place{seg: seg, off: uint32(seg.size + start + frameHeader + int64(p.off)), size: uint32(p.size)}
	}
	seg.size += int64(len(frame))
	return nil
}

// tail returns the segment to append to, a new one if the last is full, and whether it is still empty.
func (l *log) tail() (s *segment, fresh bool, err error) {
	id := uint64(1)
	if s := l.last(); s != nil {
		if s.size < segmentBytes { // only this goroutine writes it
			return s, s.size == int64(len(magic)), nil
		}
		// Before the next one is there: zeros in front of acknowledged writes would be damage.
		if err := s.f.Trim(); err != nil {
			return nil, false, fmt.Errorf("queue: end %s: %w; restart the agent to read what is there", s.path, err)
		}
		id = s.id + 1
	}
	path := filepath.Join(l.dir, fmt.Sprintf("%016x.seg", id))
	f, err := l.disk.create(path)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return nil, false, &kv.Error{Code: kv.NoSpace, Detail: "queue: no space left on " + l.dir + "; nothing was stored", Err: err}
		}
		return nil, false, fmt.Errorf("queue: create %s: %w", path, err)
	}
	s = &segment{path: path, id: id, f: f, size: int64(len(magic))}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, s)
	return s, true, nil
}

// last is the segment that is appended to, nil if there is none.
func (l *log) last() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.segments); n > 0 {
		return l.segments[n-1]
	}
	return nil
}

// end refuses what is appended from now on, and waits until what was on its way is on disk: whoever asks does not wait for the end
// of the queue.
func (l *log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for {
		c := l.writing
		if c == nil {
			c = l.filling
		}
		if c == nil {
			return
		}
		l.mu.Unlock()
		<-c.done
		l.mu.Lock()
	}
}

// trim ends the log in order: the zeros ahead of it go. It is called after end: a write beside it would lie in what goes. After a
// fault nothing is touched any more.
func (l *log) trim() error {
	s := l.last()
	if s == nil || l.isFaulty() {
		return nil
	}
	if err := s.f.Trim(); err != nil {
		return fmt.Errorf("queue: end %s: %w", s.path, err)
	}
	return nil
}

// read returns the command at p.
func (l *log) read(p place) ([]byte, error) {
	b := make([]byte, p.size)
	if _, err := p.seg.f.ReadAt(b, int64(p.off)); err != nil {
		return nil, fmt.Errorf("queue: read %s at %d: %w", p.seg.path, p.off, err)
	}
	return b, nil
}

// drop removes segments from the front that nothing needs. The last one stays.
func (l *log) drop() error {
	for {
		l.mu.Lock()
		if len(l.segments) < 2 || l.segments[0].live > 0 {
			l.mu.Unlock()
			return nil
		}
		s := l.segments[0]
		l.segments = l.segments[1:]
		l.mu.Unlock()
		if err := errors.Join(s.f.Close(), l.disk.remove(s.path)); err != nil {
			return fmt.Errorf("queue: remove %s: %w", s.path, err)
		}
	}
}

// oldest is the first segment if another follows and something in it is still needed, else nil.
func (l *log) oldest() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segments) < 2 || l.segments[0].live == 0 {
		return nil
	}
	return l.segments[0]
}

func (l *log) hold(p place, by int) {
	if p.seg == nil {
		return
	}
	l.mu.Lock()
	p.seg.live += by
	l.mu.Unlock()
}

func (l *log) isFaulty() bool { return l.fault() != nil }

// fault is what ended the log, nil while it works.
func (l *log) fault() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// bytes is the size of the log on disk.
func (l *log) bytes() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		n += s.size
	}
	return n
}

// close gives up the files, after end.
func (l *log) close() error {
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, s := range l.segments {
		errs = append(errs, s.f.Close())
	}
	return errors.Join(errs...)
}

// folder is the real disk.
type folder struct{}

func (folder) create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteString(magic); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return newTail(f, int64(len(magic))), nil
}

func (folder) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // not synced: a segment that comes back after a cut holds only what ended, and is dropped again
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
