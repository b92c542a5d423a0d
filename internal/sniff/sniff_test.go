package sniff

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// rig is a Splitter on loopback.
type rig struct {
	*Splitter
	addr string
}

func split(t *testing.T, timeout time.Duration) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{New(l, timeout, nil, nil), l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(r.Run)
	t.Cleanup(func() { _ = r.HTTP().Close(); wg.Wait() })
	return r
}

func (r *rig) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", r.addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// take accepts from one listener.
func take(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	got := make(chan result, 1)
	go func() { c, err := l.Accept(); got <- result{c, err} }()
	select {
	case r := <-got:
		if r.err != nil {
			t.Fatal(r.err)
		}
		t.Cleanup(func() { _ = r.c.Close() })
		_ = r.c.SetDeadline(time.Now().Add(patience))
		return r.c
	case <-time.After(patience):
		t.Fatal("no connection came")
		return nil
	}
}

// call is the beginning of an HTTP/2 connection whose first request has a content type.
func call(t *testing.T, contentType string, withAck bool) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if withAck {
		_ = f.WriteSettingsAck()
	}
	_ = f.WriteWindowUpdate(0, 1<<20)
	var head bytes.Buffer
	e := hpack.NewEncoder(&head)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/a/b"}, {":authority", "x"}, {"padding", strings.Repeat("p", 700)}, {"content-type", contentType}} {
		if err := e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	half := head.Len() / 2
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes()[:half]})
	_ = f.WriteContinuation(1, true, head.Bytes()[half:])
	_ = f.WriteData(1, true, []byte("body"))
	return b.Bytes()
}

func TestConnectionsGoToTheServerOfTheirFirstRequest(t *testing.T) {
	for name, c := range map[string]struct {
		sent []byte
		grpc bool
	}{
		"HTTP/1":          {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false},
		"PUT":             {[]byte("PUT / HTTP/1.1\r\nHost: x\r\n\r\n"), false},
		"nonsense":        {[]byte("PRI * HTTP/9"), false},
		"gRPC":            {call(t, "application/grpc", false), true},
		"gRPC and proto":  {call(t, "application/grpc+proto", false), true},
		"gRPC for webs":   {call(t, "application/grpc-web", false), false},
		"h2c":             {call(t, "text/plain", false), false},
		"frame too large": {append([]byte(http2.ClientPreface), 0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := split(t, patience)
			conn := r.dial(t)
			go func() { // byte by byte, as a bad link may deliver it
				for i := range c.sent {
					if _, err := conn.Write(c.sent[i : i+1]); err != nil {
						return
					}
				}
			}()
			l := r.HTTP()
			if c.grpc {
				l = r.GRPC()
			}
			got := make([]byte, len(c.sent))
			if _, err := io.ReadFull(take(t, l), got); err != nil || !bytes.Equal(got, c.sent) {
				t.Errorf("the server read %q, %v; want what was sent", got, err)
			}
		})
	}
}

func TestAcknowledgementOfOurSettingsIsKeptFromHTTP(t *testing.T) {
	for name, early := range map[string]bool{"before the request": true, "after it": false} {
		t.Run(name, func(t *testing.T) {
			r := split(t, patience)
			conn := r.dial(t)
			sent, want := call(t, "text/plain", early), call(t, "text/plain", false)
			var later bytes.Buffer
			f := http2.NewFramer(&later, nil)
			if !early {
				_ = f.WriteSettingsAck()
			}
			_ = f.WritePing(false, [8]byte{1})
			_ = f.WriteSettingsAck() // of the server's own
			_ = f.WritePing(false, [8]byte{2})
			if _, err := conn.Write(append(sent, later.Bytes()...)); err != nil {
				t.Fatal(err)
			}
			rest := later.Bytes()
			if !early {
				rest = rest[frameHead:]
			}
			want = append(want, rest...)
			got := make([]byte, len(want))
			server := take(t, r.HTTP())
			for n := range got { // small reads, as they may come
				if _, err := io.ReadFull(server, got[n:n+1]); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the server read\n%q\nwant\n%q", got, want)
			}
			head := make([]byte, frameHead)
			if _, err := io.ReadFull(conn, head); err != nil || !bytes.Equal(head, emptySettings) {
				t.Errorf("the client read %v, %v; want SETTINGS", head, err)
			}
		})
	}
}

// A client of net/http goes through all of it: our SETTINGS, the server's, and the acknowledgements of both.
func TestHTTP2ByPriorKnowledgeIsServed(t *testing.T) {
	r := split(t, patience)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		_, _ = w.Write(append([]byte(q.Proto+" "), body...))
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(r.HTTP()) })
	defer wg.Wait()
	defer srv.Close()
	tr := &http.Transport{Protocols: &protocols}
	defer tr.CloseIdleConnections()
	for range 20 {
		res, err := (&http.Client{Transport: tr}).Post("http://"+r.addr, "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || string(body) != "HTTP/2.0 hello" {
			t.Fatalf("%q, %v", body, err)
		}
	}
}

func TestSilentConnections(t *testing.T) {
	t.Run("before anything are closed", func(t *testing.T) {
		r := split(t, 20*time.Millisecond)
		if n, err := r.dial(t).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%d, %v; want the end", n, err)
		}
	})
	t.Run("within a frame are closed", func(t *testing.T) {
		r := split(t, 20*time.Millisecond)
		conn := r.dial(t)
		if _, err := conn.Write(append([]byte(http2.ClientPreface), 0, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%v; want the end", err)
		}
	})
	settled := append([]byte(http2.ClientPreface), emptySettings...)
	t.Run("of HTTP/2 are gRPC's", func(t *testing.T) {
		r := split(t, 20*time.Millisecond)
		if _, err := r.dial(t).Write(settled); err != nil {
			t.Fatal(err)
		}
		take(t, r.GRPC())
	})
	t.Run("that are kept alive are gRPC's at once", func(t *testing.T) {
		r := split(t, time.Hour)
		var ping bytes.Buffer
		_ = http2.NewFramer(&ping, nil).WritePing(false, [8]byte{})
		if _, err := r.dial(t).Write(append(settled, ping.Bytes()...)); err != nil {
			t.Fatal(err)
		}
		take(t, r.GRPC())
	})
}

func TestCloseGivesUpConnectionsThatNobodyHas(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(l, time.Hour, nil, nil)
	done := make(chan struct{})
	go func() { s.Run(); close(done) }()
	r := &rig{s, l.Addr().String()}
	silent, waiting := r.dial(t), r.dial(t)
	if _, err := waiting.Write([]byte("GET / HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for s.lookers() == 0 { // the other one waits for its server, or to be accepted
		if ctx.Err() != nil {
			t.Fatal("the connection did not come")
		}
		time.Sleep(time.Millisecond)
	}
	if err := s.GRPC().Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.HTTP().Close(); err != nil {
		t.Errorf("the second close: %v", err)
	}
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("Run did not end")
	}
	for _, c := range []net.Conn{silent, waiting} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection was left open")
		}
	}
	if _, err := s.HTTP().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after the end: %v", err)
	}
}

// lookers counts connections that no server has yet.
func (s *Splitter) lookers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.looking)
}

// failing is a listener that fails twice before it works.
type failing struct {
	net.Listener
	left int
}

var errFailing = errors.New("no descriptors left")

func (f *failing) Accept() (net.Conn, error) {
	if f.left--; f.left >= 0 {
		return nil, errFailing
	}
	return f.Listener.Accept()
}

func TestErrorsOfTheListenerAreTheHTTPServers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(&failing{l, 2}, patience, nil, nil)
	var wg sync.WaitGroup
	wg.Go(s.Run)
	defer wg.Wait()
	defer s.HTTP().Close()
	for range 2 {
		if _, err := s.HTTP().Accept(); !errors.Is(err, errFailing) {
			t.Errorf("Accept: %v, want the listener's error", err)
		}
	}
	r := &rig{s, l.Addr().String()}
	if _, err := r.dial(t).Write([]byte("GET / HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	take(t, s.HTTP())
}
