package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/internal/pivot"
	"holdfast/kv"
)

// heldNode answers no write before release is closed.
type heldNode struct {
	entered chan struct{} // gets one for each write that has come
	release chan struct{}
}

func (n heldNode) Do(ctx context.Context, _ kv.Command) (kv.Result, error) {
	n.entered <- struct{}{}
	select {
	case <-n.release:
		return kv.Result{Header: kv.Header{Revision: 2}, Ops: []kv.OpResult{{}}}, nil
	case <-ctx.Done():
		return kv.Result{}, &kv.Error{Code: kv.OutcomeUnknown}
	}
}

func (heldNode) Read(context.Context, kv.Query) (kv.Page, error) {
	return kv.Page{}, &kv.Error{Code: kv.NotCached}
}

func (heldNode) Watch(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(func(kv.Batch, error) bool) {}
}

// house is doors in front of a heldNode.
type house struct {
	*Agent
	node  heldNode
	leave context.CancelFunc // tells the doors to end
	force context.CancelFunc
	ended chan error
	log   bytes.Buffer // readable after ended
}

func newHouse(t *testing.T) *house {
	t.Helper()
	held := heldNode{make(chan struct{}, 8), make(chan struct{})}
	h := houseOf(t, settings(t), held)
	h.node = held
	return h
}

// houseOf is doors in front of any node.
func houseOf(t *testing.T, cfg config.Config, node api.Backend) *house {
	t.Helper()
	h := &house{ended: make(chan error, 1)}
	open, err := openAll(t, locks(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Agent = &Agent{
		cfg: cfg, gate: newGate(), pivot: pivot.New(), errands: newErrands(), open: open, ready: make(chan struct{}), dir: &dataDir{path: cfg.DataDir},
		opts: withDefaults([]Options{{Log: slog.New(slog.NewTextHandler(&h.log, nil))}}),
	}
	h.plan.Store(&plan{})
	h.gate.open(node)
	close(h.ready)
	ctx, leave := context.WithCancel(t.Context())
	force, cut := context.WithCancel(t.Context())
	h.leave, h.force = leave, cut
	ds := h.buildDoors(force)
	go func() { h.ended <- ds.Run(ctx, func() {}) }()
	t.Cleanup(func() { leave(); cut() })
	return h
}

// put sends a write that the node holds, and returns its answer later.
func (h *house) put(t *testing.T, c *http.Client) <-chan any {
	t.Helper()
	answer := make(chan any, 1)
	go func() {
		got, err := send(t.Context(), c, "PUT", h.Addrs()[0]+"/v1/kv/a", "b")
		if err != nil {
			answer <- err
			return
		}
		answer <- got
	}()
	select {
	case <-h.node.entered:
	case <-time.After(patience):
		t.Fatal("the write did not arrive")
	}
	return answer
}

func TestRunningRequestsFinishWhileNewOnesAreRefused(t *testing.T) {
	h := newHouse(t)
	running := h.put(t, httpClient(t, nil))
	c, base := httpClient(t, nil), h.Addrs()[0]
	expect(t, c, "GET", base+"/readyz", "", http.StatusOK)
	h.leave()
	deadline := time.Now().Add(patience)
	for !h.gate.isDraining() {
		if time.Now().After(deadline) {
			t.Fatal("nothing drains")
		}
		time.Sleep(time.Millisecond)
	}
	got := expect(t, c, "GET", base+"/readyz", "", http.StatusServiceUnavailable)
	if !strings.Contains(got.body, stateStopping) || !got.last {
		t.Errorf("/readyz while draining: %+v", got)
	}
	got = expect(t, c, "PUT", base+"/v1/kv/a", "b", http.StatusServiceUnavailable)
	if !strings.Contains(got.body, `"stopping"`) || !got.last || got.header.Get("Retry-After") == "" {
		t.Errorf("a write while draining: %+v", got)
	}
	close(h.node.release)
	if got, ok := (<-running).(reply); !ok || got.status != http.StatusOK {
		t.Errorf("the running write got %+v, want its answer", got)
	}
	if err := <-h.ended; err != nil {
		t.Errorf("the doors ended with %v", err)
	}
	if h.log.Len() > 0 {
		t.Errorf("a clean end was logged:\n%s", h.log.String())
	}
	if _, err := send(t.Context(), c, "GET", base+"/livez", ""); err == nil {
		t.Error("the door is still open")
	}
}

func TestRequestsThatDoNotFinishAreCutOffAndCounted(t *testing.T) {
	h := newHouse(t)
	running := h.put(t, httpClient(t, nil))
	h.leave()
	h.force()
	if got, ok := (<-running).(error); !ok {
		t.Errorf("the running write got %v, want a broken connection", got)
	}
	if err := <-h.ended; err != nil {
		t.Errorf("the doors ended with %v", err)
	}
	if !strings.Contains(h.log.String(), "doors closed on running requests") || !strings.Contains(h.log.String(), "requests=1") {
		t.Errorf("nobody is told:\n%s", h.log.String())
	}
}

func TestPanicInAHandlerIsAnErrorLineAndNoOutage(t *testing.T) {
	var log bytes.Buffer
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	ds := &doors{log: slog.New(slog.NewTextHandler(&log, nil)), gate: newGate(), force: t.Context()}
	ds.add(&door{listener: l}, newLimiter(forClients, 8, nil, withDefaults(nil).Metrics), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("no")
		}
	}), settings(t).Limits, nil)
	ended := make(chan error, 1)
	go func() { ended <- ds.Run(ctx, func() {}) }()
	c, base := httpClient(t, nil), "http://"+l.Addr().String()
	if _, err := send(t.Context(), c, "GET", base+"/panic", ""); err == nil {
		t.Error("a panic was answered")
	}
	expect(t, c, "GET", base+"/", "", http.StatusOK)
	leave()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "handler panicked") {
		t.Errorf("the log has:\n%s", log.String())
	}
}

func TestClientThatStopsReadingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := &limitedConn{Conn: ours, limiter: &limiter{}}
		begin := time.Now()
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != stallTimeout {
			t.Errorf("after %v: %v, want a timeout after %v", time.Since(begin), err, stallTimeout)
		}
		if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("after %v: %v, want the handler's own timeout", time.Since(begin), err)
		}
		if err := c.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go func() { time.Sleep(stallTimeout / 2); _, _ = io.ReadFull(theirs, make([]byte, 1)) }()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("a slow reader: %v", err)
		}
		for _, pause := range []time.Duration{stallStep / 2, stallStep, time.Hour} { // within the deadline of the last write, or beyond
			time.Sleep(time.Hour)
			go func() { _, _ = io.ReadFull(theirs, make([]byte, 1)) }()
			if _, err := c.Write([]byte("x")); err != nil {
				t.Errorf("a reader: %v", err)
			}
			time.Sleep(pause)
			begin = time.Now()
			_, err := c.Write([]byte("x"))
			if took := time.Since(begin); !errors.Is(err, os.ErrDeadlineExceeded) || took < stallTimeout-stallStep || took > stallTimeout {
				t.Errorf("%v after a write, after %v: %v, want a timeout", pause, took, err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNodeServesOnceItHasCaughtUpOrHasNobodyToCatchUpWith(t *testing.T) {
	for _, tc := range []struct {
		name   string
		leader string
		caught time.Duration
		want   time.Duration
	}{
		{"caught up at once", "1", 0, 0},
		{"no leader", "", time.Hour, leaderWait},
		{"a long replay", "1", 20 * time.Second, 20 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := &Agent{gate: newGate(), ready: make(chan struct{})}
			caught := make(chan struct{})
			stop := time.AfterFunc(tc.caught, func() { close(caught) })
			defer stop.Stop()
			begin := time.Now()
			a.openWhenServing(t.Context(), &node{
				backend:  heldNode{},
				caughtUp: caught,
				describe: func(s *api.Status) { s.Member = &api.MemberStatus{Leader: tc.leader} },
			}, heldNode{})
			if took := time.Since(begin); took != tc.want || !isClosed(a.ready) {
				t.Errorf("%s: ready %v after %v, want %v", tc.name, isClosed(a.ready), took, tc.want)
			}
		})
	}
}
