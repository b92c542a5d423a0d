package rest

import (
	"context"
	"net/http"

	"holdfast/api"
	"holdfast/kv"
)

// judge decides who may have what is not about keys, which the Backend judges by itself. It reports whether a request is
// one of administration: it came over the socket for that, or with authentication on it is root's.
//
//	tokens, members (changed), nodes, certificates, mode   the socket, or root
//	backups, the queue (changed)                           anybody while authentication is off, else root
//	members (listed), status                               anybody while authentication is off, else who is somebody
//	the queue (read)                                       likewise, and without every right their own writes: see reader
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
	case toQueue, toQueued:
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return false, nil
		}
		fallthrough
	case toPause, toResume, toFlush, toRetry:
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

// reader lets who is somebody read of the queue, and says by whom a write there has to be for them to see it; empty: by anybody.
func (h *Handler) reader(r *http.Request, admin bool) (string, error) {
	if admin {
		return "", nil
	}
	who, root, err := api.WhoHere(r.Context(), h.opts.Backend)
	switch code := kv.CodeOf(err); {
	case err != nil && (code == kv.NotCached || code == kv.NoLeader || code == kv.UpstreamUnavailable): // no policy here: see somebody
		return "", nil
	case err != nil, root:
		return "", err
	case who == "":
		return "", kv.Errorf(kv.Busy, "this node does not know yet who asks: try again")
	}
	return who, nil
}

// mayRead judges a read of a key that is answered from what waits here, without the Backend.
func (h *Handler) mayRead(ctx context.Context, key []byte) error {
	q := kv.Query{Ops: []kv.Op{kv.Range{Key: key, KeysOnly: true}}, MaxAge: kv.Unlimited, LocalOnly: true}
	_, err := h.opts.Backend.Read(ctx, q)
	switch kv.CodeOf(err) {
	case kv.NotCached, kv.NoLeader, kv.UpstreamUnavailable: // it may: that is judged first
		return nil
	}
	return err
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
