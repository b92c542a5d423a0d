package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// floorArg makes this program the floor of calls over gRPC: a server with a handler that does nothing but answer. No
// store behind this library and this load generator, on the same cores, can be faster.
const floorArg = "serve-floor"

// floor is that server as a process of its own, answering with values of as many bytes as the keys have.
func floor(value int) (*system, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return &system{
		name: "floor", bin: self, ready: askOpen,
		args: func(_ string, port, _ int) []string { return []string{floorArg, loopback(port), strconv.Itoa(value)} },
	}, nil
}

// askOpen returns nil once somebody listens.
func askOpen(ctx context.Context, addr string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// floorServer answers puts, of which watches are told, and ranges with keys that it was made with.
type floorServer struct {
	pb.UnimplementedKVServer
	watches  floorWatches
	revision atomic.Int64
	kvs      []*mvccpb.KeyValue
}

func newFloorServer(value int) *floorServer {
	s := &floorServer{kvs: make([]*mvccpb.KeyValue, listKeys), watches: floorWatches{streams: map[string][]floorStream{}}}
	g := newGenerator(options{keys: listKeys, value: value}, 0)
	for i := range s.kvs {
		n := int64(12345 + i)
		s.kvs[i] = &mvccpb.KeyValue{Key: bytes.Clone(g.nth(i)), Value: bytes.Clone(g.next()), CreateRevision: n, ModRevision: n, Version: 1}
	}
	return s
}

func floorHeader(revision int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 0xcdf818194e3a8c32, MemberId: 1, Revision: revision, RaftTerm: 2}
}

// Put answers as a store does that has done it.
func (s *floorServer) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	revision := s.revision.Add(1)
	if err := s.watches.tell(r, revision); err != nil {
		return nil, err
	}
	return &pb.PutResponse{Header: floorHeader(revision)}, nil
}

// Range answers with one key, or, where there is an end, with as many as a list has.
func (s *floorServer) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	kvs := s.kvs[:1]
	if len(r.RangeEnd) > 0 {
		kvs = s.kvs
	}
	return &pb.RangeResponse{Header: floorHeader(12345), Kvs: kvs, Count: int64(len(kvs))}, nil
}

// serveFloor serves until it is killed, with those settings of the product's server that make it cheaper.
func serveFloor(addr, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < valueMin || n > maxValue {
		return fmt.Errorf("%q is not a length from %d to %d", value, valueMin, maxValue)
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.NumStreamWorkers(64), grpc.StaticStreamWindowSize(512<<10), grpc.StaticConnWindowSize(1<<20),
		grpc.ForceServerCodecV2(floorCodec{}))
	all := newFloorServer(n)
	pb.RegisterKVServer(s, all)
	pb.RegisterWatchServer(s, &all.watches)
	return s.Serve(l)
}

// floorGRPC is the floor as the tables name it.
const floorGRPC = "gRPC alone"

// runFloor measures writes over gRPC beside the floor, each cell on an empty directory. What the load generator and gRPC
// take of the cores bounds the rate that any store can have here, so that a rate is shown as a share of the floor's, and
// CPU is shown with what the floor's server takes.
func runFloor(ctx context.Context, b *bench) error {
	list, err := b.grpcOnly(ctx)
	if err != nil {
		return err
	}
	s, err := floor(b.value)
	if err != nil {
		return err
	}
	list = append(list, contender{name: floorGRPC, system: s, dial: dialGRPC})
	err = b.rounds(ctx, list, func(round, clients int, c contender) error {
		return b.putCell(ctx, cell{"floor", "put", c.name, clients}, round, c)
	})
	if err != nil {
		return err
	}
	b.loadTable("PUT over gRPC", "floor", "put", list)
	var claims []claim
	for _, n := range b.clients {
		at := func(name string) cell { return cell{"floor", "put", name, n} }
		for _, c := range []claim{
			{what: "server CPU, Holdfast over etcd", num: at(hfGRPC), den: at(etcdGRPC), value: vCPU, target: 0.4, must: 0.6, less: true},
			{what: "p99, Holdfast over etcd", num: at(hfGRPC), den: at(etcdGRPC), value: vP99, target: 1, must: 1, less: true},
			{what: "rate, Holdfast over etcd", num: at(hfGRPC), den: at(etcdGRPC), value: vRate},
			{what: "rate, Holdfast over the floor", num: at(hfGRPC), den: at(floorGRPC), value: vRate},
			{what: "rate, etcd over the floor", num: at(etcdGRPC), den: at(floorGRPC), value: vRate},
			{what: "rate, the floor over etcd: the most that any store can have", num: at(floorGRPC), den: at(etcdGRPC), value: vRate},
			{what: "server CPU, the floor over etcd: the least", num: at(floorGRPC), den: at(etcdGRPC), value: vCPU},
		} {
			c.what += ", " + clients(n)
			claims = append(claims, c)
		}
	}
	b.report.claims("PUT over gRPC: ratios", claims)
	return nil
}
