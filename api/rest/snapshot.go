package rest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/kv"
)

const (
	// copyHeld is how long a backup whose reader was cut off is kept for it to go on.
	copyHeld = 2 * time.Minute
	// copyChunk is how much of a backup is read at once, copyStall how long a client may take for so much.
	copyChunk = 256 << 10
	copyStall = time.Minute
)

// copies keeps the backup that was asked for, while it is read and for copyHeld after its reader was cut off: a backup is
// of one moment, so only that very copy can be read on. There is one, so that it and another that is asked for by other
// ways (etcd's API) stay within what a member allows. While it is read another is refused with kv.Busy; one that waits for
// its reader to come back gives way.
type copies struct {
	mu   sync.Mutex
	held *heldCopy
}

// heldCopy is a backup without its checksum, and who reads it.
type heldCopy struct {
	id   string
	data io.ReadSeekCloser
	size int64

	mu      sync.Mutex
	reader  int         // of the readers so far the one that may read
	reading bool        // it does
	timer   *time.Timer // ends it once it is not read
}

// errOvertaken ends a reader whose client has come again, or when another backup was asked for.
var errOvertaken = errors.New("the backup is read by another")

// readAt reads for the nth reader.
func (c *heldCopy) readAt(n int, p []byte, off int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reader != n {
		return errOvertaken
	}
	if _, err := c.data.Seek(off, io.SeekStart); err != nil {
		return err
	}
	_, err := io.ReadFull(c.data, p)
	return err
}

// take makes the caller the reader, and returns which.
func (c *heldCopy) take() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.reader++
	c.reading = true
	return c.reader
}

func (c *heldCopy) isRead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reading
}

// open returns the copy of that id if it is still there, else a new one.
func (s *copies) open(ctx context.Context, h *Handler, id string) (c *heldCopy, reader int, resumed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil && s.held.id == id {
		return s.held, s.held.take(), true, nil
	}
	if h.opts.Admin == nil || h.opts.Admin() == nil {
		return nil, 0, false, kv.Errorf(kv.Unsupported, "this node holds no copy of the state, or has not opened it yet: take the backup from a member")
	}
	switch {
	case s.held != nil && s.held.isRead():
		return nil, 0, false, kv.Errorf(kv.Busy, "a backup is being read from this node, one at a time: wait until it has ended")
	case s.held != nil:
		if err := s.end(s.held); err != nil {
			return nil, 0, false, err
		}
	}
	data, size, err := h.opts.Admin().Snapshot(ctx)
	if err != nil {
		return nil, 0, false, err
	}
	s.held = &heldCopy{id: rand.Text(), data: data, size: size}
	return s.held, s.held.take(), false, nil
}

// end closes a copy. The caller holds s.mu.
func (s *copies) end(c *heldCopy) error {
	if s.held == c {
		s.held = nil
	}
	c.take()
	return c.data.Close()
}

// leave is called by each reader at its end.
func (s *copies) leave(c *heldCopy, reader int, whole bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.mu.Lock()
	overtaken := c.reader != reader
	if c.reading = c.reading && overtaken; !overtaken && !whole {
		c.timer = time.AfterFunc(copyHeld, func() { s.expire(c, reader) })
	}
	c.mu.Unlock()
	if overtaken || !whole {
		return nil
	}
	return s.end(c)
}

func (s *copies) expire(c *heldCopy, reader int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.mu.Lock()
	overtaken := c.reader != reader
	c.mu.Unlock()
	if !overtaken {
		_ = s.end(c) // nobody is left to be told
	}
}

// close ends what is held.
func (s *copies) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		_ = s.end(s.held) // whoever reads it finds out
	}
}

// serveSnapshot sends a backup of the state and the SHA-256 of it. Whoever was cut off goes on with Range and If-Range, as
// for any file; if the copy is gone meanwhile, the answer is a whole new one.
func (h *Handler) serveSnapshot(w http.ResponseWriter, r *http.Request) (int, error) {
	switch r.Method {
	case http.MethodGet:
	case http.MethodOptions:
		return replyOptions(w, allowSnapshot)
	default:
		return 0, errMethod(r, allowSnapshot)
	}
	p, err := parseParams(r.URL.RawQuery)
	if err == nil {
		err = p.done()
	}
	if err != nil {
		return 0, err
	}
	from, err := parseFrom(r.Header)
	if err != nil {
		return 0, err
	}
	id := ""
	if from > 0 {
		id = strings.Trim(r.Header.Get("If-Range"), `"`)
	}
	c, reader, resumed, err := h.copies.open(r.Context(), h, id)
	if err != nil {
		return 0, err
	}
	total := c.size + sha256.Size
	if from > total {
		return 0, errors.Join(h.copies.leave(c, reader, false), kv.Errorf(kv.Invalid, "Range begins at %d, the backup has %d bytes", from, total))
	}
	status, header := http.StatusOK, w.Header()
	if resumed {
		status = http.StatusPartialContent
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, total-1, total))
	} else {
		from = 0
	}
	header["Content-Type"], header["X-Content-Type-Options"], header["Cache-Control"] = typeOctets, nosniff, noStore
	header.Set("ETag", `"`+c.id+`"`)
	header.Set("Accept-Ranges", "bytes")
	header.Set("Content-Length", strconv.FormatInt(total-from, 10))
	w.WriteHeader(status)
	err = h.sendCopy(r.Context(), w, c, reader, from)
	if lerr := h.copies.leave(c, reader, err == nil); err == nil && lerr != nil {
		err = lerr
	}
	if err != nil {
		h.opts.Log.Info("backup was cut off; it can be read on for a while", "id", c.id, "for", copyHeld, "err", err)
	}
	return status, nil // a reply that is shorter than it said breaks the connection
}

// parseFrom reads "Range: bytes=N-", the one form that is taken. Without If-Range there is nothing to go on with.
func parseFrom(header http.Header) (int64, error) {
	text := header.Get("Range")
	if text == "" || header.Get("If-Range") == "" {
		return 0, nil
	}
	number, ok := strings.CutPrefix(text, "bytes=")
	number, ok2 := strings.CutSuffix(number, "-")
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || !ok2 || err != nil || n < 0 {
		return 0, kv.Errorf(kv.Invalid, "Range: %q is not of the form bytes=N-, the one that is taken here", text)
	}
	return n, nil
}

// sendCopy sends what is behind from, the checksum included.
func (h *Handler) sendCopy(ctx context.Context, w http.ResponseWriter, c *heldCopy, reader int, from int64) error {
	sum := sha256.New()
	buf := make([]byte, copyChunk)
	for at := int64(0); at < c.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.stopping.Err() != nil {
			return kv.Errorf(kv.Stopping, "the node is stopping")
		}
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(copyStall)); err != nil {
			return err
		}
		p := buf[:min(copyChunk, c.size-at)]
		if err := c.readAt(reader, p, at); err != nil {
			return err
		}
		if err := sendBehind(w, sum, p, from-at); err != nil {
			return err
		}
		at += int64(len(p))
	}
	_, err := w.Write(sum.Sum(nil)[max(0, from-c.size):])
	return err
}

// sendBehind counts p in and sends it but for its first skip bytes, which the client has.
func sendBehind(w io.Writer, sum hash.Hash, p []byte, skip int64) error {
	_, _ = sum.Write(p) // never fails
	if skip >= int64(len(p)) {
		return nil
	}
	_, err := w.Write(p[max(0, skip):])
	return err
}
