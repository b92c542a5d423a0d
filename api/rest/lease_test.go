package rest

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"holdfast/kv"
)

// object reads a reply that is one JSON object.
func (r reply) object(t *testing.T) (o map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), &o); err != nil {
		t.Fatalf("%q: %v", r.body, err)
	}
	return o
}

func TestALeaseFromGrantToEnd(t *testing.T) {
	n := serve(t)
	r := n.call("PUT", "/v1/leases/0000000000ABCDEF", `{"ttl":"1h"}`).want(t, 201)
	if r.body != `{"id":"0000000000abcdef","ttl":3600,"granted_ttl":3600}`+"\n" {
		t.Errorf("granted %s", r.body)
	}
	r.wantHeaders(t, map[string]string{"Location": "/v1/leases/0000000000abcdef", "Holdfast-Revision": "1"})
	n.call("PUT", "/v1/leases/abcdef?ttl=1m", "").refused(t, 409, "lease-exists")
	n.call("PUT", "/v1/kv/k?lease=abcdef", "v").want(t, 201).wantHeaders(t, map[string]string{"Holdfast-Lease": "0000000000abcdef"})
	n.call("PUT", "/v1/kv/\xff?lease=abcdef", "v").want(t, 201)
	if got := n.call("GET", "/v1/kv/k?prefix", "").list(t).KVs[0].Lease; got != "0000000000abcdef" {
		t.Errorf("a list says lease %q", got)
	}
	r = n.call("GET", "/v1/leases/abcdef", "").want(t, 200)
	if o := r.object(t); o["id"] != "0000000000abcdef" || o["granted_ttl"] != 3600.0 || o["ttl"].(float64) < 3000 || o["keys"] != nil {
		t.Errorf("shown %s", r.body)
	}
	r.wantHeaders(t, map[string]string{"Holdfast-Consistency": "linearizable", "Holdfast-Source": "member"})
	if keys := n.call("GET", "/v1/leases/abcdef?keys", "").want(t, 200).object(t)["keys"]; len(keys.([]any)) != 2 {
		t.Errorf("keys %v", keys)
	}
	if ttl := n.call("POST", "/v1/leases/abcdef/keepalive", "").want(t, 200).object(t)["ttl"]; ttl != 3600.0 {
		t.Errorf("kept alive for %v", ttl)
	}
	r = n.call("GET", "/v1/leases", "").want(t, 200)
	if r.body != `{"leases":[{"id":"0000000000abcdef"}],"revision":3}`+"\n" {
		t.Errorf("listed %s", r.body)
	}
	n.call("HEAD", "/v1/leases", "").want(t, 200)
	n.call("HEAD", "/v1/leases/abcdef", "").want(t, 200)
	n.call("DELETE", "/v1/leases/abcdef", "").want(t, 200)
	if _, there := n.stored("k"); there {
		t.Error("the key has outlived its lease")
	}
	for _, gone := range []reply{
		n.call("DELETE", "/v1/leases/abcdef", ""), n.call("POST", "/v1/leases/abcdef/keepalive", ""), n.call("GET", "/v1/leases/abcdef", ""),
		n.call("PUT", "/v1/kv/k?lease=abcdef", "v"),
	} {
		gone.refused(t, 404, "lease-not-found")
	}
	if r := n.call("GET", "/v1/leases", ""); !strings.Contains(r.body, `"leases":[]`) {
		t.Errorf("listed %s", r.body)
	}
}

func TestTheNodeDrawsTheIDOfALease(t *testing.T) {
	n := serve(t)
	one, two := n.call("POST", "/v1/leases?ttl=90", "").want(t, 201), n.call("POST", "/v1/leases", `{"ttl":"1500ms"}`).want(t, 201)
	a, b := one.object(t), two.object(t)
	if a["id"] == b["id"] || a["ttl"] != 90.0 || b["ttl"] != 2.0 { // never shorter than asked for
		t.Errorf("%v, %v", a, b)
	}
	for range 100 {
		if id := newLeaseID(); id <= 0 {
			t.Errorf("id %d is not positive", id)
		}
	}
	n.call("GET", one.header.Get("Location"), "").want(t, 200)
}

// The key and its lease come to be in one command, so that neither is there without the other.
func TestAPutWithATTLMakesItsLeaseInTheSameCommand(t *testing.T) {
	n := serve(t)
	var sent []kv.Command
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		sent = append(sent, c)
		return n.store.Do(ctx, c)
	}
	r := n.call("PUT", "/v1/kv/k?ttl=1h", "v").want(t, 201)
	id := r.header.Get("Holdfast-Lease")
	if len(sent) != 1 || len(sent[0].Ops) != 2 || sent[0].Write != kv.WriteSync {
		t.Fatalf("sent %+v", sent)
	}
	grant, put := sent[0].Ops[0].(kv.LeaseGrant), sent[0].Ops[1].(kv.Put)
	if grant.TTL != 3600 || put.Lease != grant.ID || formatLeaseID(grant.ID) != id {
		t.Errorf("grant %+v, put %+v, Holdfast-Lease %s", grant, put, id)
	}
	n.call("POST", "/v1/leases/"+id+"/keepalive", "").want(t, 200)
	// What is in the way of the put is in the way of the lease.
	n.call("PUT", "/v1/kv/k?ttl=1h", "v", "If-None-Match", "*").refused(t, 412, "precondition-failed")
	n.call("PUT", "/v1/kv/k?ttl=1h", "v", "If-Match", `"7", "2"`).want(t, 200)
	if list := n.call("GET", "/v1/leases", "").want(t, 200).object(t)["leases"].([]any); len(list) != 2 {
		t.Errorf("leases %v, want 2", list)
	}
	// An id that happens to be taken is drawn again.
	taken := 0
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		if taken++; taken < leaseTries {
			return kv.Result{}, kv.Errorf(kv.LeaseExists, "taken")
		}
		return n.store.Do(ctx, c)
	}
	n.call("PUT", "/v1/kv/k?ttl=1h", "v").want(t, 200)
	taken = -leaseTries
	n.call("PUT", "/v1/kv/k?ttl=1h", "v").refused(t, 409, "lease-exists")
}

func TestWhatIsNoLeaseIsRefused(t *testing.T) {
	n := serve(t)
	for call, code := range map[string]string{
		"PUT /v1/leases/1":                                 "invalid", // no ttl
		"PUT /v1/leases/1 {}":                              "invalid",
		"PUT /v1/leases/1?ttl=0":                           "invalid",
		"PUT /v1/leases/1?ttl=-5s":                         "invalid",
		"PUT /v1/leases/1?ttl=x":                           "invalid",
		"PUT /v1/leases/1?ttl=9000000001s":                 "lease-ttl-too-large",
		`PUT /v1/leases/1 {"ttl":"2500001h"}`:              "lease-ttl-too-large",
		`PUT /v1/leases/1?ttl=1s {"ttl":"1s"}`:             "invalid",
		`PUT /v1/leases/1 {"ttl":30}`:                      "invalid",
		`PUT /v1/leases/1 {"ttl":"1s","id":"2"}`:           "invalid",
		`PUT /v1/leases/1 {"ttl":"1s"}x`:                   "invalid",
		"PUT /v1/leases/0?ttl=1s":                          "invalid",
		"PUT /v1/leases/xyz?ttl=1s":                        "invalid",
		"PUT /v1/leases/-1?ttl=1s":                         "invalid",
		"PUT /v1/leases/11112222333344445?ttl=1s":          "invalid",
		"POST /v1/leases?ttl=1s&id=3":                      "invalid",
		"POST /v1/leases":                                  "invalid",
		"GET /v1/leases?ttl=3s":                            "invalid",
		"GET /v1/leases/1?wait=3s":                         "invalid",
		"GET /v1/leases/x":                                 "invalid",
		"POST /v1/leases/x/keepalive":                      "invalid",
		"POST /v1/leases/1/keepalive?ttl=3s":               "invalid",
		"DELETE /v1/leases/1?prefix":                       "invalid",
		"PUT /v1/kv/k?ttl=1s&lease=1 v":                    "invalid",
		"PUT /v1/kv/k?ttl=0 v":                             "invalid",
		"PUT /v1/kv/k?lease=0 v":                           "invalid",
		"PUT /v1/kv/k?lease=new v":                         "invalid",
		"PUT /v1/kv/k?ttl=1s&write=queue v":                "invalid",
		"PUT /v1/kv/k?lease=1&write=queue v":               "invalid",
		"DELETE /v1/kv/k?ttl=1s":                           "invalid",
		"GET /v1/kv/k?lease=1":                             "invalid",
		"PUT /v1/kv/k?lease=1 v":                           "lease-not-found",
		"GET /v1/leases/1/keepalive":                       "method-not-allowed",
		"POST /v1/leases/1":                                "method-not-allowed",
		"DELETE /v1/leases":                                "method-not-allowed",
		"POST /v1/leases/1/other":                          "no-such-resource",
		"GET /v1/leases/":                                  "no-such-resource",
		"POST /v1/leases//keepalive":                       "no-such-resource",
		"PUT /v1/leases/1 " + large(requestMax+1):          "too-large",
		"POST /v1/leases " + `{"ttl":"1s","` + "\xff\":1}": "invalid",
	} {
		target, body, _ := strings.Cut(call, " ")
		path, body, _ := strings.Cut(body, " ")
		r := n.call(target, path, body)
		if p := r.problem(t); p["code"] != code {
			t.Errorf("%.60s: %v, want %s: %v", call, p["code"], code, p["detail"])
		}
	}
	n.call("PUT", "/v1/leases/1?ttl=1s", "", "If-Match", `"1"`).problem(t)
	n.call("DELETE", "/v1/leases/1", "", "If-Match", `"1"`).problem(t)
	n.wantEmpty()
}
