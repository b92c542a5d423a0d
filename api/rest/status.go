package rest

import "net/http"

// onlyRead lets GET and HEAD through. It answers OPTIONS with a status, and refuses all else.
func onlyRead(w http.ResponseWriter, r *http.Request) (status int, err error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return 0, nil
	case http.MethodOptions:
		return replyOptions(w, allowStatus)
	default:
		return 0, errMethod(r, allowStatus)
	}
}

// withoutParams refuses a query, for what takes none.
func withoutParams(r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	return p.done()
}

// serveStatus answers with the node's api.Status. It asks nobody and waits for nothing.
func (h *Handler) serveStatus(w http.ResponseWriter, r *http.Request) (int, error) {
	if status, err := onlyRead(w, r); status != 0 || err != nil {
		return status, err
	}
	if err := withoutParams(r); err != nil {
		return 0, err
	}
	return replyJSON(w, http.StatusOK, h.opts.Reporter.Report())
}
