package rest

import (
	"errors"
	"net/http"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// txn answers POST /v1/txn: compares, and the operations that follow from them, at one revision.
//
//	{"compare": [{"key": "lock", "mod_revision": 0}],
//	 "then":    [{"put": {"key": "lock", "value": "me"}}],
//	 "else":    [{"get": {"key": "lock"}}]}
//
// One that changes nothing, whichever way it goes, is a read, and as fresh as it asks to be. Any other is decided by a
// quorum and never queued.
func (h *Handler) txn(w http.ResponseWriter, r *http.Request) (int, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	fresh, err := h.parseFreshness(&p, r.Header)
	if err != nil {
		return 0, err
	}
	if err := p.done(); err != nil {
		return 0, err
	}
	if err := checkUnguarded(r.Header); err != nil {
		return 0, err
	}
	retry, err := parseRetryKey(r.Header)
	if err != nil {
		return 0, err
	}
	body, err := h.readDocument(w, r)
	if err != nil {
		return 0, err
	}
	t, err := h.parseTxn(body)
	if err != nil {
		return 0, err
	}
	ops := []kv.Op{t}
	if kv.ReadOnly(ops) {
		page, err := h.opts.Backend.Read(r.Context(), fresh.query(t))
		if err != nil {
			return 0, err
		}
		h.setPage(w.Header(), &page, fresh)
		return replyTxn(w, t, &page.Ops[0], page.Revision), nil
	}
	if p.n > 0 {
		return 0, kv.Errorf(kv.Invalid, "a transaction that writes takes no query parameters: it is decided by a quorum, and what it reads is as fresh as that")
	}
	result, err := h.opts.Backend.Do(r.Context(), kv.Command{ID: kv.ID{Key: retry}, Ops: ops})
	if err != nil {
		return 0, err
	}
	h.setResult(w.Header(), &result, formatRevision(result.Revision))
	return replyTxn(w, t, &result.Ops[0], result.Revision), nil
}

// checkUnguarded refuses headers that would guard a request which holds its conditions in its body: to pass over them
// would write what its sender has forbidden.
func checkUnguarded(header http.Header) error {
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if header[name] != nil {
			return kv.Errorf(kv.Invalid, "%s is about one key and guards nothing here; say in the body what must hold", name)
		}
	}
	return nil
}

// readDocument reads a body that is one JSON document.
func (h *Handler) readDocument(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > int64(h.opts.RequestMax) {
		return nil, h.errRequest()
	}
	if err := checkBody(r.Header); err != nil {
		return nil, err
	}
	body, err := h.readBody(w, r, h.opts.RequestMax)
	if errors.Is(err, errOverLimit) {
		return nil, h.errRequest()
	}
	return body, err
}

func (h *Handler) errRequest() error {
	return kv.Errorf(kv.TooLarge, "the body is longer than %d bytes, the limit (limits.request)", h.opts.RequestMax)
}

// opDecoder reads operations within the limits of the node.
type opDecoder struct {
	*decoder
	limits *Options
	ops    int // of all transactions so far
	tests  int // compares, likewise
	depth  int
}

func (h *Handler) parseTxn(body []byte) (kv.Txn, error) {
	d, err := newDecoder(body)
	if err != nil {
		return kv.Txn{}, err
	}
	o := &opDecoder{decoder: d, limits: &h.opts}
	t, err := o.txn()
	if err == nil {
		err = d.end()
	}
	return t, err
}

func (d *opDecoder) txn() (t kv.Txn, err error) {
	if d.depth++; d.depth > wire.MaxDepth {
		return t, d.refuse(kv.TooManyOps, "transactions are nested deeper than %d", wire.MaxDepth)
	}
	err = d.object(func(name string) error {
		switch name {
		case "compare":
			return d.array(func() error {
				c, err := d.compare()
				t.Compares = append(t.Compares, c)
				return err
			})
		case "then":
			return d.list(&t.Then)
		case "else":
			return d.list(&t.Else)
		}
		return d.errUnknown("compare, then and else")
	})
	d.depth--
	return t, err
}

func (d *opDecoder) list(ops *[]kv.Op) error {
	return d.array(func() error {
		if d.ops++; d.ops > d.limits.OpsMax {
			return d.refuse(kv.TooManyOps, "more than %d operations in a transaction, those of nested ones included (limits.txn-ops)", d.limits.OpsMax)
		}
		op, err := d.op()
		*ops = append(*ops, op)
		return err
	})
}

// op reads an operation: an object with one member, which names its kind.
func (d *opDecoder) op() (op kv.Op, err error) {
	err = d.object(func(name string) (err error) {
		if op != nil {
			return d.errorf("one operation is one object; put this one in an object of its own")
		}
		switch name {
		case "put":
			op, err = d.put(true)
		case "delete":
			op, err = d.delete(true)
		case "get":
			op, err = d.get()
		case "txn":
			op, err = d.txn()
		default:
			err = d.errUnknown("put, get, delete and txn")
		}
		return err
	})
	if err == nil && op == nil {
		err = d.errorf("an operation is missing: one of put, get, delete and txn")
	}
	return op, err
}
