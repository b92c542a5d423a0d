package rest

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// Admin is h for the administration socket: besides all that h serves it has the join tokens, the nodes, the certificate
// and the changes of a node's mode, if Options has them.
func (h *Handler) Admin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.handle(w, r, true) })
}

// The bounds of a request for a token. Those of the scope are what a certificate has room for.
const (
	tokenTTLDefault    = 24 * time.Hour
	tokenTTLMax        = 366 * 24 * time.Hour
	tokenUsesMax       = 1_000_000
	tokenScopeMax      = 64
	tokenScopeBytesMax = 1024 // escaped as in a URL
)

// serveTokens lists the join tokens, or makes one.
func (h *Handler) serveTokens(w http.ResponseWriter, r *http.Request, admin bool) (int, error) {
	tokens := h.opts.Tokens
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	case http.MethodOptions:
		return replyOptions(w, allowTokens)
	default:
		return 0, errMethod(r, allowTokens)
	}
	if err := administers(r, admin && h.opts.Tokens != nil, "join tokens are", "agent token"); err != nil {
		return 0, err
	}
	if r.Method == http.MethodPost {
		return h.createToken(w, r, tokens)
	}
	list, err := tokens.List(r.Context())
	if err != nil {
		return 0, err
	}
	if list == nil {
		list = []api.TokenInfo{}
	}
	return replyJSON(w, http.StatusOK, struct {
		Tokens []api.TokenInfo `json:"tokens"`
	}{list})
}

// serveToken ends a token.
func (h *Handler) serveToken(w http.ResponseWriter, r *http.Request, admin bool, id string) (int, error) {
	switch r.Method {
	case http.MethodDelete:
	case http.MethodOptions:
		return replyOptions(w, allowToken)
	default:
		return 0, errMethod(r, allowToken)
	}
	if err := administers(r, admin && h.opts.Tokens != nil, "join tokens are", "agent token"); err != nil {
		return 0, err
	}
	if err := h.opts.Tokens.Revoke(r.Context(), id); err != nil {
		return 0, err
	}
	return replyJSON(w, http.StatusOK, struct {
		ID string `json:"id"`
	}{id})
}

// administers refuses where there is no administration of something, and parameters, of which there are none.
func administers(r *http.Request, there bool, what, command string) error {
	if err := administered(there, what, command); err != nil {
		return err
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	return p.done()
}

func administered(there bool, what, command string) error {
	if there {
		return nil
	}
	return &refusal{status: http.StatusNotFound, code: "administration-only", title: "Administration only",
		detail: what + " served on the administration socket of a node only: use " + command + " on its machine, or curl --unix-socket with the path in the setting socket; with authentication on (agent auth) the user root may do it over the network too"}
}

func (h *Handler) createToken(w http.ResponseWriter, r *http.Request, tokens api.Tokens) (int, error) {
	body, err := h.smallBody(w, r)
	if err != nil {
		return 0, err
	}
	req, err := parseTokenRequest(body)
	if err != nil {
		return 0, err
	}
	token, err := tokens.Create(r.Context(), req)
	if err != nil {
		return 0, err
	}
	w.Header().Set("Location", tokenRoot+url.PathEscape(token.ID))
	return replyJSON(w, http.StatusCreated, token)
}

// parseTokenRequest reads {"role","ttl","uses","scope"}, each of which has a default, and refuses anything else.
func parseTokenRequest(body []byte) (api.TokenRequest, error) {
	var given struct {
		Role  string   `json:"role"`
		TTL   string   `json:"ttl"`
		Uses  int      `json:"uses"`
		Scope []string `json:"scope"`
	}
	if err := one(body, &given, `{"role":"any","ttl":"24h","uses":0,"scope":["site/42/"]}`); err != nil {
		return api.TokenRequest{}, err
	}
	req := api.TokenRequest{Role: given.Role, TTL: tokenTTLDefault, Uses: given.Uses, Scope: given.Scope}
	if given.TTL != "" {
		var err error
		if req.TTL, err = time.ParseDuration(given.TTL); err != nil || req.TTL <= 0 || req.TTL > tokenTTLMax {
			return req, kv.Errorf(kv.Invalid, "ttl %q is not a duration above 0 and up to %v, as 30m or 24h", given.TTL, tokenTTLMax)
		}
	}
	if req.Uses < 0 || req.Uses > tokenUsesMax {
		return req, kv.Errorf(kv.Invalid, "uses %d is not from 0, which is any number, to %d", req.Uses, tokenUsesMax)
	}
	err := checkTokenScope(&req)
	return req, err
}

// checkTokenScope fills in role and scope where they were left out, and checks that they go together.
func checkTokenScope(req *api.TokenRequest) error {
	switch req.Role {
	case "":
		req.Role = api.TokenRoleAny
	case api.TokenRoleAny, api.TokenRoleProxy:
	case api.TokenRoleMember:
		if len(req.Scope) > 0 {
			return kv.Errorf(kv.Invalid, "a token for a member has no scope: a member holds every key")
		}
		return nil
	default:
		return kv.Errorf(kv.Invalid, "role %q is not one of any, member and proxy", req.Role)
	}
	if len(req.Scope) == 0 {
		req.Scope = []string{""}
	}
	bytes := 0
	for i, prefix := range req.Scope {
		if slices.Contains(req.Scope[:i], prefix) {
			return kv.Errorf(kv.Invalid, "scope has %q twice", prefix)
		}
		bytes += len(url.QueryEscape(prefix))
	}
	if len(req.Scope) > tokenScopeMax || bytes > tokenScopeBytesMax {
		return kv.Errorf(kv.Invalid, "scope has %d prefixes of together %d bytes, once escaped; a certificate has room for %d of together %d: choose shorter ones, or one above them",
			len(req.Scope), bytes, tokenScopeMax, tokenScopeBytesMax)
	}
	return nil
}
