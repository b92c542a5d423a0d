package etcd

import (
	"context"
	"net"
	"net/url"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

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
	replicas, err := admin.Replicas(ctx, !r.Linearizable)
	if err != nil {
		return nil, s.refusal(ctx, err)
	}
	self := admin.Condition().Header
	self.Revision = 0 // as in etcd, whose list of members has none
	answer := &pb.MemberListResponse{Header: s.header(self)}
	for _, replica := range replicas {
		answer.Members = append(answer.Members, s.describe(ctx, replica, replica.ID == self.Member))
	}
	return answer, nil
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

// What this version cannot do says what can be done instead. Clients of etcd show these texts to whoever asked.
const (
	cannotAdd = "holdfast: a cluster has one member in this version and takes no other; let the box join as a proxy: " +
		"agent token create --role proxy on the member, then agent --mode proxy --join on the box"
	cannotRemove  = "holdfast: a cluster has one member in this version, and a last one cannot be removed; to give the cluster up, stop the agent"
	cannotUpdate  = "holdfast: a member's addresses are its own: set --peer-advertise on it and restart it"
	cannotPromote = "holdfast: there are no learners in this version, so that there is nothing to promote"
)

// MemberAdd is not in this version.
func (s clusterService) MemberAdd(context.Context, *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	return nil, status.Error(codes.Unimplemented, cannotAdd)
}

// MemberRemove is not in this version.
func (s clusterService) MemberRemove(context.Context, *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	return nil, status.Error(codes.Unimplemented, cannotRemove)
}

// MemberUpdate is not in this version.
func (s clusterService) MemberUpdate(context.Context, *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	return nil, status.Error(codes.Unimplemented, cannotUpdate)
}

// MemberPromote is not in this version.
func (s clusterService) MemberPromote(context.Context, *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	return nil, status.Error(codes.Unimplemented, cannotPromote)
}
