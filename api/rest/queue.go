package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/api"
	"holdfast/kv"
)

// queueWaitMax bounds ?wait of one queued write: beyond it, ask again.
const queueWaitMax = 5 * time.Minute

// serveQueue is for the queue as a whole: how it is doing, or with ?state, ?prefix or ?author what is in it.
func (h *Handler) serveQueue(w http.ResponseWriter, r *http.Request, admin bool) (int, error) {
	if status, err := onlyRead(w, r); status != 0 || err != nil {
		return status, err
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	var f api.QueueFilter
	listed := false
	for _, one := range []struct {
		name string
		into *string
	}{{"state", &f.State}, {"prefix", &f.Prefix}, {"after", &f.After}, {"author", &f.Author}} {
		text, given := p.text(one.name)
		*one.into, listed = text, listed || given
	}
	if err := p.done(); err != nil {
		return 0, err
	}
	only, err := h.reader(r, admin)
	if err != nil {
		return 0, err
	}
	q, err := h.queue()
	switch {
	case err != nil:
		return 0, err
	case !listed:
		return replyJSON(w, http.StatusOK, q.Status())
	case only != "" && f.Author != "" && f.Author != only:
		return 0, kv.Errorf(kv.PermissionDenied, "%s may not see what others have written: it takes a user with the role root", only)
	case only != "":
		f.Author = only
	}
	found, err := q.List(f)
	if err != nil {
		return 0, err
	}
	items := make([]queueItem, len(found)) // never null
	for i := range found {
		items[i] = shown(found[i])
	}
	next := ""
	if len(items) == api.QueuePage {
		next = found[len(found)-1].ID
	}
	return replyJSON(w, http.StatusOK, struct {
		Items []queueItem `json:"items"`
		Next  string      `json:"next,omitempty"` // what after is to be for what follows; absent at the end
	}{items, next})
}

// serveQueued is for one write in the queue: what became of it, or to give it up.
func (h *Handler) serveQueued(w http.ResponseWriter, r *http.Request, admin bool, id string) (int, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete:
	case http.MethodOptions:
		return replyOptions(w, allowQueued)
	default:
		return 0, errMethod(r, allowQueued)
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	var wait time.Duration
	if r.Method != http.MethodDelete {
		if wait, _, err = p.duration("wait"); err != nil {
			return 0, err
		}
	}
	if err := p.done(); err != nil {
		return 0, err
	}
	if wait > queueWaitMax {
		return 0, kv.Errorf(kv.Invalid, "wait=%v is longer than %v; ask again when that has passed", wait, queueWaitMax)
	}
	only := ""
	if r.Method != http.MethodDelete { // which judge has judged
		if only, err = h.reader(r, admin); err != nil {
			return 0, err
		}
	}
	q, err := h.queue()
	if err != nil {
		return 0, err
	}
	if r.Method == http.MethodDelete {
		return discard(w, q, id)
	}
	if only != "" && wait > 0 { // not for what is of others
		if item, found, err := q.Get(r.Context(), id, false); err == nil && (!found || item.Author != only) {
			return 0, errNotQueued(id)
		}
	}
	item, found, err := h.queued(r.Context(), q, id, wait)
	switch {
	case err != nil:
		return 0, err
	case !found, only != "" && item.Author != only:
		return 0, errNotQueued(id)
	}
	return replyJSON(w, http.StatusOK, shown(item))
}

// queued returns one write once it has ended, wait is over, or the node stops: then as it stands.
func (h *Handler) queued(ctx context.Context, q api.Queue, id string, wait time.Duration) (api.QueueItem, bool, error) {
	if wait == 0 {
		return q.Get(ctx, id, false)
	}
	waiting, done := context.WithTimeout(ctx, wait)
	defer done()
	defer context.AfterFunc(h.stopping, done)()
	item, found, err := q.Get(waiting, id, true)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return q.Get(ctx, id, false)
	}
	return item, found, err
}

func discard(w http.ResponseWriter, q api.Queue, id string) (int, error) {
	done, found, err := q.Discard(id)
	switch {
	case err != nil:
		return 0, err
	case !found:
		return 0, errNotQueued(id)
	case !done:
		w.Header().Set("Location", queueRoot+id)
		return replyJSON(w, http.StatusAccepted, struct {
			Op    string `json:"op"`
			State string `json:"state"`
		}{id, "sending"})
	}
	return replyJSON(w, http.StatusOK, struct {
		Op string `json:"op"`
	}{id})
}

// steerQueue pauses sending, goes on with it, or hurries, and answers with how the queue is doing then.
func (h *Handler) steerQueue(w http.ResponseWriter, r *http.Request, to target) (int, error) {
	q, err := h.queueAlone(r)
	if err != nil {
		return 0, err
	}
	switch to {
	case toFlush:
		q.Flush()
	default:
		if err := q.Pause(to == toPause); err != nil {
			return 0, err
		}
	}
	return replyJSON(w, http.StatusOK, q.Status())
}

// queueAlone is the queue for a request that takes no parameters.
func (h *Handler) queueAlone(r *http.Request) (api.Queue, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	if err := p.done(); err != nil {
		return nil, err
	}
	return h.queue()
}

// retryQueued files a write anew that has ended otherwise than committed.
func (h *Handler) retryQueued(w http.ResponseWriter, r *http.Request, id string) (int, error) {
	q, err := h.queueAlone(r)
	if err != nil {
		return 0, err
	}
	again, found, err := q.Retry(r.Context(), id)
	switch {
	case err != nil:
		return 0, err
	case !found:
		return 0, errNotQueued(id)
	}
	header := w.Header()
	header.Set("Location", queueRoot+again)
	header.Set("Holdfast-Op", again)
	return replyJSON(w, http.StatusAccepted, struct {
		Op    string `json:"op"`
		State string `json:"state"`
	}{again, "queued"})
}

// pending answers ?view=pending with the newest write of a key that waits in the queue. done false: none does.
func (h *Handler) pending(w http.ResponseWriter, r *http.Request, key []byte) (done bool, status int, err error) {
	if h.opts.Queue == nil {
		return false, 0, nil
	}
	q := h.opts.Queue()
	if q == nil {
		return false, 0, nil
	}
	if err := h.mayRead(r.Context(), key); err != nil {
		return true, 0, err
	}
	item, found, err := q.Last(key)
	if err != nil || !found {
		return err != nil, 0, err
	}
	if item.Op == "delete" {
		return true, 0, kv.Errorf(kv.KeyNotFound, "a deletion of the key %q waits in this node's queue (%s) and is not committed", key, item.ID)
	}
	header := w.Header()
	header["Holdfast-State"] = []string{"pending"}
	header["Holdfast-Op"] = []string{item.ID}
	header["Content-Type"] = typeOctets
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["Content-Length"] = []string{strconv.Itoa(len(item.Value))}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(item.Value) // a client that has gone cannot be told
	}
	return true, http.StatusOK, nil
}

// queue returns the node's queue, or why there is none.
func (h *Handler) queue() (api.Queue, error) {
	if h.opts.Queue != nil {
		if q := h.opts.Queue(); q != nil {
			return q, nil
		}
	}
	return nil, &refusal{status: http.StatusNotFound, code: "no-queue", title: "No queue",
		detail: "this node keeps no queue: queue.prefixes is empty"}
}

func errNotQueued(id string) error {
	return &refusal{status: http.StatusNotFound, code: "not-queued", title: "Not in the queue",
		detail: "there is no write " + quoted(id) + " in the queue: it was committed and is forgotten, was discarded, or was never queued here"}
}

// quoted is an id in a message: those of ours are short.
func quoted(id string) string {
	const most = 64
	if len(id) > most {
		id = strings.ToValidUTF8(id[:most], "") + "..."
	}
	return `"` + id + `"`
}

// queueItem is a queued write as it is shown. A key that is not UTF-8 has no "key", as everywhere.
type queueItem struct {
	Key string `json:"key,omitempty"`
	api.QueueItem
}

func shown(item api.QueueItem) queueItem {
	if !utf8.ValidString(item.Key) {
		return queueItem{QueueItem: item}
	}
	return queueItem{Key: item.Key, QueueItem: item}
}

// replyJSON answers with what is true now only.
func replyJSON(w http.ResponseWriter, status int, v any) (int, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return 0, kv.Errorf(kv.Internal, "encode the answer: %w", err)
	}
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that has gone cannot be told
	return status, nil
}
