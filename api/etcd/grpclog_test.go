package etcd

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"holdfast/internal/liblog"
)

func TestWhatGRPCSaysIsLoggedUnderOneName(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	g := grpcLog{log, liblog.New(func() *slog.Logger { return log }, "grpc")}
	for i := range 10 {
		g.Errorf("grpc: server failed to encode response: %d", i)
		g.Error("[core] ", i)
		g.Warningf("a connection broke: %d", i)
		g.Infoln("it goes on")
	}
	got := out.String()
	if strings.Count(got, "\n") != 2 || strings.Count(got, "level=WARN msg=grpc detail=") != 2 || !strings.Contains(got, "response: 0") || !strings.Contains(got, "[core]  0") {
		t.Errorf("logged\n%s", got)
	}
}
