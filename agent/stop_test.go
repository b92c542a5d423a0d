package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestEveryAcknowledgedWriteIsThereAfterAStop(t *testing.T) {
	cfg := settings(t)
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	const writers = 8
	var wg sync.WaitGroup
	var begun atomic.Int64
	enough := make(chan struct{})
	acked, strange := make([][]string, writers), make([]error, writers)
	for w := range writers {
		c := httpClient(t, nil)
		wg.Go(func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("w%d/%d", w, n)
				got, err := send(t.Context(), c, "PUT", a.Addrs()[0]+"/v1/kv/"+key, key)
				switch {
				case err != nil: // the doors are closed
					return
				case got.status == http.StatusCreated:
					acked[w] = append(acked[w], key)
				case got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, `"stopping"`) || !strings.Contains(got.body, `"none"`):
					strange[w] = fmt.Errorf("%s: %d %s", key, got.status, got.body)
					return
				}
				if begun.Add(1) == 20*writers {
					close(enough)
				}
			}
		})
	}
	within(t, "some writes", enough)
	halt(t, a)
	wg.Wait()
	if err := errors.Join(strange...); err != nil {
		t.Error(err)
	}

	a = launch(t, cfg, Options{})
	within(t, "ready again", a.Ready())
	c := httpClient(t, nil)
	for _, keys := range acked {
		for _, key := range keys {
			if got := expect(t, c, "GET", a.Addrs()[0]+"/v1/kv/"+key, "", http.StatusOK); got.body != key {
				t.Errorf("%s is %q", key, got.body)
			}
		}
	}
}

func TestStopEndsWatches(t *testing.T) {
	a := launch(t, settings(t), Options{})
	within(t, "ready", a.Ready())
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.Addrs()[0]+"/v1/kv/?watch&prefix", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/x-ndjson")
	resp, err := httpClient(t, nil).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("watch: %s", resp.Status)
	}
	begin := time.Now()
	halt(t, a)
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("the stream was cut off: %v", err)
	}
	if !strings.Contains(string(rest), `"type":"end"`) {
		t.Errorf("the stream ended with %q, want a last event", rest)
	}
	if took := time.Since(begin); took > requestsMax {
		t.Errorf("a watch held up the stop for %v", took)
	}
}

func TestStopBeforeTheStoreIsOpen(t *testing.T) {
	a := launch(t, settings(t), Options{beforeOpen: func(ctx context.Context) { <-ctx.Done() }})
	halt(t, a)
	if isClosed(a.Ready()) {
		t.Error("an agent that never served says it was ready")
	}
}

func TestForcedStopDoesNotWaitForRequests(t *testing.T) {
	a := launch(t, settings(t), Options{})
	within(t, "ready", a.Ready())
	half, err := net.Dial("tcp", strings.TrimPrefix(a.Addrs()[0], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	const head = "PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
	if _, err := half.Write([]byte(head)); err != nil {
		t.Fatal(err)
	}
	if _, err := half.Read(make([]byte, 1)); err != nil { // 100: the handler waits for the body
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	if err := a.Stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("a forced stop returned %v", err)
	}
	within(t, "done", a.Done())
	if took := time.Since(begin); took > drainMax/2 {
		t.Errorf("a forced stop took %v, as long as one that waits", took)
	}
}

func TestForcedStopReturnsAtOnceAndEndsAllTheSame(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	opening, hold := make(chan struct{}), make(chan struct{})
	a := launch(t, settings(t), Options{beforeOpen: func(context.Context) { close(opening); <-hold }})
	within(t, "the store is being opened", opening)
	if err := a.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a forced stop returned %v", err)
	}
	if isClosed(a.Done()) || a.Err() != nil {
		t.Errorf("done although the store has not ended, Err %v", a.Err())
	}
	close(hold)
	within(t, "done", a.Done())
	if err := a.Err(); err != nil {
		t.Errorf("Err is %v", err)
	}
}

func TestEndOfTheContextIsAStop(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a, err := Start(ctx, settings(t), Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "ready", a.Ready())
	cancel()
	within(t, "done", a.Done())
	if err := a.Err(); err != nil {
		t.Errorf("Err is %v", err)
	}
}
