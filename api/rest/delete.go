package rest

import (
	"net/http"
	"strconv"

	"holdfast/kv"
)

// delete removes a key, or with ?prefix every key below it. A single key that is not there is 404; a prefix without
// keys is 200, deleted 0.
func (h *Handler) delete(w http.ResponseWriter, r *http.Request, key string) (int, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	prefix, err := p.flag("prefix")
	if err != nil {
		return 0, err
	}
	req, err := parseWrite(r, key, &p)
	if err != nil {
		return 0, err
	}
	if key == "" {
		return 0, kv.Errorf(kv.Invalid, "the key is empty; to delete everything, delete each of its prefixes by name")
	}
	op := kv.Delete{Key: req.key}
	if prefix {
		if req.cond.given() {
			return 0, kv.Errorf(kv.Invalid, "If-Match and If-None-Match are about one key and cannot guard a prefix")
		}
		if req.mode == kv.WriteQueue {
			return 0, kv.Errorf(kv.Invalid, "write=queue is for single keys; a prefix is deleted by a quorum")
		}
		req.mode = kv.WriteSync
		op.Key, op.End = kv.PrefixRange(req.key)
	}
	result, err := h.do(r.Context(), &req, op)
	if err != nil {
		return 0, err
	}
	if result.Queued != nil {
		return replyQueued(w, result.Queued)
	}
	return h.replyDeleted(w, &req, &result, prefix)
}

func (h *Handler) replyDeleted(w http.ResponseWriter, req *write, result *kv.Result, prefix bool) (int, error) {
	header := w.Header()
	revision := strconv.FormatInt(result.Revision, 10)
	h.setResult(header, result, revision)
	deleted := result.Ops[0].Count
	if deleted == 0 && !prefix {
		return 0, errNoKey(req.key)
	}
	if req.minimal {
		header["Preference-Applied"] = []string{"return=minimal"}
		w.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent, nil
	}
	header["Content-Type"] = typeJSON
	header["X-Content-Type-Options"] = nosniff
	body := append([]byte(`{"revision":`), revision...)
	body = append(body, `,"deleted":`...)
	body = strconv.AppendInt(body, deleted, 10)
	_, _ = w.Write(append(body, "}\n"...)) //nolint:gosec // two numbers, and nosniff
	return http.StatusOK, nil
}
