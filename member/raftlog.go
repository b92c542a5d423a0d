package member

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/logger"
)

// The library has one logger factory for the whole process, which may be set once and is asked for loggers by package
// name. So what it says goes to the member opened last.
var (
	installOnce sync.Once
	libraryLog  atomic.Pointer[slog.Logger]
)

// installLogger sends what the library logs to log from now on.
func installLogger(log *slog.Logger) {
	libraryLog.Store(log)
	installOnce.Do(func() {
		logger.SetLoggerFactory(func(pkg string) logger.ILogger {
			return &raftLogger{pkg: pkg, target: libraryLog.Load, now: time.Now, seen: make(map[string]burst)}
		})
	})
}

// The library's levels and what becomes of them. Its errors are what it retries (a dead peer is one every few seconds),
// its warnings are the course of every election.
const (
	levelError   = slog.LevelWarn
	levelWarning = slog.LevelDebug
	levelInfo    = slog.LevelDebug
	levelDebug   = slog.LevelDebug - 4
)

const (
	// repeatEvery is how often one message of the library is logged at most.
	repeatEvery = time.Minute
	// messagesMax bounds the messages that are told apart; when it is reached the memory of them is emptied.
	messagesMax = 256
)

// raftLogger is the library's logger of one of its packages, on slog.
type raftLogger struct {
	pkg    string
	target func() *slog.Logger
	now    func() time.Time

	mu   sync.Mutex
	seen map[string]burst // by format
}

// burst is the repetition of one message.
type burst struct {
	last    time.Time
	skipped int
}

// SetLevel does nothing: slog's level counts.
func (*raftLogger) SetLevel(logger.LogLevel) {}

func (l *raftLogger) Debugf(format string, args ...any)   { l.log(levelDebug, format, args) }
func (l *raftLogger) Infof(format string, args ...any)    { l.log(levelInfo, format, args) }
func (l *raftLogger) Warningf(format string, args ...any) { l.log(levelWarning, format, args) }
func (l *raftLogger) Errorf(format string, args ...any)   { l.log(levelError, format, args) }

// Panicf panics, as the library relies on.
func (l *raftLogger) Panicf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	l.target().Error("raft stopped the process; if it does so again after a restart, keep the data dir and report it",
		"part", l.pkg, "detail", msg)
	panic(fmt.Sprintf("raft: %s: %s", l.pkg, msg))
}

func (l *raftLogger) log(level slog.Level, format string, args []any) {
	target := l.target()
	if !target.Enabled(context.Background(), level) {
		return
	}
	attrs := []any{"part", l.pkg, "detail", nil}
	if level >= slog.LevelInfo {
		skipped, say := l.repeated(format)
		if !say {
			return
		}
		if skipped > 0 {
			attrs = append(attrs, "repeated", skipped)
		}
	}
	attrs[3] = fmt.Sprintf(format, args...)
	target.Log(context.Background(), level, "raft", attrs...)
}

// repeated reports whether a message is to be logged, and how often it was not since it last was.
func (l *raftLogger) repeated(format string) (skipped int, say bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.seen[format]
	if now := l.now(); !ok || now.Sub(b.last) >= repeatEvery {
		if len(l.seen) >= messagesMax {
			clear(l.seen)
		}
		l.seen[format] = burst{last: now}
		return b.skipped, true
	}
	b.skipped++
	l.seen[format] = b
	return 0, false
}
