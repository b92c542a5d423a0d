package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sync/semaphore"

	"holdfast/kv"
)

// Bounds of a batch that have no setting. A node may hold batchesMax times what two of them allow, about 5 MiB a batch.
const (
	batchesMax      = 64       // open at once; beyond it a batch is refused with 503 busy
	batchLinesMax   = 10_000   // lines of one batch; what is behind them is not read
	batchBytesMax   = 64 << 20 // bytes of one batch, likewise
	batchOpsFlying  = 64       // operations of one batch that wait for the node
	batchFlying     = 4 << 20  // bytes of these
	batchAnswersMax = 1 << 20  // bytes of answers that wait for the client to read; then no more lines are read
)

// serveBatch answers POST /v1/batch: lines of independent puts and deletes, each answered by a line, in order and as soon as
// it is known what became of it. Many are under way at once; those of one key one after the other.
//
//	{"put": {"key": "a", "value": "1"}}                 -> {"line":1,"status":201,"revision":7}
//	{"delete": {"key": "b"}, "if_mod_revision": 3}      -> {"line":2,"status":412,"problem":{...}}
//	                                                       {"end":true,"lines":2}
//
// The reply is 200 as soon as it has begun: what counts is in the lines. The last one says that there are no more, and
// why if the batch was not read to its end.
func (h *Handler) serveBatch(w http.ResponseWriter, r *http.Request) (int, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	mode, err := parseWriteMode(&p)
	if err != nil {
		return 0, err
	}
	if err := p.done(); err != nil {
		return 0, err
	}
	if err := checkUnguarded(r.Header); err != nil {
		return 0, err
	}
	retry, err := parseRetryKey(r.Header)
	if err != nil {
		return 0, err
	}
	if err := checkBody(r.Header); err != nil {
		return 0, err
	}
	if h.stopping.Err() != nil {
		return 0, errStopping()
	}
	if h.batches.Add(1) > batchesMax {
		h.batches.Add(-1)
		return 0, kv.Errorf(kv.Busy, "%d batches are open, which is the limit", batchesMax)
	}
	defer h.batches.Add(-1)

	rc := http.NewResponseController(w)
	// Over HTTP/1 answers go out while lines come in. A recorder in a test knows no duplex, and HTTP/2 is always so.
	_ = rc.EnableFullDuplex()
	header := w.Header()
	header["Content-Type"] = typeNDJSON
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["X-Accel-Buffering"] = []string{"no"}
	if r.ProtoMajor == 1 {
		// What is left of a body that was not read to its end must not pass for the next request, and in duplex net/http
		// does not see to that.
		header["Connection"] = []string{"close"}
	}

	b := &batch{
		h: h, mode: mode, device: deviceOf(r), retry: retry, prefs: parsePrefer(r.Header),
		lines: lineReader{body: r.Body, rc: rc, limit: h.opts.RequestMax, total: h.opts.BatchBytes, patience: h.opts.BodyTimeout},
		// A line that has arrived is carried out, whether its sender is still there or not.
		ctx:    context.WithoutCancel(r.Context()),
		flying: semaphore.NewWeighted(batchFlying),
		tails:  map[string]chan struct{}{},
	}
	b.answers = newAnswers(w, rc, h.opts.WatchStall, b.lines.interrupt)
	b.run()
	return http.StatusOK, nil
}

// batch is one batch under way: run reads lines, a goroutine for each line under way waits for the node, and one more
// writes answers. run waits for them all.
type batch struct {
	h       *Handler
	ctx     context.Context
	mode    kv.Write
	device  string
	retry   retryKey // of the batch; each line has a part of it
	prefs   preferences
	lines   lineReader
	answers *answers
	flying  *semaphore.Weighted

	mu    sync.Mutex
	tails map[string]chan struct{} // of each key with an operation under way: closed when its last one has ended
}

func (b *batch) run() {
	defer context.AfterFunc(b.h.stopping, b.lines.interrupt)()
	var writing, working sync.WaitGroup
	writing.Go(b.answers.run)
	n, err := b.read(&working)
	b.answers.hurry()
	working.Wait()
	b.answers.put(appendEnd(nil, n, err))
	b.answers.close()
	writing.Wait()
	b.h.metrics.batchEnded(endCode(err))
	b.lines.finish(err == nil)
}

// read takes lines until there are no more, and returns how many, and why it ended early.
func (b *batch) read(working *sync.WaitGroup) (n int, err error) {
	for {
		if !b.answers.room() {
			return n, errBatchUnread
		}
		if b.h.stopping.Err() != nil {
			return n, errStopping()
		}
		line, err := b.lines.next(b.h.stopping)
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case errors.Is(err, errLineLong):
		case err != nil:
			return n, b.errRead(n, err)
		}
		if n == b.h.opts.BatchLines {
			return n, kv.Errorf(kv.TooManyOps, "a batch has at most %d lines; what is behind them was not read: send it in another batch", b.h.opts.BatchLines)
		}
		n++
		switch {
		case err != nil:
			b.refuse(n, kv.Errorf(kv.TooLarge, "the line is longer than %d bytes, the limit (limits.request)", b.h.opts.RequestMax))
		case len(line) > 0:
			b.line(n, line, working)
		}
	}
}

// errRead says why no more lines are read, of which n have been.
func (b *batch) errRead(n int, err error) error {
	switch {
	case b.h.stopping.Err() != nil:
		return errStopping()
	case b.answers.failed():
		return errBatchUnread
	case errors.Is(err, errBatchBytes):
		return kv.Errorf(kv.TooLarge, "a batch has at most %d bytes; nothing behind line %d was carried out: send it in another batch", b.h.opts.BatchBytes, n)
	case kv.CodeOf(err) == kv.RateLimited, kv.CodeOf(err) == kv.Busy: // of who counts bodies
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{status: http.StatusRequestTimeout, code: "body-timeout", title: "Body did not arrive in time",
			detail: "nothing arrived behind line " + formatRevision(int64(n)) + " within " + b.h.opts.BodyTimeout.String() + " (limits.body-timeout); a line that is not whole stores nothing"}
	}
	return kv.Errorf(kv.Invalid, "the body was cut short behind line %d; a line that is not whole stores nothing: %w", n, err)
}

// errBatchUnread ends a batch whose client does not take the answers; nobody reads it.
var errBatchUnread = errors.New("the client does not read its answers")

// line decodes a line and hands it to the node.
func (b *batch) line(n int, line []byte, working *sync.WaitGroup) {
	c, key, err := b.h.parseBatchLine(line)
	if err != nil {
		b.refuse(n, err)
		return
	}
	b.prefs.setWrite(&c, b.mode)
	c.Device = b.device
	c.ID.Key = b.retry.part(n)
	weight := max(batchFlying/batchOpsFlying, min(int64(len(line)), batchFlying))
	_ = b.flying.Acquire(b.ctx, weight) // the context has no end
	place := b.answers.place()
	before, done := b.follow(key)
	working.Go(func() {
		defer b.flying.Release(weight)
		if before != nil {
			<-before
		}
		result, err := b.h.opts.Backend.Do(b.ctx, c)
		b.left(key, done)
		status, body := appendStatus(nil, n, &c, &result, err)
		b.h.metrics.batchLine(status)
		b.answers.fill(place, body)
	})
}

func (b *batch) refuse(n int, err error) {
	status, body := appendStatus(nil, n, nil, nil, err)
	b.h.metrics.batchLine(status)
	b.answers.put(body)
}

// follow puts an operation behind the last one of its key, whose end it returns, nil if there is none under way. Those
// that came earlier have begun to wait for the node earlier, so that nobody waits in a ring.
func (b *batch) follow(key string) (before, done chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, done = b.tails[key], make(chan struct{})
	b.tails[key] = done
	return before, done
}

func (b *batch) left(key string, done chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tails[key] == done {
		delete(b.tails, key)
	}
	close(done)
}
