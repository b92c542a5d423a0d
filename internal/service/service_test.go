package service

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// journal notes what happens, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) check(t *testing.T, want ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Equal(j.lines, want) {
		t.Errorf("happened %q, want %q", j.lines, want)
	}
}

// part takes up to become ready and down to stop.
func (j *journal) part(name string, up, down time.Duration) Part {
	return Part{Name: name, Run: func(ctx context.Context, ready func()) error {
		time.Sleep(up)
		j.note(name + " up")
		ready()
		<-ctx.Done()
		time.Sleep(down)
		j.note(name + " down")
		return ctx.Err()
	}}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// endsWith is a part that works until it is stopped, and then fails.
func endsWith(name string, err error) Part {
	return Part{Name: name, Run: func(ctx context.Context, ready func()) error {
		ready()
		<-ctx.Done()
		return err
	}}
}

func TestPartsStartInOrderAndStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := New(quiet(), j.part("store", 3*time.Second, time.Second), j.part("core", time.Second, 2*time.Second), j.part("door", 0, 0))
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- g.Run(ctx) }()

		<-g.started
		j.check(t, "store up", "core up", "door up")
		cancel()
		if err := <-result; err != nil {
			t.Errorf("a clean stop returned %v", err)
		}
		j.check(t, "store up", "core up", "door up", "door down", "core down", "store down")
	})
}

func TestFailureWhileStartingStopsWhatIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		broken := errors.New("no such disk")
		g := New(quiet(), j.part("store", 0, 0),
			Part{Name: "core", Run: func(context.Context, func()) error { return broken }},
			j.part("door", 0, 0))
		err := g.Run(t.Context())
		if !errors.Is(err, broken) || err.Error() != "core: no such disk" {
			t.Errorf("Run returned %v, want the failure of core", err)
		}
		j.check(t, "store up", "store down")
		select {
		case <-g.started:
			t.Error("Started is closed although a part never was ready")
		default:
		}
	})
}

func TestFailureOfAnEarlierPartEndsTheWaitForALaterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		broken := errors.New("gone")
		g := New(quiet(),
			Part{Name: "store", Run: func(_ context.Context, ready func()) error {
				ready()
				time.Sleep(time.Second)
				return broken
			}},
			Part{Name: "core", Run: func(ctx context.Context, _ func()) error { // never ready
				<-ctx.Done()
				j.note("core down")
				return nil
			}})
		err := g.Run(t.Context())
		if e, ok := errors.AsType[*Error](err); !ok || e.Part != "store" || !errors.Is(err, broken) {
			t.Errorf("Run returned %v, want the failure of store", err)
		}
		j.check(t, "core down")
	})
}

func TestFirstFailureIsReturnedAndLaterOnesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines strings.Builder
		first, second := errors.New("first"), errors.New("flush refused")
		g := New(slog.New(slog.NewTextHandler(&lines, nil)),
			endsWith("store", second),
			Part{Name: "door", Run: func(_ context.Context, ready func()) error {
				ready()
				time.Sleep(time.Minute)
				return first
			}})
		if err := g.Run(t.Context()); !errors.Is(err, first) || errors.Is(err, second) {
			t.Errorf("Run returned %v, want %v", err, first)
		}
		if !strings.Contains(lines.String(), "flush refused") {
			t.Errorf("the second failure is in no log line:\n%s", lines.String())
		}
	})
}

func TestFailureWhileStoppingIsReturnedWhenItIsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("flush refused")
		g := New(quiet(), endsWith("store", broken))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-g.started; cancel() }()
		if err := g.Run(ctx); !errors.Is(err, broken) || err.Error() != "store: flush refused" {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestPartThatEndsUnaskedIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, signals := range []bool{true, false} {
			g := New(quiet(), Part{Name: "loop", Run: func(_ context.Context, ready func()) error {
				if signals {
					ready()
					ready() // twice does no harm
				}
				return nil
			}})
			if err := g.Run(t.Context()); !errors.Is(err, ErrEnded) {
				t.Errorf("ready %v: Run returned %v, want ErrEnded", signals, err)
			}
		}
	})
}

func TestStuckPartIsNamedAndDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		release := make(chan struct{})
		g := New(quiet(), j.part("store", 0, 0),
			Part{Name: "core", StopTimeout: 7 * time.Second, Run: func(_ context.Context, ready func()) error {
				ready()
				<-release
				return nil
			}})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-g.started; cancel() }()
		begin := time.Now()
		err := g.Run(ctx)
		if e, ok := errors.AsType[*Error](err); !ok || e.Part != "core" || !errors.Is(err, ErrStuck) {
			t.Errorf("Run returned %v, want core to be stuck", err)
		}
		if took := time.Since(begin); took != 7*time.Second {
			t.Errorf("stopping took %v, want the part's 7s", took)
		}
		j.check(t, "store up", "store down")
		close(release)
	})
}

func TestEndedContextStopsAGroupThatIsStillStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := New(quiet(), j.part("store", 0, 0), Part{Name: "core", Run: func(ctx context.Context, _ func()) error {
			<-ctx.Done()
			j.note("core down")
			return ctx.Err()
		}}, j.part("door", 0, 0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run returned %v", err)
		}
		j.check(t, "store up", "core down", "store down")
	})
}
