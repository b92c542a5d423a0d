package journald

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// burst of one event go through within window; more are counted. A journal is on flash too.
	burst  = 10
	window = time.Minute
	// eventsMax bounds the events that are counted at a time. Events are constants, so that more are not to be expected;
	// then all go through.
	eventsMax = 256
)

// Thin returns a handler that passes at most ten records of one event, which is its level and message, within a minute.
// What is left out is counted, and said by a record of its own as soon as anything is logged after that minute.
func Thin(next slog.Handler) slog.Handler {
	return &thin{next: next, tally: &tally{events: map[event]*count{}}}
}

type thin struct {
	next  slog.Handler
	tally *tally // shared with the handlers derived from this one
}

type event struct {
	level   slog.Level
	message string
}

type count struct {
	since   time.Time
	passed  int
	leftOut int
}

type tally struct {
	mu     sync.Mutex
	events map[event]*count
}

// note counts a record, and returns whether it passes and which windows have ended with something left out.
func (t *tally) note(e event, now time.Time) (passes bool, ended map[event]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for old, c := range t.events {
		if now.Sub(c.since) < window {
			continue
		}
		if c.leftOut > 0 {
			if ended == nil {
				ended = map[event]int{}
			}
			ended[old] = c.leftOut
		}
		delete(t.events, old)
	}
	c := t.events[e]
	if c == nil {
		if len(t.events) >= eventsMax {
			return true, ended
		}
		c = &count{since: now}
		t.events[e] = c
	}
	if c.passed < burst {
		c.passed++
		return true, ended
	}
	c.leftOut++
	return false, ended
}

func (h *thin) Enabled(ctx context.Context, level slog.Level) bool { return h.next.Enabled(ctx, level) }

func (h *thin) Handle(ctx context.Context, r slog.Record) error {
	passes, ended := h.tally.note(event{r.Level, r.Message}, time.Now())
	for e, n := range ended {
		more := slog.NewRecord(r.Time, e.level, "more of the same left out", 0)
		more.AddAttrs(slog.String("event", e.message), slog.Int("records", n))
		if err := h.next.Handle(ctx, more); err != nil {
			return err
		}
	}
	if !passes {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func (h *thin) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &thin{h.next.WithAttrs(attrs), h.tally}
}

func (h *thin) WithGroup(name string) slog.Handler { return &thin{h.next.WithGroup(name), h.tally} }
