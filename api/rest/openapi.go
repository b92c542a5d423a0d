package rest

import (
	_ "embed"
	"net/http"
	"strconv"
)

// document describes all of /v1 as OpenAPI 3.1. A test holds it and the handlers against each other.
//
//go:embed openapi.yaml
var document []byte

// serveDocument answers with the description of /v1.
func (h *Handler) serveDocument(w http.ResponseWriter, r *http.Request) (int, error) {
	if status, err := onlyRead(w, r); status != 0 || err != nil {
		return status, err
	}
	if err := withoutParams(r); err != nil {
		return 0, err
	}
	header := w.Header()
	header["Content-Type"] = typeOpenAPI
	header["X-Content-Type-Options"] = nosniff
	header["Content-Length"] = []string{strconv.Itoa(len(document))}
	if r.Method == http.MethodGet {
		_, _ = w.Write(document) // a client that has gone cannot be told
	}
	return http.StatusOK, nil
}
