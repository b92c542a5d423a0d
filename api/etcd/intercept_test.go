package etcd

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/kv"
)

type panicking struct{ api.Backend }

func (panicking) Do(context.Context, kv.Command) (kv.Result, error) { panic("no") }

func TestPanicInAHandlerIsAnErrorLineAndNoOutage(t *testing.T) {
	var log bytes.Buffer
	n := serve(t, Options{Backend: panicking{apitest.NewMemory()}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	_, err := n.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
	if status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	n.get(t, &pb.RangeRequest{Key: []byte("a")})
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "panic=no") {
		t.Errorf("the log has:\n%s", log.String())
	}
}
