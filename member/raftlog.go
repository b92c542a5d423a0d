package member

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/logger"

	"holdfast/internal/liblog"
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
		logger.SetLoggerFactory(func(pkg string) logger.ILogger { return newRaftLogger(pkg, libraryLog.Load) })
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

// raftLogger is the library's logger of one of its packages, on slog.
type raftLogger struct {
	pkg    string
	target func() *slog.Logger
	voice  *liblog.Voice
}

func newRaftLogger(pkg string, target func() *slog.Logger) *raftLogger {
	return &raftLogger{pkg: pkg, target: target, voice: liblog.New(target, "raft", "part", pkg)}
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
	l.voice.Say(level, format, func() string { return fmt.Sprintf(format, args...) })
}
