package etcd

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/grpclog"

	"holdfast/internal/liblog"
)

func TestWhatGRPCSaysIsLoggedUnderOneName(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	g := grpcLog{liblog.New(func() *slog.Logger { return log }, "grpc")}
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

func TestWhereGRPCLogsMayChangeWhileItLogs(t *testing.T) {
	var first, second bytes.Buffer
	LogTo(slog.New(slog.NewTextHandler(&first, nil)))
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 100 {
			grpclog.Infof("what nobody wants to see: %d", i)
		}
	})
	LogTo(slog.New(slog.NewTextHandler(&second, nil)))
	wg.Wait()
	grpclog.Error("said to whom was named last")
	if first.Len() != 0 || !strings.Contains(second.String(), "named last") {
		t.Errorf("the first log has %q, the second %q", &first, &second)
	}
}
