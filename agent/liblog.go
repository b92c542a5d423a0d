package agent

import (
	"log"
	"log/slog"

	"holdfast/api/etcd"
	"holdfast/internal/liblog"
)

// LogLibraries sends to l what libraries log that know one log for the whole process: package log, which QUIC's library
// writes to, and gRPC's own. It is for a program that is an agent and nothing else, before its first Start; what others log for
// themselves, an Agent sends to its own log anyway.
func LogLibraries(l *slog.Logger) {
	log.SetFlags(0)
	log.SetPrefix("")
	log.SetOutput(liblog.New(func() *slog.Logger { return l }, "library").Lines(slog.LevelWarn))
	etcd.LogTo(l)
}
