package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAQueuedPutSaysSoBesideTheOutput(t *testing.T) {
	w := newWorld(t)
	expires := ""
	f := newFakeAgent(t, w.path("a.sock"), func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Holdfast-Op", "normal-7")
		if expires != "" {
			rw.Header().Set("Holdfast-Expires", expires)
		}
		rw.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(rw, `{"op":"normal-7","state":"queued"}`+"\n")
	})
	for _, args := range [][]string{{"kv", "put", "k", "v"}, {"kv", "del", "k"}} {
		if got := w.runs(0, append(args, "--socket", f.socket)...); got != "" {
			t.Errorf("%v: printed %q: what is queued has no revision", args, got)
		}
		w.says("queued as normal-7:", "not committed yet", "agent queue wait normal-7")
		if strings.Contains(w.stderr.String(), "given up") {
			t.Errorf("says %s", w.stderr)
		}
	}
	expires = "2030-01-02T03:04:05Z"
	if got := w.runs(0, "kv", "put", "k", "v", "-o", "json", "--socket", f.socket); got != `{"op":"normal-7","state":"queued"}`+"\n" {
		t.Errorf("got %q", got)
	}
	w.says("queued as normal-7:", "given up at 2030-01-02T03:04:05Z")
}

func TestTheWriteModeIsPassedOn(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"revision":8,"deleted":1}`))
	for args, uri := range map[string]string{
		"kv put k v":                      "/v1/kv/k",
		"kv put k v --write=queue":        "/v1/kv/k?write=queue",
		"kv put k v --ttl=90s":            "/v1/kv/k?ttl=1m30s",
		"kv put k v --lease=00ab":         "/v1/kv/k?lease=00ab",
		"kv del k --write=sync":           "/v1/kv/k?write=sync",
		"kv del k --prefix --write=sync":  "/v1/kv/k?prefix=&write=sync",
		"kv get k --consistency=local":    "/v1/kv/k?consistency=local",
		"kv get k --consistency=bounded1": "/v1/kv/k?consistency=bounded1", // the agent knows which there are
	} {
		w.runs(0, append(strings.Fields(args), "--socket", f.socket)...)
		if r := f.request(t); r.uri != uri {
			t.Errorf("%s: asked %s, want %s", args, r.uri, uri)
		}
	}
}

func TestQueueStatusIsWhatThePlainCommandShows(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json",
		`{"depth":12,"bytes":4096,"max_bytes":268435456,"oldest_seconds":3725.5,"kept":1,"disk_bytes":5,"queue_epoch":2,"down":"the uplink is lost"}`))
	want := `depth           12
bytes           4096 (4KiB)
max_bytes       268435456 (256MiB)
oldest_seconds  3725.5 (1h2m5s)
kept            1
disk_bytes      5
queue_epoch     2
down            the uplink is lost
`
	for _, args := range [][]string{{"queue"}, {"queue", "status"}} {
		if got := w.runs(0, append(args, "--socket", f.socket)...); got != want {
			t.Errorf("%v: got\n%s\nwant\n%s", args, got, want)
		}
		if r := f.request(t); r.method != "GET" || r.uri != "/v1/queue" {
			t.Errorf("%v: asked %+v", args, r)
		}
		if got := w.runs(0, append(args, "--socket", f.socket, "-o", "json")...); !strings.HasPrefix(got, `{"depth":12,`) {
			t.Errorf("%v: got %s", args, got)
		}
		f.requests()
	}
	w.runs(2, "queue", "lst")
	w.says(`there is no command "agent queue lst": did you mean ls?`)
	w.runs(2, "queue", "status", "x")
}

func TestTheQueueIsSteered(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"depth":12,"paused":true}`))
	for _, name := range []string{"pause", "resume", "flush"} {
		if got := w.runs(0, "queue", name, "--socket", f.socket); !hasLine(got, "paused  true") && !hasLine(got, "paused true") {
			t.Errorf("%s: got %s", name, got)
		}
		if r := f.request(t); r.method != "POST" || r.uri != "/v1/queue/"+name {
			t.Errorf("%s: asked %+v", name, r)
		}
	}
	w.runs(2, "queue", "pause", "x")
}

func TestQueueRetryPrintsTheNewID(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(202, "application/json", `{"op":"normal-9","state":"queued"}`))
	if got := w.runs(0, "queue", "retry", "normal-2", "--socket", f.socket); got != "queued as normal-9\n" {
		t.Errorf("got %q", got)
	}
	if r := f.request(t); r.method != "POST" || r.uri != "/v1/queue/normal-2/retry" {
		t.Errorf("asked %+v", r)
	}
}

func TestQueueLsShowsWhatWaitsAndWhatNeedsALook(t *testing.T) {
	w := newWorld(t)
	ago := time.Now().Add(-90 * time.Second).UTC().Format(time.RFC3339Nano)
	ahead := time.Now().Add(time.Hour).UTC().Format(time.RFC3339) // a clock that was set back
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"items":[`+
		`{"id":"high-1","key":"site/1","key_base64":"c2l0ZS8x","state":"sending","lane":"high","queued":"`+ago+`"},`+
		`{"id":"normal-2","key_base64":"/w==","state":"conflict","lane":"normal","queued":"`+ahead+`","revision":9,"code":"precondition-failed"},`+
		`{"id":"normal-3","key":"k","key_base64":"aw==","state":"rejected","lane":"normal","queued":"`+ahead+`","code":"permission-denied"}]}`))
	got := w.runs(0, "queue", "ls", "--socket", f.socket)
	for _, line := range []string{
		"ID STATE LANE AGE KEY WHY", "high-1 sending high 1m30s site/1 -",
		`normal-2 conflict normal 0s "\xff" precondition-failed, the key is at revision 9`, "normal-3 rejected normal 0s k permission-denied",
	} {
		if !hasLine(got, line) && !hasLine(strings.ReplaceAll(got, "1m31s", "1m30s"), line) {
			t.Errorf("got\n%s\nwant the line %q", got, line)
		}
	}
	if r := f.request(t); r.uri != "/v1/queue?prefix=" {
		t.Errorf("asked %s", r.uri)
	}
	if got := w.runs(0, "queue", "ls", "--state=conflict", "--prefix=site/", "-o", "json", "--socket", f.socket); !strings.HasPrefix(got, `{"items":[`) {
		t.Errorf("got %s", got)
	}
	if r := f.request(t); r.uri != "/v1/queue?prefix=site%2F&state=conflict" {
		t.Errorf("asked %s", r.uri)
	}
}

func TestAnEmptyQueueIsNoTable(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"items":[]}`))
	if got := w.runs(0, "queue", "ls", "--socket", f.socket); got != "" {
		t.Errorf("got %q", got)
	}
	w.says("nothing is queued")
}

func TestQueueShowPrintsAWriteWithItsValue(t *testing.T) {
	w := newWorld(t)
	doc := `{"id":"normal-2","key":"k","key_base64":"aw==","op":"put","value":"aGkAIQ==","state":"conflict","lane":"normal",` +
		`"queued":"2030-01-02T03:04:05Z","expires":"2030-01-03T03:04:05Z","revision":9,"code":"precondition-failed","detail":"somebody else wrote it"}`
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", doc))
	want := `id        normal-2
state     conflict
key       k
op        put
value     "hi\x00!"
lane      normal
queued    2030-01-02T03:04:05Z
expires   2030-01-03T03:04:05Z
revision  9
code      precondition-failed
detail    somebody else wrote it
`
	if got := w.runs(0, "queue", "show", "normal-2", "--socket", f.socket); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if r := f.request(t); r.method != "GET" || r.uri != "/v1/queue/normal-2" {
		t.Errorf("asked %+v", r)
	}
	if got := w.runs(0, "queue", "show", "normal-2", "-o", "json", "--socket", f.socket); got != doc+"\n" {
		t.Errorf("got %s", got)
	}
}

func TestQueueWaitEndsAsTheWriteDoes(t *testing.T) {
	w := newWorld(t)
	state := ""
	f := newFakeAgent(t, w.path("a.sock"), func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"id":"normal-2","key_base64":"aw==","lane":"normal","queued":"2030-01-02T03:04:05Z","state":%s}`, state)
	})
	for _, c := range []struct {
		state, printed string
		code           int
		said           []string
	}{
		{`"committed","revision":9`, "committed, revision 9\n", 0, nil},
		{`"conflict","revision":9,"code":"precondition-failed"`, "", 1, []string{"write normal-2 of key k is not committed: conflict (precondition-failed, the key is at revision 9)", "agent queue show normal-2"}},
		{`"expired"`, "", 1, []string{"is not committed: expired; "}},
		{`"unknown"`, "", 1, []string{"is not committed: unknown; "}},
		{`"queued"`, "", 75, []string{"not committed after 5s: it is queued; try again"}},
		{`"sending"`, "", 75, []string{"it is sending"}},
	} {
		state = c.state
		if got := w.runs(c.code, "queue", "wait", "normal-2", "--timeout=5s", "--socket", f.socket); got != c.printed {
			t.Errorf("%s: printed %q, want %q", c.state, got, c.printed)
		}
		w.says(c.said...)
		r := f.request(t)
		wait, found := strings.CutPrefix(r.uri, "/v1/queue/normal-2?wait=")
		if d, err := time.ParseDuration(wait); !found || err != nil || d > 5*time.Second || d < 4*time.Second {
			t.Errorf("asked %s", r.uri)
		}
		if got := w.runs(c.code, "queue", "wait", "normal-2", "--timeout=5s", "-o", "json", "--socket", f.socket); !strings.HasPrefix(got, `{"id":"normal-2"`) {
			t.Errorf("%s: printed %q", c.state, got)
		}
		f.requests()
	}
	w.runs(2, "queue", "wait", "normal-2", "--timeout=0s", "--socket", f.socket)
}

// An agent waits five minutes at most; a longer wait is several requests.
func TestALongWaitIsAskedForInParts(t *testing.T) {
	w := newWorld(t)
	asked := 0
	f := newFakeAgent(t, w.path("a.sock"), func(rw http.ResponseWriter, _ *http.Request) {
		asked++
		state := "queued"
		if asked == 3 {
			state = "committed"
		}
		fmt.Fprintf(rw, `{"id":"normal-2","key_base64":"aw==","revision":9,"state":%q}`, state)
	})
	w.runs(0, "queue", "wait", "normal-2", "--timeout=1h", "--socket", f.socket)
	all := f.requests()
	if len(all) != 3 {
		t.Fatalf("asked %d times", len(all))
	}
	for _, r := range all {
		if r.uri != "/v1/queue/normal-2?wait=5m0s" {
			t.Errorf("asked %s", r.uri)
		}
	}
}

func TestQueueDiscard(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"op":"normal-2"}`+"\n"))
	if got := w.runs(0, "queue", "discard", "normal-2", "--socket", f.socket); got != "discarded normal-2\n" {
		t.Errorf("got %q", got)
	}
	if r := f.request(t); r.method != "DELETE" || r.uri != "/v1/queue/normal-2" {
		t.Errorf("asked %+v", r)
	}
	sent := newFakeAgent(t, w.path("b.sock"), answering(202, "application/json", `{"op":"normal-2","state":"sending"}`+"\n"))
	if got := w.runs(0, "queue", "discard", "normal-2", "--socket", sent.socket); !strings.Contains(got, "may have been sent") || !strings.Contains(got, "agent queue show normal-2") {
		t.Errorf("got %q", got)
	}
}

func TestWhatIsNoIDIsNotSent(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{}`))
	for _, id := range []string{"", "a/b", "..", "a?b", "a%20", "ü"} {
		for _, args := range [][]string{{"queue", "show"}, {"queue", "wait"}, {"queue", "discard"}, {"token", "revoke"}} {
			w.runs(2, append(args, id, "--socket", f.socket)...)
			w.says("is no id: those there are, agent " + args[0] + " ls lists")
		}
	}
	w.runs(2, "queue", "show", "--socket", f.socket)
	w.says("agent queue show needs ID")
	if asked := f.requests(); len(asked) > 0 {
		t.Errorf("asked %v", asked)
	}
}
