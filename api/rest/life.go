package rest

import (
	"context"

	"holdfast/kv"
)

// parseLife reads ?lease and ?ttl of a PUT: the lease that the key is to live under, or how long it is to live under
// one of its own.
func parseLife(p *params) (id, ttl int64, err error) {
	text, hasLease := p.text("lease")
	life, hasTTL, err := p.duration("ttl")
	switch {
	case err != nil:
		return 0, 0, err
	case hasLease && hasTTL:
		return 0, 0, kv.Errorf(kv.Invalid, "ttl and lease exclude each other: with a ttl the key has a lease of its own")
	case hasTTL:
		ttl, err = leaseTTL("ttl", life)
		return 0, ttl, err
	case hasLease:
		id, ok := parseLeaseID(text)
		if !ok {
			return 0, 0, errLeaseID(text)
		}
		return id, 0, nil
	}
	return 0, 0, nil
}

// setLife makes a write one of a key that ends with its lease. A quorum has to count its time, so it is never queued.
func (w *write) setLife(id, ttl int64) error {
	if id == 0 && ttl == 0 {
		return nil
	}
	if w.mode == kv.WriteQueue {
		return kv.Errorf(kv.Invalid, "write=queue goes without ttl and lease: a quorum counts their time")
	}
	w.lease, w.ttl, w.mode = id, ttl, kv.WriteSync
	return nil
}

// send sends the command of a PUT or DELETE. With ?ttl it makes a lease as well, in the same command: the key and its
// lease are there together or not at all, and its time counts from the commit.
func (h *Handler) send(ctx context.Context, req *write, c kv.Command) (kv.Result, error) {
	if req.ttl == 0 {
		return h.opts.Backend.Do(ctx, c)
	}
	put, _ := c.Ops[0].(kv.Put) // setLife is for puts
	op := kv.LeaseGrant{TTL: req.ttl}
	result, err := h.grant(ctx, c, &op, put)
	if err != nil {
		return result, err
	}
	req.lease, result.Ops = op.ID, result.Ops[1:]
	return result, nil
}
