package rest

import (
	"encoding/json"
	"net/http"

	"holdfast/kv"
)

// serveStatus answers with the node's api.Status. It asks nobody and waits for nothing.
func (h *Handler) serveStatus(w http.ResponseWriter, r *http.Request) (int, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		return replyOptions(w, allowStatus)
	default:
		return 0, errMethod(r, allowStatus)
	}
	p, err := parseParams(r.URL.RawQuery)
	if err == nil {
		err = p.done()
	}
	if err != nil {
		return 0, err
	}
	body, err := json.Marshal(h.opts.Reporter.Report())
	if err != nil {
		return 0, kv.Errorf(kv.Internal, "encode status: %w", err)
	}
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	_, _ = w.Write(append(body, '\n'))
	return http.StatusOK, nil
}
