package main

import (
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// floorWatches is the Watch service of the floor: a put is encoded once, and a goroutine for each stream does nothing but
// send that. A stream has one watch, of one key.
type floorWatches struct {
	pb.UnimplementedWatchServer
	mu      sync.Mutex
	streams map[string][]floorStream // by key
}

type floorStream struct {
	events chan mem.BufferSlice
	gone   <-chan struct{} // closed when its client has
}

// tell returns when every stream has its event before it, at most one.
func (s *floorWatches) tell(r *pb.PutRequest, revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	streams := s.streams[string(r.Key)]
	if len(streams) == 0 {
		return nil
	}
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, CreateRevision: 1, ModRevision: revision, Version: revision}
	message, err := floorCodec{}.Marshal(&pb.WatchResponse{Header: floorHeader(revision), Events: []*mvccpb.Event{{Kv: kv}}})
	if err != nil {
		return err
	}
	shared := mem.BufferSlice{mem.SliceBuffer(message.Materialize())} // which no pool wants back
	for _, one := range streams {
		select {
		case one.events <- shared:
		case <-one.gone:
		}
	}
	return nil
}

// Watch serves one watch until its client goes.
func (s *floorWatches) Watch(stream pb.Watch_WatchServer) error {
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	key, one := string(r.GetCreateRequest().GetKey()), floorStream{make(chan mem.BufferSlice, 1), stream.Context().Done()}
	s.mu.Lock()
	s.streams[key] = append(s.streams[key], one)
	s.mu.Unlock()
	defer s.leave(key, one)
	if err := stream.Send(&pb.WatchResponse{Header: floorHeader(1), Created: true}); err != nil {
		return err
	}
	for {
		select {
		case e := <-one.events:
			if err := stream.SendMsg(e); err != nil {
				return err
			}
		case <-one.gone:
			return nil
		}
	}
}

func (s *floorWatches) leave(key string, gone floorStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[key] = slices.DeleteFunc(s.streams[key], func(one floorStream) bool { return one == gone })
}

// floorCodec is gRPC's own, and leaves what is encoded as it is.
type floorCodec struct{}

var protoCodec = encoding.GetCodecV2(proto.Name)

// Marshal implements encoding.CodecV2.
func (floorCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(mem.BufferSlice); ok {
		return b, nil
	}
	return protoCodec.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (floorCodec) Unmarshal(data mem.BufferSlice, v any) error { return protoCodec.Unmarshal(data, v) }

// Name implements encoding.CodecV2.
func (floorCodec) Name() string { return proto.Name }
