package rest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strconv"

	"holdfast/kv"
)

// One page of a list ends at whichever comes first. A node may therefore hold about 5 MiB for a list in flight, or,
// where the values are large, listFirst of them.
const (
	listKeysMax  = 1000
	listBytesMax = 4 << 20
	listFirst    = 16 // keys read before anything is known of their size
)

// listRequest is a GET with ?prefix, decoded.
type listRequest struct {
	prefix   []byte
	keysOnly bool
	limit    int
	after    cursor
	fresh    freshness
}

func (h *Handler) parseList(r *http.Request, prefix string, p *params) (req listRequest, err error) {
	req.prefix = []byte(prefix)
	if req.keysOnly, err = p.flag("keys_only"); err != nil {
		return req, err
	}
	limit, err := p.number("limit", 1)
	if err != nil {
		return req, err
	}
	req.limit = listKeysMax
	if limit > 0 {
		req.limit = int(min(limit, listKeysMax))
	}
	if token, ok := p.text("after"); ok {
		if req.after, err = parseCursor(token, req.prefix); err != nil {
			return req, err
		}
	}
	if req.fresh, err = h.parseFresh(p, r.Header, true); err != nil {
		return req, err
	}
	if req.fresh.poll.asked && req.after.revision > 0 {
		return req, kv.Errorf(kv.Invalid, "index waits for a change, and after goes on with a list as it was: give one of them")
	}
	return req, p.done()
}

// list answers with a page of the keys under a prefix, in order of the key, read at one revision. A page that is not
// the last has "next"; given as ?after it brings the next page at the same revision, or 410 once that is compacted.
func (h *Handler) list(w http.ResponseWriter, r *http.Request, prefix string, p *params) (int, error) {
	req, err := h.parseList(r, prefix, p)
	if err != nil {
		return 0, err
	}
	key, end := kv.PrefixRange(req.prefix)
	if done, err := h.await(w, r, key, end, &req.fresh); done || err != nil {
		return http.StatusNotModified, err
	}
	s := h.newScan(&req)
	var kvs []kv.KeyValue
	for n := s.firstChunk(req.keysOnly); n > 0; n = s.nextChunk() {
		chunk, err := s.read(r.Context(), n)
		if err != nil {
			return 0, err
		}
		kvs = append(kvs, chunk...)
	}
	header := w.Header()
	h.setPage(header, &s.page, req.fresh)
	if req.after.revision > 0 && s.page.Source == kv.SourceUpstream {
		header["Cache-Status"] = cacheBypass // a cache holds the newest revision only
	}
	header["Content-Type"] = typeJSON
	header["X-Content-Type-Options"] = nosniff
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return http.StatusOK, nil
	}
	s.write(w, kvs)
	return http.StatusOK, nil
}

// write streams the page as JSON.
func (s *scan) write(w http.ResponseWriter, kvs []kv.KeyValue) {
	b := append(make([]byte, 0, 4096), `{"kvs":[`...)
	for i := range kvs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b = appendKV(b, &kvs[i], s.keysOnly)
		b = append(b, '}')
		if len(b) >= 32<<10 {
			if _, err := w.Write(b); err != nil { //nolint:gosec // JSON, said to be JSON, and nosniff
				return // the client has gone
			}
			b = b[:0]
		}
	}
	b = append(b, `],"revision":`...)
	b = strconv.AppendInt(b, s.at.revision, 10)
	b = append(b, `,"count":`...)
	b = strconv.AppendInt(b, s.count, 10)
	b = append(b, `,"more":`...)
	b = strconv.AppendBool(b, s.more)
	if s.more {
		b = append(b, `,"next":"`...)
		b = append(b, s.at.String()...)
		b = append(b, '"')
	}
	_, _ = w.Write(append(b, "}\n"...)) //nolint:gosec // as above
}

// scan reads a range in chunks at one revision: that of the first chunk, or of the cursor it goes on from.
type scan struct {
	h        *Handler
	key, end []byte
	keysOnly bool
	fresh    freshness
	keys     int // that may still be read
	bytes    int // of values read
	taken    int // keys read

	at    cursor  // behind the last key read
	page  kv.Page // of the first chunk, for the headers
	count int64   // keys in the whole range, those before the cursor included
	more  bool
}

func (h *Handler) newScan(req *listRequest) *scan {
	s := &scan{h: h, keysOnly: req.keysOnly, fresh: req.fresh, keys: req.limit, at: req.after}
	s.key, s.end = kv.PrefixRange(req.prefix)
	if s.at.revision > 0 {
		s.key = s.at.successor()
		s.fresh.minRevision = max(s.fresh.minRevision, s.at.revision)
		if s.fresh.wait == 0 {
			s.fresh.wait = waitDefault
		}
	}
	return s
}

func (s *scan) firstChunk(keysOnly bool) int {
	if keysOnly {
		return s.keys
	}
	return min(s.keys, listFirst)
}

// nextChunk returns how many keys to read next, 0 when the page is full.
func (s *scan) nextChunk() int {
	if s.bytes >= listBytesMax {
		return 0
	}
	return s.chunk(listBytesMax - s.bytes)
}

// chunk returns how many keys are likely to fit a budget of bytes, by the mean size of those read; 0 if none is left.
func (s *scan) chunk(budget int) int {
	if !s.more || s.keys == 0 {
		return 0
	}
	mean := max(1, s.bytes/max(1, s.taken))
	return min(s.keys, listKeysMax, max(1, budget/mean))
}

// read returns the next keys, n at most.
func (s *scan) read(ctx context.Context, n int) ([]kv.KeyValue, error) {
	started := s.at.revision > 0
	page, err := s.h.opts.Backend.Read(ctx, s.fresh.query(kv.Range{
		Key: s.key, End: s.end, Limit: int64(n), Revision: s.at.revision, KeysOnly: s.keysOnly,
	}))
	if err != nil {
		return nil, err
	}
	switch {
	case !started:
		s.at.epoch, s.at.revision = page.Epoch, page.Revision
	case s.at.epoch != page.Epoch:
		return nil, &kv.Error{Code: kv.Compacted, Detail: "the cluster was restored since the list began; begin it again"}
	}
	if s.taken == 0 {
		s.page = page
		s.count = s.at.listed + page.Ops[0].Count
	}
	kvs := page.Ops[0].KVs
	s.more = page.Ops[0].More && len(kvs) > 0
	for i := range kvs {
		s.bytes += len(kvs[i].Key) + len(kvs[i].Value)
	}
	s.taken += len(kvs)
	s.keys -= len(kvs)
	s.at.listed += int64(len(kvs))
	if len(kvs) > 0 {
		s.at.key = kvs[len(kvs)-1].Key
		s.key = s.at.successor()
	}
	// What is left is pinned to a revision that exists, so that its age no longer matters.
	s.fresh = freshness{maxAge: kv.Unlimited, local: s.fresh.local, minRevision: s.at.revision, wait: waitDefault}
	return kvs, nil
}

// cursor is where a list goes on: behind a key, at a revision of an epoch. Outside it is opaque.
type cursor struct {
	epoch    kv.Epoch
	revision int64 // 0: from the start
	listed   int64 // keys before
	key      []byte
}

// successor is the least key behind the cursor.
func (c cursor) successor() []byte {
	return append(append(make([]byte, 0, len(c.key)+1), c.key...), 0)
}

const cursorVersion = 1

func (c cursor) String() string {
	b := []byte{cursorVersion}
	b = binary.BigEndian.AppendUint64(b, c.epoch.Cluster)
	b = append(b, c.epoch.Nonce[:]...)
	b = binary.AppendUvarint(b, uint64(c.revision))
	b = binary.AppendUvarint(b, uint64(c.listed))
	b = append(b, c.key...)
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(token string, prefix []byte) (cursor, error) {
	var c cursor
	bad := kv.Errorf(kv.Invalid, "after=%q is not the \"next\" of a list with this prefix", token)
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < 25 || b[0] != cursorVersion {
		return c, bad
	}
	c.epoch.Cluster = binary.BigEndian.Uint64(b[1:])
	copy(c.epoch.Nonce[:], b[9:])
	b = b[25:]
	for _, field := range []*int64{&c.revision, &c.listed} {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<62 {
			return c, bad
		}
		*field, b = int64(v), b[n:]
	}
	c.key = b
	if c.revision == 0 || !bytes.HasPrefix(c.key, prefix) || len(c.key) == 0 {
		return c, bad
	}
	return c, nil
}
