//go:build e2e

package e2e

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// spans is a collector of OpenTelemetry's spans over HTTP.
type spans struct {
	mu  sync.Mutex
	all []*trace.Span
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var in collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &in)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range in.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			s.all = append(s.all, ss.GetSpans()...)
		}
	}
}

// chain is the names of the spans of a trace, from the one below parent on, each below the one before it.
func (s *spans) chain(id, parent string) (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		i := slices.IndexFunc(s.all, func(sp *trace.Span) bool {
			return hex.EncodeToString(sp.GetTraceId()) == id && hex.EncodeToString(sp.GetParentSpanId()) == parent
		})
		if i < 0 {
			return names
		}
		names, parent = append(names, s.all[i].GetName()), hex.EncodeToString(s.all[i].GetSpanId())
	}
}

// TestOneTraceFromADevicesPutToTheLog follows a PUT from a proxy's door to the raft log of its member.
func TestOneTraceFromADevicesPutToTheLog(t *testing.T) {
	got := &spans{}
	to := httptest.NewServer(got)
	t.Cleanup(to.Close)
	c := newCluster(t)
	traced := []string{"--trace-endpoint", to.URL, "--trace-one-in", "0"}
	m := start(t, c.memberDir(), c.memberAddr, append(traced, "--peer-listen", c.peerAddr)...)
	token := c.file("token", joinToken(t, c.memberDir(), "1h").Token)
	p := start(t, filepath.Join(c.dir, "proxy"), freeAddr(t), append(c.proxyArgs(token), traced...)...)
	p.waitSynced()

	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	if r := p.do("PUT", "/v1/kv/a", []byte("1"), "traceparent", "00-"+id+"-"+span+"-01"); r.status != http.StatusCreated {
		t.Fatalf("PUT: %d %s", r.status, r.body)
	}
	want := []string{"PUT /v1/kv", "queue", "proxy", "uplink", "serve uplink", "raft"}
	eventually(t, startMax, func() string {
		if names := got.chain(id, span); !slices.Equal(names, want) {
			return fmt.Sprintf("the trace has %q, want %q", names, want)
		}
		return ""
	})
	t.Log("a call of etcd's API, by its metadata")
	const below = "1111111111111111"
	conn, err := grpc.NewClient(strings.TrimPrefix(p.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+id+"-"+below+"-01")
	if _, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("b"), Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	want[0] = "etcdserverpb.KV/Put"
	eventually(t, startMax, func() string {
		if names := got.chain(id, below); !slices.Equal(names, want) {
			return fmt.Sprintf("the trace has %q, want %q", names, want)
		}
		return ""
	})
	for _, a := range []*agent{p, m} { // and nothing of what nobody asked for
		a.stop()
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	for _, sp := range got.all {
		if hex.EncodeToString(sp.GetTraceId()) != id {
			t.Errorf("span %q of another trace", sp.GetName())
		}
	}
}
