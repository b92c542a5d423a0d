package etcd

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
)

// errStopped ends the streams of a node that shuts down.
var errStopped = rpctypes.ErrGRPCStopped

// ours begins the texts that are not etcd's: nobody compares them, so the detail is put behind.
const ours = "holdfast: "

// refusal is err as a client sees it. The conditions that etcd knows have its text and nothing else.
func (s *Server) refusal(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) && s.stopping.Err() == nil {
		return rpctypes.ErrGRPCCanceled // nobody is there to read it
	}
	e, ok := errors.AsType[*kv.Error](err)
	if !ok {
		e = &kv.Error{Code: kv.Internal, Detail: err.Error()}
	}
	if e.Code == kv.Internal {
		s.opts.Log.Error("call failed by a fault of ours", "err", err)
	}
	return status.Error(codes.Code(api.FaceOf(e.Code).GRPC), text(e))
}

// text is the message of a refusal.
func text(e *kv.Error) string {
	t := api.FaceOf(e.Code).Text
	if e.Detail == "" || e.Code == kv.Internal || !strings.HasPrefix(t, ours) {
		return t
	}
	return t + ": " + e.Detail
}
