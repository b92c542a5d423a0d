package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

var switchKinds = []string{api.SwitchPromote, api.SwitchDemote, api.SwitchLeave}

// The bounds of a request for a change of mode.
const (
	switchBodyMax     = 16 << 10
	switchWaitDefault = 30 * time.Second
	switchWaitMax     = 5 * time.Minute
)

// serveSwitch changes what a node is: POST /v1/nodes/{node}/{kind}, which name is the end of. It answers 200 when that is
// done, and 202 with how it stands when ?wait is over before; the same request then goes on waiting.
func (h *Handler) serveSwitch(w http.ResponseWriter, r *http.Request, admin bool, name string) (int, error) {
	switch r.Method {
	case http.MethodPost:
	case http.MethodOptions:
		return replyOptions(w, allowPost)
	default:
		return 0, errMethod(r, allowPost)
	}
	node, kind, _ := strings.Cut(name, "/")
	if err := administered(admin && h.opts.Switch != nil, "changes of a node's mode are", "agent "+kind); err != nil {
		return 0, err
	}
	wait, err := switchWait(r)
	if err != nil {
		return 0, err
	}
	if err := checkBody(r.Header); err != nil {
		return 0, err
	}
	body, err := h.readBody(w, r, switchBodyMax)
	if errors.Is(err, errOverLimit) {
		return 0, kv.Errorf(kv.TooLarge, "a request for a change of mode has at most %d bytes", switchBodyMax)
	}
	if err != nil {
		return 0, err
	}
	req, err := parseSwitch(kind, node, body)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(h.stopping, cancel)()
	s, err := h.opts.Switch.Switch(ctx, req)
	switch {
	case err != nil:
		return 0, err
	case s.Done:
		return replyJSON(w, http.StatusOK, s)
	}
	return replyJSON(w, http.StatusAccepted, s)
}

func switchWait(r *http.Request) (time.Duration, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	wait, given, err := p.duration("wait")
	if err != nil {
		return 0, err
	}
	if !given {
		wait = switchWaitDefault
	}
	if wait > switchWaitMax {
		return 0, kv.Errorf(kv.Invalid, "wait is at most %v", switchWaitMax)
	}
	return wait, p.done()
}

// parseSwitch reads {"token","force"}, each of which may be left out, and refuses anything else.
func parseSwitch(kind, node string, body []byte) (api.SwitchRequest, error) {
	var given struct {
		Token string `json:"token"`
		Force bool   `json:"force"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&given); err != nil && !errors.Is(err, io.EOF) {
		return api.SwitchRequest{}, kv.Errorf(kv.Invalid, `the body is not {"token":"HF1...","force":false} or a part of that: %w`, err)
	}
	switch {
	case d.More():
		return api.SwitchRequest{}, kv.Errorf(kv.Invalid, "the body has more than one JSON document")
	case given.Token != "" && kind != api.SwitchPromote:
		return api.SwitchRequest{}, kv.Errorf(kv.Invalid, "a token is for %s only", api.SwitchPromote)
	case given.Force && kind != api.SwitchLeave:
		return api.SwitchRequest{}, kv.Errorf(kv.Invalid, "force is for %s only", api.SwitchLeave)
	case given.Force && node != api.SwitchSelf:
		return api.SwitchRequest{}, kv.Errorf(kv.Invalid, "a node is made to leave by force on its own machine only")
	}
	return api.SwitchRequest{Kind: kind, Node: node, Token: given.Token, Force: given.Force}, nil
}
