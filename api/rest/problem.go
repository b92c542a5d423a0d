package rest

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// refusal is a problem that is HTTP's own, so that no kv.Code stands for it.
type refusal struct {
	status int
	code   string
	title  string
	detail string
	header [2]string // one more header of the reply, such as Allow; none if empty
}

func (e *refusal) Error() string { return e.detail }

func errNoRoute(r *http.Request) error {
	return &refusal{status: http.StatusNotFound, code: "no-such-resource", title: "No such resource",
		detail: "nothing is served at " + r.URL.EscapedPath() + "; keys are at /v1/kv/{key}, the node's status is at /v1/status, and all there is stands in /v1/openapi.yaml"}
}

func errMethod(r *http.Request, allow string) error {
	return &refusal{status: http.StatusMethodNotAllowed, code: "method-not-allowed", title: "Method not allowed",
		detail: r.Method + " is not served here; use one of " + allow, header: [2]string{"Allow", allow}}
}

func errOrigin(origin string) error {
	return &refusal{status: http.StatusForbidden, code: "foreign-origin", title: "Foreign origin",
		detail: "web pages from " + strconv.Quote(origin) + " may not call this node; list the origin in cors.origins to let them"}
}

func errHost(host string) error {
	return &refusal{status: http.StatusForbidden, code: "foreign-origin", title: "Foreign origin",
		detail: strconv.Quote(host) + " is no name of this machine, and a web page may have had it point here; use localhost, or list http://" + host + " in cors.origins"}
}

func errEncoding(encoding string) error {
	return &refusal{status: http.StatusUnsupportedMediaType, code: "unsupported-encoding", title: "Content-Encoding not supported",
		detail: "Content-Encoding " + strconv.Quote(encoding) + " is not undone here; send the value as it is to be stored, without the header",
		header: [2]string{"Accept-Encoding", "identity"}}
}

func errBodyTimeout(limit time.Duration) error {
	return &refusal{status: http.StatusRequestTimeout, code: "body-timeout", title: "Body did not arrive in time",
		detail: "the body did not arrive within " + limit.String() + " (limits.body-timeout); nothing was stored"}
}

func errNotAcceptable() error {
	return &refusal{status: http.StatusNotAcceptable, code: "not-acceptable", title: "Not acceptable",
		detail: "a watch comes as text/event-stream or application/x-ndjson; Accept allows neither"}
}

// challenges are how a client can say who it is.
var challenges = []string{`Bearer realm="holdfast"`, `Basic realm="holdfast", charset="UTF-8"`}

// clientGone is what is counted for a request whose client has left before the answer; nobody reads it.
const clientGone = 499

// refuse answers a request with a problem and returns the status.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) int {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return clientGone
	}
	p := problemOf(err)
	if p.internal {
		h.opts.Log.Error("request failed", "method", r.Method, "path", r.URL.EscapedPath(), "err", err)
	}
	header := w.Header()
	if p.header[0] != "" {
		header.Set(p.header[0], p.header[1])
	}
	if p.code == kv.ReadOnlyNode.String() {
		header.Set("Allow", "GET, HEAD, OPTIONS")
	}
	if p.retryAfter > 0 {
		header.Set("Retry-After", strconv.FormatInt(wholeSeconds(p.retryAfter), 10))
	}
	if p.status == http.StatusUnauthorized {
		header["Www-Authenticate"] = challenges
	}
	header["Content-Type"] = typeProblem
	header["X-Content-Type-Options"] = nosniff
	w.WriteHeader(p.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append(p.appendJSON(nil), '\n')) // a client that has gone cannot be told
	}
	return p.status
}

// problem is a refusal as RFC 9457 shows it.
type problem struct {
	refusal
	retryable  bool
	outcome    api.Outcome
	retryAfter time.Duration
	revision   string // name of the member that has rev, empty for none
	rev        int64
	internal   bool
}

func problemOf(err error) problem {
	if e, ok := errors.AsType[*refusal](err); ok {
		return problem{refusal: *e, outcome: api.OutcomeNone}
	}
	e, ok := errors.AsType[*kv.Error](err)
	if !ok {
		// What a fault of ours says is for the log: it may name paths, and a device can do nothing with it.
		e = &kv.Error{Code: kv.Internal, Detail: "the node failed to serve the request; its log says why"}
	}
	face := api.FaceOf(e.Code)
	p := problem{
		refusal:    refusal{status: face.Status, code: e.Code.String(), title: face.Title, detail: e.Detail},
		retryable:  face.Retryable,
		outcome:    face.Outcome,
		retryAfter: face.RetryAfter,
		internal:   e.Code == kv.Internal || e.Code == kv.Corrupt,
	}
	if e.RetryAfter > 0 {
		p.retryAfter = e.RetryAfter
	}
	switch e.Code {
	case kv.PreconditionFailed:
		p.revision, p.rev = "mod_revision", e.Revision
	case kv.Compacted:
		p.revision, p.rev = "oldest_revision", e.Revision
	}
	return p
}

// appendJSON appends the problem as a JSON object.
func (p *problem) appendJSON(b []byte) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, api.ProblemType...)
	b = append(b, p.code...)
	b = append(b, `","title":`...)
	b = appendString(b, p.title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	if p.detail != "" {
		b = append(b, `,"detail":`...)
		b = appendString(b, p.detail)
	}
	b = append(b, `,"code":"`...)
	b = append(b, p.code...)
	b = append(b, `","retryable":`...)
	b = strconv.AppendBool(b, p.retryable)
	b = append(b, `,"outcome":"`...)
	b = append(b, p.outcome...)
	b = append(b, '"')
	if p.revision != "" {
		b = append(b, `,"`...)
		b = append(b, p.revision...)
		b = append(b, `":`...)
		b = strconv.AppendInt(b, p.rev, 10)
	}
	return append(b, '}')
}

// wholeSeconds rounds up, so that nobody comes back too early and no age is shown too low.
func wholeSeconds(d time.Duration) int64 {
	n := int64(d / time.Second)
	if d%time.Second > 0 {
		n++
	}
	return n
}
