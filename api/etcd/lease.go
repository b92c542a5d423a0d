package etcd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast/kv"
)

// leaseService is etcdserverpb.Lease. Everything in it is a command or a query, so that every kind of node serves it; a
// proxy forwards.
type leaseService struct {
	pb.UnimplementedLeaseServer
	*Server
}

// keepAlivesMax is how many renewals of one stream are under way at once. A client that asks for more is read no further
// until one is answered: flow control holds the rest on its side.
const keepAlivesMax = 64

// LeaseGrant makes a lease. An id that the client leaves open is drawn here, at the door, so that the log names it.
func (s leaseService) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	lease, header, err := s.grant(ctx, r.ID, r.TTL)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseGrantResponse{Header: s.header(header), ID: lease.ID, TTL: lease.TTL}, nil
}

// grant makes a lease of an id, 0 for any. That an id which was drawn is taken is as good as impossible among 2^63.
func (s *Server) grant(ctx context.Context, id, ttl int64) (kv.Lease, kv.Header, error) {
	if id == 0 {
		id = drawLeaseID()
	}
	result, err := s.do(ctx, kv.LeaseGrant{ID: id, TTL: ttl})
	if err != nil {
		return kv.Lease{}, kv.Header{}, err
	}
	lease, err := s.theLease(ctx, result.Ops)
	return lease, result.Header, err
}

// drawLeaseID returns any id but 0. Like etcd's own they are never negative: they are part of the keys of locks, in hex.
func drawLeaseID() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return max(1, int64(binary.BigEndian.Uint64(b[:])&math.MaxInt64))
}

// theLease is the one lease that an answer is about.
func (s *Server) theLease(ctx context.Context, ops []kv.OpResult) (kv.Lease, error) {
	if len(ops) != 1 || len(ops[0].Leases) != 1 {
		return kv.Lease{}, s.refusal(ctx, kv.Errorf(kv.Internal, "the answer about one lease has another shape: %+v", ops))
	}
	return ops[0].Leases[0], nil
}

// LeaseRevoke ends a lease and deletes its keys.
func (s leaseService) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	result, err := s.do(ctx, kv.LeaseRevoke{ID: r.ID})
	if err != nil {
		return nil, err
	}
	return &pb.LeaseRevokeResponse{Header: s.header(result.Header)}, nil
}

// LeaseTimeToLive tells what a lease has left. One that is gone has a TTL of -1 and is no error.
func (s leaseService) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	page, err := s.opts.Backend.Read(ctx, kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: r.ID, Keys: r.Keys}}})
	if kv.CodeOf(err) == kv.LeaseNotFound {
		return &pb.LeaseTimeToLiveResponse{Header: s.header(s.here(ctx)), ID: r.ID, TTL: -1}, nil
	}
	if err != nil {
		return nil, s.refusal(ctx, err)
	}
	lease, err := s.theLease(ctx, page.Ops)
	if err != nil {
		return nil, err
	}
	answer := &pb.LeaseTimeToLiveResponse{Header: s.header(page.Header), ID: r.ID, TTL: lease.TTL, GrantedTTL: lease.Granted}
	for _, k := range page.Ops[0].KVs {
		answer.Keys = append(answer.Keys, k.Key)
	}
	return answer, nil
}

// LeaseLeases lists all leases. It is linearizable, where etcd's is what the member happens to know.
func (s leaseService) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	page, err := s.read(ctx, false, kv.LeaseList{})
	if err != nil {
		return nil, err
	}
	answer := &pb.LeaseLeasesResponse{Header: s.header(page.Header)}
	for _, lease := range page.Ops[0].Leases {
		answer.Leases = append(answer.Leases, &pb.LeaseStatus{ID: lease.ID})
	}
	return answer, nil
}

// renewal is the answer to one keep-alive.
type renewal struct {
	answer *pb.LeaseKeepAliveResponse
	err    error
}

// LeaseKeepAlive renews the leases that the client names, until it closes its side. A renewal costs a round of the
// cluster, so those that come together go together, and are answered in the order in which they were asked for. A
// lease that is gone is answered with a TTL of 0; another failure ends the stream.
func (s leaseService) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	asked := make(chan chan renewal, keepAlivesMax-1) // and the one whose answer is awaited
	ended := make(chan error, 1)
	// Only the end of this handler ends a Recv, so that it cannot be waited for in here: Close waits.
	s.receivers.Go(func() { ended <- s.receive(ctx, stream, asked) })
	for {
		select {
		case next, more := <-asked:
			if !more {
				return <-ended
			}
			if err := s.reply(stream, next); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive starts a renewal for each request and puts it in line, until the client is done or the stream ends.
func (s leaseService) receive(ctx context.Context, stream pb.Lease_LeaseKeepAliveServer, asked chan<- chan renewal) error {
	defer close(asked)
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		done := make(chan renewal, 1)
		select {
		case asked <- done:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.receivers.Go(func() {
			answer, err := s.renew(ctx, r.ID)
			done <- renewal{answer, err}
		})
	}
}

func (s leaseService) reply(stream pb.Lease_LeaseKeepAliveServer, next <-chan renewal) error {
	select {
	case r := <-next:
		if r.err != nil {
			return r.err
		}
		return stream.Send(r.answer)
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func (s leaseService) renew(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	result, err := s.opts.Backend.Do(ctx, kv.Command{Ops: []kv.Op{kv.LeaseKeepAlive{ID: id}}})
	if kv.CodeOf(err) == kv.LeaseNotFound {
		return &pb.LeaseKeepAliveResponse{Header: s.header(s.here(ctx)), ID: id}, nil
	}
	if err != nil {
		return nil, s.refusal(ctx, err)
	}
	lease, err := s.theLease(ctx, result.Ops)
	return &pb.LeaseKeepAliveResponse{Header: s.header(result.Header), ID: id, TTL: lease.TTL}, err
}
