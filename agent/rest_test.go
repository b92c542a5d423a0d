package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// The calls of /v1 beside single keys, on the real member: what their own tests show over a store in memory.

func TestTransactionsAndBatchesOfAMember(t *testing.T) {
	a := serving(t, settings(t))
	c, base := httpClient(t, nil), a.Addrs()[0]
	const lock = `{"compare":[{"key":"lock","mod_revision":0}],"then":[{"put":{"key":"lock","value":"me"}},{"txn":{"then":[{"put":{"key":"n","value":"1"}}]}}],"else":[{"get":{"key":"lock"}}]}`
	if got := expect(t, c, "POST", base+"/v1/txn", lock, http.StatusOK); got.body != `{"succeeded":true,"results":[{"put":{"created":true}},{"txn":{"succeeded":true,"results":[{"put":{"created":true}}]}}],"revision":2}`+"\n" {
		t.Errorf("%s", got.body)
	}
	if got := expect(t, c, "POST", base+"/v1/txn", lock, http.StatusOK); !strings.Contains(got.body, `"succeeded":false,"results":[{"get":{"kvs":[{"key":"lock","key_base64":"bG9jaw==","value_base64":"bWU="`) {
		t.Errorf("%s", got.body)
	}
	expect(t, c, "POST", base+"/v1/txn?consistency=local", `{"then":[{"get":{"key":"lock"}}]}`, http.StatusOK)

	var lines strings.Builder
	const count = 500
	for i := range count {
		fmt.Fprintf(&lines, `{"put":{"key":"k%d","value":"%d"}}`+"\n", i%10, i)
	}
	lines.WriteString(`{"put":{"key":"lock","value":"you"},"if_mod_revision":1}`)
	got := expect(t, c, "POST", base+"/v1/batch", lines.String(), http.StatusOK)
	answers := strings.Split(strings.TrimSpace(got.body), "\n")
	if len(answers) != count+2 || !strings.HasPrefix(answers[count], `{"line":501,"status":412,"problem":`) || answers[count+1] != `{"end":true,"lines":501}` {
		t.Fatalf("%d answers, the last of them %s", len(answers), answers[len(answers)-2:])
	}
	for i := range 10 {
		if got := expect(t, c, "GET", fmt.Sprintf("%s/v1/kv/k%d", base, i), "", http.StatusOK); got.body != fmt.Sprint(count-10+i) {
			t.Errorf("k%d is %q: the lines of a key were not carried out in order", i, got.body)
		}
	}
}

func TestAKeyWithATTLEndsWithItsLease(t *testing.T) {
	a := serving(t, settings(t))
	c, base := httpClient(t, nil), a.Addrs()[0]
	id := expect(t, c, "PUT", base+"/v1/kv/session?ttl=1s", "on", http.StatusCreated).header.Get("Holdfast-Lease")
	// Whoever waits for a change of the key hears of its end.
	expect(t, c, "GET", base+"/v1/kv/session?index=2&wait=1m", "", http.StatusNotFound)
	expect(t, c, "POST", base+"/v1/leases/"+id+"/keepalive", "", http.StatusNotFound)
	expect(t, c, "GET", base+"/v1/leases/"+id, "", http.StatusNotFound)
}

func TestALeaseOfAMember(t *testing.T) {
	a := serving(t, settings(t))
	c, base := httpClient(t, nil), a.Addrs()[0]
	expect(t, c, "PUT", base+"/v1/leases/ab?ttl=1h", "", http.StatusCreated)
	expect(t, c, "PUT", base+"/v1/leases/ab?ttl=1h", "", http.StatusConflict)
	expect(t, c, "PUT", base+"/v1/kv/under?lease=ab", "v", http.StatusCreated)
	var lease struct {
		TTL     int64
		Granted int64 `json:"granted_ttl"`
		Keys    []struct{ Key string }
	}
	got := expect(t, c, "GET", base+"/v1/leases/ab?keys", "", http.StatusOK)
	if err := json.Unmarshal([]byte(got.body), &lease); err != nil || lease.Granted != 3600 || lease.TTL < 3000 || len(lease.Keys) != 1 || lease.Keys[0].Key != "under" {
		t.Errorf("%s: %v", got.body, err)
	}
	expect(t, c, "POST", base+"/v1/leases/ab/keepalive", "", http.StatusOK)
	expect(t, c, "POST", base+"/v1/txn", `{"compare":[{"key":"under","lease":"ab"}],"then":[{"put":{"key":"too","value":"v","lease":"00ab"}}]}`, http.StatusOK)
	if got := expect(t, c, "GET", base+"/v1/leases", "", http.StatusOK); !strings.HasPrefix(got.body, `{"leases":[{"id":"00000000000000ab"}]`) {
		t.Errorf("%s", got.body)
	}
	expect(t, c, "DELETE", base+"/v1/leases/ab", "", http.StatusOK)
	expect(t, c, "GET", base+"/v1/kv/under", "", http.StatusNotFound)
	expect(t, c, "GET", base+"/v1/kv/too", "", http.StatusNotFound)
	expect(t, c, "PUT", base+"/v1/kv/under?lease=ab", "v", http.StatusNotFound)
}
