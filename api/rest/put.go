package rest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// write is a PUT or DELETE of one key, decoded.
type write struct {
	key    []byte
	cond   precond
	mode   kv.Write
	device string
	lease  int64 // ?lease, or the one that was made for ?ttl; 0 for none
	ttl    int64 // ?ttl in seconds, 0 for none
	retry  retryKey
	preferences
}

// parseWrite reads what PUT and DELETE have in common; p has the parameters that were not asked for yet.
func parseWrite(r *http.Request, key string, p *params) (write, error) {
	mode, err := parseWriteMode(p)
	if err != nil {
		return write{}, err
	}
	if err := p.done(); err != nil {
		return write{}, err
	}
	retry, err := parseRetryKey(r.Header)
	if err != nil {
		return write{}, err
	}
	cond, err := parsePrecond(r.Header)
	if err != nil {
		return write{}, err
	}
	if len(cond.match.revisions) > 1 { // they are tried one by one, and a queue would keep the first only
		if mode == kv.WriteQueue {
			return write{}, kv.Errorf(kv.Invalid, "write=queue takes an If-Match with one revision")
		}
		mode = kv.WriteSync
	}
	return write{key: []byte(key), cond: cond, mode: mode, device: deviceOf(r), retry: retry, preferences: parsePrefer(r.Header)}, nil
}

// put stores the body under the key: 201 if the key is new, 200 if it was replaced, 202 if it is queued.
func (h *Handler) put(w http.ResponseWriter, r *http.Request, key string) (int, error) {
	if r.ContentLength > int64(h.opts.ValueMax) {
		return 0, h.errValue()
	}
	if key == "" {
		return 0, errEmptyKey()
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	lease, ttl, err := parseLife(&p)
	if err != nil {
		return 0, err
	}
	req, err := parseWrite(r, key, &p)
	if err != nil {
		return 0, err
	}
	if err := req.setLife(lease, ttl); err != nil {
		return 0, err
	}
	if err := checkBody(r.Header); err != nil {
		return 0, err
	}
	value, err := h.readBody(w, r, h.opts.ValueMax)
	if errors.Is(err, errOverLimit) {
		return 0, h.errValue()
	}
	if err != nil {
		return 0, err
	}
	result, err := h.do(r.Context(), &req, kv.Put{Key: req.key, Value: value, Lease: req.lease})
	if err != nil {
		return 0, err
	}
	if result.Queued != nil {
		return replyQueued(w, result.Queued)
	}
	status := http.StatusOK
	if result.Ops[0].Created {
		status = http.StatusCreated
	}
	return h.replyWritten(w, status, &req, &result), nil
}

// do sends the command. If-Match with several revisions is tried one by one: each failure names the key's revision, and
// revisions only grow, so that none is tried twice.
func (h *Handler) do(ctx context.Context, req *write, op kv.Op) (kv.Result, error) {
	c := kv.Command{Guards: req.cond.guards(req.key), Ops: []kv.Op{op}}
	req.setWrite(&c, req.mode)
	c.Device = req.device
	c.ID.Key = req.retry
	for i := range max(1, len(req.cond.match.revisions)) - 1 {
		result, err := h.send(ctx, req, c)
		e, failed := errors.AsType[*kv.Error](err)
		if !failed || e.Code != kv.PreconditionFailed || e.Revision == c.Guards[0].Num || !slices.Contains(req.cond.match.revisions, e.Revision) {
			return result, err
		}
		c.Guards = slices.Clone(c.Guards) // the former ones belong to the node
		c.Guards[0].Num = e.Revision
		c.ID.Key = req.retry.part(i)
	}
	return h.send(ctx, req, c)
}

// replyWritten answers a committed write.
func (h *Handler) replyWritten(w http.ResponseWriter, status int, req *write, result *kv.Result) int {
	var buf [40]byte
	body := strconv.AppendInt(append(buf[:0], `{"revision":`...), result.Revision, 10)
	revision := string(body[len(`{"revision":`):])
	body = append(body, "}\n"...)

	header := w.Header()
	h.setResult(header, result, revision)
	if req.lease != 0 {
		header["Holdfast-Lease"] = []string{formatLeaseID(req.lease)}
	}
	if op := result.Ops[0]; op.Count == 0 { // not for what a DELETE has removed
		header["Etag"] = []string{`"` + revision + `"`}
	}
	if req.minimal {
		header["Preference-Applied"] = []string{"return=minimal"}
		w.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent
	}
	header["Content-Type"] = typeJSON
	header["X-Content-Type-Options"] = nosniff
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone cannot be told; the write stands
	return status
}

// deviceOf names a client for its share of the queue; empty for one that nothing is known of.
func deviceOf(r *http.Request) string {
	if caller, ok := api.CallerFrom(r.Context()); ok {
		return caller.Device()
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// checkBody refuses bodies that are not simply the value.
func checkBody(h http.Header) error {
	if h["Content-Range"] != nil {
		return kv.Errorf(kv.Invalid, "Content-Range is not served: a PUT replaces the whole value")
	}
	for _, encoding := range h["Content-Encoding"] {
		if encoding != "" && encoding != "identity" {
			return errEncoding(encoding)
		}
	}
	return nil
}

func (h *Handler) errValue() error {
	return kv.Errorf(kv.TooLarge, "the value is longer than %d bytes, the limit (limits.value)", h.opts.ValueMax)
}

// bodyAtOnce is how much of a body is given memory before any of it has arrived: a client that only announces a large
// one holds no more.
const bodyAtOnce = 64 << 10

// bodyUnknown is where a body of unknown length starts.
const bodyUnknown = 512

// boundBody gives the body of a request its time, whether it is read or not: net/http, too, reads the rest of it, and
// before it sends the reply.
func (h *Handler) boundBody(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.opts.BodyTimeout)) // a recorder in a test has none
}

// readBody returns the whole body or an error; a part of one is never a value. More than limit is errOverLimit.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, error) {
	if r.ContentLength == 0 || r.Body == http.NoBody {
		return []byte{}, nil
	}
	value, err := readLimited(r.Body, r.ContentLength, limit)
	switch {
	case err == nil:
		// From here on net/http reads to see whether the client leaves, and the write may take its time.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		return value, nil
	case errors.Is(err, errOverLimit):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errBodyTimeout(h.opts.BodyTimeout)
	case kv.CodeOf(err) == kv.RateLimited, kv.CodeOf(err) == kv.Busy: // of who counts bodies
		return nil, err
	default:
		return nil, kv.Errorf(kv.Invalid, "the body was cut short, nothing was stored: %w", err)
	}
}

var errOverLimit = errors.New("body over the limit")

// readLimited reads to the end. length is what the body announces, -1 for nothing.
func readLimited(body io.Reader, length int64, limit int) ([]byte, error) {
	size := int64(bodyUnknown)
	if length >= 0 {
		size = min(length, bodyAtOnce)
	}
	b := make([]byte, 0, size)
	for {
		if len(b) == cap(b) {
			if int64(len(b)) == length {
				return b, nil
			}
			b = slices.Grow(b, max(bodyUnknown, len(b)))
		}
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if len(b) > limit {
			return nil, errOverLimit
		}
		if err == io.EOF {
			if length >= 0 && int64(len(b)) != length {
				return nil, io.ErrUnexpectedEOF
			}
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
