package etcd

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// register is the list of what is served. A service is a type of its own around the Server, in a file of its own:
//
//	type kvService struct {
//		pb.UnimplementedKVServer
//		*Server
//	}
//
// It calls s.do and s.read, which answer with errors that can be returned as they are, and s.header for the header of an
// answer. A stream ends when s.stopping does, and returns errStopped then; interceptors look after metrics, metadata and
// panics.
func (s *Server) register(r *grpc.Server) {
	r.RegisterService(kvDesc(), kvService{Server: s})
	pb.RegisterWatchServer(r, watchService{Server: s})
	pb.RegisterLeaseServer(r, leaseService{Server: s})
	pb.RegisterClusterServer(r, clusterService{Server: s})
	pb.RegisterMaintenanceServer(r, maintenanceService{Server: s})
	pb.RegisterAuthServer(r, authService{Server: s})
	waiting := newLine(s)
	v3lockpb.RegisterLockServer(r, lockService{line: waiting})
	v3electionpb.RegisterElectionServer(r, electionService{line: waiting})

	grpc_health_v1.RegisterHealthServer(r, s.health)
	reflection.Register(r)
}
