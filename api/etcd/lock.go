package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/kv"
)

// lockService is v3lockpb.Lock: the locks of a line, for clients in languages without a library for them. Refusals of
// the store keep their codes, as everywhere; etcd's own, which pass through a client inside it, all become Unknown, so
// that a caller cannot tell by them what to try again.
type lockService struct {
	v3lockpb.UnimplementedLockServer
	line
}

// errSessionExpired has etcd's text and, as etcd sends it, no code of its own.
var errSessionExpired = status.Error(codes.Unknown, "mutex: session is expired")

// Lock returns once the lock is the caller's, with the key that stands for it: while the key exists, it has the lock. A
// caller that gives up has no place in the line any more.
func (s lockService) Lock(ctx context.Context, r *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	p, err := s.enter(ctx, r.Name, nil, r.Lease)
	if err != nil {
		return nil, err
	}
	header := p.header
	if !p.first {
		if header, err = p.await(ctx); err != nil {
			// When this node stops, the caller goes on elsewhere, and finds its place by its lease.
			if p.lent || s.stopping.Err() == nil {
				p.leave(ctx)
			}
			if errors.Is(err, errLost) {
				err = errSessionExpired
			}
			return nil, err
		}
	}
	return &v3lockpb.LockResponse{Header: s.header(header), Key: p.key}, nil
}

// Unlock gives a lock up. To do so again is no error.
func (s lockService) Unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	res, err := s.do(ctx, kv.Delete{Key: r.Key})
	if err != nil {
		return nil, err
	}
	return &v3lockpb.UnlockResponse{Header: s.header(res.Header)}, nil
}
