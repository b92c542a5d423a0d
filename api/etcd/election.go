package etcd

import (
	"bytes"
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/kv"
)

// electionService is v3electionpb.Election: a line whose first leads, and whose keys hold what a candidate proclaims.
type electionService struct {
	v3electionpb.UnimplementedElectionServer
	line
}

// The refusals of elections have etcd's texts and, as etcd sends them, no code of their own.
var (
	errNotElected   = status.Error(codes.Unknown, "election: not leader")
	errNoneElected  = status.Error(codes.Unknown, "election: no leader")
	errNoLeaderKey  = status.Error(codes.Unknown, `"leader" field must be provided`)
	errNobodyToSend = errors.New("the watch found nothing to send")
)

// Campaign returns once the caller leads, with what stands for that. To campaign again with the same lease goes on with
// the same place, and proclaims the value if it is another.
func (s electionService) Campaign(ctx context.Context, r *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	p, err := s.enter(ctx, r.Name, r.Value, r.Lease)
	if err != nil {
		return nil, err
	}
	if err := s.campaign(ctx, p, r.Value); err != nil {
		// A place that the caller can find again by its lease is kept, unless the caller has gone.
		if p.lent || ctx.Err() != nil && s.stopping.Err() == nil {
			p.leave(ctx)
		}
		if errors.Is(err, errLost) {
			err = errNotElected
		}
		return nil, err
	}
	return &v3electionpb.CampaignResponse{
		Header: s.header(p.header),
		Leader: &v3electionpb.LeaderKey{Name: r.Name, Key: p.key, Rev: p.created, Lease: p.lease},
	}, nil
}

func (s electionService) campaign(ctx context.Context, p *place, value []byte) error {
	if !bytes.Equal(p.value, value) {
		if _, err := s.proclaim(ctx, p.key, p.created, p.lease, value); err != nil {
			return err
		}
	}
	if p.first {
		return nil
	}
	_, err := p.await(ctx)
	return err
}

// Proclaim changes the value of the leader, or of a candidate.
func (s electionService) Proclaim(ctx context.Context, r *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	if err := checkLeader(r.Leader); err != nil {
		return nil, err
	}
	header, err := s.proclaim(ctx, r.Leader.Key, r.Leader.Rev, r.Leader.Lease, r.Value)
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ProclaimResponse{Header: s.header(header)}, nil
}

func checkLeader(l *v3electionpb.LeaderKey) error {
	switch {
	case l == nil:
		return errNoLeaderKey
	case len(l.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// proclaim sets the value of a key if it still is the one that was made at a revision. A key that was never made is
// nobody's; etcd would make it.
func (s electionService) proclaim(ctx context.Context, key []byte, created, lease int64, value []byte) (kv.Header, error) {
	if created <= 0 {
		return kv.Header{}, errNotElected
	}
	res, err := s.do(ctx, kv.Txn{
		Compares: []kv.Compare{{Key: key, Target: kv.TargetCreate, Relation: kv.Equal, Num: created}},
		Then:     []kv.Op{kv.Put{Key: key, Value: value, Lease: lease, IgnoreLease: lease == 0}},
	})
	if err != nil {
		return kv.Header{}, err
	}
	if !res.Ops[0].Succeeded {
		return kv.Header{}, errNotElected
	}
	return res.Header, nil
}

// Leader reads the key of who leads.
func (s electionService) Leader(ctx context.Context, r *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	page, err := s.read(ctx, false, oldest(prefixOf(r.Name)))
	if err != nil {
		return nil, err
	}
	leader := first(page.Ops[0].KVs)
	if leader == nil {
		return nil, errNoneElected
	}
	return &v3electionpb.LeaderResponse{Header: s.header(page.Header), Kv: leader}, nil
}

// Resign gives the leadership, or a candidate's place, up. As in etcd it is no error if it was not the caller's any more.
func (s electionService) Resign(ctx context.Context, r *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	if err := checkLeader(r.Leader); err != nil {
		return nil, err
	}
	res, err := s.do(ctx, kv.Txn{
		Compares: []kv.Compare{{Key: r.Leader.Key, Target: kv.TargetCreate, Relation: kv.Equal, Num: r.Leader.Rev}},
		Then:     []kv.Op{kv.Delete{Key: r.Leader.Key}},
	})
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ResignResponse{Header: s.header(res.Header)}, nil
}

// Observe sends who leads, and every value of that key after, until the caller has enough. Of leaders that come and go
// while it looks for the next one, some may be left out, as in etcd; the last never is.
func (s electionService) Observe(r *v3electionpb.LeaderRequest, stream v3electionpb.Election_ObserveServer) error {
	done, err := s.wait()
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := s.whileServing(stream.Context())
	defer cancel()
	prefix := prefixOf(r.Name)
	for {
		leader, header, err := s.leader(ctx, prefix)
		if errors.Is(err, errNobodyToSend) {
			continue
		}
		if err != nil {
			return s.orStopped(err)
		}
		if err := s.follow(ctx, stream, leader, header); err != nil {
			return err
		}
	}
}

// leader is who leads, or if nobody does, the first who comes.
func (s electionService) leader(ctx context.Context, prefix []byte) (leader kv.KeyValue, header kv.Header, err error) {
	page, err := s.read(ctx, false, oldest(prefix))
	if err != nil {
		return leader, header, err
	}
	if found := page.Ops[0].KVs; len(found) > 0 {
		return found[0], page.Header, nil
	}
	puts := kv.Watch{Key: prefix, End: kv.PrefixEnd(prefix), From: page.Revision + 1, NoDeletes: true}
	found := errNobodyToSend
	err = s.watch(ctx, []kv.Watch{puts}, func(h kv.Header, e kv.Event) (bool, error) {
		leader, header, found = e.KV, h, nil
		header.Revision = e.KV.ModRevision // a batch may go further
		return true, nil
	})
	if err == nil {
		err = found
	}
	return leader, header, err
}

// follow sends a leader and what it proclaims, until its key is gone or events of it were missed.
func (s electionService) follow(ctx context.Context, stream v3electionpb.Election_ObserveServer, leader kv.KeyValue, header kv.Header) error {
	send := func(h kv.Header, v kv.KeyValue) error {
		return stream.Send(&v3electionpb.LeaderResponse{Header: s.header(h), Kv: first([]kv.KeyValue{v})})
	}
	if err := send(header, leader); err != nil {
		return err
	}
	return s.watch(ctx, []kv.Watch{{Key: leader.Key, From: header.Revision + 1}}, func(h kv.Header, e kv.Event) (bool, error) {
		if e.Delete {
			return true, nil
		}
		return false, send(h, e.KV)
	})
}
