package rest

import (
	"net/http"

	"holdfast/api"
	"holdfast/kv"
)

// judge decides who may have what is not about keys, which the Backend judges by itself. It reports whether a request is
// one of administration: it came over the socket for that, or with authentication on it is root's.
//
//	tokens, members (changed), nodes, certificates, mode   the socket, or root
//	backups, the queue                                     anybody while authentication is off, else root
//	members (listed), status                               anybody while authentication is off, else who is somebody
func (h *Handler) judge(r *http.Request, to target, admin bool) (bool, error) {
	if admin || r.Method == http.MethodOptions {
		return admin, nil
	}
	switch to {
	case toTokens, toToken, toDevices, toDevice, toScope, toMember, toSwitch, toNodes, toNode, toCert, toRenew, toRotate, toFinish:
		return h.isRoot(r)
	case toMembers:
		if r.Method == http.MethodPut {
			return h.isRoot(r)
		}
		return false, h.somebody(r)
	case toStatus:
		return false, h.somebody(r)
	case toSnapshot:
		return false, api.Allowed(r.Context(), h.opts.Backend, kv.AuthRoot)
	case toQueue, toQueued, toPause, toResume, toFlush, toRetry:
		err := api.AllowedHere(r.Context(), h.opts.Backend, kv.AuthRoot)
		if kv.CodeOf(err) == kv.NotCached { // a proxy without a policy
			err = nil
		}
		return false, err
	}
	return false, nil
}

// isRoot reports whether a request over the network may do what else takes the administration socket. While
// authentication is off nobody may.
func (h *Handler) isRoot(r *http.Request) (bool, error) {
	if api.ByOf(r.Context()) == (kv.By{}) {
		return false, nil
	}
	page, err := h.opts.Backend.Read(r.Context(), kv.Query{MaxAge: kv.Unlimited, Ops: []kv.Op{kv.ReadAuth{What: kv.AuthStatus}}})
	if err != nil || len(page.Ops) != 1 || !page.Ops[0].Succeeded {
		return false, err
	}
	err = api.Allowed(r.Context(), h.opts.Backend, kv.AuthRoot)
	return err == nil, err
}

// somebody asks for credentials where they are needed. A node that knows no policy shows itself to everybody, as it does
// while it is cut off.
func (h *Handler) somebody(r *http.Request) error {
	err := api.AllowedHere(r.Context(), h.opts.Backend, kv.AuthSomeone)
	switch kv.CodeOf(err) {
	case kv.NotCached, kv.NoLeader, kv.UpstreamUnavailable:
		return nil
	}
	return err
}
