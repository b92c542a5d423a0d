package etcd

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
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
	face := api.FaceOf(e.Code)
	if after := cmp.Or(e.RetryAfter, face.RetryAfter); after > 0 {
		seconds := (after + time.Second - 1) / time.Second
		_ = grpc.SetTrailer(ctx, metadata.Pairs(retryAfter, strconv.FormatInt(int64(seconds), 10))) // only fails outside of a call
	}
	return status.Error(codes.Code(face.GRPC), text(e))
}

// retryAfter is the trailer that says in how many seconds to come again, where that is known.
const retryAfter = "retry-after"

// text is the message of a refusal.
func text(e *kv.Error) string {
	t := api.FaceOf(e.Code).Text
	if e.Detail == "" || e.Code == kv.Internal || !strings.HasPrefix(t, ours) {
		return t
	}
	return t + ": " + e.Detail
}
