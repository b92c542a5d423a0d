package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// The calls about nodes and certificates.
const (
	nodesPath  = "/v1/nodes"
	certPath   = "/v1/cert"
	renewPath  = "/v1/cert/renew"
	rotatePath = "/v1/cert/rotate"
	finishPath = "/v1/cert/finish"

	allowNode = "DELETE, OPTIONS"

	rotateBodyMax = 64 << 10
)

// administer is the check of these calls: one of methods, on the administration socket, without parameters. Done says
// that OPTIONS has been answered.
func (h *Handler) administer(w http.ResponseWriter, r *http.Request, admin bool, allow string, methods ...string) (done bool, err error) {
	if r.Method == http.MethodOptions {
		_, err := replyOptions(w, allow)
		return true, err
	}
	if !slices.Contains(methods, r.Method) {
		return false, errMethod(r, allow)
	}
	return false, administers(r, admin && h.opts.Nodes != nil && h.opts.Certificates != nil, "nodes and certificates are", "agent nodes or agent cert")
}

// serveNodes lists the nodes.
func (h *Handler) serveNodes(w http.ResponseWriter, r *http.Request, admin bool) (int, error) {
	if done, err := h.administer(w, r, admin, allowStatus, http.MethodGet, http.MethodHead); done || err != nil {
		return http.StatusNoContent, err
	}
	list, err := h.opts.Nodes.List(r.Context())
	if err != nil {
		return 0, err
	}
	if list.Nodes == nil {
		list.Nodes = []api.NodeInfo{}
	}
	return replyJSON(w, http.StatusOK, list)
}

// serveNode revokes a node.
func (h *Handler) serveNode(w http.ResponseWriter, r *http.Request, admin bool, name string) (int, error) {
	if done, err := h.administer(w, r, admin, allowNode, http.MethodDelete); done || err != nil {
		return http.StatusNoContent, err
	}
	revoked, err := h.opts.Nodes.Revoke(r.Context(), name)
	if err != nil {
		return 0, err
	}
	return replyJSON(w, http.StatusOK, revoked)
}

// serveCert shows this node's certificate.
func (h *Handler) serveCert(w http.ResponseWriter, r *http.Request, admin bool) (int, error) {
	if done, err := h.administer(w, r, admin, allowStatus, http.MethodGet, http.MethodHead); done || err != nil {
		return http.StatusNoContent, err
	}
	return replyJSON(w, http.StatusOK, h.opts.Certificates.Certificate())
}

// changeCert renews a certificate or replaces the CA.
func (h *Handler) changeCert(w http.ResponseWriter, r *http.Request, admin bool, do func(ctx context.Context, body []byte) (api.CertificateInfo, error)) (int, error) {
	if done, err := h.administer(w, r, admin, allowPost, http.MethodPost); done || err != nil {
		return http.StatusNoContent, err
	}
	if err := checkBody(r.Header); err != nil {
		return 0, err
	}
	body, err := h.readBody(w, r, rotateBodyMax)
	if errors.Is(err, errOverLimit) {
		return 0, kv.Errorf(kv.TooLarge, "the body has at most %d bytes: one key and one certificate", rotateBodyMax)
	}
	if err != nil {
		return 0, err
	}
	info, err := do(r.Context(), body)
	if err != nil {
		return 0, err
	}
	return replyJSON(w, http.StatusOK, info)
}

func (h *Handler) renewCert(ctx context.Context, body []byte) (api.CertificateInfo, error) {
	if len(bytes.TrimSpace(body)) > 0 {
		return api.CertificateInfo{}, kv.Errorf(kv.Invalid, "this call takes no body")
	}
	return h.opts.Certificates.Renew(ctx)
}

func (h *Handler) rotateCA(ctx context.Context, body []byte) (api.CertificateInfo, error) {
	var q struct {
		PEM     string `json:"pem"`
		Overlap string `json:"overlap"`
	}
	if err := parseSmall(body, &q, `{"pem":"...","overlap":"720h"}`); err != nil {
		return api.CertificateInfo{}, err
	}
	var rot api.CARotation
	if q.PEM != "" {
		rot.PEM = []byte(q.PEM)
	}
	if q.Overlap != "" {
		var err error
		if rot.Overlap, err = time.ParseDuration(q.Overlap); err != nil || rot.Overlap <= 0 {
			return api.CertificateInfo{}, kv.Errorf(kv.Invalid, "overlap %q is not a duration above 0, as 720h", q.Overlap)
		}
	}
	return h.opts.Certificates.Rotate(ctx, rot)
}

func (h *Handler) finishCA(ctx context.Context, body []byte) (api.CertificateInfo, error) {
	var q struct {
		Force bool `json:"force"`
	}
	if err := parseSmall(body, &q, `{"force":true}`); err != nil {
		return api.CertificateInfo{}, err
	}
	return h.opts.Certificates.Finish(ctx, q.Force)
}

// parseSmall reads one JSON object without fields that nobody knows; nothing at all is an empty one.
func parseSmall(body []byte, v any, form string) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return kv.Errorf(kv.Invalid, "the body is not %s or a part of that: %w", form, err)
	}
	if d.More() {
		return kv.Errorf(kv.Invalid, "the body has more than one JSON document")
	}
	return nil
}
