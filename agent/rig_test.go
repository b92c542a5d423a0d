package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/config"
)

// patience bounds every wait of these tests; none of them takes nearly as long.
const patience = 30 * time.Second

// launch starts an agent that is stopped after the test.
func launch(t *testing.T, cfg config.Config, o Options) *Agent {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	a, err := Start(t.Context(), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { halt(t, a) })
	return a
}

// testWriter writes to the log of a test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// halt stops an agent and wants that to be clean.
func halt(t *testing.T, a *Agent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := a.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// within waits for c.
func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
}

// httpClient is an HTTP client that keeps no connection of another test.
func httpClient(t *testing.T, dial func(ctx context.Context) (net.Conn, error)) *http.Client {
	t.Helper()
	tr := &http.Transport{}
	if dial != nil {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// overSocket is a client of the socket for administration.
func overSocket(t *testing.T, a *Agent) *http.Client {
	return httpClient(t, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", a.SocketPath())
	})
}

type reply struct {
	status int
	header http.Header
	body   string
	last   bool // the server said that it will close the connection
}

// send makes one request.
func send(ctx context.Context, c *http.Client, method, url, body string) (reply, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b), resp.Close}, err
}

// expect makes one request and wants a status.
func expect(t *testing.T, c *http.Client, method, url, body string, status int) reply {
	t.Helper()
	got, err := send(t.Context(), c, method, url, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	if got.status != status {
		t.Fatalf("%s %s: %d %s, want %d", method, url, got.status, got.body, status)
	}
	return got
}

func grep(text, part string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}
