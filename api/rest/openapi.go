package rest

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"io"
	"net/http"
	"strconv"
)

// packed is openapi.yaml, for 57 kB less in the binary.
//
//go:generate gzip -9nfk openapi.yaml
//go:embed openapi.yaml.gz
var packed []byte

// document describes all of /v1 as OpenAPI 3.1. Tests hold it against the file and the handlers.
func document() ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// serveDocument answers with the description of /v1.
func (h *Handler) serveDocument(w http.ResponseWriter, r *http.Request) (int, error) {
	if status, err := onlyRead(w, r); status != 0 || err != nil {
		return status, err
	}
	if err := withoutParams(r); err != nil {
		return 0, err
	}
	document, err := document()
	if err != nil {
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
