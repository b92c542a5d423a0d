package agent

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"holdfast/config"
)

func etcdClient(t *testing.T, url string) *grpc.ClientConn {
	t.Helper()
	target := strings.TrimPrefix(url, "http://")
	if path, ok := strings.CutPrefix(url, "unix://"); ok {
		target = "unix:" + path
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestEtcdsAPIAndRESTShareTheListeners(t *testing.T) {
	a := serving(t, settings(t))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i, url := range []string{a.Addrs()[0], "unix://" + a.SocketPath()} {
		r, err := pb.NewKVClient(etcdClient(t, url)).Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("by gRPC"), PrevKv: true}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatalf("put over %s: %v", url, err)
		}
		if r.Header.Revision != int64(i+2) || r.Header.ClusterId == 0 || r.Header.MemberId == 0 || r.Header.RaftTerm == 0 {
			t.Errorf("header %v", r.Header)
		}
	}
	base := a.Addrs()[0]
	if got := expect(t, httpClient(t, nil), "GET", base+"/v1/kv/a", "", http.StatusOK); got.body != "by gRPC" {
		t.Errorf("REST answers %q", got.body)
	}
	got := expect(t, httpClient(t, nil), "POST", base+"/v3/kv/range", `{"key":"YQ=="}`, http.StatusOK)
	if !strings.Contains(got.body, `"value":"YnkgZ1JQQw=="`) || !strings.Contains(got.body, `"count":"1"`) {
		t.Errorf("the gateway answers %s", got.body)
	}
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &h2c}
	defer tr.CloseIdleConnections()
	if got := expect(t, &http.Client{Transport: tr}, "GET", base+"/v1/kv/a", "", http.StatusOK); got.body != "by gRPC" {
		t.Errorf("REST over h2c answers %q", got.body)
	}
}

func TestWebPagesMayNotCallTheGateway(t *testing.T) {
	h := newHouse(t)
	req, err := http.NewRequestWithContext(t.Context(), "POST", h.Addrs()[0]+"/v3/kv/put", strings.NewReader(`{"key":"YQ=="}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://evil.example")
	res, err := httpClient(t, nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("status %d, want 403", res.StatusCode)
	}
}

func TestRunningCallsFinishWhileNewOnesAreRefused(t *testing.T) {
	h := newHouse(t)
	kvs := pb.NewKVClient(etcdClient(t, h.Addrs()[0]))
	answer := make(chan error, 1)
	go func() {
		_, err := kvs.Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
		answer <- err
	}()
	select {
	case <-h.node.entered:
	case <-time.After(patience):
		t.Fatal("the write did not arrive")
	}
	h.leave()
	deadline := time.Now().Add(patience)
	for !h.gate.isDraining() {
		if time.Now().After(deadline) {
			t.Fatal("nothing drains")
		}
		time.Sleep(time.Millisecond)
	}
	_, err := kvs.Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
	if grpcstatus.Code(err) != codes.Unavailable || grpcstatus.Convert(err).Message() != "etcdserver: server stopped" {
		t.Errorf("a call while draining: %v", err)
	}
	close(h.node.release)
	if err := <-answer; err != nil {
		t.Errorf("the running call got %v", err)
	}
	if err := <-h.ended; err != nil {
		t.Errorf("the doors ended with %v", err)
	}
	if h.log.Len() > 0 {
		t.Errorf("a clean end was logged:\n%s", h.log.String())
	}
}

func TestStopEndsWatchesOverGRPC(t *testing.T) {
	a := serving(t, settings(t))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := pb.NewWatchClient(etcdClient(t, a.Addrs()[0])).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || !r.Created {
		t.Fatalf("got %v, %v", r, err)
	}
	begin := time.Now()
	halt(t, a)
	if took := time.Since(begin); took > requestsMax {
		t.Errorf("the stop took %v: the watch held it up", took)
	}
	if _, err := stream.Recv(); grpcstatus.Code(err) != codes.Unavailable || grpcstatus.Convert(err).Message() != "etcdserver: server stopped" {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestCallsBeyondTheConnectionLimitAreToldSo(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.Connections = 1
	a := serving(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	get := &pb.RangeRequest{Key: []byte("a"), Serializable: true}
	if _, err := pb.NewKVClient(etcdClient(t, a.Addrs()[0])).Range(ctx, get, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	_, err := pb.NewKVClient(etcdClient(t, a.Addrs()[0])).Range(ctx, get)
	if grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("a call beyond the limit: %v, want unavailable", err)
	}
	if a.clients.refused.Load() == 0 {
		t.Error("nobody counted it")
	}
}

// serving is an agent that is ready.
func serving(t *testing.T, cfg config.Config) *Agent {
	t.Helper()
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	return a
}
