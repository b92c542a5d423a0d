//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestWatchesOfEveryDoorEndWithTheirRight opens watches over REST, gRPC and the gateway, on a member and a proxy, by a
// device and by a user; then the token is revoked and the permission taken back. None may see what comes after.
func TestWatchesOfEveryDoorEndWithTheirRight(t *testing.T) {
	c, member, proxy, root, _ := lockedCluster(t)
	token, id := deviceToken(t, c.memberDir(), "--device=display", "--allow=get,watch", "--prefix=site/")
	member.gateway("auth/role/add", `{"name":"reader"}`, root)
	member.gateway("auth/role/grant", `{"name":"reader","perm":{"permType":"READ","key":"c2l0ZS8=","range_end":"c2l0ZTA="}}`, root)
	member.gateway("auth/user/add", `{"name":"ann","password":"p"}`, root)
	member.gateway("auth/user/grant", `{"user":"ann","role":"reader"}`, root)
	ann := member.gateway("auth/authenticate", `{"name":"ann","password":"p"}`, "").Token

	ctx, cancel := context.WithTimeout(t.Context(), startMax)
	defer cancel()
	var open []*stream
	for _, a := range []*agent{member, proxy} {
		for who, token := range map[string]string{"the device": token, "ann": ann} {
			a.waitKnown(token)
			name := fmt.Sprintf("%s at %s", who, a.url)
			open = append(open,
				restStream(ctx, a, name+" over REST", "GET", "/v1/kv/site/?watch&prefix", "", "Authorization", "Bearer "+token, "Accept", "application/x-ndjson"),
				restStream(ctx, a, name+" over the gateway", "POST", "/v3/watch", `{"create_request":{"key":"c2l0ZS8=","range_end":"c2l0ZTA="}}`, "Authorization", token),
				grpcStream(ctx, a, name+" over gRPC", token))
		}
	}
	narrow, _ := deviceToken(t, c.memberDir(), "--device=one", "--allow=get,watch", "--prefix=site/1")
	var one []*stream
	for _, a := range []*agent{member, proxy} { // which has one feed of all keys below site/ for everybody
		a.waitKnown(narrow)
		one = append(one, restStream(ctx, a, "one key at "+a.url, "GET", "/v1/kv/site/1?watch&prefix", "", "Authorization", "Bearer "+narrow, "Accept", "application/x-ndjson"))
	}
	member.as(root, 201, "PUT", "/v1/kv/site/2", "of another key")
	member.as(root, 201, "PUT", "/v1/kv/sit/1", "beside the right") // right before and behind what they may see
	member.as(root, 201, "PUT", "/v1/kv/site0", "beside the right")
	member.as(root, 200, "PUT", "/v1/kv/site/1", "for all")
	for _, s := range open {
		s.sees("for all", "beside the right")
	}
	for _, s := range one {
		s.sees("for all", "of another key")
	}
	command(t, 0, "token", "revoke", "--data-dir", c.memberDir(), id)
	member.gateway("auth/user/revoke", `{"name":"ann","role":"reader"}`, root)
	for _, a := range []*agent{member, proxy} {
		for _, token := range []string{token, ann} {
			eventually(t, startMax, func() string {
				if r := a.do("GET", "/v1/kv/site/1?consistency=local", nil, "Authorization", "Bearer "+token); r.status != 401 && r.status != 403 {
					return fmt.Sprintf("who lost the right is answered with %d by %s", r.status, a.url)
				}
				return ""
			})
		}
	}
	member.as(root, 200, "PUT", "/v1/kv/site/1", "for root alone")
	for _, s := range open {
		s.endsWithout("for root alone")
	}
}

// stream is an open watch as lines of text.
type stream struct {
	t    *testing.T
	name string
	next func() (string, error)
}

func restStream(ctx context.Context, a *agent, name, method, path, body string, header ...string) *stream {
	a.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		a.t.Fatalf("%s: %d %s", name, res.StatusCode, text)
	}
	lines := bufio.NewScanner(res.Body)
	return &stream{t: a.t, name: name, next: func() (string, error) {
		if !lines.Scan() {
			return "", io.EOF
		}
		return lines.Text(), nil
	}}
}

func grpcStream(ctx context.Context, a *agent, name, token string) *stream {
	a.t.Helper()
	w, err := openGRPCWatch(showing(ctx, token), a.grpcConn(), []byte("site/"), []byte("site0"))
	if err != nil {
		a.t.Fatalf("%s: %v", name, err)
	}
	if r, err := w.Recv(); err != nil || !r.Created || r.Canceled {
		a.t.Fatalf("%s: %v, %v", name, r, err)
	}
	return &stream{t: a.t, name: name, next: func() (string, error) {
		r, err := w.Recv()
		if err != nil || r.Canceled {
			return "", io.EOF
		}
		var all strings.Builder
		for _, e := range r.Events {
			all.WriteString(base64.StdEncoding.EncodeToString(e.Kv.Value))
		}
		return all.String(), nil
	}}
}

// sees reads up to a value, and wants not to meet another one before.
func (s *stream) sees(value, without string) {
	s.t.Helper()
	for {
		line, err := s.next()
		if err != nil {
			s.t.Errorf("%s: it ended before it saw %q", s.name, value)
			return
		}
		if strings.Contains(line, base64.StdEncoding.EncodeToString([]byte(without))) {
			s.t.Errorf("%s: it saw %q", s.name, without)
		}
		if strings.Contains(line, base64.StdEncoding.EncodeToString([]byte(value))) {
			return
		}
	}
}

// endsWithout reads to the end, which has to come by itself.
func (s *stream) endsWithout(value string) {
	s.t.Helper()
	for {
		line, err := s.next()
		if err != nil || strings.Contains(line, `"canceled":true`) {
			return
		}
		if strings.Contains(line, base64.StdEncoding.EncodeToString([]byte(value))) {
			s.t.Errorf("%s: it saw %q", s.name, value)
			return
		}
	}
}
