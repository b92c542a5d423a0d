//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/api"
)

// gateway posts to etcd's JSON gateway and decodes the answer.
func (a *agent) gateway(path, body, token string) (answer struct{ Token string }) {
	a.t.Helper()
	header := []string{"Content-Type", "application/json"}
	if token != "" {
		header = append(header, "Authorization", token)
	}
	r := a.do("POST", "/v3/"+path, []byte(body), header...)
	if r.status != http.StatusOK {
		a.t.Fatalf("/v3/%s %s: %d %s", path, body, r.status, r.body)
	}
	if err := json.Unmarshal(r.body, &answer); err != nil {
		a.t.Fatal(err)
	}
	return answer
}

// as is a request by somebody who shows a token; "" by nobody.
func (a *agent) as(token string, status int, method, path, body string) reply {
	a.t.Helper()
	var header []string
	if token != "" {
		header = []string{"Authorization", "Bearer " + token}
	}
	r := a.do(method, path, []byte(body), header...)
	if r.status != status {
		a.t.Errorf("%s %s on %s: %d %s, want %d", method, path, a.url, r.status, r.body, status)
	}
	return r
}

// deviceToken makes a token for a device on a member.
func deviceToken(t *testing.T, dir string, args ...string) (token, id string) {
	t.Helper()
	out, said := command(t, 0, append([]string{"token", "create", "--data-dir", dir}, args...)...)
	fields := strings.Fields(said)
	if len(fields) < 3 {
		t.Fatalf("token create said %q", said)
	}
	return strings.TrimSpace(out), fields[2] // agent: token ID lets ...
}

// lockedCluster is a member with authentication on and a proxy that knows so, and root's token.
func lockedCluster(t *testing.T, more ...string) (c *cluster, member, proxy *agent, root string, args []string) {
	t.Helper()
	c = newCluster(t)
	member = c.member()
	args = append(c.proxyArgs(c.file("token", joinToken(t, c.memberDir(), "1h").Token)), more...)
	proxy = start(t, filepath.Join(c.dir, "proxy"), freeAddr(t), args...)
	proxy.waitSynced()
	member.expect(201, "PUT", "/v1/kv/site/1", "secret", "")
	proxy.expect(200, "GET", "/v1/kv/site/1?consistency=linearizable", "", "secret")
	member.gateway("auth/user/add", `{"name":"root","password":"p"}`, "")
	member.gateway("auth/user/grant", `{"user":"root","role":"root"}`, "")
	member.gateway("auth/enable", `{}`, "")
	root = member.gateway("auth/authenticate", `{"name":"root","password":"p"}`, "").Token
	eventually(t, startMax, func() string { // within one propagation, by its own judgement
		if r := proxy.do("GET", "/v1/kv/site/1?consistency=local", nil); r.status != http.StatusUnauthorized {
			return fmt.Sprintf("the proxy answers nobody with %d", r.status)
		}
		return ""
	})
	return c, member, proxy, root, args
}

// TestRightsHoldOnMemberProxyAndOfflineProxy asks for what a device's token does not allow, everywhere.
func TestRightsHoldOnMemberProxyAndOfflineProxy(t *testing.T) {
	c, member, proxy, root, args := lockedCluster(t)
	token, id := deviceToken(t, c.memberDir(), "--device=pump-7", "--allow=get,put,watch", "--prefix=q/", "--prefix=site/1", "--expires=90d")
	stranger := token[:len(token)-4] + "AAAA"
	key := base64.StdEncoding.EncodeToString([]byte("site/2"))

	everywhere := func(a *agent, written int) {
		t.Helper()
		t.Logf("at %s", a.url)
		a.as("", 401, "GET", "/v1/kv/site/1", "")
		a.as(stranger, 401, "GET", "/v1/kv/site/1", "")
		a.as(token, 200, "GET", "/v1/kv/site/1", "")
		a.as(token, written, "PUT", "/v1/kv/q/1", "x")
		a.as(token, 403, "GET", "/v1/kv/site/2", "")
		a.as(token, 403, "PUT", "/v1/kv/site/2", "x")
		a.as(token, 403, "DELETE", "/v1/kv/q/1", "")
		a.as("", 401, "PUT", "/v1/kv/q/1", "x")
		a.as(stranger, 401, "PUT", "/v1/kv/q/1", "x")
		a.as(token, 403, "GET", "/v1/kv/?prefix", "")
		a.as(token, 403, "GET", "/v1/kv/site/?watch&prefix", "")
		a.as(token, 403, "POST", "/v1/txn", `{"compare":[{"key":"site/2","version":0}],"then":[{"put":{"key":"q/9","value":"x"}}]}`)
		a.as(token, 403, "POST", "/v3/kv/range", `{"key":"`+key+`"}`)
		a.as("", 400, "POST", "/v3/kv/range", `{"key":"`+key+`"}`)
	}
	for _, a := range []*agent{member, proxy} {
		eventually(t, startMax, func() string {
			if r := a.do("GET", "/v1/kv/site/1", nil, "Authorization", "Bearer "+token); r.status != http.StatusOK {
				return fmt.Sprintf("the new token is answered with %d", r.status)
			}
			return ""
		})
		everywhere(a, 200+map[bool]int{true: 1}[a == member])
		a.as(token, 403, "GET", "/v1/snapshot", "")
		a.as(token, 403, "POST", "/v1/devices", `{}`)
		a.as(root, 201, "PUT", "/v1/kv/site/root"+a.url[len(a.url)-3:], "by root") // also through a proxy: it shows its token
	}

	t.Log("the member is gone, and the proxy starts anew")
	member.kill()
	proxy.kill()
	proxy = start(t, filepath.Join(c.dir, "proxy"), freeAddr(t), args...)
	everywhere(proxy, 202)
	proxy.as(root, 403, "PUT", "/v1/kv/q/root?write=queue", "x")

	t.Log("the right is withdrawn before the queued write arrives: it is rejected, and says so")
	command(t, 0, "queue", "pause", "--data-dir", filepath.Join(c.dir, "proxy"))
	member = c.member()
	command(t, 0, "token", "revoke", "--data-dir", c.memberDir(), id)
	eventually(t, startMax, func() string {
		if r := proxy.do("GET", "/v1/kv/site/1?consistency=local", nil, "Authorization", "Bearer "+token); r.status != http.StatusUnauthorized {
			return fmt.Sprintf("the revoked token is answered with %d", r.status)
		}
		return ""
	})
	command(t, 0, "queue", "resume", "--data-dir", filepath.Join(c.dir, "proxy"))
	eventually(t, startMax, func() string {
		out, _ := command(t, 0, "queue", "ls", "--state=rejected", "--data-dir", filepath.Join(c.dir, "proxy"))
		if !strings.Contains(out, "q/1") {
			return "no rejected write is listed: " + out
		}
		return ""
	})
	if r := member.as(root, 200, "GET", "/v1/kv/q/1", ""); string(r.body) != "x" {
		t.Errorf("q/1 is %q", r.body)
	}
}

// TestAnAuthorSeesWhatWasRejected takes a user's right away while its write waits on a proxy, and asks there as that user and
// as a device.
func TestAnAuthorSeesWhatWasRejected(t *testing.T) {
	c, member, proxy, root, _ := lockedCluster(t)
	device, _ := deviceToken(t, c.memberDir(), "--device=pump-7", "--allow=put", "--prefix=q/dev/")
	member.gateway("auth/user/add", `{"name":"ann","password":"p"}`, root)
	member.gateway("auth/role/add", `{"name":"r"}`, root)
	whole := `"key":"` + base64.StdEncoding.EncodeToString([]byte("q/")) + `","range_end":"` + base64.StdEncoding.EncodeToString([]byte("q0")) + `"`
	member.gateway("auth/role/grant", `{"name":"r","perm":{"permType":"READWRITE",`+whole+`}}`, root)
	member.gateway("auth/user/grant", `{"user":"ann","role":"r"}`, root)
	ann := member.gateway("auth/authenticate", `{"name":"ann","password":"p"}`, "").Token
	eventually(t, startMax, func() string {
		for path, token := range map[string]string{"/v1/kv/q/ann": ann, "/v1/kv/q/dev/1": device} {
			if r := proxy.do("PUT", path, []byte("v"), "Authorization", "Bearer "+token); r.status >= 300 {
				return fmt.Sprintf("a PUT of %s is answered with %d", path, r.status)
			}
		}
		return ""
	})
	dir := filepath.Join(c.dir, "proxy")
	command(t, 0, "queue", "pause", "--data-dir", dir)
	mine := proxy.as(ann, 202, "PUT", "/v1/kv/q/ann?write=queue", "of ann").header.Get("Location")
	others := proxy.as(device, 202, "PUT", "/v1/kv/q/dev/1?write=queue", "of the device").header.Get("Location")
	proxy.as(device, 403, "GET", "/v1/kv/q/ann?view=pending", "")
	proxy.as("", 401, "GET", "/v1/kv/q/ann?view=pending", "")
	if r := proxy.as(ann, 200, "GET", "/v1/kv/q/ann?view=pending", ""); string(r.body) != "of ann" {
		t.Errorf("what waits is %s", r.body)
	}
	member.gateway("auth/role/revoke", `{"role":"r",`+whole+`}`, root)
	command(t, 0, "queue", "resume", "--data-dir", dir)
	eventually(t, startMax, func() string {
		r := proxy.as(ann, 200, "GET", "/v1/queue?state=rejected", "")
		var got struct {
			Items []struct{ Key, Author, Code string }
		}
		if err := json.Unmarshal(r.body, &got); err != nil || len(got.Items) != 1 {
			return fmt.Sprintf("ann sees %s", r.body)
		}
		if i := got.Items[0]; i.Key != "q/ann" || i.Author != "ann" || i.Code != "permission-denied" {
			t.Errorf("ann sees %+v", i)
		}
		return ""
	})
	if r := proxy.as(ann, 200, "GET", mine, ""); !strings.Contains(string(r.body), `"state":"rejected"`) {
		t.Errorf("the write of ann: %s", r.body)
	}
	proxy.as(ann, 404, "GET", others, "")
	proxy.as(ann, 403, "DELETE", mine, "")
	if r := proxy.as(device, 200, "GET", others+"?wait=10s", ""); !strings.Contains(string(r.body), `"state":"committed"`) {
		t.Errorf("the write of the device: %s", r.body)
	}
	proxy.as(device, 404, "GET", mine, "")
	if r := proxy.as(device, 200, "GET", "/v1/queue?prefix=", ""); strings.Contains(string(r.body), "ann") {
		t.Errorf("the device sees %s", r.body)
	}
	proxy.as("", 401, "GET", "/v1/queue", "")
}

// TestAMemberKnowsWhenAProxySawADevice has a device read from a proxy's cache alone.
func TestAMemberKnowsWhenAProxySawADevice(t *testing.T) {
	c, member, proxy, _, _ := lockedCluster(t)
	token, _ := deviceToken(t, c.memberDir(), "--device=display", "--allow=get", "--prefix=site/")
	deviceToken(t, c.memberDir(), "--device=drawer", "--allow=get", "--prefix=site/")
	eventually(t, startMax, func() string {
		if r := proxy.do("GET", "/v1/kv/site/1?consistency=local", nil, "Authorization", "Bearer "+token); r.status != http.StatusOK {
			return fmt.Sprintf("the new token is answered with %d", r.status)
		}
		return ""
	})
	var list struct {
		Devices []api.DeviceInfo `json:"devices"`
	}
	out, _ := command(t, 0, "token", "ls", "-o", "json", "--data-dir", c.memberDir())
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Devices) != 2 {
		t.Fatalf("%s: %v", out, err)
	}
	for _, d := range list.Devices {
		if seen := d.LastSeen != nil && time.Since(*d.LastSeen) < startMax; seen != (d.Name == "display") {
			t.Errorf("%s was seen last at %v, as %s says", d.Name, d.LastSeen, member.url)
		}
	}
}

// TestAWatchOnAProxyEndsWithItsRight withdraws a token while its watch is open, on the proxy's own feed.
func TestAWatchOnAProxyEndsWithItsRight(t *testing.T) {
	c, member, proxy, root, _ := lockedCluster(t)
	token, id := deviceToken(t, c.memberDir(), "--device=display", "--allow=watch", "--prefix=site/")
	ctx, cancel := context.WithTimeout(t.Context(), startMax)
	defer cancel()
	var body io.ReadCloser
	eventually(t, startMax, func() string {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, proxy.url+"/v1/kv/site/?watch&prefix", http.NoBody)
		if err != nil {
			return err.Error()
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Accept", "application/x-ndjson")
		open, err := http.DefaultClient.Do(r) //nolint:bodyclose // it is read below
		if err != nil {
			return err.Error()
		}
		if body = open.Body; open.StatusCode != http.StatusOK {
			body.Close()
			return fmt.Sprintf("the watch is answered with %d", open.StatusCode)
		}
		return ""
	})
	defer body.Close()
	lines := bufio.NewScanner(body)
	next := func(part string) bool {
		for lines.Scan() {
			if strings.Contains(lines.Text(), part) {
				return true
			}
		}
		return false
	}
	value := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	member.as(root, 200, "PUT", "/v1/kv/site/1", "seen")
	if !next(value("seen")) {
		t.Fatal("the watch ended before it saw anything")
	}
	command(t, 0, "token", "revoke", "--data-dir", c.memberDir(), id)
	eventually(t, startMax, func() string {
		if r := proxy.do("GET", "/v1/kv/site/?watch&prefix", nil, "Authorization", "Bearer "+token); r.status != http.StatusUnauthorized {
			return fmt.Sprintf("the revoked token is answered with %d", r.status)
		}
		return ""
	})
	member.as(root, 200, "PUT", "/v1/kv/site/1", "not for display")
	if next(value("not for display")) {
		t.Error("the watch saw a change that came after its right was withdrawn")
	}
}

// TestAProxyForgetsWhoMayWhatInTime gives a proxy a short auth.max-offline.
func TestAProxyForgetsWhoMayWhatInTime(t *testing.T) {
	c, member, proxy, _, _ := lockedCluster(t, "--auth-max-offline", "10s")
	token, _ := deviceToken(t, c.memberDir(), "--device=pump", "--allow=get", "--prefix=site/")
	eventually(t, startMax, func() string {
		if r := proxy.do("GET", "/v1/kv/site/1", nil, "Authorization", "Bearer "+token); r.status != http.StatusOK {
			return fmt.Sprintf("the new token is answered with %d", r.status)
		}
		return ""
	})
	member.kill()
	eventually(t, startMax, func() string {
		r := proxy.do("GET", "/v1/kv/site/1?consistency=local", nil, "Authorization", "Bearer "+token)
		if r.status != http.StatusServiceUnavailable || !strings.Contains(string(r.body), "authz-stale") {
			return fmt.Sprintf("answered with %d %s", r.status, r.body)
		}
		return ""
	})
}

// TestADevicesTokenIsOverWhenItExpires lets one expire while a watch of it is open on a member and on a proxy.
func TestADevicesTokenIsOverWhenItExpires(t *testing.T) {
	c, member, proxy, root, _ := lockedCluster(t)
	token, _ := deviceToken(t, c.memberDir(), "--device=display", "--allow=get,watch", "--prefix=site/", "--expires=10s")
	ctx, cancel := context.WithTimeout(t.Context(), startMax)
	defer cancel()
	var open []*stream
	for _, a := range []*agent{member, proxy} {
		a.waitKnown(token)
		open = append(open, restStream(ctx, a, "a watch at "+a.url, "GET", "/v1/kv/site/?watch&prefix", "", "Authorization", "Bearer "+token, "Accept", "application/x-ndjson"),
			grpcStream(ctx, a, "a watch over gRPC at "+a.url, token))
	}
	for _, a := range []*agent{member, proxy} {
		eventually(t, startMax, func() string {
			if r := a.do("GET", "/v1/kv/site/1?consistency=local", nil, "Authorization", "Bearer "+token); r.status != http.StatusUnauthorized {
				return fmt.Sprintf("who has a token that has expired is answered with %d by %s", r.status, a.url)
			}
			return ""
		})
	}
	member.as(root, 200, "PUT", "/v1/kv/site/1", "too late")
	for _, s := range open {
		s.endsWithout("too late")
	}
}

// TestAGuesserIsSlowedDownAtTheDoor tries passwords over each door until it is told to wait.
func TestAGuesserIsSlowedDownAtTheDoor(t *testing.T) {
	_, member, _, root, _ := lockedCluster(t)
	for _, user := range []string{"ann", "bob"} { // misses are counted by user and address
		member.gateway("auth/user/add", `{"name":"`+user+`","password":"p"}`, root)
	}
	basic := func(password string) reply {
		return member.do("GET", "/v1/status", nil, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("ann:"+password)))
	}
	gateway := func(password string) reply {
		return member.do("POST", "/v3/auth/authenticate", []byte(`{"name":"bob","password":"`+password+`"}`), "Content-Type", "application/json")
	}
	for door, try := range map[string]func(string) reply{"Basic": basic, "Authenticate": gateway} {
		slowed := false
		for i := range 50 {
			r := try(fmt.Sprint("guess ", i))
			if r.status == http.StatusOK {
				t.Fatalf("%s: a guess was right", door)
			}
			if slowed = r.status == http.StatusTooManyRequests; slowed {
				t.Logf("%s: slowed down after %d guesses, Retry-After %s", door, i, r.header.Get("Retry-After"))
				break
			}
		}
		if !slowed {
			t.Errorf("%s: 50 guesses were looked at", door)
		}
	}
}
