package rest

import (
	"fmt"
	"strings"
	"testing"
)

// A request with an Idempotency-Key that comes again is answered as it was, whatever has happened since.
func TestARequestWithAnIdempotencyKeyAppliesOnce(t *testing.T) {
	n := serve(t)
	n.call("PUT", "/v1/kv/there", "1")
	key := func(k string) []string { return []string{"Idempotency-Key", k} }
	first := map[string]reply{}
	calls := []struct {
		name, method, path, body string
		headers                  []string
		status                   int
	}{
		{"created", "PUT", "/v1/kv/a", "1", key("k1"), 201},
		{"replaced", "PUT", "/v1/kv/there", "2", key(`"k2"`), 200},
		{"refused", "PUT", "/v1/kv/there", "3", append(key("k3"), "If-None-Match", "*"), 412},
		{"tried in turn", "PUT", "/v1/kv/there", "4", append(key("k4"), "If-Match", `"99", "4"`), 200},
		{"with a life", "PUT", "/v1/kv/lent?ttl=1h", "1", key("k5"), 201},
		{"in few words", "PUT", "/v1/kv/b", "1", append(key("k6"), "Prefer", "return=minimal"), 204},
		{"deleted", "DELETE", "/v1/kv/there", "", key("k7"), 200},
		{"not there", "DELETE", "/v1/kv/none", "", key("k8"), 404},
		{"a prefix", "DELETE", "/v1/kv/b?prefix", "", key("k9"), 200},
		{"transaction", "POST", "/v1/txn", `{"then":[{"put":{"key":"t","value":"1"}},{"get":{"key":"a"}}]}`, key("k10"), 200},
		{"batch", "POST", "/v1/batch", `{"put":{"key":"x","value":"1"}}` + "\n" + `{"put":{"key":"x","value":"2"}}`, key("k11"), 200},
		{"lease", "POST", "/v1/leases?ttl=1h", "", key("k12"), 201},
		{"named lease", "PUT", "/v1/leases/77?ttl=1h", "", key("k13"), 201},
		{"revoked", "DELETE", "/v1/leases/77", "", key("k14"), 200},
	}
	for _, c := range calls {
		first[c.name] = n.call(c.method, c.path, c.body, c.headers...).want(t, c.status)
	}
	n.call("PUT", "/v1/kv/a", "another's").want(t, 200)
	n.call("PUT", "/v1/kv/there", "another's").want(t, 201)
	at := n.call("GET", "/v1/kv/a", "").header.Get("Holdfast-Revision")
	for _, c := range calls {
		again, before := n.call(c.method, c.path, c.body, c.headers...), first[c.name]
		if again.status != before.status || again.body != before.body {
			t.Errorf("%s: first %d %s, then %d %s", c.name, before.status, before.body, again.status, again.body)
		}
		for _, h := range []string{"Holdfast-Revision", "Holdfast-Lease", "Location", "Etag"} {
			if again.header.Get(h) != before.header.Get(h) {
				t.Errorf("%s: %s %q, then %q", c.name, h, before.header.Get(h), again.header.Get(h))
			}
		}
	}
	if got := n.call("GET", "/v1/kv/a", "").header.Get("Holdfast-Revision"); got != at {
		t.Errorf("revision %s, it was %s", got, at)
	}
	n.wantStored("there", "another's")
	n.call("PUT", "/v1/kv/a", "2", key("k1")...).refused(t, 422, "idempotency-key-reused")
	n.call("DELETE", "/v1/kv/a", "", key("k1")...).refused(t, 422, "idempotency-key-reused")
	n.call("POST", "/v1/txn", `{"then":[{"put":{"key":"t","value":"2"}}]}`, key("k10")...).refused(t, 422, "idempotency-key-reused")
	lines := n.call("POST", "/v1/batch", `{"put":{"key":"x","value":"1"}}`+"\n"+`{"put":{"key":"x","value":"3"}}`, key("k11")...).body
	if !strings.Contains(lines, `{"line":1,"status":201,`) || !strings.Contains(lines, `{"line":2,"status":422,`) {
		t.Errorf("a batch with another line: %s", lines)
	}
	n.wantStored("x", "2")
}

func TestAnIdempotencyKeyIsVisibleCharacters(t *testing.T) {
	n := serve(t)
	for _, bad := range []string{"", " ", `""`, "a b", "ü", strings.Repeat("k", retryKeyMax+1)} {
		n.call("PUT", "/v1/kv/a", "v", "Idempotency-Key", bad).refused(t, 400, "invalid")
	}
	n.wantEmpty()
	n.call("PUT", "/v1/kv/a", "v", "Idempotency-Key", strings.Repeat("k", retryKeyMax)).want(t, 201)
}

// The keys that clients draw give keys of commands that no two share.
func TestRetryKeysDiffer(t *testing.T) {
	seen := map[retryKey]string{}
	for i := range 200 {
		k, err := parseRetryKey(map[string][]string{"Idempotency-Key": {fmt.Sprint(i)}})
		if err != nil {
			t.Fatal(err)
		}
		for part := range 20 {
			name, p := fmt.Sprintf("%d, part %d", i, part), k.part(part)
			if other, twice := seen[p]; twice || p.none() || p.leaseID() <= 0 {
				t.Errorf("%s: %x, like %s", name, p, other)
			}
			seen[p] = name
		}
	}
	if (retryKey{}).part(3) != (retryKey{}) {
		t.Error("a part of none is some")
	}
}
