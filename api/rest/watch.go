package rest

import (
	"context"
	"errors"
	"math"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"holdfast/kv"
)

// watchRequest is a GET with ?watch, decoded.
type watchRequest struct {
	key, end []byte
	from     int64     // ?from_revision, 0 for what comes after
	resume   *position // Last-Event-ID; it wins over from, because EventSource asks again with the same URL
	onGap    bool      // ?on_gap=error: 410 where history is lost, rather than a listing
	sse      bool
}

func parseWatch(r *http.Request, key string, prefix bool, p *params) (req watchRequest, err error) {
	if r.Method == http.MethodHead {
		return req, kv.Errorf(kv.Invalid, "a watch has no HEAD; use GET")
	}
	req.key = []byte(key)
	if prefix {
		req.key, req.end = kv.PrefixRange(req.key)
	}
	if req.from, err = p.number("from_revision", 1); err != nil {
		return req, err
	}
	switch v, ok := p.text("on_gap"); {
	case v == "error":
		req.onGap = true
	case ok && v != "resync":
		return req, kv.Errorf(kv.Invalid, "on_gap=%q is neither error nor resync", v)
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		at, err := parsePosition(id)
		if err != nil {
			return req, err
		}
		req.resume = &at
	}
	if req.sse, err = acceptsSSE(r.Header["Accept"]); err != nil {
		return req, err
	}
	return req, p.done()
}

// acceptsSSE chooses the form of a stream: the one the client likes better, SSE if it does not care.
func acceptsSSE(accept []string) (bool, error) {
	all := strings.Join(accept, ",")
	if all == "" {
		return true, nil
	}
	var sse, ndjson float64
	for item := range strings.SplitSeq(all, ",") {
		kind, args, err := mime.ParseMediaType(item)
		if err != nil {
			continue
		}
		q := 1.0
		if v, given := args["q"]; given {
			if q, err = strconv.ParseFloat(v, 64); err != nil {
				continue
			}
		}
		switch kind {
		case "text/event-stream":
			sse = max(sse, q)
		case "application/x-ndjson", "application/ndjson", "application/jsonl":
			ndjson = max(ndjson, q)
		case "*/*":
			sse = max(sse, q/1000) // what is named goes before what is merely allowed
		case "text/*":
			sse = max(sse, q/100)
		case "application/*":
			ndjson = max(ndjson, q/100)
		}
	}
	if sse == 0 && ndjson == 0 {
		return false, errNotAcceptable()
	}
	return sse >= ndjson, nil
}

// watch streams the changes of a key, or of all keys under a prefix, until the client leaves or the server stops.
func (h *Handler) watch(w http.ResponseWriter, r *http.Request, key string, prefix bool, p *params) (int, error) {
	req, err := parseWatch(r, key, prefix, p)
	if err != nil {
		return 0, err
	}
	leave, err := h.admitWatch()
	if err != nil {
		return 0, err
	}
	defer leave()

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.stopping, cancel)()
	x := &watcher{h: h, req: req, header: w.Header(), stream: stream{
		w: w, rc: http.NewResponseController(w), sse: req.sse, heartbeat: h.opts.Heartbeat, stall: h.opts.WatchStall, cancel: cancel,
	}}
	return x.serve(ctx)
}

// watcher follows one watch through the gaps in history that it may meet.
//
//	opening --first batch--> following --history lost--> resyncing --listed--> following
//	   |                         |                           |
//	   +--error: a problem       +---- error, slow, stop: a last event ------> ended
type watcher struct {
	stream
	h      *Handler
	req    watchRequest
	header http.Header
	next   int64 // first revision that the client lacks; 0: from now on
	tail   int   // of revision next-1 it lacks this many events; next is then that revision
	epoch  kv.Epoch
}

// errGap says that history no longer reaches back to where the client is.
type errGap struct {
	oldest int64 // revision that can be watched from, 0 if not known
	detail string
}

func (e *errGap) Error() string { return e.detail }

// resyncsMax is how often one stream starts over. Only a history that is kept for less time than it takes to list what
// is there gets that far.
const resyncsMax = 16

func (x *watcher) serve(ctx context.Context) (int, error) {
	x.next = x.req.from
	if at := x.req.resume; at != nil {
		x.next, x.tail, x.at = at.from(), at.left, *at
	}
	err := x.run(ctx)
	if x.end(x.last(err)) {
		x.account(err)
		return http.StatusOK, nil
	}
	if gap, lost := errors.AsType[*errGap](err); lost {
		return 0, &kv.Error{Code: kv.Compacted, Revision: gap.oldest, Detail: gap.detail + "; read what is there now, or watch without on_gap=error to be sent it"}
	}
	if err != nil && ctx.Err() == nil {
		return 0, err
	}
	if x.h.stopping.Err() != nil {
		return 0, errStopping()
	}
	return clientGone, nil
}

func errStopping() error { return kv.Errorf(kv.Stopping, "the node is stopping") }

// run returns why the watch ended, nil if the backend or ctx ended it.
func (x *watcher) run(ctx context.Context) error {
	err := x.follow(ctx)
	for range resyncsMax {
		gap, lost := errors.AsType[*errGap](err)
		if !lost || x.req.onGap {
			break
		}
		if err = x.resync(ctx, gap); err == nil {
			err = x.follow(ctx)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil { // it is why ctx was cancelled
		return x.err
	}
	return err
}

// openGrace is how long a watch from the past waits for a second batch before it answers: a refusal because of lost
// history may come behind the confirmation, and can be an HTTP status only as long as no other was sent.
const openGrace = 20 * time.Millisecond

// follow passes batches on until history is lost (errGap), the watch fails, or ctx ends.
func (x *watcher) follow(ctx context.Context) error {
	spec := kv.WatchSpec{Watches: []kv.Watch{{Key: x.req.key, End: x.req.end, From: x.next, Progress: true}}}
	var grace *time.Timer
	defer func() {
		if grace != nil {
			grace.Stop()
		}
	}()
	for b, err := range x.h.opts.Backend.Watch(ctx, spec) {
		if err != nil {
			return err
		}
		idle := b.Created && x.next > 0 && len(b.Events) == 0 && !b.Canceled
		if err := x.pass(&b, !idle); err != nil {
			return err
		}
		if idle {
			created := b.Header
			grace = time.AfterFunc(openGrace, func() {
				x.mu.Lock()
				defer x.mu.Unlock()
				if !x.closed {
					x.start(created)
					x.flush()
				}
			})
		}
	}
	return nil
}

// pass hands one batch to the client. start is false for a confirmation that may wait.
func (x *watcher) pass(b *kv.Batch, start bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.err != nil:
		return x.err
	case b.Canceled && b.Err != nil && b.Err.Code == kv.Compacted:
		return &errGap{oldest: b.Err.Revision, detail: "the changes since then are no longer kept"}
	case b.Canceled && b.Err != nil:
		return b.Err
	case x.epoch.IsZero():
		x.epoch = b.Epoch
		if x.at.epoch != "" && x.at.epoch != b.Epoch.String() {
			return &errGap{detail: "the cluster was restored since then: its history is another one"}
		}
	case x.epoch != b.Epoch && !b.Epoch.IsZero():
		return kv.Errorf(kv.Compacted, "the cluster was restored: this history has ended, watch again")
	}
	if !start {
		return nil
	}
	x.start(b.Header)
	if kind, changed := stateKinds[b.State]; changed {
		x.put(message{kind: kind})
	}
	x.events(b.Events)
	if b.Progress && b.Revision > x.at.revision {
		x.put(message{kind: "progress", at: &position{epoch: x.at.epoch, revision: b.Revision}})
	}
	x.flush()
	return x.err
}

var stateKinds = map[kv.WatchState]string{
	kv.WatchStale:      "stale",
	kv.WatchCatchingUp: "catching-up",
	kv.WatchSynced:     "synced",
	kv.WatchResync:     "resync",
}

// start answers the request with where the watch stands, once.
func (x *watcher) start(head kv.Header) {
	if x.open {
		return
	}
	x.header["Holdfast-Revision"] = []string{strconv.FormatInt(head.Revision, 10)}
	x.header["Holdfast-Epoch"] = x.h.epochHeader(head.Epoch)
	x.begin(x.header)
	at := position{epoch: head.Epoch.String(), revision: head.Revision}
	switch {
	case x.req.resume != nil && x.at.epoch == at.epoch:
		at = x.at
	case x.next > 0:
		at.revision = x.next - 1
	}
	x.put(message{kind: "created", at: &at})
}

// events adds the events of a batch, each with the number of those of its revision that follow it.
func (x *watcher) events(events []kv.Event) {
	for i := 0; i < len(events); {
		revision := events[i].KV.ModRevision
		end := i
		for end < len(events) && events[end].KV.ModRevision == revision {
			end++
		}
		if x.tail > 0 && revision == x.next {
			i = max(i, end-x.tail)
		}
		x.tail = 0
		for ; i < end; i++ {
			at := position{epoch: x.at.epoch, revision: revision, left: end - i - 1}
			x.put(eventMessage(&events[i], &at))
		}
		x.next = revision + 1
	}
}

// resyncChunk is how many bytes of a listing are read at a time, if all values are like those before.
const resyncChunk = 1 << 20

// resync tells the client what is there now, in place of changes that are no longer known: "resync", every key, and
// "synced"; what was not listed is gone. Until that last event the client's place stays where it was, so that a
// connection lost in between begins again.
func (x *watcher) resync(ctx context.Context, gap *errGap) error {
	req := listRequest{limit: math.MaxInt / 2, fresh: x.h.auto()}
	req.fresh.minRevision, req.fresh.wait = gap.oldest, waitDefault
	s := x.h.newScan(&req)
	s.key, s.end = x.req.key, x.req.end
	for n := listFirst; n > 0; n = s.chunk(resyncChunk) {
		kvs, err := s.read(ctx, n)
		if err != nil {
			return err
		}
		if err := x.listed(s, kvs); err != nil {
			return err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	at := position{epoch: s.at.epoch.String(), revision: s.at.revision}
	x.put(message{kind: "synced", at: &at})
	x.flush()
	x.next, x.tail, x.epoch = s.at.revision+1, 0, s.at.epoch
	return x.err
}

// listed sends one chunk of a listing, the first behind "resync".
func (x *watcher) listed(s *scan, kvs []kv.KeyValue) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.open {
		x.header["Holdfast-Revision"] = []string{strconv.FormatInt(s.at.revision, 10)}
		x.header["Holdfast-Epoch"] = x.h.epochHeader(s.at.epoch)
		x.begin(x.header)
	}
	if s.at.listed == int64(len(kvs)) {
		x.put(message{kind: "resync"})
	}
	for i := range kvs {
		x.put(message{kind: "put", body: func(b []byte) []byte { return appendKV(b, &kvs[i], false) }})
	}
	x.flush()
	return x.err
}

// last is the message a stream ends with.
func (x *watcher) last(err error) message {
	if gap, lost := errors.AsType[*errGap](err); lost {
		return message{kind: "compacted", body: func(b []byte) []byte {
			return strconv.AppendInt(append(b, `"oldest_revision":`...), gap.oldest, 10)
		}}
	}
	switch {
	case isSlow(err):
		return message{kind: "slow-consumer"}
	case err == nil, errors.Is(err, context.Canceled), x.h.stopping.Err() != nil, kv.CodeOf(err) == kv.Stopping:
		return message{kind: "end"}
	}
	p := problemOf(err)
	return message{kind: "error", body: func(b []byte) []byte { return p.appendJSON(append(b, `"problem":`...)) }}
}

// account notes how an open stream ended, where somebody should know.
func (x *watcher) account(err error) {
	switch {
	case err == nil:
	case isSlow(err):
		x.h.metrics.slow.Add(1)
	case problemOf(err).internal && !errors.Is(err, context.Canceled):
		x.h.opts.Log.Error("watch failed", "key", string(x.req.key), "err", err)
	}
}

// isSlow reports whether a watch ended because its client did not keep up. A write that met its deadline counts: the
// client did not read for twice the time it has.
func isSlow(err error) bool {
	return errors.Is(err, errSlow) || errors.Is(err, os.ErrDeadlineExceeded) || kv.CodeOf(err) == kv.SlowConsumer
}
