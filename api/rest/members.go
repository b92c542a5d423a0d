package rest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// memberSettingsMax is the longest body that sets what is wanted of the members.
const memberSettingsMax = 4 << 10

// memberInfo is a member as /v1/members shows it.
type memberInfo struct {
	ID         string   `json:"id"` // replica id, decimal
	NodeID     string   `json:"node_id"`
	Name       string   `json:"name"`
	Role       string   `json:"role"` // voter, learner or leaving
	Leader     bool     `json:"leader"`
	Away       bool     `json:"away"` // out of reach for so long that it may be replaced
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
}

// serveMembers lists the members, or sets how many are wanted.
func (h *Handler) serveMembers(w http.ResponseWriter, r *http.Request, administration bool) (int, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut:
	case http.MethodOptions:
		return replyOptions(w, allowMembers)
	default:
		return 0, errMethod(r, allowMembers)
	}
	admin, err := h.replica(r, r.Method != http.MethodPut || administration)
	if err != nil {
		return 0, err
	}
	if r.Method == http.MethodPut {
		return h.setMembers(w, r, admin)
	}
	return h.listMembers(w, r, admin)
}

func (h *Handler) listMembers(w http.ResponseWriter, r *http.Request, admin api.Admin) (int, error) {
	replicas, err := admin.Replicas(r.Context(), true)
	if err != nil {
		return 0, err
	}
	leader := admin.Condition().Leader
	list := make([]memberInfo, 0, len(replicas))
	for _, m := range replicas {
		info := memberInfo{ID: strconv.FormatUint(m.ID, 10), NodeID: m.Node, Name: m.Name, Role: "voter", Leader: m.ID == leader, Away: m.Away,
			PeerURLs: orEmpty(m.PeerURLs), ClientURLs: orEmpty(m.ClientURLs)}
		switch {
		case m.Leaving:
			info.Role = "leaving"
		case m.Learner:
			info.Role = "learner"
		}
		list = append(list, info)
	}
	wanted := admin.Wanted()
	return replyJSON(w, http.StatusOK, struct {
		Voters       int          `json:"voters"`        // wanted
		ReplaceAfter string       `json:"replace_after"` // 0s: never
		Members      []memberInfo `json:"members"`
	}{wanted.Voters, wanted.ReplaceAfter.String(), list})
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func (h *Handler) setMembers(w http.ResponseWriter, r *http.Request, admin api.Admin) (int, error) {
	body, err := h.readBody(w, r, memberSettingsMax)
	if err != nil {
		return 0, err
	}
	wanted := admin.Wanted()
	given := struct {
		Voters       *int    `json:"voters"`
		ReplaceAfter *string `json:"replace_after"`
	}{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&given); err != nil {
		return 0, kv.Errorf(kv.Invalid, `the body is not {"voters":3,"replace_after":"10m"} or a part of that: %w`, err)
	}
	if _, err := d.Token(); err != io.EOF { //nolint:errorlint // as documented
		return 0, kv.Errorf(kv.Invalid, "the body has more than one JSON document")
	}
	if given.Voters != nil {
		wanted.Voters = *given.Voters
	}
	if given.ReplaceAfter != nil {
		if wanted.ReplaceAfter, err = time.ParseDuration(*given.ReplaceAfter); err != nil {
			return 0, kv.Errorf(kv.Invalid, "replace_after %q is not a duration, as 10m; 0s is never", *given.ReplaceAfter)
		}
	}
	if err := admin.SetWanted(r.Context(), wanted); err != nil {
		return 0, err
	}
	return replyJSON(w, http.StatusOK, struct {
		Voters       int    `json:"voters"`
		ReplaceAfter string `json:"replace_after"`
	}{wanted.Voters, wanted.ReplaceAfter.String()})
}

// serveMember removes a member, named by its id, its node id, or its name where that is unambiguous.
func (h *Handler) serveMember(w http.ResponseWriter, r *http.Request, administration bool, name string) (int, error) {
	switch r.Method {
	case http.MethodDelete:
	case http.MethodOptions:
		return replyOptions(w, allowMember)
	default:
		return 0, errMethod(r, allowMember)
	}
	admin, err := h.replica(r, administration)
	if err != nil {
		return 0, err
	}
	replicas, err := admin.Replicas(r.Context(), false)
	if err != nil {
		return 0, err
	}
	m, err := memberNamed(replicas, name)
	if err != nil {
		return 0, err
	}
	if err := admin.RemoveReplica(r.Context(), m.ID); err != nil {
		return 0, err
	}
	return replyJSON(w, http.StatusOK, struct {
		ID     string `json:"id"`
		NodeID string `json:"node_id"`
		Name   string `json:"name"`
	}{strconv.FormatUint(m.ID, 10), m.Node, m.Name})
}

func memberNamed(replicas []kv.Replica, name string) (found kv.Replica, err error) {
	matches := 0
	for _, m := range replicas {
		if strconv.FormatUint(m.ID, 10) == name || m.Node == name {
			return m, nil
		}
		if m.Name == name {
			found = m
			matches++
		}
	}
	switch matches {
	case 0:
		return found, kv.Errorf(kv.KeyNotFound, "there is no member %q; agent members ls lists those there are", name)
	case 1:
		return found, nil
	}
	return found, kv.Errorf(kv.Invalid, "%d members are named %q: name the one that is meant by its id", matches, name)
}

// replica is what a full replica can do for an operator.
func (h *Handler) replica(r *http.Request, allowed bool) (api.Admin, error) {
	if !allowed {
		return nil, &refusal{status: http.StatusNotFound, code: "administration-only", title: "Administration only",
			detail: "members are removed, and their number set, on the administration socket of a node only: use agent members on its machine, or curl --unix-socket with the path in the setting socket; with authentication on (agent auth) the user root may do it over the network too"}
	}
	p, err := parseParams(r.URL.RawQuery)
	if err == nil {
		err = p.done()
	}
	if err != nil {
		return nil, err
	}
	if h.opts.Admin != nil {
		if admin := h.opts.Admin(); admin != nil {
			return admin, nil
		}
	}
	return nil, kv.Errorf(kv.Unsupported, "the members are known to members; this node is a proxy, or its store is not open yet: ask a member, or list the nodes (agent nodes), which any node can")
}
