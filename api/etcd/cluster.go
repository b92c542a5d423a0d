package etcd

import (
	"context"
	"net"
	"net/url"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
)

// clusterService is etcdserverpb.Cluster.
type clusterService struct {
	pb.UnimplementedClusterServer
	*Server
}

// MemberList lists the replicas. Clients that look for endpoints by themselves (clientv3's Sync) go on with the client
// URLs of those that have a name, so that this node never answers for itself without either.
func (s clusterService) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return s.proxiedList(ctx, r, err)
	}
	header, members, err := s.list(ctx, admin, r.Linearizable)
	if err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: header, Members: members}, nil
}

func (s clusterService) list(ctx context.Context, admin api.Admin, linearizable bool) (*pb.ResponseHeader, []*pb.Member, error) {
	replicas, err := admin.Replicas(ctx, !linearizable)
	if err != nil {
		return nil, nil, s.refusal(ctx, err)
	}
	self := admin.Condition().Header
	self.Revision = 0 // as in etcd, whose list of members has none
	members := make([]*pb.Member, 0, len(replicas))
	for _, replica := range replicas {
		members = append(members, s.describe(ctx, replica, replica.ID == self.Member))
	}
	return s.header(self), members, nil
}

// describe fills in what only this node knows of itself.
func (s clusterService) describe(ctx context.Context, r kv.Replica, self bool) *pb.Member {
	member := &pb.Member{ID: r.ID, Name: r.Name, PeerURLs: r.PeerURLs, ClientURLs: r.ClientURLs, IsLearner: r.Learner}
	if !self {
		return member
	}
	if member.Name == "" {
		member.Name = s.opts.Name
	}
	if len(member.ClientURLs) == 0 {
		member.ClientURLs = reachable(ctx, s.opts.ClientURLs)
	}
	return member
}

// reachable is urls as the client of ctx can dial them. A listener on all addresses of this box has none of its own: it
// is told by the address under which this client found it. To one that came from elsewhere, what only this box can dial
// is not told, unless there is nothing else.
func reachable(ctx context.Context, urls []string) []string {
	found := foundAt(ctx)
	elsewhere := found != nil && !found.IP.IsLoopback()
	var out []string
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			continue // of a listener that is open: cannot be
		}
		switch scopeOf(u) {
		case everywhere:
			if found != nil {
				u.Host = net.JoinHostPort(hostOf(found), u.Port())
				out = append(out, u.String())
			}
		case here:
			if !elsewhere {
				out = append(out, raw)
			}
		default:
			out = append(out, raw)
		}
	}
	if len(out) == 0 {
		return urls
	}
	return out
}

// scope is from where a URL can be dialed.
type scope int

const (
	abroad     scope = iota
	here             // on this box alone
	everywhere       // on any address of this box, so that it is none to dial
)

func scopeOf(u *url.URL) scope {
	host := u.Hostname()
	ip := net.ParseIP(host)
	switch {
	case u.Scheme == "unix", host == "localhost", ip != nil && ip.IsLoopback():
		return here
	case host == "", ip != nil && ip.IsUnspecified():
		return everywhere
	}
	return abroad
}

// foundAt is the address of this box that the client of ctx has dialed; nil if it came by a unix socket, or through the
// gateway.
func foundAt(ctx context.Context) *net.TCPAddr {
	if p, ok := peer.FromContext(ctx); ok {
		if at, ok := p.LocalAddr.(*net.TCPAddr); ok && !at.IP.IsUnspecified() {
			return at
		}
	}
	return nil
}

// hostOf is an address without its port, with the zone of one that is good on its link alone.
func hostOf(at *net.TCPAddr) string { return (&net.IPAddr{IP: at.IP, Zone: at.Zone}).String() }

// What is done in another way says how. Clients of etcd show these texts to whoever asked.
const (
	cannotAdd = "holdfast: a member is added from the box that is to be it, which the cluster then tells its id: " +
		"agent token create on a member, then agent --join HOST:2380 --token-file FILE on the box"
	cannotUpdate = "holdfast: a member's addresses are its own: set --peer-advertise on it and restart it"
)

// MemberAdd cannot be mapped: etcd reserves a place by an address, and here a box asks for one with its own key.
func (s clusterService) MemberAdd(context.Context, *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	return nil, status.Error(codes.Unimplemented, cannotAdd)
}

// MemberRemove removes a member for good and answers with those that are left.
func (s clusterService) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return nil, err
	}
	err = admin.RemoveReplica(ctx, r.ID)
	switch kv.CodeOf(err) {
	case kv.OK:
	case kv.KeyNotFound:
		return nil, rpctypes.ErrGRPCMemberNotFound
	case kv.Invalid: // the last voter
		return nil, rpctypes.ErrGRPCMemberNotEnoughStarted
	case kv.Busy: // the voters left that answer are no quorum; agent members remove says which
		return nil, rpctypes.ErrGRPCUnhealthy
	default:
		return nil, s.refusal(ctx, err)
	}
	header, members, err := s.list(ctx, admin, true)
	if err != nil {
		return nil, err
	}
	return &pb.MemberRemoveResponse{Header: header, Members: members}, nil
}

// MemberUpdate cannot be mapped: see cannotUpdate.
func (s clusterService) MemberUpdate(context.Context, *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	return nil, status.Error(codes.Unimplemented, cannotUpdate)
}

// MemberPromote never promotes: the leader makes a voter of each learner itself, as soon as it has caught up. So the answer
// is etcd's to whom it is too early, too late or nobody.
func (s clusterService) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return nil, err
	}
	replicas, err := admin.Replicas(ctx, false)
	if err != nil {
		return nil, s.refusal(ctx, err)
	}
	i := slices.IndexFunc(replicas, func(m kv.Replica) bool { return m.ID == r.ID })
	switch {
	case i < 0:
		return nil, rpctypes.ErrGRPCMemberNotFound
	case replicas[i].Learner:
		return nil, rpctypes.ErrGRPCLearnerNotReady
	}
	return nil, rpctypes.ErrGRPCMemberNotLearner
}
