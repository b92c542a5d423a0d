package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/config"
	"holdfast/internal/simnet"
)

// tally counts what is logged, by message.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (*tally) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (c *tally) WithAttrs([]slog.Attr) slog.Handler         { return c }
func (c *tally) WithGroup(string) slog.Handler              { return c }
func (c *tally) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[r.Message]++
	return nil
}

// take returns what was counted since the last time.
func (c *tally) take() (counts map[string]int, sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts, c.counts = c.counts, map[string]int{}
	for _, n := range counts {
		sum += n
	}
	return counts, sum
}

// idleLinesMax is how many lines a node may log in a day of rest: a journal is on flash too.
const idleLinesMax = 2

// TestADayOfRestLeavesNoLines has three members and a proxy do nothing on links that lose packets: an hour, or three days
// with HOLDFAST_TEST_LONG=1.
func TestADayOfRestLeavesNoLines(t *testing.T) {
	dir := t.TempDir()
	rest := time.Hour
	if os.Getenv("HOLDFAST_TEST_LONG") != "" {
		rest = 72 * time.Hour
	}
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(t, 11)
		names := []string{"a", "b", "c", "d"}
		for i, x := range names {
			for _, y := range names[i+1:] {
				n.Link(x, y).Delay(20 * time.Millisecond).Loss(0.02)
			}
		}
		token := filepath.Join(dir, "token")
		lines := map[string]*tally{}
		for _, name := range names {
			lines[name] = &tally{counts: map[string]int{}}
			a, client := startSimulatedLogging(t, n, dir, name, lines[name], func(c *config.Config) {
				if name != "a" {
					c.Join, c.TokenFile = []string{n.Addr("a")}, token
				}
			})
			select {
			case <-a.Ready():
			case <-time.After(time.Minute):
				t.Fatalf("%s is not ready within a minute", name)
			}
			if name == "a" {
				makeToken(t, client, token)
			}
		}
		time.Sleep(10 * time.Minute) // until all have found their places
		for _, name := range names {
			counts, sum := lines[name].take()
			t.Logf("%s logged %d lines until it was at rest: %v", name, sum, counts)
		}
		time.Sleep(rest)
		for _, name := range names {
			counts, sum := lines[name].take()
			if sum > idleLinesMax*int(rest/(24*time.Hour)) {
				t.Errorf("%s logged %d lines in %v of rest, want %d a day at most: %v", name, sum, rest, idleLinesMax, counts)
			}
			t.Logf("%s: %d lines in %v of rest %v", name, sum, rest, counts)
		}
	})
}
