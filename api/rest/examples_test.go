package rest

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// What is the case before an example.
var (
	// stored is a few keys: a at revision 2, p/1 at 3, p/2 at 4.
	stored = func(n *node) {
		n.put("a", "1")
		n.put("p/1", "2")
		n.put("p/2", "3")
	}
	// lent is the same, with a under lease 1.
	lent = func(n *node) {
		n.do(kv.LeaseGrant{ID: 1, TTL: 3600}, kv.Put{Key: []byte("a"), Value: []byte("1"), Lease: 1})
		n.put("p/1", "2")
		n.put("p/2", "3")
	}
	stale = func(n *node) { // as a proxy that has lost its uplink answers
		stored(n)
		n.between.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
			page, err := n.store.Read(ctx, q)
			page.Source, page.Age, page.Pending = kv.SourceCache, 1500*time.Millisecond, 2
			return page, err
		}
	}
	queued = func(n *node) {
		n.between.do = func(context.Context, kv.Command) (kv.Result, error) {
			return kv.Result{Queued: &kv.Receipt{ID: "normal-1", Expires: issued}}, nil
		}
	}
	compact = func(n *node) { n.compacted() }
	// renewed is a watch whose history has another epoch once it is open.
	renewed = func(n *node) {
		n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
			return func(yield func(kv.Batch, error) bool) {
				for b, err := range n.store.Watch(ctx, w) {
					if !yield(b, err) {
						return
					}
					b.Created = false
					b.Epoch.Nonce[0]++
					if !yield(b, nil) {
						return
					}
				}
			}
		}
	}
)

// fails is a node that answers everything with an error.
func fails(code kv.Code) func(n *node) {
	return func(n *node) {
		err := &kv.Error{Code: code, Detail: "so it was told to"}
		n.between.do = func(context.Context, kv.Command) (kv.Result, error) { return kv.Result{}, err }
		n.between.read = func(context.Context, kv.Query) (kv.Page, error) { return kv.Page{}, err }
	}
}

// linedUp is a node with a queue that holds one write, which may have been sent.
func linedUp(o *Options) {
	l := newLine(api.QueueItem{ID: "1", Key: "a", State: "queued", Lane: "normal", Queued: issued, Expires: &issued},
		api.QueueItem{ID: "2", Key: "\xff", State: "conflict", Lane: "high", Queued: issued, Revision: 7, Code: "precondition-failed", Detail: "somebody else wrote"})
	l.sent["2"] = true
	o.Queue = func() api.Queue { return l }
}

const none = "0000000000000001-00000000000000000000000000000000"

// copied is a node that has a state to copy.
func copied(o *Options) {
	admin := &copier{content: strings.Repeat("state", 1000)}
	o.Admin = func() api.Admin { return admin }
}

// examples show each operation of the document in each of its statuses.
var examples = []example{
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/a", given: stored},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/a", given: stale},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/a?consistency=bounded&max_staleness=5s", given: stored, headers: []string{"If-Match", `"2"`}},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/a?wait=1s", given: stored, headers: []string{"Holdfast-Min-Revision", "4", "Cache-Control", "no-cache"}},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/a?index=1&wait=10s", given: stored},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/?prefix&limit=2", given: lent},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/p/?prefix=true&keys_only=1", given: func(n *node) { stored(n); n.put("p/\xff", "") }},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/p/?prefix&after={next}", given: stored},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/p/?prefix&watch&from_revision=1", given: func(n *node) { stored(n); n.delete("p/1") }, until: `"delete"`},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/?prefix&watch&from_revision=1", given: stored, headers: []string{"Accept", "application/x-ndjson"}, until: `"key":"p/2"`},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/p/?prefix&watch&on_gap=resync", given: compact, headers: []string{"Last-Event-ID", none + ":1:0"}, until: `"synced"`},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/a?watch", given: renewed, until: `"error"`},
	{op: "GET /v1/kv/{key}", status: 304, path: "/v1/kv/a", given: stored, headers: []string{"If-None-Match", `"2"`}},
	{op: "GET /v1/kv/{key}", status: 304, path: "/v1/kv/a?index=4&wait=1ms", given: stored},
	{op: "GET /v1/kv/{key}", status: 400, path: "/v1/kv/a?limit=1"},
	{op: "GET /v1/kv/{key}", status: 404, path: "/v1/kv/none", given: stored},
	{op: "GET /v1/kv/{key}", status: 406, path: "/v1/kv/a?watch", headers: []string{"Accept", "text/html"}},
	{op: "GET /v1/kv/{key}", status: 410, path: "/v1/kv/p/?watch&prefix&on_gap=error&from_revision=2", given: compact},
	{op: "GET /v1/kv/{key}", status: 412, path: "/v1/kv/a", given: stored, headers: []string{"If-Match", `"1"`}},
	{op: "GET /v1/kv/{key}", status: 413, path: "/v1/kv/" + large(keyMax+1)},
	{op: "GET /v1/kv/{key}", status: 503, path: "/v1/kv/a", given: fails(kv.StalenessExceeded)},
	{op: "GET /v1/kv/{key}", status: 504, path: "/v1/kv/a?wait=1ms", given: stored, headers: []string{"Holdfast-Min-Revision", "99"}},
	{op: "GET /v1/kv/{key}", status: 0, path: "/v1/kv/a", headers: []string{"Origin", "https://elsewhere.example"}},

	{op: "GET /v1/snapshot", status: 200, path: "/v1/snapshot", options: copied},
	{op: "GET /v1/snapshot", status: 206, path: "/v1/snapshot", options: copied, given: halfRead, headers: []string{"If-Range", `"held"`, "Range", "bytes=100-"}},
	{op: "GET /v1/snapshot", status: 501, path: "/v1/snapshot"},
	{op: "GET /v1/snapshot", status: 0, path: "/v1/snapshot?x"},

	{op: "HEAD /v1/kv/{key}", status: 200, path: "/v1/kv/a?consistency=bounded&max_staleness=5s", given: stored},
	{op: "HEAD /v1/kv/{key}", status: 200, path: "/v1/kv/a?wait=1s", given: stored, headers: []string{"Holdfast-Min-Revision", "4", "Cache-Control", "no-cache", "If-Match", "*"}},
	{op: "HEAD /v1/kv/{key}", status: 200, path: "/v1/kv/a?index=1", given: stored},
	{op: "HEAD /v1/kv/{key}", status: 200, path: "/v1/kv/p/?prefix&keys_only&limit=1", given: stored},
	{op: "HEAD /v1/kv/{key}", status: 200, path: "/v1/kv/p/?prefix&after={next}", given: stored},
	{op: "HEAD /v1/kv/{key}", status: 304, path: "/v1/kv/a", given: stored, headers: []string{"If-None-Match", "*"}},
	{op: "HEAD /v1/kv/{key}", status: 0, path: "/v1/kv/none"},

	{op: "PUT /v1/kv/{key}", status: 200, path: "/v1/kv/a?write=auto", body: "v", given: stored, headers: []string{"If-Match", `"2"`}},
	{op: "PUT /v1/kv/{key}", status: 200, path: "/v1/kv/a?lease=1", body: "v", given: lent},
	{op: "PUT /v1/kv/{key}", status: 201, path: "/v1/kv/new?ttl=1h", body: "v", given: lent, headers: []string{"If-None-Match", "*"}},
	{op: "PUT /v1/kv/{key}", status: 202, path: "/v1/kv/a?write=queue", body: "v", given: queued},
	{op: "PUT /v1/kv/{key}", status: 204, path: "/v1/kv/a", body: "v", headers: []string{"Prefer", "return=minimal"}},
	{op: "PUT /v1/kv/{key}", status: 400, path: "/v1/kv/a?write=perhaps", body: "v"},
	{op: "PUT /v1/kv/{key}", status: 404, path: "/v1/kv/a?lease=2", body: "v", given: lent},
	{op: "PUT /v1/kv/{key}", status: 405, path: "/v1/kv/a", body: "v", given: fails(kv.ReadOnlyNode)},
	{op: "PUT /v1/kv/{key}", status: 408, path: "/v1/kv/a", halts: true, options: func(o *Options) { o.BodyTimeout = 20 * time.Millisecond }},
	{op: "PUT /v1/kv/{key}", status: 412, path: "/v1/kv/a", body: "v", given: stored, headers: []string{"If-None-Match", "*"}},
	{op: "PUT /v1/kv/{key}", status: 413, path: "/v1/kv/a", body: large(valueMax + 1)},
	{op: "PUT /v1/kv/{key}", status: 415, path: "/v1/kv/a", body: "v", headers: []string{"Content-Encoding", "gzip"}},
	{op: "PUT /v1/kv/{key}", status: 503, path: "/v1/kv/a", body: "v", given: fails(kv.NoLeader)},
	{op: "PUT /v1/kv/{key}", status: 504, path: "/v1/kv/a", body: "v", given: fails(kv.OutcomeUnknown)},
	{op: "PUT /v1/kv/{key}", status: 507, path: "/v1/kv/a", body: "v", given: fails(kv.NoSpace)},
	{op: "PUT /v1/kv/{key}", status: 201, path: "/v1/kv/a", body: "v", headers: []string{"Idempotency-Key", "1"}},
	{op: "PUT /v1/kv/{key}", status: 422, path: "/v1/kv/a", body: "v", headers: []string{"Idempotency-Key", "1"}, given: func(n *node) {
		n.call("PUT", "/v1/kv/a", "w", "Idempotency-Key", "1")
	}},
	{op: "PUT /v1/kv/{key}", status: 0, path: "/v1/kv/a", body: "v", given: fails(kv.RateLimited)},

	{op: "DELETE /v1/kv/{key}", status: 200, path: "/v1/kv/a?write=sync", given: stored, headers: []string{"If-Match", `"2"`, "If-None-Match", `"1"`}},
	{op: "DELETE /v1/kv/{key}", status: 200, path: "/v1/kv/p/?prefix", given: stored},
	{op: "DELETE /v1/kv/{key}", status: 202, path: "/v1/kv/a", given: queued},
	{op: "DELETE /v1/kv/{key}", status: 204, path: "/v1/kv/a", given: stored, headers: []string{"Prefer", "return=minimal"}},
	{op: "DELETE /v1/kv/{key}", status: 400, path: "/v1/kv/?prefix"},
	{op: "DELETE /v1/kv/{key}", status: 404, path: "/v1/kv/none"},
	{op: "DELETE /v1/kv/{key}", status: 412, path: "/v1/kv/a", given: stored, headers: []string{"If-Match", `"1"`}},
	{op: "DELETE /v1/kv/{key}", status: 0, path: "/v1/kv/a", given: fails(kv.Internal)},

	{op: "POST /v1/txn", status: 200, path: "/v1/txn", given: lent, body: `{"compare":[{"key":"a","mod_revision":2},{"key":"p/","prefix":true,"version":0,"is":"greater"},
		{"key":"a","end_base64":"AA==","create_revision":9,"is":"less"},{"key_base64":"YQ==","lease":"1"},{"key":"a","end":"b","value":"2","is":"not_equal"},{"key":"p/1","value_base64":"Mg=="}],
		"then":[{"put":{"key":"a","value":"2","prev_kv":true}},{"put":{"key_base64":"/w==","value_base64":"","lease":"1"}},{"delete":{"key":"p/","prefix":true,"prev_kv":true}},
			{"get":{"key":"","prefix":true,"limit":9,"sort":"key","order":"descending"}},{"txn":{"else":[]}}],
		"else":[{"put":{"key":"a","ignore_value":true,"lease":"1"}},{"delete":{"key":"b","end":"c"}}]}`},
	{op: "POST /v1/txn", status: 200, path: "/v1/txn?consistency=bounded&max_staleness=1s", given: stored, body: `{"then":[{"get":{"key":"a","keys_only":true,"revision":2}},{"get":{"key":"p/","end":"p0","count_only":true,
		"min_mod_revision":1,"max_mod_revision":9,"min_create_revision":1,"max_create_revision":9}}]}`},
	{op: "POST /v1/txn", status: 200, path: "/v1/txn?wait=1s", given: stored, body: `{"else":[]}`, headers: []string{"Holdfast-Min-Revision", "2", "Cache-Control", "max-age=5"}},
	{op: "POST /v1/txn", status: 400, path: "/v1/txn", body: `{"than":[]}`},
	{op: "POST /v1/txn", status: 413, path: "/v1/txn", body: strings.Repeat(" ", requestMax+1)},
	{op: "POST /v1/txn", status: 0, path: "/v1/txn", body: `{"then":[{"delete":{"key":"a"}}]}`, given: fails(kv.NoLeader)},

	{op: "POST /v1/batch", status: 200, path: "/v1/batch", given: lent, body: `{"put":{"key":"a","value":"2","lease":"1"}}
		{"put":{"key_base64":"/w==","value_base64":""},"if_mod_revision":0}
		{"delete":{"key":"a"},"if_mod_revision":1}
		{"delete":{"key_base64":"YQ=="}}`},
	{op: "POST /v1/batch", status: 200, path: "/v1/batch?write=auto", given: queued, body: `{"put":{"key":"a","value":"2"}}`, headers: []string{"Prefer", "wait=1"}},
	{op: "POST /v1/batch", status: 200, path: "/v1/batch", body: "{\"put\":{\"key\":\"a\",\"value\":\"2\"}}\n{}\n{}", options: func(o *Options) { o.BatchLines = 2 }},
	{op: "POST /v1/batch", status: 400, path: "/v1/batch?prefix"},
	{op: "POST /v1/batch", status: 415, path: "/v1/batch", headers: []string{"Content-Encoding", "br"}},
	{op: "POST /v1/batch", status: 503, path: "/v1/batch", given: func(n *node) { n.handler.batches.Store(batchesMax) }},
	{op: "POST /v1/batch", status: 200, path: "/v1/batch", body: `{"delete":{"key":"a"}}`, headers: []string{"Idempotency-Key", "1"}},
	{op: "POST /v1/batch", status: 0, path: "/v1/batch", headers: []string{"Origin", "http://else.where"}},
	{op: "DELETE /v1/kv/{key}", status: 200, path: "/v1/kv/a", given: stored, headers: []string{"Idempotency-Key", "1"}},
	{op: "POST /v1/txn", status: 200, path: "/v1/txn", body: `{"then":[{"delete":{"key":"a"}}]}`, headers: []string{"Idempotency-Key", "1"}},
	{op: "POST /v1/leases", status: 201, path: "/v1/leases?ttl=30s", headers: []string{"Idempotency-Key", "1"}},
	{op: "PUT /v1/leases/{id}", status: 201, path: "/v1/leases/5?ttl=30s", headers: []string{"Idempotency-Key", "1"}},
	{op: "DELETE /v1/leases/{id}", status: 200, path: "/v1/leases/1", given: lent, headers: []string{"Idempotency-Key", "1"}},

	{op: "GET /v1/leases", status: 200, path: "/v1/leases?consistency=bounded&max_staleness=5s", given: lent},
	{op: "GET /v1/leases", status: 200, path: "/v1/leases?wait=1s", given: lent, headers: []string{"Holdfast-Min-Revision", "4", "Cache-Control", "no-cache"}},
	{op: "GET /v1/leases", status: 0, path: "/v1/leases", given: fails(kv.NoLeader)},
	{op: "HEAD /v1/leases", status: 200, path: "/v1/leases?consistency=bounded&max_staleness=5s", given: lent},
	{op: "HEAD /v1/leases", status: 200, path: "/v1/leases?wait=1s", given: lent, headers: []string{"Holdfast-Min-Revision", "4", "Cache-Control", "no-cache"}},
	{op: "HEAD /v1/leases", status: 0, path: "/v1/leases", given: fails(kv.NoLeader)},
	{op: "POST /v1/leases", status: 201, path: "/v1/leases", body: `{"ttl":"30s"}`, given: lent},
	{op: "POST /v1/leases", status: 201, path: "/v1/leases?ttl=30", given: lent},
	{op: "POST /v1/leases", status: 400, path: "/v1/leases"},
	{op: "POST /v1/leases", status: 409, path: "/v1/leases?ttl=30", given: fails(kv.LeaseExists)},
	{op: "POST /v1/leases", status: 0, path: "/v1/leases?ttl=30s", given: fails(kv.Unsupported)},

	{op: "GET /v1/leases/{id}", status: 200, path: "/v1/leases/1?keys&consistency=bounded&max_staleness=5s", given: lent},
	{op: "GET /v1/leases/{id}", status: 200, path: "/v1/leases/1?wait=1s", given: lent, headers: []string{"Holdfast-Min-Revision", "4", "Cache-Control", "no-cache"}},
	{op: "GET /v1/leases/{id}", status: 400, path: "/v1/leases/x"},
	{op: "GET /v1/leases/{id}", status: 404, path: "/v1/leases/2", given: lent},
	{op: "GET /v1/leases/{id}", status: 0, path: "/v1/leases/1", given: fails(kv.NoLeader)},
	{op: "HEAD /v1/leases/{id}", status: 200, path: "/v1/leases/1?keys&consistency=bounded&max_staleness=5s", given: lent},
	{op: "HEAD /v1/leases/{id}", status: 200, path: "/v1/leases/1?wait=1s", given: lent, headers: []string{"Holdfast-Min-Revision", "4", "Cache-Control", "no-cache"}},
	{op: "HEAD /v1/leases/{id}", status: 0, path: "/v1/leases/2", given: lent},
	{op: "PUT /v1/leases/{id}", status: 201, path: "/v1/leases/2", body: `{"ttl":"30s"}`, given: lent},
	{op: "PUT /v1/leases/{id}", status: 201, path: "/v1/leases/2?ttl=10m", given: lent},
	{op: "PUT /v1/leases/{id}", status: 400, path: "/v1/leases/2?ttl=forever", given: lent},
	{op: "PUT /v1/leases/{id}", status: 409, path: "/v1/leases/1?ttl=30s", given: lent},
	{op: "PUT /v1/leases/{id}", status: 0, path: "/v1/leases/1?ttl=30s", given: fails(kv.NoLeader)},
	{op: "DELETE /v1/leases/{id}", status: 200, path: "/v1/leases/1", given: lent},
	{op: "DELETE /v1/leases/{id}", status: 404, path: "/v1/leases/2", given: lent},
	{op: "DELETE /v1/leases/{id}", status: 0, path: "/v1/leases/1", given: fails(kv.OutcomeUnknown)},
	{op: "POST /v1/leases/{id}/keepalive", status: 200, path: "/v1/leases/1/keepalive", given: lent},
	{op: "POST /v1/leases/{id}/keepalive", status: 404, path: "/v1/leases/2/keepalive", given: lent},
	{op: "POST /v1/leases/{id}/keepalive", status: 0, path: "/v1/leases/1/keepalive", given: fails(kv.NoLeader)},

	{op: "GET /v1/queue", status: 200, path: "/v1/queue", options: linedUp},
	{op: "GET /v1/queue", status: 200, path: "/v1/queue?state=&prefix=&author=", options: linedUp},
	{op: "GET /v1/queue", status: 200, path: "/v1/queue?after=normal-1", options: linedUp},
	{op: "GET /v1/queue", status: 404, path: "/v1/queue"},
	{op: "GET /v1/queue", status: 0, path: "/v1/queue?state=lost", options: linedUp},
	{op: "HEAD /v1/queue", status: 200, path: "/v1/queue?state=&prefix=&author=", options: linedUp},
	{op: "HEAD /v1/queue", status: 200, path: "/v1/queue?after=normal-1", options: linedUp},
	{op: "HEAD /v1/queue", status: 0, path: "/v1/queue"},
	{op: "GET /v1/queue/{op}", status: 200, path: "/v1/queue/1?wait=1ms", options: linedUp},
	{op: "GET /v1/queue/{op}", status: 200, path: "/v1/queue/2", options: linedUp},
	{op: "GET /v1/queue/{op}", status: 404, path: "/v1/queue/3", options: linedUp},
	{op: "GET /v1/queue/{op}", status: 0, path: "/v1/queue/1?wait=1h", options: linedUp},
	{op: "HEAD /v1/queue/{op}", status: 200, path: "/v1/queue/1?wait=1ms", options: linedUp},
	{op: "HEAD /v1/queue/{op}", status: 0, path: "/v1/queue/3", options: linedUp},
	{op: "DELETE /v1/queue/{op}", status: 200, path: "/v1/queue/1", options: linedUp},
	{op: "DELETE /v1/queue/{op}", status: 404, path: "/v1/queue/3", options: linedUp},
	{op: "DELETE /v1/queue/{op}", status: 202, path: "/v1/queue/2", options: linedUp},
	{op: "DELETE /v1/queue/{op}", status: 0, path: "/v1/queue/1?force", options: linedUp},
	{op: "GET /v1/kv/{key}", status: 200, path: "/v1/kv/a?view=pending", options: linedUp},
	{op: "HEAD /v1/kv/{key}", status: 200, path: "/v1/kv/a?view=pending", options: linedUp},
	{op: "POST /v1/queue/flush", status: 200, path: "/v1/queue/flush", options: linedUp},
	{op: "POST /v1/queue/flush", status: 404, path: "/v1/queue/flush"},
	{op: "POST /v1/queue/flush", status: 0, path: "/v1/queue/flush?now", options: linedUp},
	{op: "POST /v1/queue/pause", status: 200, path: "/v1/queue/pause", options: linedUp},
	{op: "POST /v1/queue/pause", status: 404, path: "/v1/queue/pause"},
	{op: "POST /v1/queue/pause", status: 0, path: "/v1/queue/pause?now", options: linedUp},
	{op: "POST /v1/queue/resume", status: 200, path: "/v1/queue/resume", options: linedUp},
	{op: "POST /v1/queue/resume", status: 404, path: "/v1/queue/resume"},
	{op: "POST /v1/queue/resume", status: 0, path: "/v1/queue/resume?now", options: linedUp},
	{op: "POST /v1/queue/{op}/retry", status: 202, path: "/v1/queue/normal-2/retry", options: linedUp},
	{op: "POST /v1/queue/{op}/retry", status: 404, path: "/v1/queue/3/retry", options: linedUp},
	{op: "POST /v1/queue/{op}/retry", status: 0, path: "/v1/queue/normal-2/retry?now", options: linedUp},

	{op: "GET /v1/status", status: 200, path: "/v1/status"},
	{op: "GET /v1/status", status: 0, path: "/v1/status?verbose"},
	{op: "HEAD /v1/status", status: 200, path: "/v1/status"},
	{op: "HEAD /v1/status", status: 0, path: "/v1/status?verbose"},
	{op: "GET /v1/openapi.yaml", status: 200, path: "/v1/openapi.yaml"},
	{op: "GET /v1/openapi.yaml", status: 0, path: "/v1/openapi.yaml?x"},
	{op: "HEAD /v1/openapi.yaml", status: 200, path: "/v1/openapi.yaml"},
	{op: "HEAD /v1/openapi.yaml", status: 0, path: "/v1/openapi.yaml?x"},

	{op: "GET /v1/tokens", status: 200, path: "/v1/tokens", given: issue},
	{op: "GET /v1/tokens", status: 404, path: "/v1/tokens", device: true},
	{op: "GET /v1/tokens", status: 0, path: "/v1/tokens?x"},
	{op: "HEAD /v1/tokens", status: 200, path: "/v1/tokens"},
	{op: "HEAD /v1/tokens", status: 0, path: "/v1/tokens", device: true},
	{op: "POST /v1/tokens", status: 201, path: "/v1/tokens", body: `{"role":"proxy","ttl":"1h","uses":3,"scope":["site/"]}`},
	{op: "POST /v1/tokens", status: 400, path: "/v1/tokens", body: `{"role":"king"}`},
	{op: "POST /v1/tokens", status: 0, path: "/v1/tokens", body: "{}", device: true},
	{op: "DELETE /v1/tokens/{token}", status: 200, path: "/v1/tokens/1", given: issue},
	{op: "DELETE /v1/tokens/{token}", status: 404, path: "/v1/tokens/7"},
	{op: "DELETE /v1/tokens/{token}", status: 0, path: "/v1/tokens/1?x"},

	{op: "GET /v1/devices", status: 200, path: "/v1/devices"},
	{op: "GET /v1/devices", status: 404, path: "/v1/devices", device: true},
	{op: "GET /v1/devices", status: 0, path: "/v1/devices?x"},
	{op: "HEAD /v1/devices", status: 200, path: "/v1/devices"},
	{op: "HEAD /v1/devices", status: 0, path: "/v1/devices", device: true},
	{op: "POST /v1/devices", status: 201, path: "/v1/devices", body: `{"name":"pump-7","allow":["put","get"],"prefixes":["site/42/"],"ttl":"2160h","rate":5,"share_kib":64}`},
	{op: "POST /v1/devices", status: 400, path: "/v1/devices", body: `{"name":"pump-7"}`},
	{op: "POST /v1/devices", status: 0, path: "/v1/devices", body: `{}`, device: true},
	{op: "DELETE /v1/devices/{device}", status: 200, path: "/v1/devices/1"},
	{op: "DELETE /v1/devices/{device}", status: 404, path: "/v1/devices/7"},
	{op: "DELETE /v1/devices/{device}", status: 0, path: "/v1/devices/1?x"},
	{op: "PUT /v1/nodes/{node}/scope", status: 200, path: "/v1/nodes/7f/scope", body: `{"roles":["operators"],"prefixes":["site/42/"]}`},
	{op: "PUT /v1/nodes/{node}/scope", status: 400, path: "/v1/nodes/7f/scope", body: `{"king":1}`},
	{op: "PUT /v1/nodes/{node}/scope", status: 0, path: "/v1/nodes/7f/scope", body: `{}`, device: true},
	{op: "DELETE /v1/nodes/{node}/scope", status: 200, path: "/v1/nodes/7f/scope"},
	{op: "DELETE /v1/nodes/{node}/scope", status: 0, path: "/v1/nodes/7f/scope?x"},
	{op: "GET /v1/nodes", status: 200, path: "/v1/nodes"},
	{op: "GET /v1/nodes", status: 404, path: "/v1/nodes", device: true},
	{op: "GET /v1/nodes", status: 0, path: "/v1/nodes?x"},
	{op: "HEAD /v1/nodes", status: 200, path: "/v1/nodes"},
	{op: "HEAD /v1/nodes", status: 0, path: "/v1/nodes", device: true},
	{op: "DELETE /v1/nodes/{node}", status: 200, path: "/v1/nodes/pump%2012"},
	{op: "DELETE /v1/nodes/{node}", status: 404, path: "/v1/nodes/nobody"},
	{op: "DELETE /v1/nodes/{node}", status: 0, path: "/v1/nodes/1?x"},
	{op: "GET /v1/cert", status: 200, path: "/v1/cert"},
	{op: "GET /v1/cert", status: 404, path: "/v1/cert", device: true},
	{op: "GET /v1/cert", status: 0, path: "/v1/cert?x"},
	{op: "HEAD /v1/cert", status: 200, path: "/v1/cert"},
	{op: "HEAD /v1/cert", status: 0, path: "/v1/cert?x"},
	{op: "POST /v1/cert/renew", status: 200, path: "/v1/cert/renew"},
	{op: "POST /v1/cert/renew", status: 0, path: "/v1/cert/renew", device: true},
	{op: "POST /v1/cert/rotate", status: 200, path: "/v1/cert/rotate", body: `{"pem":"x","overlap":"720h"}`},
	{op: "POST /v1/cert/rotate", status: 400, path: "/v1/cert/rotate", body: `{"overlap":"soon"}`},
	{op: "POST /v1/cert/rotate", status: 0, path: "/v1/cert/rotate", device: true},
	{op: "POST /v1/cert/finish", status: 200, path: "/v1/cert/finish", body: `{"force":true}`},
	{op: "POST /v1/cert/finish", status: 400, path: "/v1/cert/finish", body: `{"perhaps":true}`},
	{op: "POST /v1/cert/finish", status: 0, path: "/v1/cert/finish", device: true},
	{op: "GET /v1/members", status: 200, path: "/v1/members", options: asReplica},
	{op: "GET /v1/members", status: 0, path: "/v1/members"},
	{op: "HEAD /v1/members", status: 200, path: "/v1/members", options: asReplica},
	{op: "HEAD /v1/members", status: 0, path: "/v1/members?x"},
	{op: "PUT /v1/members", status: 200, path: "/v1/members", body: `{"voters":5,"replace_after":"15m0s"}`, options: asReplica},
	{op: "PUT /v1/members", status: 404, path: "/v1/members", body: `{"voters":5}`, options: asReplica, device: true},
	{op: "PUT /v1/members", status: 0, path: "/v1/members", body: `{"king":1}`, options: asReplica},
	{op: "DELETE /v1/members/{member}", status: 200, path: "/v1/members/2", options: asReplica},
	{op: "DELETE /v1/members/{member}", status: 404, path: "/v1/members/nobody", options: asReplica},
	{op: "DELETE /v1/members/{member}", status: 0, path: "/v1/members/same", options: asReplica},

	{op: "POST /v1/nodes/{node}/{change}", status: 200, path: "/v1/nodes/self/demote"},
	{op: "POST /v1/nodes/{node}/{change}", status: 200, path: "/v1/nodes/box-7/promote?wait=5s", body: `{"token":"HF1x"}`},
	{op: "POST /v1/nodes/{node}/{change}", status: 202, path: "/v1/nodes/self/promote?wait=1ms", options: levered(lever{slow: true})},
	{op: "POST /v1/nodes/{node}/{change}", status: 400, path: "/v1/nodes/self/demote", body: `{"token":"HF1x"}`},
	{op: "POST /v1/nodes/{node}/{change}", status: 404, path: "/v1/nodes/self/demote", device: true},
	{op: "POST /v1/nodes/{node}/{change}", status: 412, path: "/v1/nodes/self/demote", options: levered(lever{err: kv.Errorf(kv.PreconditionFailed, "the last voter")})},
	{op: "POST /v1/nodes/{node}/{change}", status: 0, path: "/v1/nodes/self/leave", options: levered(lever{err: kv.Errorf(kv.Busy, "being promoted")})},
}

func levered(l lever) func(*Options) { return func(o *Options) { o.Switch = &l } }

// issue makes a token.
func issue(n *node) {
	if _, err := n.handler.opts.Tokens.Create(n.t.Context(), api.TokenRequest{Role: "any", TTL: time.Hour, Scope: []string{""}}); err != nil {
		n.t.Fatal(fmt.Errorf("make a token: %w", err))
	}
}
