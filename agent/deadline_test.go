package agent

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counted counts the deadlines that are set on a connection.
type counted struct {
	net.Conn
	set *atomic.Int64
}

func (c counted) SetReadDeadline(t time.Time) error {
	c.set.Add(1)
	return c.Conn.SetReadDeadline(t)
}

func (c counted) SetWriteDeadline(t time.Time) error {
	c.set.Add(1)
	return c.Conn.SetWriteDeadline(t)
}

func pipe(t *testing.T) (ours *limitedConn, theirs net.Conn, set *atomic.Int64) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	set = &atomic.Int64{}
	return &limitedConn{Conn: counted{a, set}, limiter: &limiter{}}, b, set
}

// expires is when a Read of c ends because of its deadline.
func expires(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want the deadline", err)
	}
	return time.Since(begin)
}

func TestReadDeadlinesAreKeptHoweverOftenTheyChange(t *testing.T) {
	in := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for _, c := range []struct {
		name string
		set  func(c net.Conn) error
		want time.Duration
	}{
		{"near", func(c net.Conn) error { return c.SetReadDeadline(in(time.Second)) }, time.Second},
		{"far", func(c net.Conn) error { return c.SetReadDeadline(in(time.Hour)) }, time.Hour},
		{"put off", func(c net.Conn) error {
			return errors.Join(c.SetReadDeadline(in(time.Second)), c.SetReadDeadline(in(time.Minute)))
		}, time.Minute},
		{"put forward", func(c net.Conn) error {
			return errors.Join(c.SetReadDeadline(in(time.Minute)), c.SetReadDeadline(in(time.Second)))
		}, time.Second},
		{"lifted and set", func(c net.Conn) error {
			return errors.Join(c.SetReadDeadline(in(time.Second)), c.SetReadDeadline(time.Time{}), c.SetReadDeadline(in(2*time.Second)))
		}, 2 * time.Second},
		{"passed", func(c net.Conn) error { return c.SetReadDeadline(in(-time.Second)) }, 0},
		{"passed and set", func(c net.Conn) error {
			return errors.Join(c.SetReadDeadline(in(-time.Second)), c.SetReadDeadline(in(time.Hour)))
		}, time.Hour},
		{"both", func(c net.Conn) error { return c.SetDeadline(in(time.Second)) }, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			ours, _, _ := pipe(t)
			if err := c.set(ours); err != nil {
				t.Fatal(err)
			}
			if got := expires(t, ours); got != c.want {
				t.Errorf("%s: expired after %v, want %v", c.name, got, c.want)
			}
			if got := expires(t, ours); got != 0 {
				t.Errorf("%s: expired again after %v, want at once", c.name, got)
			}
		})
	}
}

func TestAReadDeadlineThatIsLiftedIsNotFelt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs, _ := pipe(t)
		if err := errors.Join(ours.SetReadDeadline(time.Now().Add(time.Second)), ours.SetReadDeadline(time.Time{})); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Hour)
			_, _ = theirs.Write([]byte("x"))
		}()
		if _, err := ours.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
}

func TestAReadUnderWayIsEndedByAnEarlierDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, _, _ := pipe(t)
		if err := ours.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Minute)
			_ = ours.SetReadDeadline(time.Unix(1, 0))
		}()
		if got := expires(t, ours); got != time.Minute {
			t.Errorf("ended after %v, want a minute", got)
		}
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn chan net.Conn
	addr net.Addr
}

func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conn
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

// A request costs two timers: one for who reads meanwhile, one for the next request. Now and then there is one for the answer.
func TestARequestSetsFewDeadlines(t *testing.T) {
	ours, theirs, set := pipe(t)
	l := &oneConn{conn: make(chan net.Conn, 1), addr: theirs.LocalAddr()}
	l.conn <- ours
	s := &http.Server{
		Handler:     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }),
		IdleTimeout: 10 * time.Minute, ReadHeaderTimeout: 10 * time.Second,
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	in := bufio.NewReader(theirs)
	const requests = 100
	begin := time.Now()
	for range requests {
		if _, err := io.WriteString(theirs, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	writes := int64(time.Since(begin)/stallStep) + 1
	if n := set.Load(); n > 2*requests+2+writes {
		t.Errorf("%d deadlines for %d requests, want two each", n, requests)
	}
	close(l.conn)
	if err := <-done; err != nil {
		t.Log("the server ended:", err)
	}
	_ = s.Close()
}
