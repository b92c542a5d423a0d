package transport

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// TestStreamsGoOnWhenRoundTripsGetLong has the round trip grow from one moment to the next, with requests on streams of one
// connection under way, or none.
func TestStreamsGoOnWhenRoundTripsGetLong(t *testing.T) {
	for i, c := range []struct {
		gap  time.Duration // between requests before
		rest time.Duration
		loss float64
	}{
		{gap: 5 * time.Millisecond},
		{gap: time.Second},
		{gap: 50 * time.Millisecond, rest: 5 * time.Minute},
		{gap: 50 * time.Millisecond, loss: .02},
	} {
		t.Run(fmt.Sprint(c.gap, ",", c.rest, ",", c.loss), func(t *testing.T) {
			bubble(t, uint64(300+i), func(t *testing.T, w *world) {
				m, p := w.start("m"), w.start("p")
				m.Listen(Uplink, echo)
				w.net.Link("m", "p").Delay(5 * time.Millisecond)
				conn, err := p.Dial(t.Context(), Uplink, w.target("m"))
				if err != nil {
					t.Fatal(err)
				}
				var mu sync.Mutex
				var wg sync.WaitGroup
				var slowest time.Duration
				ask := func() {
					at := time.Now()
					s, err := conn.OpenStream(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := s.Write(make([]byte, 200)); err != nil {
						t.Error(err)
					}
					_ = s.Close()
					if _, err := io.ReadAll(s); err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					slowest = max(slowest, time.Since(at))
				}
				for range 200 {
					wg.Go(ask)
					time.Sleep(c.gap)
				}
				time.Sleep(c.rest)
				w.net.Link("m", "p").Delay(300 * time.Millisecond).Loss(c.loss)
				began := time.Now()
				mu.Lock()
				slowest = 0
				mu.Unlock()
				for time.Since(began) < 30*time.Second {
					wg.Go(ask)
					time.Sleep(max(c.gap, 20*time.Millisecond))
				}
				wg.Wait()
				t.Logf("slowest %s", slowest)
				if want := 700 * time.Millisecond; c.loss == 0 && slowest > want || slowest > 4*want || conn.Lost() {
					t.Errorf("a request took %s, want %s and with losses four times that; the link is lost: %v", slowest, want, conn.Lost())
				}
			})
		})
	}
}
