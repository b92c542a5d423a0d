package main

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// grpcPool shares a few gRPC connections among the clients, as etcd's own benchmark does: one for each client would
// cost etcd rate and memory for nothing.
type grpcPool struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stop   func() bool
	conns  []*clientv3.Client
}

// grpcShare is how many clients share a connection.
const grpcShare = 32

func dialGRPC(ctx context.Context, addr string, clients int) (dialer, error) {
	// The deadline of a run would go with each call, and cost either side a timer that no client without one has.
	calls, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	p := &grpcPool{ctx: calls, cancel: cancel}
	p.stop = context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	for range (clients + grpcShare - 1) / grpcShare {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + addr}, Context: calls, Logger: zap.NewNop()})
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.conns = append(p.conns, c)
	}
	return p, nil
}

func (p *grpcPool) Dial(_ context.Context, i int) (client, error) {
	return grpcClient{p.ctx, p.conns[i%len(p.conns)]}, nil
}

func (p *grpcPool) Close() error {
	var err error
	for _, c := range p.conns {
		err = errors.Join(err, c.Close())
	}
	p.stop()
	p.cancel(nil)
	return err
}

type grpcClient struct {
	ctx context.Context
	c   *clientv3.Client
}

func (c grpcClient) Put(key, value []byte) error {
	_, err := c.c.Put(c.ctx, string(key), string(value))
	return err
}

func (c grpcClient) Get(key []byte, linearizable bool) (int, error) {
	var opts []clientv3.OpOption
	if !linearizable {
		opts = append(opts, clientv3.WithSerializable())
	}
	res, err := c.c.Get(c.ctx, string(key), opts...)
	if err != nil {
		return 0, err
	}
	if len(res.Kvs) != 1 {
		return 0, fmt.Errorf("get %s: %d keys", key, len(res.Kvs))
	}
	return len(res.Kvs[0].Value), nil
}

// listOf is the operation of a serializable range of so many keys from one of a few places, so that whoever keeps answers has
// them.
func listOf(n int) operation {
	return func(c client, g *generator) error {
		at := n * g.rand.IntN(max(1, g.keys/n))
		from := string(g.nth(at))
		res, err := c.(grpcClient).c.Get(c.(grpcClient).ctx, from, clientv3.WithRange(string(g.nth(at+n))), clientv3.WithSerializable()) // suites over gRPC only
		if err == nil && len(res.Kvs) != n {
			err = fmt.Errorf("range from %s: %d keys instead of %d", from, len(res.Kvs), n)
		}
		return err
	}
}

func (c grpcClient) Close() error { return nil } // the pool closes the connections
