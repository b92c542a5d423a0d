package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
)

// These tests are about whether what limits.* says reaches whoever keeps it. How it is kept is tested there.

// raw is a connection on which bytes were sent.
func raw(t *testing.T, a *Agent, send string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(a.Addrs()[0], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	return c
}

// tillClosed is what comes on a connection until the other end closes it.
func tillClosed(t *testing.T, c net.Conn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it is open after %v, and has said %q", patience, b)
	}
	return string(b)
}

func TestLimitsOfSizeAreInForce(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.Value, cfg.Limits.Key, cfg.Limits.Request, cfg.Limits.TxnOps = 1<<10, 64, 64<<10, 1
	a := serving(t, cfg)
	base, c := a.Addrs()[0], httpClient(t, nil)
	for _, tc := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"PUT", "/v1/kv/a", strings.Repeat("x", 1<<10), http.StatusCreated, ""},
		{"PUT", "/v1/kv/a", strings.Repeat("x", 1<<10+1), http.StatusRequestEntityTooLarge, "limits.value"},
		{"PUT", "/v1/kv/" + strings.Repeat("k", 64), "x", http.StatusCreated, ""},
		{"PUT", "/v1/kv/" + strings.Repeat("k", 65), "x", http.StatusRequestEntityTooLarge, "limits.key"},
		{"POST", "/v1/txn", `{"then":[{"get":{"key":"a"}}]}`, http.StatusOK, ""},
		{"POST", "/v1/txn", `{"then":[{"get":{"key":"a"}},{"get":{"key":"b"}}]}`, http.StatusBadRequest, "operations"},
		{"POST", "/v1/txn", `{"then":[{"get":{"key":"a"}}]}` + strings.Repeat(" ", 64<<10), http.StatusRequestEntityTooLarge, "limits.request"},
		{"POST", "/v3/kv/range", `{"key":"YQ=="}` + strings.Repeat(" ", 64<<10), http.StatusOK, ""}, // counted is what it means
		{"POST", "/v3/kv/put", `{"key":"YQ==","value":"` + base64.StdEncoding.EncodeToString(make([]byte, 65<<10)) + `"}`, http.StatusBadRequest, "too large"},
		{"POST", "/v3/kv/put", `{"key":"YQ==","value":"` + strings.Repeat("x", (64<<10+512<<10)*4/3) + `"}`, http.StatusBadRequest, "request body too large"},
	} {
		if got := expect(t, c, tc.method, base+tc.path, tc.body, tc.status); !strings.Contains(got.body, tc.says) {
			t.Errorf("%s %s with %d bytes: %s, want a word of %s", tc.method, tc.path, len(tc.body), got.body, tc.says)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	store := pb.NewKVClient(etcdClient(t, base))
	for size, want := range map[int]codes.Code{63 << 10: codes.OK, 65 << 10: codes.InvalidArgument, 1 << 20: codes.ResourceExhausted} {
		if _, err := store.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: make([]byte, size)}); grpcstatus.Code(err) != want {
			t.Errorf("a put of %d bytes over gRPC: %v, want %v", size, err, want)
		}
	}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
	if _, err := store.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{get, get}}); grpcstatus.Code(err) != codes.InvalidArgument {
		t.Errorf("two operations over gRPC: %v", err)
	}
	big := strings.Repeat("x", headerMax+8<<10) // no more, so that it is all sent when the answer comes
	if got := tillClosed(t, raw(t, a, "GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nX-Big: "+big+"\r\n\r\n")); !strings.HasPrefix(got, "HTTP/1.1 431 ") {
		t.Errorf("a header of %d bytes: %.60q", len(big), got)
	}
	if _, err := store.Range(metadata.AppendToOutgoingContext(ctx, "x-big", big), &pb.RangeRequest{Key: []byte("a")}); err == nil {
		t.Errorf("metadata of %d bytes were taken", len(big))
	}
}

const livez = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"

// served is a connection on which livez was answered. One that was closed before, since this test was slow, is replaced.
func served(t *testing.T, a *Agent) net.Conn {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		c := raw(t, a, livez)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && r.StatusCode == http.StatusOK {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
			return c
		}
		if time.Now().After(end) {
			t.Fatalf("%+v, %v", r, err)
		}
	}
}

func TestTheTimeOfAHeaderIsInForce(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.HeaderTimeout = 300 * time.Millisecond
	a := serving(t, cfg)
	tillClosed(t, raw(t, a, ""))
	tillClosed(t, raw(t, a, livez[:20]))
	second := served(t, a)
	if _, err := io.WriteString(second, livez[:20]); err != nil {
		t.Fatal(err)
	}
	tillClosed(t, second)
}

func TestTheTimeOfABodyIsInForceOverAllDoors(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.BodyTimeout = 300 * time.Millisecond
	a := serving(t, cfg)
	for _, path := range []string{"PUT /v1/kv/a", "POST /v1/txn", "POST /v3/kv/put", "POST /v1/batch"} {
		head := fmt.Sprintf("%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", path)
		if got := tillClosed(t, raw(t, a, head)); strings.HasPrefix(got, "HTTP/1.1 2") && !strings.Contains(got, "limits.body-timeout") {
			t.Errorf("%s: %s", path, got)
		}
	}
	c := frames(t, a) // of gRPC it is by connection, beyond what one may have for nothing
	for range 2 {
		c.call("/etcdserverpb.KV/Put")
		c.unfinished()
	}
	if why := c.goodbye(); !strings.Contains(why, "limits.body-timeout") {
		t.Errorf("a body that does not come over gRPC: %q", why)
	}
}

func TestWhatIsNotUsedIsClosed(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.IdleTimeout = time.Second
	a := serving(t, cfg)
	tillClosed(t, served(t, a))
	conn := etcdClient(t, a.Addrs()[0])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	if !conn.WaitForStateChange(ctx, connectivity.Ready) {
		t.Errorf("a connection of gRPC without calls is open after %v", patience)
	}
}

func TestAHandshakeHasItsTimeAndItsPlace(t *testing.T) {
	cfg := httpsSettings(t, nil)
	cfg.Limits.HeaderTimeout = 300 * time.Millisecond
	a := serving(t, cfg)
	trusting(t, a)
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", strings.TrimPrefix(a.Addrs()[0], "https://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	tillClosed(t, dial())

	cfg = httpsSettings(t, nil)
	cfg.Limits.Handshakes, cfg.Limits.HeaderTimeout = 1, patience
	a = serving(t, cfg)
	trust := trusting(t, a)
	trust.ServerName = "box.example"
	handshakes := func() int64 {
		a.ledger.mu.Lock()
		defer a.ledger.mu.Unlock()
		return a.ledger.total[useHandshake]
	}
	begun := dial()
	waitFor(t, "a handshake is under way", func() bool { return handshakes() == 1 })
	if err := tls.Client(dial(), trust).HandshakeContext(t.Context()); err == nil {
		t.Error("a second handshake was begun beside the one that may be")
	}
	_ = begun.Close()
	waitFor(t, "its place is free", func() bool { return handshakes() == 0 })
	if err := tls.Client(dial(), trust).HandshakeContext(t.Context()); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// waitFor waits for what has to come.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestLimitsOfWhatIsUnderWayAreInForce(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.Requests, cfg.Limits.Watches, cfg.Limits.ClientShare, cfg.Limits.Rate, cfg.Limits.ConnectionRate = 8, 4, 50, 6, 3
	held := heldNode{make(chan struct{}, 64), make(chan struct{})}
	h := houseOf(t, cfg, held)
	near, far := api.WithCaller(t.Context(), from("127.0.0.1")), api.WithCaller(t.Context(), from("192.0.2.1"))
	put := kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("a")}}}
	begin := func(ctx context.Context, n int) {
		t.Helper()
		for range n {
			go func() { _, _ = h.gate.Do(ctx, put) }()
			<-held.entered
		}
	}
	refused := func(ctx context.Context, what string, want kv.Code, do func(context.Context) error) {
		t.Helper()
		if err := do(ctx); kv.CodeOf(err) != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	do := func(ctx context.Context) error { _, err := h.gate.Do(ctx, put); return err }
	read := func(ctx context.Context) error { _, err := h.gate.Read(ctx, kv.Query{}); return err }
	begin(far, 4)
	refused(far, "a client's fifth write", kv.RateLimited, do)
	refused(far, "a read beside four writes", kv.RateLimited, read)
	begin(near, 4)
	refused(near, "the ninth write", kv.Busy, do)
	refused(near, "a read beside eight writes", kv.Busy, read)
	close(held.release)
	waitFor(t, "all writes are answered", func() bool {
		h.ledger.mu.Lock()
		defer h.ledger.mu.Unlock()
		return h.ledger.total[useRequest] == 0
	})
	for n := 0; ; n++ { // it does not take a second for so many
		if err := read(far); kv.CodeOf(err) == kv.RateLimited && strings.Contains(err.Error(), "limits.rate") {
			break
		}
		if n == 1e5 {
			t.Fatal("limits.rate refuses nothing")
		}
	}
	opened := 0
	for c := h.clients.admit(farConn{addr: "192.0.2.1"}); c != nil && opened < 1e5; c = h.clients.admit(farConn{addr: "192.0.2.1"}) {
		opened++
		_ = c.Close()
	}
	if opened < 3 || opened == 1e5 {
		t.Errorf("a client opened %d connections one after the other, limits.connection-rate is 3", opened)
	}
}

func TestTheLimitOfWatchesIsInForceOverAllDoors(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.Watches = 2
	a := serving(t, cfg)
	base := a.Addrs()[0]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	overGRPC := func() (pb.Watch_WatchClient, *pb.WatchResponse) {
		t.Helper()
		w, err := pb.NewWatchClient(etcdClient(t, base)).Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err) // io.EOF is for one that was refused already, as Recv says
		}
		r, err := w.Recv()
		if err != nil {
			if grpcstatus.Code(err) != codes.ResourceExhausted {
				t.Fatal(err)
			}
			return nil, nil
		}
		return w, r
	}
	if w, r := overGRPC(); w == nil || r.Canceled {
		t.Fatalf("the first watch: %v", r)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/kv/a?watch", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	second, err := httpClient(t, nil).Do(req)
	if err != nil || second.StatusCode != http.StatusOK {
		t.Fatalf("the second watch: %+v, %v", second, err)
	}
	if got := expect(t, httpClient(t, nil), "GET", base+"/v1/kv/a?watch", "", http.StatusServiceUnavailable); !strings.Contains(got.body, "limits.watches") {
		t.Errorf("the third is refused with %s", got.body)
	}
	if w, r := overGRPC(); w != nil && !r.Canceled {
		t.Errorf("the third over gRPC: %v", r)
	}
	_ = second.Body.Close() // and its place is free
	waitFor(t, "another watch is let in", func() bool { w, r := overGRPC(); return w != nil && !r.Canceled })
}

func TestTheLimitOfBodiesIsInForceOverAllDoors(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.Bodies = 8 << 20
	a := serving(t, cfg)
	base := a.Addrs()[0]
	holds := func() int64 {
		a.ledger.mu.Lock()
		defer a.ledger.mu.Unlock()
		return a.ledger.total[useBody]
	}
	const size = 1 << 20
	head := fmt.Sprintf("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
	most := strings.Repeat("x", size-1)
	var open []net.Conn
	for range 8 {
		open = append(open, raw(t, a, head+most))
	}
	waitFor(t, "eight bodies are here but for their ends", func() bool { return holds() == 8*(size-1) })
	if got := expect(t, httpClient(t, nil), "PUT", base+"/v1/kv/b", most[:2*bodyFree], http.StatusServiceUnavailable); !strings.Contains(got.body, "limits.bodies") {
		t.Errorf("refused with %s", got.body)
	}
	c := frames(t, a) // as many calls as cost more than is left, beyond what a connection has for nothing
	for range 17 {
		c.call("/etcdserverpb.KV/Put")
	}
	if why := c.goodbye(); !strings.Contains(why, "limits.bodies") {
		t.Errorf("calls that hold too much: %q", why)
	}
	for _, c := range open {
		c.Close()
	}
	waitFor(t, "all is given back", func() bool { return holds() == 0 })
	expect(t, httpClient(t, nil), "PUT", base+"/v1/kv/b", most, http.StatusCreated)
}

// TestWhatAConnectionOfHTTP2IsTold reads the bounds of a connection from the server's own words.
func TestWhatAConnectionOfHTTP2IsTold(t *testing.T) {
	a := serving(t, settings(t))
	type told struct{ streams, window, header, more uint32 }
	for contentType, want := range map[string]told{
		"text/plain":       {streams: streamsMax, window: streamBuffer, more: connBuffer - 65535},
		"application/grpc": {streams: 1 << 16, window: 128 << 10, header: headerMax, more: 1<<20 - 65535},
	} {
		c := frames(t, a)
		c.contentType = contentType
		c.call("/livez")
		var got told
		for got.window == 0 || got.more == 0 {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatalf("%s: %v", contentType, err)
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				_ = f.ForeachSetting(func(s http2.Setting) error {
					switch s.ID {
					case http2.SettingMaxConcurrentStreams:
						got.streams = s.Val
					case http2.SettingInitialWindowSize:
						got.window = s.Val
					case http2.SettingMaxHeaderListSize:
						got.header = s.Val
					}
					return nil
				})
			case *http2.WindowUpdateFrame:
				if f.StreamID == 0 && got.more == 0 {
					got.more = f.Increment
				}
			}
		}
		if want.header == 0 {
			got.header = 0
		}
		if got != want {
			t.Errorf("%s: told %+v, want %+v", contentType, got, want)
		}
	}
}

// framed is a client of HTTP/2 that says what it likes.
type framed struct {
	*http2.Framer
	t           *testing.T
	contentType string
	stream      uint32
}

func frames(t *testing.T, a *Agent) *framed {
	t.Helper()
	conn := raw(t, a, http2.ClientPreface)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	c := &framed{Framer: http2.NewFramer(conn, conn), t: t, contentType: "application/grpc"}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// call begins a call whose body is to come.
func (c *framed) call(path string) {
	c.t.Helper()
	var block []byte // literals, which no table has to know
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "x"}, {"content-type", c.contentType}, {"te", "trailers"}} {
		block = append(append(block, 0, byte(len(h[0]))), h[0]...)
		block = append(append(block, byte(len(h[1]))), h[1]...)
	}
	if c.stream == 0 {
		c.stream = 1
	} else {
		c.stream += 2
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: block, EndHeaders: true}) // goodbye tells
}

// unfinished sends the first 64 KiB of a message of 2 MiB on the last call.
func (c *framed) unfinished() {
	piece := append([]byte{0, 0, 0x1f, 0xff, 0xff}, make([]byte, 16<<10-5)...)
	for range 4 {
		_ = c.WriteData(c.stream, false, piece) // goodbye tells
		piece = make([]byte, 16<<10)
	}
}

// goodbye is what the server says when it ends the connection.
func (c *framed) goodbye() (why string) {
	c.t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.t.Errorf("the connection is open after %v", patience)
			}
			return why
		}
		if f, ok := f.(*http2.GoAwayFrame); ok {
			why = string(f.DebugData())
		}
	}
}
