//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/test/linear"
)

const (
	writers       = 8
	keysPerWriter = 4
	sharedKeys    = 2 // of each round
)

// ledger is a key that one writer alone puts, and what it knows of it. The n-th value put has the number n in it.
type ledger struct {
	key      string
	tried    int   // number of the last value sent
	acked    int   // number of the last value known to be stored
	revision int64 // of acked
}

// value is the n-th of a key: anybody can tell whether it is whole.
func value(key string, n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), uint64(len(key))))
	size := 32 + rng.IntN(224)
	switch rng.IntN(100) {
	case 0:
		size = 100 << 10
	case 1, 2, 3:
		size = 8 << 10
	}
	b := fmt.Appendf(nil, "%s %d ", key, n)
	for len(b) < size {
		b = append(b, byte('a'+rng.IntN(26)))
	}
	return b
}

// numberOf returns n of a value, and whether every byte of it is as it was put.
func numberOf(key string, b []byte) (int, bool) {
	rest, ok := strings.CutPrefix(string(b[:min(len(b), 200)]), key+" ")
	digits, _, ok2 := strings.Cut(rest, " ")
	n, err := strconv.Atoi(digits)
	return n, ok && ok2 && err == nil && bytes.Equal(b, value(key, n))
}

// fate is what an answer says about a write.
type fate int

const (
	stored  fate = iota
	refused      // certainly not
	unknown
)

// fateOf judges an answer to a write; surprise is what should not have happened at all.
func fateOf(r reply, err error) (f fate, surprise string) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused, ""
	case err != nil:
		return unknown, ""
	case r.status == 200 || r.status == 201 || r.status == 204 || r.status == 404 || r.status == 412:
		return stored, ""
	case r.status == 503 || r.status == 507 || r.status == 429:
		return refused, ""
	case r.status == 504:
		return unknown, ""
	}
	return unknown, fmt.Sprintf("%d %s", r.status, r.body)
}

// writer puts its own keys, and reads and writes those it shares with the others.
type writer struct {
	id     int
	client *http.Client
	own    []*ledger

	acked     int   // writes acknowledged
	perRev    []ack // each of them
	surprises []string
}

// ack is a write that was acknowledged: it is part of the history for good.
type ack struct {
	key      string
	n        int // number of the value, -1 for a delete or a shared key
	revision int64
}

func newWriter(id int) *writer {
	w := &writer{id: id, client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, MaxIdleConnsPerHost: 1,
	}}}
	for i := range keysPerWriter {
		w.own = append(w.own, &ledger{key: fmt.Sprintf("own/%d/%d", id, i)})
	}
	return w
}

// run works until ctx ends or the agent does not answer any more.
func (w *writer) run(ctx context.Context, rng *rand.Rand, url string, round int, h *linear.History) {
	for ctx.Err() == nil {
		var up bool
		switch n := rng.IntN(10); {
		case n < 6:
			up = w.put(ctx, url, w.own[rng.IntN(len(w.own))])
		case n < 7:
			up = w.readOwn(ctx, url, w.own[rng.IntN(len(w.own))])
		default:
			up = w.share(ctx, rng, url, fmt.Sprintf("shared/%d/%d", round, rng.IntN(sharedKeys)), h)
		}
		if !up {
			return
		}
	}
}

// put sends the next value of an own key. It is not cut short by ctx: what has been sent waits for its answer.
func (w *writer) put(ctx context.Context, url string, l *ledger) (up bool) {
	l.tried++
	r, err := call(context.WithoutCancel(ctx), w.client, "PUT", url+"/v1/kv/"+l.key, value(l.key, l.tried))
	f, surprise := fateOf(r, err)
	w.note(surprise, "PUT", l.key)
	if f == stored && (r.status == 404 || r.status == 412) {
		w.note(fmt.Sprintf("%d %s", r.status, r.body), "PUT", l.key)
	} else if f == stored {
		l.acked, l.revision = l.tried, w.revision(r, l.key)
		w.remember(ack{l.key, l.tried, l.revision})
	}
	return err == nil
}

func (w *writer) remember(a ack) {
	w.acked++
	w.perRev = append(w.perRev, a)
}

func (w *writer) note(surprise, method, key string) {
	if surprise != "" {
		w.surprises = append(w.surprises, method+" "+key+": "+surprise)
	}
}

// revision reads the body of an answer to a write.
func (w *writer) revision(r reply, key string) int64 {
	var body struct{ Revision int64 }
	if err := json.Unmarshal(r.body, &body); err != nil || body.Revision < 2 {
		w.note(fmt.Sprintf("no revision in %q", r.body), "write of", key)
	}
	return body.Revision
}

// readOwn reads an own key and expects no less than what was acknowledged.
func (w *writer) readOwn(ctx context.Context, url string, l *ledger) (up bool) {
	r, err := call(context.WithoutCancel(ctx), w.client, "GET", url+"/v1/kv/"+l.key+"?consistency=linearizable", nil)
	if err != nil || r.status == 503 {
		return err == nil
	}
	if r.status == 404 {
		if l.acked > 0 {
			w.note("absent, acknowledged was "+strconv.Itoa(l.acked), "GET", l.key)
		}
		return true
	}
	n, whole := numberOf(l.key, r.body)
	if r.status != 200 || !whole || n < l.acked || n > l.tried {
		w.note(fmt.Sprintf("%d, value %d (whole: %v), acknowledged %d, tried %d", r.status, n, whole, l.acked, l.tried), "GET", l.key)
	}
	return true
}

// share does something with a key that all writers use, and records it.
func (w *writer) share(ctx context.Context, rng *rand.Rand, url, key string, h *linear.History) (up bool) {
	ctx = context.WithoutCancel(ctx)
	url += "/v1/kv/" + key
	text := fmt.Sprintf("%d.%d", w.id, rng.Uint32())
	switch rng.IntN(6) {
	case 0, 1:
		_, up = w.sharedGet(ctx, url, key, h)
		return up
	case 2:
		at, up := w.sharedGet(ctx, url, key, h)
		if !up || at < 0 {
			return up
		}
		condition := []string{"If-Match", `"` + strconv.FormatInt(at, 10) + `"`}
		if at == 0 {
			condition = []string{"If-None-Match", "*"}
		}
		return w.shared(ctx, "PUT", url, linear.CAS(key, text, at), h, condition...)
	case 3:
		return w.shared(ctx, "DELETE", url, linear.Delete(key), h)
	default:
		return w.shared(ctx, "PUT", url, linear.Put(key, text), h)
	}
}

// sharedGet returns the mod revision found, 0 for none, -1 if the read was refused.
func (w *writer) sharedGet(ctx context.Context, url, key string, h *linear.History) (revision int64, up bool) {
	c := h.Begin(w.id, linear.Get(key))
	r, err := call(ctx, w.client, "GET", url+"?consistency=linearizable", nil)
	switch {
	case err != nil || r.status == 503:
		c.Refused()
		return -1, err == nil
	case r.status == 404:
		c.Done(linear.Absent())
		return 0, true
	}
	revision, bad := strconv.ParseInt(strings.Trim(r.header.Get("ETag"), `"`), 10, 64)
	if r.status != 200 || bad != nil {
		w.note(fmt.Sprintf("%d %s, ETag %q", r.status, r.body, r.header.Get("ETag")), "GET", key)
		c.Refused()
		return -1, true
	}
	c.Done(linear.Found(string(r.body), revision))
	return revision, true
}

// shared sends a write and records how it ended.
func (w *writer) shared(ctx context.Context, method, url string, op linear.Op, h *linear.History, header ...string) (up bool) {
	c := h.Begin(w.id, op)
	r, err := call(ctx, w.client, method, url, []byte(op.Value), header...)
	f, surprise := fateOf(r, err)
	w.note(surprise, method, op.Key)
	switch {
	case f == unknown:
		c.Unknown()
	case f == refused:
		c.Refused()
	case r.status == 404:
		c.Done(linear.Absent())
	case r.status == 412:
		var body struct {
			Mod *int64 `json:"mod_revision"`
		}
		if err := json.Unmarshal(r.body, &body); err != nil || body.Mod == nil {
			w.note(fmt.Sprintf("no mod_revision in %q", r.body), method, op.Key)
			c.Unknown()
			break
		}
		c.Done(linear.Mismatch(*body.Mod))
	default:
		revision := w.revision(r, op.Key)
		c.Done(linear.Wrote(revision))
		w.remember(ack{op.Key, -1, revision})
	}
	return err == nil
}

// drive lets the writers work on the agent until ctx ends or it is gone; the WaitGroup waits for them.
func drive(ctx context.Context, ws []*writer, rng *rand.Rand, url string, round int, h *linear.History) *sync.WaitGroup {
	wg := new(sync.WaitGroup)
	for _, w := range ws {
		mine := rand.New(rand.NewPCG(rng.Uint64(), uint64(w.id)))
		wg.Go(func() { w.run(ctx, mine, url, round, h) })
	}
	return wg
}

// item is a key as a list or a watch shows it.
type item struct {
	Type  string `json:"type"`
	Key   string `json:"key"`
	Value string `json:"value"`
	Mod   int64  `json:"mod_revision"`
}

func (i item) bytes(t *testing.T) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(i.Value)
	if err != nil {
		t.Fatalf("value of %s: %v", i.Key, err)
	}
	return b
}

// list reads all keys under a prefix, linearizably, and the revision they were read at.
func (a *agent) list(prefix string) (items []item, revision int64) {
	a.t.Helper()
	next := ""
	for {
		r := a.do("GET", "/v1/kv/"+prefix+"?prefix&consistency=linearizable"+next, nil)
		var page struct {
			KVs      []item `json:"kvs"`
			Revision int64  `json:"revision"`
			Next     string `json:"next"`
		}
		if err := json.Unmarshal(r.body, &page); r.status != 200 || err != nil {
			a.t.Fatalf("list: %d %.300s %v", r.status, r.body, err)
		}
		items = append(items, page.KVs...)
		if page.Next == "" {
			return items, page.Revision
		}
		next = "&after=" + page.Next
	}
}
