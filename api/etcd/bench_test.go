package etcd

import (
	"context"
	"syscall"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/kv"
)

// instant answers every write at once, so that what is measured is the door, and the client.
type instant struct{ api.Backend }

func (instant) Do(context.Context, kv.Command) (kv.Result, error) {
	return kv.Result{Header: kv.Header{Epoch: kv.Epoch{Cluster: 1 << 60}, Member: 1 << 61, Term: 3, Revision: 12345}, Ops: []kv.OpResult{{}}}, nil
}

func (instant) Read(context.Context, kv.Query) (kv.Page, error) {
	return kv.Page{Header: kv.Header{Epoch: kv.Epoch{Cluster: 1 << 60}, Member: 1 << 61, Term: 3, Revision: 12345},
		Ops: []kv.OpResult{{Count: 1, KVs: []kv.KeyValue{{Key: []byte("k00001234"), Value: make([]byte, 128), ModRevision: 1234, CreateRevision: 1234, Version: 1}}}}}, nil
}

// cpu is what the process has used, in nanoseconds: unlike the time of an operation, it is little disturbed by others on
// the machine.
func cpu(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// One client with 32 calls at a time, as many benchmarks have it.
func benchmark(b *testing.B, call func(ctx context.Context, c pb.KVClient) error) {
	n := serve(b, Options{Backend: instant{apitest.NewMemory()}, Log: discard})
	drive(b, func() error { return call(b.Context(), n.kv) })
}

func drive(b *testing.B, call func() error) {
	b.Helper()
	b.ReportAllocs()
	b.SetParallelism(16)
	before := cpu(b)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := call(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

func BenchmarkPut(b *testing.B) {
	key, value := []byte("k00001234"), make([]byte, 128)
	benchmark(b, func(ctx context.Context, c pb.KVClient) error {
		_, err := c.Put(ctx, &pb.PutRequest{Key: key, Value: value})
		return err
	})
}

func BenchmarkRange(b *testing.B) {
	benchmark(b, func(ctx context.Context, c pb.KVClient) error {
		_, err := c.Range(ctx, &pb.RangeRequest{Key: []byte("k00001234")})
		return err
	})
}

// What gRPC costs behind net/http.
func BenchmarkPutOverNetHTTP(b *testing.B) {
	n := serve(b, Options{Backend: instant{apitest.NewMemory()}, Log: discard})
	c := pb.NewKVClient(dial(b, n.http(b)))
	key, value := []byte("k00001234"), make([]byte, 128)
	drive(b, func() error {
		_, err := c.Put(b.Context(), &pb.PutRequest{Key: key, Value: value})
		return err
	})
}
