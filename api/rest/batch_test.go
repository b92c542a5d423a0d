package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// status is a line that a batch answers with.
type status struct {
	Line     int
	Status   int
	Revision int64
	Op       string
	Expires  string
	End      bool
	Lines    int
	Problem  struct{ Code, Detail, Outcome string }
}

func (s status) String() string {
	if s.End {
		return strings.TrimSpace(fmt.Sprintf("end %d %s", s.Lines, s.Problem.Code))
	}
	return strings.TrimSpace(fmt.Sprintf("%d: %d %s%s", s.Line, s.Status, s.Problem.Code, s.Op))
}

// batch sends lines and reads the whole answer.
func (n *node) batch(lines string, headers ...string) []status {
	n.t.Helper()
	r := n.call("POST", "/v1/batch", lines, headers...).want(n.t, 200)
	r.wantHeaders(n.t, map[string]string{"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
	return statuses(n.t, strings.NewReader(r.body))
}

func statuses(t *testing.T, r io.Reader) (out []status) {
	t.Helper()
	d := json.NewDecoder(r)
	for d.More() {
		var s status
		if err := d.Decode(&s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func wantStatuses(t *testing.T, got []status, want ...string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i].String()
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("answer %d is %q (%s), want %q", i, g, got[min(i, len(got)-1)].Problem.Detail, w)
		}
	}
}

func TestEachLineOfABatchIsAnsweredByItself(t *testing.T) {
	n := serve(t)
	n.put("old", "1")
	got := n.batch(`{"put":{"key":"a","value":"1"}}` + "\n" +
		`{"put":{"key_base64":"/w==","value_base64":"AP8="}}` + "\r\n" +
		"\n  \n" + // empty lines are none, and counted
		`{"put":{"key":"old","value":"2"},"if_mod_revision":2}` + "\n" +
		`{"if_mod_revision":2,"put":{"key":"old","value":"3"}}` + "\n" +
		`{"delete":{"key":"none"}}` + "\n" +
		`{"put":{"key":"a"}}` + "\n" +
		"nonsense\n" +
		`{"put":{"key":"b","value":""},"if_mod_revision":0}` + "\n" +
		`{"delete":{"key":"old"}}`) // without an end
	wantStatuses(t, got, "1: 201", "2: 201", "5: 200", "6: 412 precondition-failed", "7: 404 key-not-found", "8: 400 invalid", "9: 400 invalid", "10: 201", "11: 200", "end 11")
	if got[3].Problem.Outcome != "none" || !strings.Contains(got[5].Problem.Detail, "put (at byte 18): the value is missing") {
		t.Errorf("%+v", got)
	}
	n.wantStored("a", "1")
	n.wantStored("\xff", "\x00\xff")
	n.wantStored("b", "")
	if _, there := n.stored("old"); there {
		t.Error("old is still there")
	}
	wantStatuses(t, n.batch(""), "end 0")
	wantStatuses(t, n.batch("\n\n"), "end 2")
}

func TestALineOfABatchThatIsNoneEndsOnlyItself(t *testing.T) {
	n := serve(t, func(o *Options) { o.RequestMax, o.KeyMax, o.ValueMax = 200, 5, 20 })
	good := `{"put":{"key":"k","value":"1"}}`
	for line, want := range map[string]string{
		`{"put":{"key":"abcdef","value":""}}`:             "413 too-large",
		`{"put":{"key":"a","value":"` + large(21) + `"}}`: "413 too-large",
		large(201): "413 too-large",
		large(200): "400 invalid",
		`{"put":{"key":"a","value":"1","prev_kv":true}}`:       "400 invalid",
		`{"delete":{"key":"a","prefix":true}}`:                 "400 invalid",
		`{"delete":{"key":"a","end":"b"}}`:                     "400 invalid",
		`{"get":{"key":"a"}}`:                                  "400 invalid",
		`{"put":{"key":"a","value":"1"},"delete":{"key":"a"}}`: "400 invalid",
		`{"put":{"key":"a","value":"1"},"if_mod_revision":-1}`: "400 invalid",
		`{"put":{"key":"a","value":"1"}} {}`:                   "400 invalid",
		`{"if_mod_revision":1}`:                                "400 invalid",
		`{}`:                                                   "400 invalid",
		"\xff\x00":                                             "400 invalid",
	} {
		got := n.batch(good + "\n" + line + "\n" + good)
		if len(got) != 4 || got[1].String() != "2: "+want || got[2].Status != 200 || got[3].String() != "end 3" {
			t.Errorf("%.80s: %v, want %s and the others taken", line, got, want)
		}
	}
	n.wantStored("k", "1")
	got := n.batch(large(100_000) + "\n" + good + "\n" + large(100_000)) // far beyond what is held
	wantStatuses(t, got, "1: 413 too-large", "2: 200", "3: 413 too-large", "end 3")
}

func TestTheOpsOfOneKeyKeepTheirOrderAndOthersDoNotWait(t *testing.T) {
	n := serve(t)
	var under, most atomic.Int64
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		most.Store(max(most.Load(), under.Add(1)))
		defer under.Add(-1)
		time.Sleep(time.Millisecond)
		return n.store.Do(ctx, c)
	}
	var lines strings.Builder
	const count, keys = 600, 7
	for i := range count {
		fmt.Fprintf(&lines, `{"put":{"key":"k%d","value":"%d"}}`+"\n", i%keys, i)
	}
	got := n.batch(lines.String())
	if len(got) != count+1 {
		t.Fatalf("%d answers, want %d", len(got), count+1)
	}
	last := map[int]int64{}
	for i, s := range got[:count] {
		if s.Line != i+1 || s.Revision <= last[i%keys] {
			t.Fatalf("answer %d: %+v, behind revision %d of its key", i, s, last[i%keys])
		}
		last[i%keys] = s.Revision
	}
	for k := range keys {
		n.wantStored(fmt.Sprint("k", k), fmt.Sprint(count-1-(count-1-k)%keys))
	}
	if most.Load() < 2 || most.Load() > batchOpsFlying {
		t.Errorf("%d operations were under way at once", most.Load())
	}
}

func TestABatchIsBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := serve(t, func(o *Options) { o.BatchLines, o.BatchBytes, o.Metrics = 3, 150, reg })
	line := `{"put":{"key":"k","value":"1"}}` + "\n" // 32 bytes
	wantStatuses(t, n.batch(strings.Repeat(line, 3)), "1: 201", "2: 200", "3: 200", "end 3")
	wantStatuses(t, n.batch(strings.Repeat(line, 4)), "1: 200", "2: 200", "3: 200", "end 3 too-many-ops")
	wantStatuses(t, n.batch(line+large(200)), "1: 200", "end 1 too-large")
	wantStatuses(t, n.batch(line+"x\n"+line), "1: 200", "2: 400 invalid", "3: 200", "end 3")
	want := map[string]float64{
		"holdfast_http_batch_lines_total code=200":          8,
		"holdfast_http_batch_lines_total code=201":          1,
		"holdfast_http_batch_lines_total code=400":          1,
		"holdfast_http_batches":                             0,
		"holdfast_http_batches_total end=ok":                2,
		"holdfast_http_batches_total end=too-large":         1,
		"holdfast_http_batches_total end=too-many-ops":      1,
		"holdfast_http_requests_total code=200 method=POST": 4,
	}
	got := gathered(t, reg)
	maps.DeleteFunc(got, func(name string, _ float64) bool {
		_, asked := want[name]
		return !asked && !strings.Contains(name, "batch")
	})
	if !maps.Equal(got, want) {
		t.Errorf("counted %v\nwant    %v", got, want)
	}
}

func TestOnlySoManyBatchesAreOpenAtOnce(t *testing.T) {
	n := serve(t)
	n.handler.batches.Store(batchesMax)
	n.call("POST", "/v1/batch", "").refused(t, 503, "busy")
	n.handler.batches.Store(batchesMax - 1)
	n.batch("")
	if got := n.handler.batches.Load(); got != batchesMax-1 {
		t.Errorf("%d batches are counted", got)
	}
}

func TestLinesOfABatchMayBeQueued(t *testing.T) {
	n := serve(t)
	var sent []kv.Command
	var mu sync.Mutex
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, c)
		if bytes.HasPrefix(keyOf(c.Ops[0]), []byte("q/")) {
			return kv.Result{Queued: &kv.Receipt{ID: "op-1", Expires: time.Unix(0, 0)}}, nil
		}
		return n.store.Do(ctx, kv.Command{Ops: c.Ops})
	}
	got := n.batch(`{"put":{"key":"q/1","value":"1"}}`+"\n"+`{"delete":{"key":"q/1"}}`+"\n"+`{"put":{"key":"a","value":"1"}}`, "Prefer", "wait=2")
	wantStatuses(t, got, "1: 202 op-1", "2: 202 op-1", "3: 201", "end 3")
	if got[0].Expires != "1970-01-01T00:00:00Z" {
		t.Errorf("%+v", got[0])
	}
	for _, c := range sent {
		if c.Write != kv.WriteAuto || c.Wait != 2*time.Second {
			t.Errorf("sent %+v", c)
		}
	}
	sent = nil
	n.call("POST", "/v1/batch?write=sync", `{"put":{"key":"a","value":"1"}}`).want(t, 200)
	if len(sent) != 1 || sent[0].Write != kv.WriteSync {
		t.Errorf("sent %+v", sent)
	}
	for _, query := range []string{"?write=maybe", "?ttl=1s", "?x"} {
		n.call("POST", "/v1/batch"+query, "").refused(t, 400, "invalid")
	}
	n.call("POST", "/v1/batch", "", "If-Match", `"1"`).refused(t, 400, "invalid")
	n.call("POST", "/v1/batch", "", "Content-Encoding", "gzip").refused(t, 415, "unsupported-encoding")
}

// A line is answered before the next one is sent, over HTTP/1.1 and HTTP/2 alike.
func TestABatchIsAStream(t *testing.T) {
	n := serve(t)
	for name, client := range map[string]*http.Client{"HTTP/1.1": n.Client(), "HTTP/2": n.h2c()} {
		t.Run(name, func(t *testing.T) {
			body, lines := io.Pipe()
			r := n.request("POST", "/v1/batch", "")
			r.Body, r.ContentLength = body, -1
			go func() { _, _ = fmt.Fprintln(lines, `{"put":{"key":"k","value":"0"}}`) }()
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			answers := bufio.NewScanner(resp.Body)
			for i := range 3 {
				if !answers.Scan() || !strings.Contains(answers.Text(), fmt.Sprintf(`{"line":%d,"status":20`, i+1)) {
					t.Fatalf("answer %d: %q", i, answers.Text())
				}
				if i < 2 {
					fmt.Fprintf(lines, `{"put":{"key":"k","value":"%d"}}`+"\n", i+1)
				}
			}
			lines.Close()
			if !answers.Scan() || answers.Text() != `{"end":true,"lines":3}` || answers.Scan() {
				t.Errorf("the end is %q", answers.Text())
			}
		})
	}
}

// Of a body that is cut short the whole lines count, and are answered; the piece that is left does not.
func TestABatchThatIsCutShort(t *testing.T) {
	n := serve(t)
	const whole, piece = `{"put":{"key":"a","value":"1"}}` + "\n", `{"put":{"key":"b","value":"1"}}`
	for name, request := range map[string]string{
		"by length": fmt.Sprintf("Content-Length: %d\r\n\r\n%s%s", len(whole+piece)+1, whole, piece),
		"in chunks": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s%s\r\n", len(whole+piece), whole, piece),
	} {
		t.Run(name, func(t *testing.T) {
			conn, br := n.raw("POST /v1/batch HTTP/1.1\r\nHost: x\r\n%s", request)
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			r := n.answer(br).want(t, 200)
			got := statuses(t, strings.NewReader(r.body))
			if len(got) != 2 || got[0].Line != 1 || got[0].Status/100 != 2 || got[1].String() != "end 1 invalid" {
				t.Errorf("%v", got)
			}
			n.wantStored("a", "1")
			if _, there := n.stored("b"); there {
				t.Error("a line that was not whole was carried out")
			}
		})
	}
}

func TestABatchThatDoesNotGoOnIsEnded(t *testing.T) {
	n := serve(t, func(o *Options) { o.BodyTimeout = 30 * time.Millisecond })
	_, br := n.raw("POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n%s\n{", `{"put":{"key":"a","value":"1"}}`)
	wantStatuses(t, statuses(t, strings.NewReader(n.answer(br).want(t, 200).body)), "1: 201", "end 1 body-timeout")
}

func TestAStoppingNodeEndsItsBatches(t *testing.T) {
	n := serve(t)
	_, br := n.raw("POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n%s\n{", `{"put":{"key":"a","value":"1"}}`)
	waitFor(t, func() bool { _, there := n.stored("a"); return there })
	n.handler.EndWatches()
	wantStatuses(t, statuses(t, strings.NewReader(n.answer(br).want(t, 200).body)), "1: 201", "end 1 stopping")
	n.call("POST", "/v1/batch", "").refused(t, 503, "stopping")
}

// A client may send all it has before it reads, as long as the answers to that are not many; one that never reads holds
// nobody up for long.
func TestAClientThatDoesNotReadItsAnswersIsLeft(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := serve(t, func(o *Options) { o.WatchStall, o.Metrics, o.BatchLines = 100*time.Millisecond, reg, 1<<30 })
	conn, _ := n.raw("POST /v1/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	line := "{\"" + large(40) + "\n" // the answer is longer
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(line)*1000, strings.Repeat(line, 1000))
	for {
		if _, err := io.WriteString(conn, chunk); err != nil {
			break
		}
	}
	waitFor(t, func() bool {
		return n.handler.batches.Load() == 0 && gathered(t, reg)["holdfast_http_batches_total end=unread"] == 1
	})
}

// What is taken can be sent on, and holds one operation on one key; nothing panics, and every answer is JSON.
func FuzzBatchLine(f *testing.F) {
	for _, line := range []string{
		`{"put":{"key":"a","value":"1","lease":"1f"},"if_mod_revision":7}`, `{"delete":{"key_base64":"/w=="}}`,
		`{"put":{"key":"a","value_base64":""}}`, `{"put":{}}`, `{"if_mod_revision":0}`, "x", "", "\xff", `{"put":{"key":"\udead","value":""}}`,
	} {
		f.Add([]byte(line))
	}
	h := New(Options{Backend: &between{}, Reporter: reporter{}})
	f.Fuzz(func(t *testing.T, line []byte) {
		c, key, err := h.parseBatchLine(line)
		if err == nil {
			if len(c.Ops) != 1 || key == "" || string(keyOf(c.Ops[0])) != key || len(c.Guards) > 1 || !json.Valid(line) {
				t.Fatalf("%q: %+v, key %q", line, c, key)
			}
			if err := wire.CheckCommand(c); err != nil {
				t.Fatalf("%q was taken, and cannot be sent: %v", line, err)
			}
		}
		if _, answer := appendStatus(nil, 1, &c, &kv.Result{Ops: []kv.OpResult{{}}}, err); !json.Valid(answer) || bytes.Count(answer, []byte("\n")) != 1 {
			t.Fatalf("%q is answered by %q", line, answer)
		}
	})
}

// However a body is cut into reads, its lines are the same.
func FuzzLineReader(f *testing.F) {
	f.Add([]byte("a\nbb\n\n ccc \r\ndddddddddddddddddddddddd\ne"), uint8(3))
	f.Add([]byte("\n"), uint8(1))
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, body []byte, step uint8) {
		const limit = 20
		r := lineReader{body: &inPieces{body, int(step)%7 + 1}, rc: http.NewResponseController(&sink{}), limit: limit, total: 1 << 30, patience: time.Hour}
		want := bytes.SplitAfter(body, []byte("\n"))
		if len(want[len(want)-1]) == 0 {
			want = want[:len(want)-1]
		}
		for i, w := range want {
			got, err := r.next(t.Context())
			switch long := len(bytes.TrimSuffix(w, []byte("\n"))) > limit; {
			case errors.Is(err, errLineLong) && long:
			case err != nil || long || !bytes.Equal(got, bytes.TrimSpace(w)):
				t.Fatalf("line %d of %q: %q, %v", i, body, got, err)
			}
		}
		if got, err := r.next(t.Context()); !errors.Is(err, io.EOF) {
			t.Fatalf("behind %q: %q, %v", body, got, err)
		}
	})
}

// inPieces is a body that comes a few bytes at a time.
type inPieces struct {
	left []byte
	step int
}

func (p *inPieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.left[:min(p.step, len(p.left))])
	p.left = p.left[n:]
	return n, nil
}

// What is left of a body that is not read to its end is no request, and the client reads its answers all the same.
func TestTheRestOfABatchIsNoRequest(t *testing.T) {
	var log bytes.Buffer
	n := serve(t, func(o *Options) { o.BatchLines = 1 })
	n.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(&log, nil), slog.LevelError)
	n.put("a", "1")
	const line = `{"put":{"key":"b","value":"1"}}` + "\n"
	for _, padding := range []int{0, 1 << 10, 300 << 10} {
		rest := "\r\nDELETE /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n" + strings.Repeat("x", padding)
		_, br := n.raw("POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s%s%s", 2*len(line)+len(rest), line, line, rest)
		got := statuses(t, strings.NewReader(n.answer(br).want(t, 200).body))
		if len(got) != 2 || got[1].String() != "end 1 too-many-ops" {
			t.Errorf("%d bytes left: %v", padding, got)
		}
		if b, err := io.ReadAll(br); len(b) > 0 || os.IsTimeout(err) {
			t.Errorf("%d bytes left: the connection was not closed, %q came: %v", padding, b, err)
		}
	}
	n.wantStored("a", "1")
	n.Close() // waits for all connections
	if strings.Contains(log.String(), "panic") {
		t.Error(log.String())
	}
}
