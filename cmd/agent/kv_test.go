package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestPutSendsTheValueAsItIs(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(201, "application/json", `{"revision":7}`+"\n"))
	if got := w.runs(0, "kv", "put", "--socket", f.socket, "site/42/temp", "21 °C"); got != "revision 7\n" {
		t.Errorf("got %q", got)
	}
	if r := f.request(t); r.method != "PUT" || r.uri != "/v1/kv/site/42/temp" || r.body != "21 °C" {
		t.Errorf("asked %+v", r)
	}
	w.stdin = "a\x00\xff\n"
	if got := w.runs(0, "kv", "put", "--socket", f.socket, "k", "-", "-o", "json"); got != `{"revision":7}`+"\n" {
		t.Errorf("got %q", got)
	}
	if r := f.request(t); r.body != w.stdin {
		t.Errorf("sent %q, want %q", r.body, w.stdin)
	}
	if got := w.runs(0, "kv", "put", "--socket", f.socket, "k", "", "-o", "yaml"); got != "revision: 7\n" {
		t.Errorf("got %q", got)
	}
	if r := f.request(t); r.body != "" || r.header.Get("Content-Length") != "" && r.header.Get("Content-Length") != "0" {
		t.Errorf("an empty value: asked %+v", r)
	}
}

func TestAValueThatNoAgentTakesIsNotSent(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(201, "application/json", `{"revision":7}`))
	w.stdin = strings.Repeat("x", valueBytesMax+1)
	w.runs(2, "kv", "put", "--socket", f.socket, "k", "-")
	w.says("larger than 16777216 bytes")
	if asked := f.requests(); len(asked) > 0 {
		t.Errorf("asked %d times", len(asked))
	}
}

func TestKeysArriveByteForByte(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/octet-stream", "v"))
	keys := []string{
		"a", "/", "//", "//a", "a//b/", ".", "..", "../..", "a/../b", "a/./b", "a b", " ", "a%2Fb", "%", "%zz", "a+b", "a?b=c", "a#b", "ü/日本",
		"a\x00b", "\x00", "\xff\xfe", "a\nb", "a\\b", `"'<>`, "a;b,c", "a:b@c", "[x]", "~-._", strings.Repeat("k", 4096),
	}
	for _, key := range keys {
		for _, args := range [][]string{
			{"kv", "get", "--socket", f.socket, "--", key},
			{"kv", "get", "--socket", f.socket, "--key-base64", base64.StdEncoding.EncodeToString([]byte(key))},
		} {
			if got := w.runs(0, args...); got != "v" {
				t.Errorf("%q: got %q", key, got)
			}
			uri := f.request(t).uri
			escaped, ok := strings.CutPrefix(uri, "/v1/kv/")
			if arrived, err := url.PathUnescape(escaped); !ok || err != nil || arrived != key {
				t.Errorf("%q arrived as %q (%s), %v", key, arrived, uri, err)
			}
		}
	}
}

func TestGetPrintsTheValueAndNothingElse(t *testing.T) {
	w := newWorld(t)
	value := "no line end \x00\xff"
	f := newFakeAgent(t, w.path("a.sock"), func(rw http.ResponseWriter, _ *http.Request) {
		h := rw.Header()
		h.Set("ETag", `"7"`)
		h.Set("Holdfast-Revision", "9")
		h.Set("Holdfast-Source", "member")
		_, _ = io.WriteString(rw, value)
	})
	if got := w.runs(0, "kv", "get", "k", "--socket", f.socket); got != value || w.stderr.String() != "" {
		t.Errorf("got %q and %q", got, w.stderr)
	}
	var doc struct {
		Key         string
		KeyBase64   []byte `json:"key_base64"`
		Value       []byte
		ModRevision int64 `json:"mod_revision"`
		Revision    int64
		Source      string
	}
	if err := json.Unmarshal([]byte(w.runs(0, "kv", "get", "k", "--socket", f.socket, "-o", "json")), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Key != "k" || string(doc.Value) != value || doc.ModRevision != 7 || doc.Revision != 9 || string(doc.KeyBase64) != "k" || doc.Source != "member" {
		t.Errorf("got %+v", doc)
	}
	if got := w.runs(0, "kv", "get", "\xff", "--socket", f.socket, "-o", "yaml"); !strings.HasPrefix(got, "key_base64: \"/w==\"\nvalue: ") {
		t.Errorf("got %q", got)
	}
}

func TestReadFlagsBecomeParametersAndHeaders(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"kvs":[],"revision":1}`))
	for _, c := range []struct{ args, query, minRevision string }{
		{"", "", ""},
		{"--consistency=local", "consistency=local", ""},
		{"--max-staleness=5s", "consistency=bounded&max_staleness=5s", ""},
		{"--max-staleness=0s --consistency=auto", "consistency=auto&max_staleness=0s", ""},
		{"--min-revision=7 --wait=2s", "wait=2s", "7"},
	} {
		args := append([]string{"kv", "get", "k", "--socket", f.socket}, strings.Fields(c.args)...)
		w.runs(0, args...)
		r := f.request(t)
		if _, query, _ := strings.Cut(r.uri, "?"); query != c.query || r.header.Get("Holdfast-Min-Revision") != c.minRevision {
			t.Errorf("%s: asked %s with %q", c.args, r.uri, r.header.Get("Holdfast-Min-Revision"))
		}
		w.runs(0, append([]string{"kv", "ls", "k", "--socket", f.socket}, strings.Fields(c.args)...)...)
		r = f.request(t)
		if want := strings.TrimPrefix(c.query+"&limit=500", "&"); !strings.HasPrefix(r.uri, "/v1/kv/k?") || !sameQuery(t, r.uri, want+"&prefix=") {
			t.Errorf("ls %s: asked %s", c.args, r.uri)
		}
	}
}

func sameQuery(t *testing.T, uri, want string) bool {
	t.Helper()
	_, query, _ := strings.Cut(uri, "?")
	got, err1 := url.ParseQuery(query)
	exp, err2 := url.ParseQuery(want)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return got.Encode() == exp.Encode()
}

func TestPreconditionsBecomeHeaders(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"revision":8,"deleted":1}`))
	for _, c := range []struct{ flag, match, noneMatch string }{
		{"--if-match=7", `"7"`, ""},
		{"--if-match=*", "*", ""},
		{"--if-none-match", "", "*"},
		{"--if-none-match=*", "", "*"},
		{"--if-none-match=7", "", `"7"`},
	} {
		for _, args := range [][]string{{"kv", "put", "k", "v"}, {"kv", "del", "k"}} {
			w.runs(0, append(args, c.flag, "--socket", f.socket)...)
			if h := f.request(t).header; h.Get("If-Match") != c.match || h.Get("If-None-Match") != c.noneMatch {
				t.Errorf("%v %s: got %q and %q", args, c.flag, h.Get("If-Match"), h.Get("If-None-Match"))
			}
		}
	}
	w.runs(2, "kv", "put", "k", "v", "--if-match=x", "--socket", f.socket)
	w.says(`If-Match: "x" is neither a revision nor *`)
}

func TestDelSaysHowMany(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"revision":8,"deleted":3}`+"\n"))
	if got := w.runs(0, "kv", "del", "a/", "--prefix", "--socket", f.socket); got != "revision 8, deleted 3\n" {
		t.Errorf("got %q", got)
	}
	if r := f.request(t); r.method != "DELETE" || r.uri != "/v1/kv/a/?prefix=" {
		t.Errorf("asked %+v", r)
	}
	w.runs(0, "kv", "del", "a/", "--socket", f.socket)
	if r := f.request(t); r.uri != "/v1/kv/a/" {
		t.Errorf("asked %+v", r)
	}
}

// shelf answers lists with n keys, as an agent does.
func shelf(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		first, size := 0, 0
		_, _ = fmt.Sscan(q.Get("after"), &first)
		_, _ = fmt.Sscan(q.Get("limit"), &size)
		var kvs []string
		for i := first; i < min(n, first+size); i++ {
			item := fmt.Sprintf(`{"key":"k%04d","key_base64":%q`, i, base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "k%04d", i)))
			if !q.Has("keys_only") {
				item += `,"value":"` + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "v%d", i)) + `"`
			}
			kvs = append(kvs, item+fmt.Sprintf(`,"mod_revision":%d}`, i+2))
		}
		next := ""
		if first+size < n {
			next = fmt.Sprintf(`,"more":true,"next":"%d"`, first+size)
		}
		fmt.Fprintf(w, `{"kvs":[%s],"revision":%d,"count":%d%s}`, strings.Join(kvs, ","), n+1, n, next)
	}
}

func TestListsAreReadPageByPage(t *testing.T) {
	for _, c := range []struct{ keys, limit, want, pages int }{
		{0, 0, 0, 1}, {3, 0, 3, 1}, {500, 0, 500, 1}, {501, 0, 501, 2}, {1200, 0, 1200, 3}, {1200, 1000, 1000, 2}, {1200, 501, 501, 2}, {1200, 7, 7, 1}, {3, 7, 3, 1},
	} {
		w := newWorld(t)
		f := newFakeAgent(t, w.path("a.sock"), shelf(c.keys))
		got := w.runs(0, "kv", "ls", "k", "--keys-only", "--socket", f.socket, fmt.Sprintf("--limit=%d", c.limit))
		var want strings.Builder
		for i := range c.want {
			fmt.Fprintf(&want, "k%04d\n", i)
		}
		if got != want.String() || len(f.requests()) != c.pages {
			t.Errorf("%+v: got %d lines", c, strings.Count(got, "\n"))
		}
		var doc page
		if err := json.Unmarshal([]byte(w.runs(0, "kv", "ls", "k", "-o", "json", "--socket", f.socket, fmt.Sprintf("--limit=%d", c.limit))), &doc); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		if len(doc.KVs) != c.want || doc.Count != int64(c.keys) || doc.Revision != int64(c.keys)+1 {
			t.Errorf("%+v: got %d keys, count %d, revision %d", c, len(doc.KVs), doc.Count, doc.Revision)
		}
	}
}

func TestListForms(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), shelf(2))
	if got, want := w.runs(0, "kv", "ls", "--socket", f.socket), "KEY    REVISION  VALUE\nk0000  2         v0\nk0001  3         v1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if r := f.request(t); !strings.HasPrefix(r.uri, "/v1/kv/?") {
		t.Errorf("asked %s", r.uri)
	}
	got := w.runs(0, "kv", "ls", "-o", "yaml", "--socket", f.socket)
	want := "kvs:\n  - key: \"k0000\"\n    key_base64: \"azAwMDA=\"\n    value: \"djA=\"\n    mod_revision: 2\n" +
		"  - key: \"k0001\"\n    key_base64: \"azAwMDE=\"\n    value: \"djE=\"\n    mod_revision: 3\nrevision: 3\ncount: 2\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	w.runs(2, "kv", "ls", "--limit=-1", "--socket", f.socket)
}

func TestLinesTellEveryKeyApart(t *testing.T) {
	for key, want := range map[string]string{
		"a/b c": "a/b c", "ü": "ü", "a\nb": `"a\nb"`, "\xff": `"\xff"`, `"a"`: `"\"a\""`, "": `""`, "a\tb": `"a\tb"`,
	} {
		if got := keyText([]byte(key)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := valueText([]byte(strings.Repeat("ü", 100))); got != strings.Repeat("ü", 40)+"... (200 bytes)" {
		t.Errorf("got %s", got)
	}
	if got := valueText(nil); got != `""` {
		t.Errorf("got %s", got)
	}
}

// stream is the NDJSON of a watch.
const stream = `{"type":"created","id":"e:1:0","revision":1}
{"type":"put","id":"e:2:0","revision":2,"key":"a","key_base64":"YQ==","value":"MQ==","create_revision":2,"mod_revision":2,"version":1}
{"type":"stale"}
{"type":"progress","id":"e:2:0","revision":2}
{"type":"put","key_base64":"/w==","value":"","mod_revision":3}
{"type":"delete","id":"e:4:0","revision":4,"key":"a","key_base64":"YQ==","mod_revision":4}
`

func TestWatchPrintsALineForEachEvent(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/x-ndjson", stream+`{"type":"end"}`+"\n"))
	got := w.runs(75, "kv", "watch", "a", "--prefix", "--from-revision=2", "--on-gap=error", "--socket", f.socket)
	if want := "put a 2 1\nput \"\\xff\" 3 \"\"\ndelete a 4\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.says("watch: stale", "it is stopping", "try again")
	r := f.request(t)
	if !sameQuery(t, r.uri, "watch&prefix&from_revision=2&on_gap=error") || r.header.Get("Accept") != "application/x-ndjson" {
		t.Errorf("asked %+v", r)
	}
	if got := w.runs(75, "kv", "watch", "a", "-o", "json", "--socket", f.socket); got != stream+`{"type":"end"}`+"\n" {
		t.Errorf("got %q", got)
	}
	if got := w.runs(75, "kv", "watch", "a", "-o", "yaml", "--socket", f.socket); !strings.HasPrefix(got, "---\ntype: \"created\"\nid: \"e:1:0\"\nrevision: 1\n---\ntype: \"put\"\n") {
		t.Errorf("got %q", got)
	}
	f.requests()
	w.runs(75, "kv", "watch", "--prefix", "--socket", f.socket)
	if r := f.request(t); !strings.HasPrefix(r.uri, "/v1/kv/?") {
		t.Errorf("all keys: asked %s", r.uri)
	}
	w.runs(2, "kv", "watch", "--socket", f.socket)
}

func TestAValueThatIsStaleIsShownAsSuch(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Holdfast-Consistency", "stale")
		rw.Header().Set("Holdfast-Age", "93.2")
		body := "21.5"
		if r.URL.Query().Has("prefix") {
			body = `{"kvs":[{"key":"k","key_base64":"aw==","value":"MQ==","mod_revision":2}],"revision":2,"count":1}`
		}
		_, _ = io.WriteString(rw, body)
	})
	for _, command := range []string{"get", "ls"} {
		w.stderr.reset()
		w.runs(0, "kv", command, "k", "--socket", f.socket)
		w.says("as of 1m33s ago", "cut off from the cluster")
	}
	w.stderr.reset()
	if w.runs(0, "kv", "get", "k", "-o", "json", "--socket", f.socket); w.stderr.String() != "" {
		t.Errorf("JSON has it in a field, and yet: %s", w.stderr)
	}
}

func TestTheLastLineOfAWatchIsTheReasonOfItsEnd(t *testing.T) {
	for line, want := range map[string]struct {
		code int
		text string
	}{
		`{"type":"end"}`:                                                   {75, "stopping"},
		`{"type":"slow-consumer"}`:                                         {75, "too slow"},
		`{"type":"compacted","oldest_revision":42}`:                        {1, "from revision 42 on"},
		`{"type":"error","detail":"no","code":"x"}`:                        {1, "no [x]"},
		`{"type":"error","title":"T","retryable":1}`:                       {1, "no JSON"},
		`{"type":"error","title":"T","retryable":true,"code":"no-leader"}`: {75, "T [no-leader]; try again"},
		`{"type":"put","key":"a"}`:                                         {75, "broke"}, // cut off
		`{"type":"put","mod_revision":7}` + "\n" + `{"type":"end"}`:        {75, "--from-revision=7 goes on"},
		`{"type":"put","mod_revision":8}`:                                  {75, "--from-revision=8 goes on"},
		`nonsense`:                                                         {1, "no JSON"},
	} {
		w := newWorld(t)
		f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/x-ndjson", line+"\n"))
		w.runs(want.code, "kv", "watch", "a", "--socket", f.socket)
		w.says(want.text)
	}
}

func TestAWatchGoesOnUntilItIsInterrupted(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, stream)
		_ = http.NewResponseController(rw).Flush()
		time.Sleep(2200 * time.Millisecond) // beyond the timeout, which is for the beginning only
		_, _ = io.WriteString(rw, `{"type":"delete","key_base64":"YQ==","mod_revision":5}`+"\n")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	code := make(chan int, 1)
	go func() { code <- w.run("kv", "watch", "a", "--socket", f.socket, "--timeout=2s") }()
	eventually(t, "four lines", func() bool { return strings.Count(w.stdout.String(), "\n") == 4 })
	w.send <- syscall.SIGINT
	if got := <-code; got != 0 {
		t.Errorf("exit code %d, want 0: %s", got, w.stderr)
	}
}

func TestRefusalsSayWhatTheAgentSaid(t *testing.T) {
	problem := func(status int, more string) http.HandlerFunc {
		return answering(status, "application/problem+json", fmt.Sprintf(`{"type":"urn:holdfast:problem:x","title":"Title","status":%d%s}`, status, more))
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		code   int
		says   []string
	}{
		{"precondition", problem(412, `,"detail":"the key is at revision 9","code":"precondition-failed","retryable":false,"outcome":"none"`), 1, []string{"the key is at revision 9 [precondition-failed]"}},
		{"no leader", problem(503, `,"detail":"no leader","code":"no-leader","retryable":true,"outcome":"none"`), 75, []string{"no leader [no-leader]; try again"}},
		{"unknown", problem(504, `,"code":"outcome-unknown","retryable":false,"outcome":"unknown"`), 1, []string{"Title [outcome-unknown]; whether it was done is not known"}},
		{"unknown, as the agent has said", problem(504, `,"detail":"whether it was applied is not known: read first","code":"outcome-unknown","retryable":false,"outcome":"unknown"`), 1, []string{"agent: whether it was applied is not known: read first [outcome-unknown]\n"}},
		{"no problem document", answering(404, "text/html", "<h1>nginx</h1>"), 1, []string{"404 Not Found", "is it one?"}},
		{"broken problem", answering(500, "application/problem+json", "{"), 1, []string{"500 Internal Server Error"}},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, 1, []string{"302 Found"}},
		{"no revision", answering(200, "text/plain", "hello"), 1, []string{"without a revision"}},
		{"cut short", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			_, _ = io.WriteString(w, `{"revision":7}`)
		}, 75, []string{"broke", "whether it was done is not known"}},
		{"hung up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 75, []string{"broke", "whether it was done is not known"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			f := newFakeAgent(t, w.path("a.sock"), c.answer)
			if got := w.runs(c.code, "kv", "put", "k", "v", "--socket", f.socket); got != "" {
				t.Errorf("printed %q", got)
			}
			w.says(c.says...)
		})
	}
}

func TestAnAnswerThatDoesNotComeIsNotWaitedForForever(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	w.runs(75, "kv", "put", "k", "v", "--timeout=600ms", "--socket", f.socket)
	w.says("no answer from", "within 600ms; whether it was done is not known", "--timeout")
	w.runs(75, "kv", "get", "k", "--timeout=600ms", "--socket", f.socket)
	if strings.Contains(w.stderr.String(), "not known") {
		t.Errorf("a read has no outcome: %s", w.stderr)
	}
	w.runs(75, "kv", "watch", "k", "--timeout=600ms", "--socket", f.socket)
	w.says("no answer from", "within 600ms")
	w.runs(2, "kv", "get", "k", "--timeout=0s", "--socket", f.socket)
	w.send <- syscall.SIGTERM
	w.runs(75, "kv", "put", "k", "v", "--socket", f.socket)
	w.says("interrupted; whether it was done is not known")
}

func TestMistakesOnTheCommandLineAreUsage(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"kv", "get"}, "agent kv get needs KEY"},
		{[]string{"kv", "get", ""}, "must not be empty"},
		{[]string{"kv", "get", "a", "b"}, `"b" is too much`},
		{[]string{"kv", "put", "a"}, "needs VALUE (- reads it from standard input)"},
		{[]string{"kv", "get", "a", "--key-base64"}, "is not base64"},
		{[]string{"kv", "get", "a", "--sokcet=x"}, "did you mean --socket?"},
		{[]string{"kv", "get", "a", "--qqqqqqqqq"}, "see agent kv get --help"},
		{[]string{"kv", "get", "a", "-z"}, "there is no flag -z"},
		{[]string{"kv", "get", "a", "-o", "xml"}, "must be table, json or yaml"},
		{[]string{"kv", "get", "a", "--timeout=x"}, "--timeout"},
		{[]string{"kv", "get", "a", "--socket=x", "--endpoint=http://x"}, "[endpoint socket]"},
		{[]string{"kv", "get", "a", "--endpoint=localhost:2379"}, "must be http://host:port"},
		{[]string{"kv", "get", "a", "--endpoint=http://h/v1"}, "must be http://host:port"},
		{[]string{"kv", "gte", "a"}, "did you mean get"},
		{[]string{"kvs"}, "did you mean kv?"},
		{[]string{"statsu"}, "did you mean status?"},
		{[]string{"qqqqqqqq"}, "see agent --help"},
		{[]string{"kv"}, "Available Commands"},
		{[]string{"status", "x"}, "takes no arguments"},
		{[]string{"version", "x"}, "takes no arguments"},
	} {
		w.runs(2, c.args...)
		w.says(c.says)
	}
}

func TestRequestsCarryTheVersionAndNoMore(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "", "v"))
	w.runs(0, "kv", "get", "k", "--socket", f.socket)
	r := f.request(t)
	var names []string
	for name := range r.header {
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"Connection", "User-Agent"}) || !strings.HasPrefix(r.header.Get("User-Agent"), "holdfast-agent/") {
		t.Errorf("got %v", r.header)
	}
}
