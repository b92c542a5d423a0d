package rest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/api"
)

// copier is a replica that gives backups.
type copier struct {
	api.Admin
	content string
	open    atomic.Int32
	given   atomic.Int32
	err     error
}

type openCopy struct {
	*strings.Reader
	c *copier
}

func (o openCopy) Close() error {
	o.c.open.Add(-1)
	return nil
}

func (c *copier) Snapshot(context.Context) (io.ReadSeekCloser, int64, error) {
	if c.err != nil {
		return nil, 0, c.err
	}
	c.open.Add(1)
	c.given.Add(1)
	return openCopy{strings.NewReader(c.content), c}, int64(len(c.content)), nil
}

// halfRead leaves a backup behind whose reader was cut off.
func halfRead(n *node) {
	data, size, err := n.handler.opts.Admin().Snapshot(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	n.handler.copies.held = &heldCopy{id: "held", data: data, size: size}
}

func withCopier(t *testing.T, size int) (*node, *copier) {
	t.Helper()
	c := &copier{content: strings.Repeat("0123456789abcdef", size/16)}
	return serve(t, func(o *Options) { o.Admin = func() api.Admin { return c } }), c
}

func (c *copier) file() string {
	sum := sha256.Sum256([]byte(c.content))
	return c.content + string(sum[:])
}

func TestABackupIsTheStateAndItsChecksum(t *testing.T) {
	n, c := withCopier(t, 3*copyChunk)
	r := n.call("GET", "/v1/snapshot", "").want(t, 200)
	if r.body != c.file() {
		t.Errorf("got %d bytes, want %d", len(r.body), len(c.file()))
	}
	if open := c.open.Load(); open != 0 {
		t.Errorf("%d are still open", open)
	}
}

// Wherever the link was cut, what comes then is the rest of the same moment.
func TestABackupThatWasCutOffIsReadOn(t *testing.T) {
	for _, cut := range []int{1, copyChunk, 3*copyChunk - 1, 3 * copyChunk, 3*copyChunk + 5} {
		n, c := withCopier(t, 3*copyChunk)
		want := c.file()
		halfRead(n)
		c.content = "something else"
		r := n.call("GET", "/v1/snapshot", "", "If-Range", `"held"`, "Range", fmt.Sprintf("bytes=%d-", cut)).want(t, 206)
		if r.body != want[cut:] {
			t.Errorf("cut at %d: got %d bytes, want %d", cut, len(r.body), len(want)-cut)
		}
		if got, want := r.header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", cut, len(want)-1, len(want)); got != want {
			t.Errorf("Content-Range %q, want %q", got, want)
		}
		if open, given := c.open.Load(), c.given.Load(); open != 0 || given != 1 {
			t.Errorf("%d are open, %d were given", open, given)
		}
		again := n.call("GET", "/v1/snapshot", "", "If-Range", `"held"`, "Range", "bytes=10-").want(t, 200)
		if again.body != c.file() {
			t.Error("a copy that is gone: the answer is not a whole new one")
		}
	}
}

// A client whose connection hangs comes again: the new one reads on, the old one ends.
func TestAReaderThatComesAgainTakesOver(t *testing.T) {
	n, c := withCopier(t, 64<<20) // more than the buffers between the two hold
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := n.request("GET", "/v1/snapshot", "").WithContext(ctx)
	resp, err := n.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n.call("GET", "/v1/snapshot", "").refused(t, 503, "busy")
	r := n.call("GET", "/v1/snapshot", "", "If-Range", resp.Header.Get("ETag"), "Range", fmt.Sprintf("bytes=%d-", len(c.content)-100)).want(t, 206)
	if r.body != c.file()[len(c.content)-100:] {
		t.Error("what was read on is wrong")
	}
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the old one ended well with %d bytes", len(b))
	}
	if open, given := c.open.Load(), c.given.Load(); open != 0 || given != 1 {
		t.Errorf("%d are open, %d were given", open, given)
	}
}

func TestABackupIsHeldForAWhileOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &copier{content: "x"}
		h := &Handler{opts: Options{Admin: func() api.Admin { return c }}}
		held, reader, _, err := h.copies.open(t.Context(), h, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.copies.leave(held, reader, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(copyHeld - time.Second)
		if c.open.Load() != 1 {
			t.Error("it was closed too early")
		}
		time.Sleep(2 * time.Second)
		if c.open.Load() != 0 || h.copies.held != nil {
			t.Error("it is still open")
		}
	})
}

func TestWhatABackupRefuses(t *testing.T) {
	n, c := withCopier(t, 16)
	n.call("GET", "/v1/snapshot", "", "If-Range", `"x"`, "Range", "bytes=1-2").refused(t, 400, "invalid")
	halfRead(n)
	n.call("GET", "/v1/snapshot", "", "If-Range", `"held"`, "Range", "bytes=999-").refused(t, 400, "invalid")
	n.call("POST", "/v1/snapshot", "").refused(t, 405, "method-not-allowed")
	c.err = errors.New("the disk has gone")
	n.call("GET", "/v1/snapshot", "").refused(t, 500, "internal")
	n.handler.opts.Admin = func() api.Admin { return nil }
	n.call("GET", "/v1/snapshot", "").refused(t, 501, "unsupported")
	n.call("GET", "/v1/snapshot", "", "Range", "bytes=1-").refused(t, 501, "unsupported")
	if n.call("OPTIONS", "/v1/snapshot", "").want(t, http.StatusNoContent).header.Get("Allow") != allowSnapshot {
		t.Error("Allow is wrong")
	}
}
