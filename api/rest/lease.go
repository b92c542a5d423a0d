package rest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/http"
	"strconv"
	"time"

	"holdfast/kv"
)

// A lease is named by its id, 16 hexadecimal digits as etcdctl prints them; leading zeros may be left out of a request.

// leaseTTLMax is the longest life of a lease, etcd's.
const leaseTTLMax = 9_000_000_000 * time.Second

// leaseTries is how often a node draws another id when the one it has drawn, of 63 random bits, is taken.
const leaseTries = 3

func formatLeaseID(id int64) string {
	const digits = "0123456789abcdef"
	var b [16]byte
	for i, u := len(b)-1, uint64(id); i >= 0; i, u = i-1, u>>4 {
		b[i] = digits[u&15]
	}
	return string(b[:])
}

func parseLeaseID(s string) (id int64, ok bool) {
	if len(s) > 16 || s == "" || s[0] == '+' {
		return 0, false
	}
	u, err := strconv.ParseUint(s, 16, 64)
	return int64(u), err == nil && u != 0
}

// newLeaseID draws an id. It is positive, as etcd's are.
func newLeaseID() int64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		if id := int64(binary.BigEndian.Uint64(b[:]) >> 1); id != 0 {
			return id
		}
	}
}

// leaseTTL is a duration as the whole seconds of a lease, rounded up so that it never lives shorter than asked for.
func leaseTTL(name string, d time.Duration) (seconds int64, err error) {
	switch {
	case d <= 0:
		return 0, kv.Errorf(kv.Invalid, "%s=%v is no life for a lease: give 1s or more", name, d)
	case d > leaseTTLMax:
		return 0, kv.Errorf(kv.LeaseTTLTooLarge, "%s=%v is longer than the longest life of a lease, %d s", name, d, int64(leaseTTLMax/time.Second))
	}
	return wholeSeconds(d), nil
}

// serveLeases is for all leases: to list them, or to have one made under an id of the node's choice.
func (h *Handler) serveLeases(w http.ResponseWriter, r *http.Request) (int, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.listLeases(w, r)
	case http.MethodPost:
		return h.grantLease(w, r, 0)
	case http.MethodOptions:
		return replyOptions(w, allowLeases)
	default:
		return 0, errMethod(r, allowLeases)
	}
}

// serveLease is for one lease: to make it, to see how long it has, or to end it.
func (h *Handler) serveLease(w http.ResponseWriter, r *http.Request, name string) (int, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
	case http.MethodOptions:
		return replyOptions(w, allowLease)
	default:
		return 0, errMethod(r, allowLease)
	}
	id, ok := parseLeaseID(name)
	if !ok {
		return 0, errLeaseID(name)
	}
	switch r.Method {
	case http.MethodPut:
		return h.grantLease(w, r, id)
	case http.MethodDelete:
		return h.revokeLease(w, r, id)
	default:
		return h.showLease(w, r, id)
	}
}

func errLeaseID(given string) error {
	return kv.Errorf(kv.Invalid, "%s is not the id of a lease: up to 16 hexadecimal digits, and not 0", quoted(given))
}

func errNoLease(id int64) error {
	return kv.Errorf(kv.LeaseNotFound, "there is no lease %s, or it has expired", formatLeaseID(id))
}

// grantLease makes a lease, with an id drawn here if id is 0.
func (h *Handler) grantLease(w http.ResponseWriter, r *http.Request, id int64) (int, error) {
	ttl, err := h.parseGrant(w, r)
	if err != nil {
		return 0, err
	}
	retry, err := parseRetryKey(r.Header)
	if err != nil {
		return 0, err
	}
	op := kv.LeaseGrant{ID: id, TTL: ttl}
	result, err := h.grant(r.Context(), kv.Command{ID: kv.ID{Key: retry}}, &op)
	if err != nil {
		return 0, err
	}
	header := w.Header()
	h.setResult(header, &result, formatRevision(result.Revision))
	header.Set("Location", leaseRoot+formatLeaseID(op.ID))
	return replyJSON(w, http.StatusCreated, shownLease(&result.Ops[0], kv.Lease{ID: op.ID, TTL: ttl, Granted: ttl}))
}

// grant sends a command that begins with making a lease. If op has no id yet, one is drawn; rest is what follows in the
// command.
func (h *Handler) grant(ctx context.Context, c kv.Command, op *kv.LeaseGrant, rest ...kv.Put) (kv.Result, error) {
	tries, draw := 1, op.ID == 0
	if draw {
		tries = leaseTries
	}
	for retry := retryKey(c.ID.Key); ; {
		if draw {
			retry = retry.part(tries)
			c.ID.Key, op.ID = retry, retry.leaseID()
		}
		c.Ops = []kv.Op{*op}
		for _, put := range rest {
			put.Lease = op.ID
			c.Ops = append(c.Ops, put)
		}
		result, err := h.opts.Backend.Do(ctx, c)
		if tries--; tries == 0 || kv.CodeOf(err) != kv.LeaseExists {
			return result, err
		}
	}
}

// parseGrant reads how long a lease is to live: ?ttl=30s, or a body such as {"ttl":"30s"}.
func (h *Handler) parseGrant(w http.ResponseWriter, r *http.Request) (seconds int64, err error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	ttl, given, err := p.duration("ttl")
	if err != nil {
		return 0, err
	}
	if err := p.done(); err != nil {
		return 0, err
	}
	if err := checkUnguarded(r.Header); err != nil {
		return 0, err
	}
	body, err := h.readDocument(w, r)
	switch {
	case err != nil:
		return 0, err
	case given && len(body) > 0:
		return 0, kv.Errorf(kv.Invalid, "ttl is given in the query; leave the body out")
	case given:
		return leaseTTL("ttl", ttl)
	case len(body) == 0:
		return 0, kv.Errorf(kv.Invalid, `the lease has no life: give ?ttl=30s, or the body {"ttl":"30s"}`)
	}
	return decodeGrant(body)
}

func decodeGrant(body []byte) (seconds int64, err error) {
	d, err := newDecoder(body)
	if err != nil {
		return 0, err
	}
	err = d.object(func(name string) error {
		if name != "ttl" {
			return d.errUnknown("ttl")
		}
		seconds, err = d.ttl()
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case seconds == 0:
		return 0, d.errorf("ttl is missing")
	}
	return seconds, d.end()
}

// ttl reads a life such as "30s" or "10m".
func (d *decoder) ttl() (seconds int64, err error) {
	s, err := d.text()
	if err != nil {
		return 0, err
	}
	life, err := time.ParseDuration(s)
	if err != nil {
		return 0, d.errorf(`%q is not a duration such as "30s" or "10m"`, shortened(s))
	}
	if seconds, err = leaseTTL("ttl", life); err != nil {
		e, _ := errors.AsType[*kv.Error](err)
		return 0, d.refuse(e.Code, "%s", e.Detail)
	}
	return seconds, nil
}

// keepAlive lets a lease live for its whole life once more, counted from the answer of the leader.
func (h *Handler) keepAlive(w http.ResponseWriter, r *http.Request, name string) (int, error) {
	switch r.Method {
	case http.MethodPost:
	case http.MethodOptions:
		return replyOptions(w, allowKeepAlive)
	default:
		return 0, errMethod(r, allowKeepAlive)
	}
	result, id, err := h.onLease(r, name, func(id int64) kv.Op { return kv.LeaseKeepAlive{ID: id} })
	if err != nil {
		return 0, err
	}
	lease := shownLease(&result.Ops[0], kv.Lease{ID: id, TTL: -1})
	if lease.TTL <= 0 {
		return 0, errNoLease(id)
	}
	h.setResult(w.Header(), &result, formatRevision(result.Revision))
	return replyJSON(w, http.StatusOK, lease)
}

// revokeLease ends a lease, and deletes its keys.
func (h *Handler) revokeLease(w http.ResponseWriter, r *http.Request, id int64) (int, error) {
	result, _, err := h.onLease(r, formatLeaseID(id), func(id int64) kv.Op { return kv.LeaseRevoke{ID: id} })
	if err != nil {
		return 0, err
	}
	h.setResult(w.Header(), &result, formatRevision(result.Revision))
	return replyJSON(w, http.StatusOK, struct {
		Revision int64 `json:"revision"`
	}{result.Revision})
}

// onLease sends a command about a lease, for a request that says nothing more.
func (h *Handler) onLease(r *http.Request, name string, op func(id int64) kv.Op) (result kv.Result, id int64, err error) {
	id, ok := parseLeaseID(name)
	if !ok {
		return result, 0, errLeaseID(name)
	}
	p, err := parseParams(r.URL.RawQuery)
	if err == nil {
		err = p.done()
	}
	if err == nil {
		err = checkUnguarded(r.Header)
	}
	var retry retryKey
	if err == nil {
		retry, err = parseRetryKey(r.Header)
	}
	if err != nil {
		return result, id, err
	}
	c := kv.Command{ID: kv.ID{Key: retry}, Ops: []kv.Op{op(id)}}
	if _, ok := c.Ops[0].(kv.LeaseKeepAlive); ok {
		c.ID = kv.ID{} // to renew twice does no harm, and leaves no trace that could be kept
	}
	result, err = h.opts.Backend.Do(r.Context(), c)
	return result, id, err
}

// lease is a lease as it is shown. Times are in seconds.
type lease struct {
	ID      string `json:"id"`
	TTL     int64  `json:"ttl"`         // that it has left
	Granted int64  `json:"granted_ttl"` // that it has after each keep-alive
}

// shownLease is the lease of a result; what the node does not say is taken from known.
func shownLease(r *kv.OpResult, known kv.Lease) lease {
	if len(r.Leases) > 0 {
		known = r.Leases[0]
	}
	return lease{ID: formatLeaseID(known.ID), TTL: known.TTL, Granted: known.Granted}
}
