package etcd

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip" // registers it, as the exporter of traces does in the agent
)

// A message that would be a thousand times as long once it is read is not read, nor is any other that is compressed, in calls and
// streams alike.
func TestACompressedMessageIsRefused(t *testing.T) {
	n := openRig(t, nil)
	client, watch := pb.NewKVClient(n.conn), pb.NewWatchClient(n.conn)
	const text = "grpc: failed to decompress the received message: this server takes no compressed messages: send them as they are"
	for _, size := range []int{1, 8 << 20} {
		_, err := client.Put(n.ctx, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, size)}, grpc.UseCompressor(gzip.Name))
		n.refused(err, codes.Internal, text)
	}
	stream := ok[pb.Watch_WatchClient](t)(watch.Watch(n.ctx, grpc.UseCompressor(gzip.Name)))
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: make([]byte, 1<<20)}}}); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Recv()
	n.refused(err, codes.Internal, text)
	if r := ok[*pb.RangeResponse](t)(client.Range(n.ctx, &pb.RangeRequest{Key: []byte("k")})); r.Count != 0 {
		t.Errorf("something was put: %v", r)
	}
	ok[*pb.PutResponse](t)(client.Put(n.ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}))
}
