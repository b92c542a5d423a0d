package main

import (
	"strings"
	"testing"
	"time"
)

const madeToken = `{"token":"HF1ca::7f.secret","id":"7f","expires":"2030-01-02T03:04:05Z"}` + "\n"

// `agent token create > file` must leave the token in the file and nothing else.
func TestANewTokenIsPrintedAlone(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(201, "application/json", madeToken))
	for _, c := range []struct{ args, body, said string }{
		{"", `{"role":"any","ttl":"24h0m0s","uses":0}`,
			"token 7f lets any number of nodes join until 2030-01-02T03:04:05Z; a proxy may then touch every key (--scope limits that); keep it secret"},
		{"--role=proxy --ttl=30m --uses=1 --scope=site/42/", `{"role":"proxy","ttl":"30m0s","uses":1,"scope":["site/42/"]}`,
			"lets one proxy join until 2030-01-02T03:04:05Z; a proxy may then touch the keys under site/42/; keep"},
		{"--uses=3 --role=proxy --scope=a,b --scope=c", `{"role":"proxy","ttl":"24h0m0s","uses":3,"scope":["a,b","c"]}`,
			"lets 3 proxies join until 2030-01-02T03:04:05Z; a proxy may then touch the keys under a,b, c; keep"},
		{"--role=member --uses=2", `{"role":"member","ttl":"24h0m0s","uses":2}`, "lets 2 members join until 2030-01-02T03:04:05Z; keep"},
	} {
		if got := w.runs(0, append([]string{"token", "create", "--socket", f.socket}, strings.Fields(c.args)...)...); got != "HF1ca::7f.secret\n" {
			t.Errorf("%s: printed %q", c.args, got)
		}
		w.says(c.said)
		if strings.Contains(w.stderr.String(), ".secret") {
			t.Errorf("%s: the secret is on standard error: %s", c.args, w.stderr)
		}
		if r := f.request(t); r.method != "POST" || r.uri != "/v1/tokens" || r.body != c.body || r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: asked %+v", c.args, r)
		}
	}
	if got := w.runs(0, "token", "create", "-o", "json", "--socket", f.socket); got != madeToken {
		t.Errorf("got %q", got)
	}
	w.runs(2, "token", "create", "--ttl=soon", "--socket", f.socket)
}

func TestAnAnswerWithoutATokenIsNone(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(201, "application/json", `{}`))
	if got := w.runs(1, "token", "create", "--socket", f.socket); got != "" {
		t.Errorf("printed %q", got)
	}
	w.says("has no token")
}

func TestTokenLsShowsWhatIsLeftOfEach(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"tokens":[`+
		`{"id":"7f","role":"proxy","scope":["site/42/","\u0000"],"expires":"2999-01-02T03:04:05Z","uses":3,"used":1,"created":"2026-01-02T03:04:05Z"},`+
		`{"id":"80","role":"any","scope":[""],"expires":"2001-01-02T03:04:05Z","uses":0,"used":2,"created":"2000-01-02T03:04:05Z"},`+
		`{"id":"81","role":"member","scope":null,"expires":"2999-01-02T03:04:05Z","uses":0,"used":0,"created":"2026-01-02T03:04:05Z"}]}`))
	got := w.runs(0, "token", "ls", "--socket", f.socket)
	for _, line := range []string{
		"ID ROLE USED CREATED EXPIRES SCOPE",
		`7f proxy 1 of 3 2026-01-02T03:04:05Z 2999-01-02T03:04:05Z site/42/, "\x00"`,
		"80 any 2 2000-01-02T03:04:05Z 2001-01-02T03:04:05Z (expired) every key",
		"81 member 0 2026-01-02T03:04:05Z 2999-01-02T03:04:05Z -",
	} {
		if !hasLine(got, line) {
			t.Errorf("got\n%s\nwant the line %q", got, line)
		}
	}
	if asked := f.requests(); len(asked) != 2 || asked[0].uri != "/v1/tokens" || asked[1].uri != "/v1/devices" {
		t.Errorf("asked %+v", asked)
	}
	if got := w.runs(0, "token", "ls", "-o", "yaml", "--socket", f.socket); !strings.HasPrefix(got, "tokens:\n  - id: \"7f\"\n") {
		t.Errorf("got %s", got)
	}
	none := newFakeAgent(t, w.path("b.sock"), answering(200, "application/json", `{"tokens":[]}`))
	if got := w.runs(0, "token", "ls", "--socket", none.socket); got != "" {
		t.Errorf("got %q", got)
	}
	w.says("there are no tokens")
}

func TestTokenRevoke(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"id":"7f"}`))
	if got := w.runs(0, "token", "revoke", "7f", "--socket", f.socket); got != "revoked 7f\n" {
		t.Errorf("got %q", got)
	}
	if r := f.request(t); r.method != "DELETE" || r.uri != "/v1/tokens/7f" {
		t.Errorf("asked %+v", r)
	}
	elsewhere := newFakeAgent(t, w.path("b.sock"), answering(404, "application/problem+json",
		`{"title":"Administration only","status":404,"detail":"join tokens are served on the administration socket of a node only","code":"administration-only","outcome":"none"}`))
	for _, args := range [][]string{{"revoke", "7f"}, {"ls"}, {"create"}} {
		w.runs(1, append([]string{"token", "--socket", elsewhere.socket}, args...)...)
		w.says("administration socket")
	}
	w.runs(2, "token")
	w.runs(2, "token", "lst")
}

func TestAgesAreShortAndNeverNegative(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Hour: "0s", 0: "0s", 1500 * time.Millisecond: "1s", 25*time.Hour + time.Second: "25h0m1s"} {
		if got := ageText(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}
