// Package liblog puts what libraries log into a slog.Logger: under one constant message for each library, with what it says as
// an attribute, and the same thing ever more rarely as long as it goes on.
package liblog

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// A library may say one thing again after repeatFirst, and each time after twice as long, up to repeatMax: a peer that is away
	// for a day is 29 lines, and not one for each attempt. What was not said for quiet is new.
	repeatFirst = time.Minute
	repeatMax   = time.Hour
	quiet       = 10 * time.Minute
	// messagesMax bounds the things that are told apart; when it is reached the memory of them is emptied.
	messagesMax = 256
)

// Voice is what one library, or one part of it, says. It may be used concurrently.
type Voice struct {
	target func() *slog.Logger
	event  string
	attrs  []any
	now    func() time.Time

	mu   sync.Mutex
	seen map[string]repetition
}

// repetition is that of one thing.
type repetition struct {
	said    time.Time
	seen    time.Time     // said or not
	every   time.Duration // until it may be said again
	skipped int
}

// New returns the voice whose records are named event and have attrs. Target is asked for the logger at each.
func New(target func() *slog.Logger, event string, attrs ...any) *Voice {
	return &Voice{target: target, event: event, attrs: attrs, now: time.Now, seen: map[string]repetition{}}
}

// Say logs detail as what the library says. What it goes on saying under the same key is counted, and mostly left out; so
// is not what is below slog.LevelInfo, which somebody has asked for.
func (v *Voice) Say(level slog.Level, key string, detail func() string) {
	log := v.target()
	if !log.Enabled(context.Background(), level) {
		return
	}
	skipped := 0
	if level >= slog.LevelInfo {
		var say bool
		if skipped, say = v.repeated(key); !say {
			return
		}
	}
	attrs := slices.Concat(v.attrs, []any{"detail", detail()})
	if skipped > 0 {
		attrs = append(attrs, "repeated", skipped)
	}
	log.Log(context.Background(), level, v.event, attrs...)
}

// repeated reports whether something is to be said, and how often it was not since it last was.
func (v *Voice) repeated(key string) (skipped int, say bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.now()
	r, ok := v.seen[key]
	if !ok && len(v.seen) >= messagesMax {
		clear(v.seen)
	}
	if !ok || now.Sub(r.seen) >= quiet {
		r.every = 0 // it is new
	}
	r.seen = now
	if now.Sub(r.said) < r.every {
		r.skipped++
		v.seen[key] = r
		return 0, false
	}
	skipped = r.skipped
	r.said, r.skipped, r.every = now, 0, min(max(repeatFirst, 2*r.every), repeatMax)
	v.seen[key] = r
	return skipped, true
}

// Lines returns a writer for a library that writes lines, as those do that use package log: it says each at level. Lines that
// differ in their numbers alone are the same thing.
func (v *Voice) Lines(level slog.Level) io.Writer { return &lines{v, level} }

type lines struct {
	voice *Voice
	level slog.Level
}

// Write takes a whole line, as package log promises.
func (l *lines) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	l.voice.Say(l.level, withoutNumbers(text), func() string { return text })
	return len(line), nil
}

func withoutNumbers(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, text)
}
