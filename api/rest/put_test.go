package rest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

func TestPutThenGetBringsTheBytesBack(t *testing.T) {
	n := serve(t)
	r := n.call("PUT", "/v1/kv/site/42/temp", "21.5").want(t, 201)
	if r.body != "{\"revision\":2}\n" {
		t.Errorf("body %q, want revision 2", r.body)
	}
	r.wantHeaders(t, map[string]string{"ETag": `"2"`, "Holdfast-Revision": "2", "Content-Type": "application/json", "X-Content-Type-Options": "nosniff"})
	n.call("PUT", "/v1/kv/site/42/temp", "\x00\xff").want(t, 200)
	r = n.call("GET", "/v1/kv/site/42/temp", "").want(t, 200)
	if r.body != "\x00\xff" {
		t.Errorf("value %q, want the bytes put", r.body)
	}
	r.wantHeaders(t, map[string]string{
		"ETag": `"3"`, "Holdfast-Revision": "3", "Holdfast-Source": "member", "Holdfast-Consistency": "linearizable",
		"Holdfast-Age": "0", "Age": "0", "Cache-Status": "holdfast; fwd=bypass", "Content-Type": "application/octet-stream",
		"X-Content-Type-Options": "nosniff", "Content-Length": "2", "Holdfast-Pending": "",
	})
	if len(r.header.Get("Holdfast-Epoch")) != 16+1+32 {
		t.Errorf("Holdfast-Epoch %q", r.header.Get("Holdfast-Epoch"))
	}
}

func TestHeadIsGetWithoutTheBytes(t *testing.T) {
	n := serve(t)
	n.put("k", "value")
	r := n.call("HEAD", "/v1/kv/k", "").want(t, 200)
	r.wantHeaders(t, map[string]string{"Content-Length": "5", "ETag": `"2"`, "Holdfast-Revision": "2"})
	r = n.call("HEAD", "/v1/kv/none", "").want(t, 404)
	if r.body != "" || r.header.Get("Content-Type") != "application/problem+json" || r.header.Get("Holdfast-Revision") != "2" {
		t.Errorf("HEAD of a missing key: %q %v", r.body, r.header)
	}
}

func TestAnEmptyBodyIsAValue(t *testing.T) {
	n := serve(t)
	n.call("PUT", "/v1/kv/a", "").want(t, 201)
	n.wantStored("a", "")
	r := n.call("GET", "/v1/kv/a", "").want(t, 200)
	r.wantHeaders(t, map[string]string{"Content-Length": "0", "ETag": `"2"`})
	_, br := n.raw("PUT /v1/kv/b HTTP/1.1\r\nHost: x\r\n\r\n") // neither length nor chunks
	n.answer(br).want(t, 201)
	n.wantStored("b", "")
	_, br = n.raw("PUT /v1/kv/c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	n.answer(br).want(t, 201)
	n.wantStored("c", "")
}

func TestReturnMinimalHasNoBody(t *testing.T) {
	n := serve(t)
	r := n.call("PUT", "/v1/kv/a", "1", "Prefer", "respond-async, return=minimal").want(t, 204)
	if r.body != "" {
		t.Errorf("body %q", r.body)
	}
	r.wantHeaders(t, map[string]string{"Preference-Applied": "return=minimal", "Holdfast-Revision": "2", "ETag": `"2"`})
	n.call("DELETE", "/v1/kv/a", "", "Prefer", "return=minimal").want(t, 204)
	n.call("DELETE", "/v1/kv/a", "", "Prefer", "return=minimal").refused(t, 404, "key-not-found")
}

func TestChunkedBodiesAreTaken(t *testing.T) {
	n := serve(t)
	_, br := n.raw("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n")
	n.answer(br).want(t, 201)
	n.wantStored("a", "abcdefg")
	// As large as allowed, in pieces.
	r := n.request("PUT", "/v1/kv/b", "")
	r.Body = io.NopCloser(io.LimitReader(strings.NewReader(large(valueMax)), valueMax))
	r.ContentLength = -1
	resp, err := n.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("status %d", resp.StatusCode)
	}
	n.wantStored("b", large(valueMax))
}

func TestContinueIsSaidOnlyWhenTheBodyIsWanted(t *testing.T) {
	n := serve(t)
	conn, br := n.raw("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	line, err := br.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("%q, %v; want 100 Continue", line, err)
	}
	_, _ = br.ReadString('\n')
	fmt.Fprint(conn, "abc")
	n.answer(br).want(t, 201)
	n.wantStored("a", "abc")
	_, br = n.raw("PUT /v1/kv/b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", valueMax+1)
	n.answer(br).refused(t, 413, "too-large")
	_, br = n.raw("PUT /v1/kv/b?nonsense HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
	n.answer(br).refused(t, 400, "invalid")
}

func TestABodyCutShortStoresNothing(t *testing.T) {
	n := serve(t)
	for name, request := range map[string]string{
		"length":            "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
		"nothing came":      "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"inside a chunk":    "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"between chunks":    "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"without the end":   "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
		"no chunk at all":   "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
		"a chunk too short": "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, br := n.raw("%s", request)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(br) // to the end of the connection: the request is over
			if strings.HasPrefix(string(b), "HTTP/1.1 2") {
				t.Errorf("answered %q", b)
			}
			n.wantEmpty()
		})
	}
}

func TestABodyThatDoesNotArriveInTimeIsGivenUp(t *testing.T) {
	n := serve(t, func(o *Options) { o.BodyTimeout = 30 * time.Millisecond })
	_, br := n.raw("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
	n.answer(br).refused(t, 408, "body-timeout")
	n.wantEmpty()
	for _, request := range []string{"PUT /v1/kv/a?nonsense", "DELETE /v1/kv/a", "PUT /v1/status", "GET /v1/kv/a"} { // whose body nobody wants
		_, br := n.raw("%s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", request)
		n.answer(br)
	}
}

// The deadline of a body must not outlive it: the connection serves on, and the write may take its time.
func TestABodysDeadlineEndsWithIt(t *testing.T) {
	n := serve(t, func(o *Options) { o.BodyTimeout = 50 * time.Millisecond })
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		time.Sleep(100 * time.Millisecond)
		if err := ctx.Err(); err != nil {
			return kv.Result{}, err
		}
		return n.store.Do(ctx, c)
	}
	conn, br := n.raw("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
	n.answer(br).want(t, 201)
	fmt.Fprint(conn, "PUT /v1/kv/b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
	n.answer(br).want(t, 201)
}

func TestLimitsAreCheckedBeforeAnythingElse(t *testing.T) {
	n := serve(t)
	n.call("PUT", "/v1/kv/"+large(keyMax), large(valueMax)).want(t, 201)
	n = serve(t)
	for name, r := range map[string]reply{
		"key":                    n.call("PUT", "/v1/kv/"+large(keyMax+1), "v"),
		"key, whatever else":     n.call("PUT", "/v1/kv/"+large(keyMax+1)+"?nonsense=1", "v", "If-Match", "garbage"),
		"value":                  n.call("PUT", "/v1/kv/a", large(valueMax+1)),
		"value, whatever else":   n.call("PUT", "/v1/kv/a?nonsense=1", large(valueMax+1), "If-Match", "garbage", "Content-Encoding", "gzip"),
		"key of a read":          n.call("GET", "/v1/kv/"+large(keyMax+1), ""),
		"key of a delete":        n.call("DELETE", "/v1/kv/"+large(keyMax+1), ""),
		"escaped key beyond":     n.call("PUT", "/v1/kv/"+strings.Repeat("%ff", keyMax+1), "v"),
		"value of unknown size":  unknownSize(n, valueMax+1),
		"value far beyond limit": unknownSize(n, 3*valueMax),
	} {
		t.Run(name, func(t *testing.T) { r.refused(t, 413, "too-large") })
	}
	n.wantEmpty()
	n.call("PUT", "/v1/kv/"+strings.Repeat("%ff", keyMax), "v").want(t, 201) // the limit counts bytes of the key
}

func unknownSize(n *node, size int) reply {
	r := n.request("PUT", "/v1/kv/a", "")
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(large(size))), -1
	resp, err := n.h2c().Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b)}
}

func TestLimitsAreOptions(t *testing.T) {
	n := serve(t, func(o *Options) { o.KeyMax, o.ValueMax = 3, 5 })
	n.call("PUT", "/v1/kv/abc", "12345").want(t, 201)
	n.call("PUT", "/v1/kv/abcd", "1").refused(t, 413, "too-large")
	n.call("PUT", "/v1/kv/abc", "123456").refused(t, 413, "too-large")
}

func TestBodiesThatAreNotSimplyTheValueAreRefused(t *testing.T) {
	n := serve(t)
	n.call("PUT", "/v1/kv/a", "v", "Content-Range", "bytes 0-0/5").refused(t, 400, "invalid")
	r := n.call("PUT", "/v1/kv/a", "v", "Content-Encoding", "gzip")
	r.refused(t, 415, "unsupported-encoding")
	r.wantHeaders(t, map[string]string{"Accept-Encoding": "identity"})
	n.wantEmpty()
	n.call("PUT", "/v1/kv/a", "v", "Content-Encoding", "identity").want(t, 201)
	n.call("PUT", "/v1/kv/b", "v", "Content-Type", "application/json").want(t, 201)
}

func TestWriteModes(t *testing.T) {
	n := serve(t)
	n.call("PUT", "/v1/kv/a?write=sync", "v").want(t, 201)
	n.call("PUT", "/v1/kv/b?write=auto", "v").want(t, 201)
	n.call("PUT", "/v1/kv/c", "v", "Prefer", "respond-async").want(t, 201)
	n.call("PUT", "/v1/kv/d?write=queue", "v").refused(t, 400, "invalid")
	n.call("PUT", "/v1/kv/d?write=maybe", "v").refused(t, 400, "invalid")
	n.call("DELETE", "/v1/kv/a?write=queue", "").refused(t, 400, "invalid")
	n.call("DELETE", "/v1/kv/a?prefix&write=queue", "").refused(t, 400, "invalid")
	if _, there := n.stored("d"); there {
		t.Error("a refused write was stored")
	}
	n.wantStored("a", "v")
}

func TestHowAWriteMayBeAcknowledgedIsPassedOn(t *testing.T) {
	n := serve(t)
	var last kv.Command
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		last = c
		c.Write = kv.WriteSync
		return n.store.Do(ctx, c)
	}
	for _, c := range []struct {
		method, path, prefer string
		write                kv.Write
		wait                 time.Duration
	}{
		{"PUT", "/v1/kv/a", "", kv.WriteAuto, 0},
		{"PUT", "/v1/kv/a", "wait=2", kv.WriteAuto, 2 * time.Second},
		{"PUT", "/v1/kv/a", "respond-async", kv.WriteAuto, asyncWait},
		{"PUT", "/v1/kv/a", "respond-async, wait=5", kv.WriteAuto, 5 * time.Second},
		{"PUT", "/v1/kv/a", "wait=0", kv.WriteAuto, asyncWait},
		{"PUT", "/v1/kv/a?write=auto", "wait=2", kv.WriteAuto, 2 * time.Second},
		{"PUT", "/v1/kv/a", "wait=99999999", kv.WriteAuto, preferWaitMax},
		{"PUT", "/v1/kv/a", "wait=soon", kv.WriteAuto, 0},
		{"PUT", "/v1/kv/a?write=sync", "respond-async", kv.WriteSync, 0},
		{"PUT", "/v1/kv/a?write=queue", "", kv.WriteQueue, 0},
		{"DELETE", "/v1/kv/a?prefix", "", kv.WriteSync, 0},
		{"DELETE", "/v1/kv/a", "", kv.WriteAuto, 0},
	} {
		n.call(c.method, c.path, "", "Prefer", c.prefer)
		if last.Write != c.write || last.Wait != c.wait {
			t.Errorf("%s %s with Prefer %q: write %d, wait %v; want %d, %v", c.method, c.path, c.prefer, last.Write, last.Wait, c.write, c.wait)
		}
	}
}

func TestAQueuedWriteIs202AndSaysWhereToAsk(t *testing.T) {
	n := serve(t)
	receipt := kv.Receipt{ID: "normal-42", Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))}
	n.between.do = func(context.Context, kv.Command) (kv.Result, error) {
		return kv.Result{Queued: &receipt}, nil
	}
	for _, expires := range []string{"2030-01-02T02:04:05Z", ""} {
		for _, method := range []string{"PUT", "DELETE"} {
			r := n.call(method, "/v1/kv/a", "", "Prefer", "return=minimal").want(t, 202)
			// It is not committed: nothing may look as if it had a revision.
			r.wantHeaders(t, map[string]string{"Location": "/v1/queue/normal-42", "Holdfast-Op": "normal-42", "Holdfast-Expires": expires,
				"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "ETag": "", "Holdfast-Revision": "", "Preference-Applied": ""})
			if r.body != "{\"op\":\"normal-42\",\"state\":\"queued\"}\n" {
				t.Errorf("body %q", r.body)
			}
		}
		receipt.Expires = time.Time{}
	}
}

// A queue keeps one guard. A write that would hold at any of several revisions is for a quorum.
func TestAWriteWithSeveralRevisionsIsNotQueued(t *testing.T) {
	n := serve(t)
	var last kv.Command
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		last = c
		return n.store.Do(ctx, c)
	}
	n.put("a", "v")
	n.call("PUT", "/v1/kv/a", "w", "If-Match", `"7", "2"`).want(t, 200)
	if last.Write != kv.WriteSync {
		t.Errorf("write %d, want sync", last.Write)
	}
	n.call("PUT", "/v1/kv/a", "x", "If-Match", `"3"`).want(t, 200)
	if last.Write != kv.WriteAuto {
		t.Errorf("write %d, want auto", last.Write)
	}
	n.call("PUT", "/v1/kv/a?write=queue", "y", "If-Match", `"7", "4"`).refused(t, 400, "invalid")
	n.wantStored("a", "x")
}

func TestDelete(t *testing.T) {
	n := serve(t)
	for _, key := range []string{"a", "p/1", "p/2", "p0"} {
		n.put(key, "v")
	}
	r := n.call("DELETE", "/v1/kv/a", "").want(t, 200)
	if r.body != "{\"revision\":6,\"deleted\":1}\n" {
		t.Errorf("body %q", r.body)
	}
	r.wantHeaders(t, map[string]string{"Holdfast-Revision": "6", "ETag": ""})
	r = n.call("DELETE", "/v1/kv/a", "")
	r.refused(t, 404, "key-not-found")
	r.wantHeaders(t, map[string]string{"Holdfast-Revision": "6"})
	if r := n.call("DELETE", "/v1/kv/p/?prefix", "").want(t, 200); r.body != "{\"revision\":7,\"deleted\":2}\n" {
		t.Errorf("body %q", r.body)
	}
	if r := n.call("DELETE", "/v1/kv/p/?prefix", "").want(t, 200); r.body != "{\"revision\":7,\"deleted\":0}\n" {
		t.Errorf("body %q", r.body)
	}
	n.wantStored("p0", "v")
	n.call("DELETE", "/v1/kv/", "").refused(t, 400, "invalid")
	n.call("DELETE", "/v1/kv/?prefix", "").refused(t, 400, "invalid")
	n.call("DELETE", "/v1/kv/p?prefix", "", "If-Match", `"5"`).refused(t, 400, "invalid")
	n.wantStored("p0", "v")
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	n := serve(t)
	_, br := n.raw("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1" +
		"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\nDELETE /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n")
	for i, want := range []int{201, 200, 200, 404} {
		if r := n.answer(br); r.status != want {
			t.Errorf("answer %d: %d, want %d", i, r.status, want)
		}
	}
}

func TestHTTP2WithoutTLS(t *testing.T) {
	n := serve(t)
	c := n.h2c()
	n.callBy(c, "PUT", "/v1/kv//a/../b", "v").want(t, 201)
	n.wantStored("/a/../b", "v")
	r := n.callBy(c, "GET", "/v1/kv//a/../b", "").want(t, 200)
	if r.body != "v" {
		t.Errorf("value %q", r.body)
	}
	n.callBy(c, "PUT", "/v1/kv/a", large(valueMax)).want(t, 201)
	n.callBy(c, "PUT", "/v1/kv/a", large(valueMax+1)).refused(t, 413, "too-large")
	n.callBy(c, "PUT", "/v1/kv/b", "v", "If-Match", "*").refused(t, 412, "precondition-failed")
	resp, err := c.Do(n.request("GET", "/v1/kv/k?watch", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Fatalf("spoken is %s", resp.Proto)
	}
	n.put("k", "v")
	events := bufio.NewScanner(resp.Body)
	seen := false
	for !seen && events.Scan() {
		seen = events.Text() == "event: put"
	}
	if !seen {
		t.Errorf("the watch ended without the event: %v", events.Err())
	}
}

func TestABodyOfAnHTTP2StreamCutShortStoresNothing(t *testing.T) {
	n := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, n.URL+"/v1/kv/a", pr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		resp, err := n.h2c().Do(r)
		if err == nil {
			resp.Body.Close()
			t.Errorf("answered %d", resp.StatusCode)
		}
	}()
	_, _ = pw.Write([]byte("abc"))
	cancel()
	pw.CloseWithError(io.ErrUnexpectedEOF)
	<-done
	waitFor(t, func() bool { return n.handler.metrics.inFlight.Load() == 0 })
	n.wantEmpty()
}

// waitFor polls until a condition holds.
func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about within 10s")
		}
	}
}
