package etcd

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/grpclog"

	"holdfast/internal/liblog"
)

// LogTo sends what gRPC logs to log. gRPC has one log for the whole process, and it has to be told before any of its other
// functions is called: the first LogTo does so, later ones only change where it goes, and may come at any time.
func LogTo(log *slog.Logger) {
	grpcTarget.Store(log)
	grpcTold()
}

var (
	grpcTarget atomic.Pointer[slog.Logger]
	grpcTold   = sync.OnceFunc(func() {
		grpclog.SetLoggerV2(grpcLog{liblog.New(grpcTarget.Load, "grpc")})
	})
)

// grpcLog is gRPC's logger on slog. What it calls errors and warnings are mostly connections that broke.
type grpcLog struct{ voice *liblog.Voice }

const (
	grpcError   = slog.LevelWarn
	grpcWarning = slog.LevelDebug
	grpcInfo    = slog.LevelDebug - 4
)

// V reports whether to log more than what is asked for by name: never.
func (grpcLog) V(level int) bool { return level <= 0 }

func (g grpcLog) Info(args ...any)                    { g.print(grpcInfo, args) }
func (g grpcLog) Infoln(args ...any)                  { g.print(grpcInfo, args) }
func (g grpcLog) Infof(format string, args ...any)    { g.printf(grpcInfo, format, args) }
func (g grpcLog) Warning(args ...any)                 { g.print(grpcWarning, args) }
func (g grpcLog) Warningln(args ...any)               { g.print(grpcWarning, args) }
func (g grpcLog) Warningf(format string, args ...any) { g.printf(grpcWarning, format, args) }
func (g grpcLog) Error(args ...any)                   { g.print(grpcError, args) }
func (g grpcLog) Errorln(args ...any)                 { g.print(grpcError, args) }
func (g grpcLog) Errorf(format string, args ...any)   { g.printf(grpcError, format, args) }

// Fatal and its kin end the process, as gRPC relies on.
func (g grpcLog) Fatal(args ...any)                 { g.fatal(fmt.Sprint(args...)) }
func (g grpcLog) Fatalln(args ...any)               { g.fatal(fmt.Sprintln(args...)) }
func (g grpcLog) Fatalf(format string, args ...any) { g.fatal(fmt.Sprintf(format, args...)) }

func (grpcLog) fatal(text string) {
	grpcTarget.Load().Error("gRPC stopped the process; if it does so again after a restart, report it", "detail", strings.TrimSpace(text))
	os.Exit(1)
}

func (g grpcLog) print(level slog.Level, args []any) {
	key := ""
	if len(args) > 0 {
		key = fmt.Sprint(args[0])
	}
	g.voice.Say(level, key, func() string { return strings.TrimSpace(fmt.Sprintln(args...)) })
}

func (g grpcLog) printf(level slog.Level, format string, args []any) {
	g.voice.Say(level, format, func() string { return fmt.Sprintf(format, args...) })
}
