package rest

import (
	"net/http"
	"strconv"
	"time"

	"holdfast/kv"
)

// Header values that never change; net/http only reads them.
var (
	typeOctets  = []string{"application/octet-stream"}
	typeJSON    = []string{"application/json"}
	typeProblem = []string{"application/problem+json"}
	typeSSE     = []string{"text/event-stream"}
	typeNDJSON  = []string{"application/x-ndjson"}
	typeOpenAPI = []string{"application/yaml"}
	nosniff     = []string{"nosniff"}
	noStore     = []string{"no-store"}

	sources     = [...][]string{kv.SourceMember: {"member"}, kv.SourceUpstream: {"upstream"}, kv.SourceCache: {"cache"}}
	cacheHit    = []string{"holdfast; hit"}
	cacheBypass = []string{"holdfast; fwd=bypass"} // no cache was asked: a member has none
	cacheMiss   = []string{"holdfast; fwd=miss"}   // a proxy forwards what it does not mirror, and nothing else

	ageNone    = []string{"0"}
	ageUnknown = []string{"unknown"}
)

// epochValue is an epoch and its header value, kept because all replies carry the same for months.
type epochValue struct {
	epoch kv.Epoch
	value []string
}

func (h *Handler) epochHeader(e kv.Epoch) []string {
	if v := h.epoch.Load(); v != nil && v.epoch == e {
		return v.value
	}
	v := &epochValue{epoch: e, value: []string{e.String()}}
	h.epoch.Store(v)
	return v.value
}

// setPage sets the headers that say where an answer stands in history, where it came from and how old it is.
func (h *Handler) setPage(header http.Header, p *kv.Page, f freshness) {
	header["Holdfast-Revision"] = []string{strconv.FormatInt(p.Revision, 10)}
	header["Holdfast-Epoch"] = h.epochHeader(p.Epoch)
	header["Holdfast-Source"] = sources[min(int(p.Source), len(sources)-1)]
	header["Holdfast-Consistency"] = f.delivered(p)
	switch {
	case p.Age == 0:
		header["Holdfast-Age"], header["Age"] = ageNone, ageNone
	case p.Age < 0:
		header["Holdfast-Age"] = ageUnknown
	default:
		header["Holdfast-Age"] = []string{formatSeconds(p.Age)}
		header["Age"] = []string{strconv.FormatInt(wholeSeconds(p.Age), 10)}
	}
	switch {
	case p.Source == kv.SourceMember:
		header["Cache-Status"] = cacheBypass
	case p.Source == kv.SourceCache:
		header["Cache-Status"] = cacheHit
	default:
		header["Cache-Status"] = cacheMiss
	}
	if p.Pending > 0 {
		header["Holdfast-Pending"] = []string{strconv.Itoa(p.Pending)}
	}
}

func formatRevision(revision int64) string { return strconv.FormatInt(revision, 10) }

// setResult sets the headers of a committed write.
func (h *Handler) setResult(header http.Header, r *kv.Result, revision string) {
	header["Holdfast-Revision"] = []string{revision}
	header["Holdfast-Epoch"] = h.epochHeader(r.Epoch)
}

// formatSeconds shows an age in seconds, to the millisecond and rounded up.
func formatSeconds(d time.Duration) string {
	ms := (d + time.Millisecond - 1) / time.Millisecond
	return strconv.FormatFloat(float64(ms)/1000, 'f', -1, 64)
}

// replyQueued answers a write that is durable here and not committed.
func replyQueued(w http.ResponseWriter, receipt *kv.Receipt) (int, error) {
	header := w.Header()
	header.Set("Location", queueRoot+receipt.ID)
	header.Set("Holdfast-Op", receipt.ID)
	if !receipt.Expires.IsZero() {
		header.Set("Holdfast-Expires", receipt.Expires.UTC().Format(time.RFC3339))
	}
	header["Content-Type"] = typeJSON
	header["X-Content-Type-Options"] = nosniff
	w.WriteHeader(http.StatusAccepted)
	body := appendString([]byte(`{"op":`), receipt.ID)
	_, _ = w.Write(append(body, `,"state":"queued"}`+"\n"...))
	return http.StatusAccepted, nil
}
