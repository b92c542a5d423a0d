package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/api"
	"holdfast/kv"
)

// The calls about devices, and about what nodes may do for them.
const (
	devicesPath = "/v1/devices"
	deviceRoot  = "/v1/devices/"
	scopeLeaf   = "/scope" // behind a node

	allowDevices = "GET, HEAD, POST, OPTIONS"
	allowDevice  = "DELETE, OPTIONS"
	allowScope   = "PUT, DELETE, OPTIONS"
)

// The bounds of a request about a device.
const (
	deviceBodyMax   = 16 << 10 // of a request for any kind of token
	deviceNameMax   = 128
	devicePrefixMax = 64
	deviceTTLMax    = 20 * 366 * 24 * time.Hour
	deviceRateMax   = 1_000_000
	deviceShareMax  = 1 << 22 // KiB
)

// devicesThere refuses where nobody asks who may, and parameters, of which there are none.
func (h *Handler) devicesThere(r *http.Request, admin bool) error {
	return administers(r, admin && h.opts.Devices != nil, "device tokens are", "agent token")
}

// serveDevices lists the tokens of devices, or makes one.
func (h *Handler) serveDevices(w http.ResponseWriter, r *http.Request, admin bool) (int, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	case http.MethodOptions:
		return replyOptions(w, allowDevices)
	default:
		return 0, errMethod(r, allowDevices)
	}
	if err := h.devicesThere(r, admin); err != nil {
		return 0, err
	}
	if r.Method == http.MethodPost {
		return h.createDevice(w, r)
	}
	list, err := h.opts.Devices.List(r.Context())
	if err != nil {
		return 0, err
	}
	if list == nil {
		list = []api.DeviceInfo{}
	}
	return replyJSON(w, http.StatusOK, struct {
		Devices []api.DeviceInfo `json:"devices"`
	}{list})
}

// serveDevice ends the token of a device.
func (h *Handler) serveDevice(w http.ResponseWriter, r *http.Request, admin bool, id string) (int, error) {
	switch r.Method {
	case http.MethodDelete:
	case http.MethodOptions:
		return replyOptions(w, allowDevice)
	default:
		return 0, errMethod(r, allowDevice)
	}
	if err := h.devicesThere(r, admin); err != nil {
		return 0, err
	}
	if err := h.opts.Devices.Revoke(r.Context(), id); err != nil {
		return 0, err
	}
	return replyJSON(w, http.StatusOK, struct {
		ID string `json:"id"`
	}{id})
}

func (h *Handler) createDevice(w http.ResponseWriter, r *http.Request) (int, error) {
	var req api.DeviceRequest
	body, err := h.smallBody(w, r)
	if err == nil {
		req, err = parseDevice(body)
	}
	if err != nil {
		return 0, err
	}
	made, err := h.opts.Devices.Create(r.Context(), req)
	if err != nil {
		return 0, err
	}
	w.Header().Set("Location", deviceRoot+url.PathEscape(made.ID))
	return replyJSON(w, http.StatusCreated, made)
}

// smallBody reads the body of a request about a device or a scope.
func (h *Handler) smallBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if err := checkBody(r.Header); err != nil {
		return nil, err
	}
	body, err := h.readBody(w, r, deviceBodyMax)
	if errors.Is(err, errOverLimit) {
		return nil, kv.Errorf(kv.TooLarge, "the body has at most %d bytes", deviceBodyMax)
	}
	return body, err
}

// one decodes the only JSON document of a body; a body without any is all defaults.
func one(body []byte, into any, example string) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return kv.Errorf(kv.Invalid, "the body is not %s or a part of that: %w", example, err)
	}
	if d.More() {
		return kv.Errorf(kv.Invalid, "the body has more than one JSON document")
	}
	return nil
}

// parseDevice reads {"name","allow","prefixes","ttl","rate","share_kib"} and refuses anything else.
func parseDevice(body []byte) (api.DeviceRequest, error) {
	var given struct {
		Name     string   `json:"name"`
		Allow    []string `json:"allow"`
		Prefixes []string `json:"prefixes"`
		TTL      string   `json:"ttl"`
		Rate     uint32   `json:"rate"`
		ShareKiB uint32   `json:"share_kib"`
	}
	if err := one(body, &given, `{"name":"pump-7","allow":["put","get"],"prefixes":["site/42/"],"ttl":"2160h","rate":10,"share_kib":1024}`); err != nil {
		return api.DeviceRequest{}, err
	}
	req := api.DeviceRequest{Name: given.Name, Allow: given.Allow, Prefixes: given.Prefixes, Rate: given.Rate, ShareKiB: given.ShareKiB}
	switch {
	case given.Name == "" || len(given.Name) > deviceNameMax || !utf8.ValidString(given.Name) || strings.ContainsFunc(given.Name, func(c rune) bool { return c < ' ' }):
		return req, kv.Errorf(kv.Invalid, "name %q is not the name of a device: text of 1 to %d bytes", given.Name, deviceNameMax)
	case len(given.Prefixes) == 0:
		return req, kv.Errorf(kv.Invalid, `prefixes is missing: name what the device may touch, as ["site/42/"]; [""] is every key`)
	case given.Rate > deviceRateMax || given.ShareKiB > deviceShareMax:
		return req, kv.Errorf(kv.Invalid, "rate is at most %d requests a second, share_kib at most %d", deviceRateMax, deviceShareMax)
	}
	if len(req.Allow) == 0 {
		return req, kv.Errorf(kv.Invalid, "allow is missing: name some of get, put, delete and watch")
	}
	for i, verb := range req.Allow {
		if !slices.Contains([]string{api.VerbGet, api.VerbPut, api.VerbDelete, api.VerbWatch}, verb) || slices.Contains(req.Allow[:i], verb) {
			return req, kv.Errorf(kv.Invalid, "allow has %q, which is not one of get, put, delete and watch, or is there twice", verb)
		}
	}
	if err := checkPrefixes(req.Prefixes); err != nil {
		return req, err
	}
	if given.TTL != "" {
		var err error
		if req.TTL, err = time.ParseDuration(given.TTL); err != nil || req.TTL <= 0 || req.TTL > deviceTTLMax {
			return req, kv.Errorf(kv.Invalid, "ttl %q is not a duration above 0 and up to %v, as 2160h; without it the token does not expire", given.TTL, deviceTTLMax)
		}
	}
	return req, nil
}

func checkPrefixes(prefixes []string) error {
	if len(prefixes) > devicePrefixMax {
		return kv.Errorf(kv.Invalid, "prefixes has %d entries, at most %d are kept: choose one above them", len(prefixes), devicePrefixMax)
	}
	for i, prefix := range prefixes {
		if len(prefix) > keyMax {
			return kv.Errorf(kv.Invalid, "prefixes has one of %d bytes, the longest is %d", len(prefix), keyMax)
		}
		if slices.Contains(prefixes[:i], prefix) {
			return kv.Errorf(kv.Invalid, "prefixes has %q twice", prefix)
		}
	}
	return nil
}

// serveScope sets what a node may do, or takes that back.
func (h *Handler) serveScope(w http.ResponseWriter, r *http.Request, admin bool, node string) (int, error) {
	switch r.Method {
	case http.MethodPut, http.MethodDelete:
	case http.MethodOptions:
		return replyOptions(w, allowScope)
	default:
		return 0, errMethod(r, allowScope)
	}
	if err := administers(r, admin && h.opts.Devices != nil, "the scopes of nodes are", "agent nodes scope"); err != nil {
		return 0, err
	}
	var scope *api.NodeScope
	if r.Method == http.MethodPut {
		body, err := h.smallBody(w, r)
		if err == nil {
			scope = &api.NodeScope{}
			err = one(body, scope, `{"roles":["operators"],"prefixes":["site/42/"]}`)
		}
		if err == nil {
			err = checkPrefixes(scope.Prefixes)
		}
		if err != nil {
			return 0, err
		}
	}
	if err := h.opts.Devices.SetScope(r.Context(), node, scope); err != nil {
		return 0, err
	}
	return replyJSON(w, http.StatusOK, struct {
		Node  string         `json:"node_id"`
		Scope *api.NodeScope `json:"scope,omitempty"`
	}{node, scope})
}
