package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchService is etcdserverpb.Watch.
type watchService struct {
	pb.UnimplementedWatchServer
	*Server
}
