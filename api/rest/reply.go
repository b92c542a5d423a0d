package rest

import (
	"bytes"
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
func (h *Handler) setPage(header http.Header, p *kv.Page, f freshness) { h.setKey(header, p, f, 0) }

// setKey is setPage for an answer with one key, and the key's tag, unless mod is 0. The values that change from answer to answer
// are one string: it is the path of a cached GET.
func (h *Handler) setKey(header http.Header, p *kv.Page, f freshness, mod int64) {
	var buf [96]byte
	text := strconv.AppendInt(buf[:0], p.Revision, 10)
	revision := len(text)
	if mod != 0 {
		text = appendTag(text, mod)
	}
	tag := len(text)
	if p.Age > 0 {
		text = appendSeconds(text, p.Age)
	}
	seconds := len(text)
	if p.Age > 0 {
		text = strconv.AppendInt(text, wholeSeconds(p.Age), 10)
	}
	all := string(text)
	v := &[...]string{all[:revision], all[revision:tag], all[tag:seconds], all[seconds:]}

	header["Holdfast-Revision"] = v[0:1:1]
	if mod != 0 {
		header["Etag"] = v[1:2:2]
	}
	header["Holdfast-Epoch"] = h.epochHeader(p.Epoch)
	header["Holdfast-Source"] = sources[min(int(p.Source), len(sources)-1)]
	header["Holdfast-Consistency"] = f.delivered(p)
	switch {
	case p.Age == 0:
		header["Holdfast-Age"], header["Age"] = ageNone, ageNone
	case p.Age < 0:
		header["Holdfast-Age"] = ageUnknown
	default:
		header["Holdfast-Age"], header["Age"] = v[2:3:3], v[3:4:4]
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

// appendTag appends the entity tag of a revision.
func appendTag(dst []byte, revision int64) []byte {
	return append(strconv.AppendInt(append(dst, '"'), revision, 10), '"')
}

func formatRevision(revision int64) string { return strconv.FormatInt(revision, 10) }

// setResult sets the headers of a committed write.
func (h *Handler) setResult(header http.Header, r *kv.Result, revision string) {
	header["Holdfast-Revision"] = []string{revision}
	header["Holdfast-Epoch"] = h.epochHeader(r.Epoch)
}

// appendSeconds appends an age in seconds, to the millisecond and rounded up.
func appendSeconds(dst []byte, d time.Duration) []byte {
	ms := int64((d + time.Millisecond - 1) / time.Millisecond)
	dst = strconv.AppendInt(dst, ms/1000, 10)
	if ms %= 1000; ms == 0 {
		return dst
	}
	dst = append(dst, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	return bytes.TrimRight(dst, "0")
}

// replyQueued answers a write that is durable here and not committed.
func replyQueued(w http.ResponseWriter, receipt *kv.Receipt) (int, error) {
	header := w.Header()
	at := queueRoot + receipt.ID
	v := &[...]string{at, at[len(queueRoot):]}
	header["Location"], header["Holdfast-Op"] = v[0:1:1], v[1:2:2]
	if !receipt.Expires.IsZero() {
		header["Holdfast-Expires"] = []string{receipt.Expires.UTC().Format(time.RFC3339)}
	}
	header["Content-Type"] = typeJSON
	header["X-Content-Type-Options"] = nosniff
	w.WriteHeader(http.StatusAccepted)
	var buf [96]byte
	body := appendString(append(buf[:0], `{"op":`...), receipt.ID)
	_, _ = w.Write(append(body, `,"state":"queued"}`+"\n"...))
	return http.StatusAccepted, nil
}
