package rest

import (
	"net/http"

	"holdfast/kv"
)

// listLeases names all leases.
func (h *Handler) listLeases(w http.ResponseWriter, r *http.Request) (int, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	page, err := h.readLeases(w, r, &p, kv.LeaseList{})
	if err != nil {
		return 0, err
	}
	type named struct {
		ID string `json:"id"`
	}
	list := make([]named, 0, len(page.Ops[0].Leases)) // never null
	for _, l := range page.Ops[0].Leases {
		list = append(list, named{formatLeaseID(l.ID)})
	}
	return replyJSON(w, http.StatusOK, struct {
		Leases   []named `json:"leases"`
		Revision int64   `json:"revision"`
	}{list, page.Revision})
}

// showLease says how long a lease has left, and with ?keys what lives under it.
func (h *Handler) showLease(w http.ResponseWriter, r *http.Request, id int64) (int, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	withKeys, err := p.flag("keys")
	if err != nil {
		return 0, err
	}
	page, err := h.readLeases(w, r, &p, kv.LeaseTTL{ID: id, Keys: withKeys})
	if err != nil {
		return 0, err
	}
	found := &page.Ops[0]
	shown := struct {
		lease
		Keys []leaseKey `json:"keys,omitzero"`
	}{lease: shownLease(found, kv.Lease{ID: id, TTL: -1})}
	if shown.TTL < 0 {
		return 0, errNoLease(id)
	}
	if withKeys {
		shown.Keys = make([]leaseKey, 0, len(found.KVs)) // never null
		for i := range found.KVs {
			shown.Keys = append(shown.Keys, leaseKey(found.KVs[i].Key))
		}
	}
	return replyJSON(w, http.StatusOK, shown)
}

// leaseKey is a key under a lease, shown as everywhere.
type leaseKey []byte

func (k leaseKey) MarshalJSON() ([]byte, error) {
	return append(appendKey([]byte{'{'}, k), '}'), nil
}

// readLeases asks what a request asks about leases, as fresh as it wants it, and sets the headers of the answer.
func (h *Handler) readLeases(w http.ResponseWriter, r *http.Request, p *params, op kv.Op) (kv.Page, error) {
	fresh, err := h.parseFreshness(p, r.Header)
	if err != nil {
		return kv.Page{}, err
	}
	if err := p.done(); err != nil {
		return kv.Page{}, err
	}
	page, err := h.opts.Backend.Read(r.Context(), fresh.query(op))
	if err == nil {
		h.setPage(w.Header(), &page, fresh)
	}
	return page, err
}
