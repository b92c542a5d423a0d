//go:build e2e

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// user adds a user who may read and write everything, and returns a token of theirs.
func (a *agent) user(name, root string) (token string) {
	a.t.Helper()
	a.gateway("auth/user/add", fmt.Sprintf(`{"name":%q,"password":"p"}`, name), root)
	a.gateway("auth/role/add", fmt.Sprintf(`{"name":%q}`, name), root)
	a.gateway("auth/role/grant", fmt.Sprintf(`{"name":%q,"perm":{"permType":"READWRITE","key":"AA==","range_end":"AA=="}}`, name), root)
	a.gateway("auth/user/grant", fmt.Sprintf(`{"user":%q,"role":%q}`, name, name), root)
	return a.gateway("auth/authenticate", fmt.Sprintf(`{"name":%q,"password":"p"}`, name), "").Token
}

// knowsNot wants whoever shows a token to be nobody here, over each door.
func (a *agent) knowsNot(who, token string) {
	a.t.Helper()
	for _, row := range [][3]string{
		{"GET", "/v1/kv/site/1?consistency=local", ""}, {"GET", "/v1/kv/site/?watch&prefix", ""}, {"PUT", "/v1/kv/q/1", "x"}, {"PUT", "/v1/kv/q/1?write=queue", "x"},
		{"POST", "/v1/txn", `{"then":[{"put":{"key":"q/1","value":"x"}}]}`}, {"POST", "/v1/leases?ttl=60s", ""},
	} {
		if r := a.do(row[0], row[1], []byte(row[2]), "Authorization", "Bearer "+token); r.status != http.StatusUnauthorized {
			a.t.Errorf("%s at %s: %s %s: %d %s, want 401", who, a.url, row[0], row[1], r.status, firstLine(r.body))
		}
	}
	key := base64.StdEncoding.EncodeToString([]byte("site/1"))
	if r := a.do("POST", "/v3/kv/range", []byte(`{"key":"`+key+`"}`), "Content-Type", "application/json", "Authorization", token); r.status != http.StatusUnauthorized {
		a.t.Errorf("%s at %s: /v3/kv/range: %d %s, want 401", who, a.url, r.status, firstLine(r.body))
	}
	ctx, cancel := context.WithTimeout(showing(a.t.Context(), token), startMax)
	defer cancel()
	conn := a.grpcConn()
	for name, do := range map[string]func(context.Context) error{
		"range": func(ctx context.Context) error {
			return asked(rangeCall, &pb.RangeRequest{Key: []byte("site/1"), Serializable: true})(ctx, conn)
		},
		"put": func(ctx context.Context) error { return asked(putCall, &pb.PutRequest{Key: ownKey})(ctx, conn) },
		"delete": func(ctx context.Context) error {
			return asked(deleteCall, &pb.DeleteRangeRequest{Key: ownKey})(ctx, conn)
		},
	} {
		if err := do(ctx); status.Code(err) != codes.Unauthenticated {
			a.t.Errorf("%s at %s: %s: %v, want Unauthenticated", who, a.url, name, err)
		}
	}
}

// TestTokensThatAreNoGoodAnyMore shows those of another cluster and those that were good once, on a member, on a proxy, and on a
// proxy that starts without its member: what it has heard before holds there too.
func TestTokensThatAreNoGoodAnyMore(t *testing.T) {
	c, member, proxy, root, args := lockedCluster(t)
	elsewhere, _, _, foreign, _ := lockedCluster(t)
	device := func(c *cluster, more ...string) (token, id string) {
		return deviceToken(t, c.memberDir(), append([]string{"--device=pump-7", "--allow=get,put,watch", "--prefix=site/", "--prefix=q/"}, more...)...)
	}
	good, _ := device(c)
	revoked, id := device(c)
	over, _ := device(c, "--expires=1s")
	theirs, _ := device(elsewhere)
	gone, other := member.user("gone", root), member.user("other", root)
	command(t, 0, "token", "revoke", "--data-dir", c.memberDir(), id)
	member.gateway("auth/user/delete", `{"name":"gone"}`, root)
	member.gateway("auth/user/changepw", `{"name":"other","password":"another"}`, root)
	late := member.gateway("auth/authenticate", `{"name":"other","password":"another"}`, "").Token
	bad := map[string]string{
		"a device of another cluster": theirs, "root of another cluster": foreign, "a device that was revoked": revoked, "a device whose token has ended": over,
		"a user who was removed": gone, "a user whose password has been changed": other,
	}
	refuses := func(a *agent) {
		t.Helper()
		a.waitKnown(late) // and with it what came before
		a.waitKnown(good)
		eventually(t, startMax, func() string {
			if r := a.do("GET", "/v1/kv/site/1?consistency=local", nil, "Authorization", "Bearer "+over); r.status != http.StatusUnauthorized {
				return fmt.Sprintf("a second after its end a token is answered with %d", r.status)
			}
			return ""
		})
		for who, token := range bad {
			a.knowsNot(who, token)
		}
	}
	refuses(member)
	refuses(proxy)
	t.Log("the member is gone, and the proxy starts anew")
	member.kill()
	proxy.kill()
	proxy = start(t, filepath.Join(c.dir, "proxy"), freeAddr(t), args...)
	refuses(proxy)
	if n := proxy.queued(late); n != 0 {
		t.Errorf("%d writes were queued", n)
	}
	proxy.as(good, 202, "PUT", "/v1/kv/q/1", "x")
}

// TestACertificateIsAUser shows client certificates, good for the listener all of them, in the place of tokens.
func TestACertificateIsAUser(t *testing.T) {
	p := newPKI(t, "ours")
	p.issue("server", time.Hour, x509.ExtKeyUsageServerAuth)
	for _, name := range []string{"root", "reader", "stranger", "device:1", "node:1"} {
		p.issue(name, time.Hour, x509.ExtKeyUsageClientAuth)
	}
	url := "https://" + freeAddr(t)
	a := start(t, filepath.Join(t.TempDir(), "d"), freeAddr(t), "--listen", url, "--tls-cert-file", p.path("server.pem"), "--tls-key-file", p.path("server.key"),
		"--tls-client-ca-file", p.path("ca.pem"))
	a.gateway("auth/user/add", `{"name":"root","password":"p"}`, "")
	a.gateway("auth/user/grant", `{"user":"root","role":"root"}`, "")
	a.gateway("auth/user/add", `{"name":"reader","options":{"no_password":true}}`, "")
	a.gateway("auth/role/add", `{"name":"r"}`, "")
	a.gateway("auth/role/grant", `{"name":"r","perm":{"permType":"READ","key":"c2l0ZS8=","range_end":"c2l0ZTA="}}`, "") // site/
	a.gateway("auth/user/grant", `{"user":"reader","role":"r"}`, "")
	a.expect(201, "PUT", "/v1/kv/site/1", "x", "")
	a.gateway("auth/enable", `{}`, "")
	for who, rows := range map[string]map[[2]string]int{
		"root":     {{"GET", "/v1/kv/site/1"}: 200, {"PUT", "/v1/kv/site/2"}: 201, {"GET", "/v1/snapshot"}: 200},
		"reader":   {{"GET", "/v1/kv/site/1"}: 200, {"PUT", "/v1/kv/site/1"}: 403, {"GET", "/v1/kv/?prefix"}: 403, {"GET", "/v1/kv/?watch&prefix"}: 403, {"GET", "/v1/snapshot"}: 403},
		"stranger": {{"GET", "/v1/kv/site/1"}: 403, {"PUT", "/v1/kv/site/1"}: 403},
		"device:1": {{"GET", "/v1/kv/site/1"}: 401, {"PUT", "/v1/kv/site/1"}: 401},
		"node:1":   {{"GET", "/v1/kv/site/1"}: 401, {"PUT", "/v1/kv/site/1"}: 401},
	} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: p.client(p, who), DisableKeepAlives: true}, Timeout: startMax}
		for row, want := range rows {
			if r, err := call(t.Context(), client, row[0], url+row[1], []byte("x")); err != nil || r.status != want {
				t.Errorf("%s: %s %s: %d %s, %v, want %d", who, row[0], row[1], r.status, firstLine(r.body), err, want)
			}
		}
	}
	a.as("", 401, "GET", "/v1/kv/site/1", "") // without TLS it is nobody
}
