package rest

import (
	"net/http"
	"strconv"

	"holdfast/kv"
)

// get answers with the value of one key, the bytes that were put. HEAD is the same without them.
func (h *Handler) get(w http.ResponseWriter, r *http.Request, key string, p *params) (int, error) {
	f, err := h.parseFresh(p, r.Header, true)
	if err != nil {
		return 0, err
	}
	view, hasView := p.text("view")
	if hasView && view != "pending" && view != "committed" {
		return 0, kv.Errorf(kv.Invalid, "view=%q is neither pending nor committed", view)
	}
	if err := p.done(); err != nil {
		return 0, err
	}
	if view == "pending" {
		if f.poll.asked {
			return 0, kv.Errorf(kv.Invalid, "index waits for what is committed, and view=pending shows what is not: give one of them")
		}
		if done, status, err := h.pending(w, r, []byte(key)); done {
			return status, err
		}
	}
	cond, err := parsePrecond(r.Header)
	if err != nil {
		return 0, err
	}
	k := []byte(key)
	if done, err := h.await(w, r, k, nil, &f); done || err != nil {
		return http.StatusNotModified, err
	}
	page, err := h.opts.Backend.Read(r.Context(), f.query(kv.Range{Key: k}))
	if err != nil {
		return 0, err
	}
	header := w.Header()
	var found kv.KeyValue
	if kvs := page.Ops[0].KVs; len(kvs) > 0 {
		found = kvs[0]
	}
	switch cond.check(found.ModRevision) {
	case http.StatusPreconditionFailed:
		h.setPage(header, &page, f)
		return 0, &kv.Error{Code: kv.PreconditionFailed, Detail: "If-Match does not hold", Revision: found.ModRevision}
	case http.StatusNotModified:
		h.setKey(header, &page, f, found.ModRevision)
		w.WriteHeader(http.StatusNotModified)
		return http.StatusNotModified, nil
	}
	h.setKey(header, &page, f, found.ModRevision)
	if found.ModRevision == 0 {
		return 0, errNoKey(k)
	}
	header["Content-Type"] = typeOctets
	header["X-Content-Type-Options"] = nosniff
	if len(found.Value) >= lengthByNetHTTP || r.Method == http.MethodHead {
		header["Content-Length"] = []string{strconv.Itoa(len(found.Value))}
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return http.StatusOK, nil
	}
	_, _ = w.Write(found.Value) // a client that has gone cannot be told
	return http.StatusOK, nil
}

// lengthByNetHTTP is the size of a body from which on net/http no longer finds out its length by itself; below, a header
// less is a noticeable part of the work for a small value.
const lengthByNetHTTP = 2048

func errNoKey(key []byte) error {
	return kv.Errorf(kv.KeyNotFound, "the key %q does not exist", key)
}
