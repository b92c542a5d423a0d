package agent

import (
	"context"
	"iter"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"holdfast/api"
	"holdfast/kv"
)

// curious is a node that says who has called it.
type curious struct{ callers chan *api.Caller }

func (n curious) note(ctx context.Context) {
	if c, ok := api.CallerFrom(ctx); ok {
		n.callers <- &c
		return
	}
	n.callers <- nil
}

func (n curious) Do(ctx context.Context, _ kv.Command) (kv.Result, error) {
	n.note(ctx)
	return kv.Result{Header: kv.Header{Revision: 2}, Ops: []kv.OpResult{{}}}, nil
}

func (curious) Read(context.Context, kv.Query) (kv.Page, error) {
	return kv.Page{}, &kv.Error{Code: kv.NotCached}
}

func (n curious) Watch(ctx context.Context, _ kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	n.note(ctx)
	return func(func(kv.Batch, error) bool) { <-ctx.Done() }
}

// Whichever way a request takes, the node learns who has sent it, from the connection and not from what the client says.
func TestEveryRequestCarriesItsCaller(t *testing.T) {
	node := curious{make(chan *api.Caller, 64)}
	h := houseOf(t, settings(t), node)
	base := h.Addrs()[0]
	h2c := func(t *testing.T) *http.Client {
		var p http.Protocols
		p.SetUnencryptedHTTP2(true)
		tr := &http.Transport{Protocols: &p}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: patience}
	}
	post := func(t *testing.T, c *http.Client, url, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, forged := range []string{"Grpc-Metadata-" + "Holdfast-Gateway-Ticket", "Holdfast-Gateway-Ticket"} {
			r.Header.Set(forged, "1")
		}
		go func() { // a watch answers when it has something to say
			if res, err := c.Do(r); err == nil {
				_ = res.Body.Close()
			}
		}()
	}
	put := func(t *testing.T, url string) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-gateway-ticket", "1")
		if _, err := pb.NewKVClient(etcdClient(t, url)).Put(ctx, &pb.PutRequest{Key: []byte("a")}); err != nil {
			t.Fatal(err)
		}
	}
	const watch = `{"create_request":{"key":"YQ=="}}`
	ways := []struct {
		name  string
		admin bool
		call  func(t *testing.T)
	}{
		{"REST", false, func(t *testing.T) { _, _ = send(t.Context(), httpClient(t, nil), "PUT", base+"/v1/kv/a", "b") }},
		{"REST over HTTP/2", false, func(t *testing.T) { _, _ = send(t.Context(), h2c(t), "PUT", base+"/v1/kv/a", "b") }},
		{"gRPC", false, func(t *testing.T) { put(t, base) }},
		{"a stream of gRPC", false, func(t *testing.T) { watchOnce(t, etcdClient(t, base)) }},
		{"gRPC on a connection of net/http", false, func(t *testing.T) { putOverHTTP(t, h2c(t), base) }},
		{"the gateway", false, func(t *testing.T) { post(t, httpClient(t, nil), base+"/v3/kv/put", `{"key":"YQ=="}`) }},
		{"a stream of the gateway", false, func(t *testing.T) { post(t, httpClient(t, nil), base+"/v3/watch", watch) }},
		{"REST by the socket", true, func(t *testing.T) { _, _ = send(t.Context(), overSocket(t, h.Agent), "PUT", "http://x/v1/kv/a", "b") }},
		{"gRPC by the socket", true, func(t *testing.T) { put(t, "unix://"+h.SocketPath()) }},
		{"the gateway by the socket", true, func(t *testing.T) { post(t, overSocket(t, h.Agent), "http://x/v3/kv/put", `{"key":"YQ=="}`) }},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			way.call(t)
			var got *api.Caller
			select {
			case got = <-node.callers:
			case <-time.After(patience):
				t.Fatal("no call came")
			}
			switch {
			case got == nil:
				t.Fatal("the call had no Caller")
			case got.Admin != way.admin || got.Cert != nil:
				t.Errorf("got %+v", got)
			case way.admin && (got.Process == nil || int(got.Process.UID) != os.Getuid() || int(got.Process.PID) != os.Getpid() || got.Addr.IsValid()):
				t.Errorf("by the socket: %+v, process %+v", got, got.Process)
			case !way.admin && (got.Addr.Addr() != netip.MustParseAddr("127.0.0.1") || got.Addr.Port() == 0 || got.Process != nil):
				t.Errorf("over TCP: %+v", got)
			}
		})
	}
}

func watchOnce(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	w, err := pb.NewWatchClient(conn).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}); err != nil {
		t.Fatal(err)
	}
}

// putOverHTTP calls gRPC with a client of net/http, on a connection that began with something else.
func putOverHTTP(t *testing.T, c *http.Client, base string) {
	t.Helper()
	expect(t, c, "GET", base+"/version", "", http.StatusOK)
	const message = "\x00\x00\x00\x00\x03\x0a\x01a" // not compressed, 3 bytes: field 1 is "a"
	r, err := http.NewRequestWithContext(t.Context(), "POST", base+"/etcdserverpb.KV/Put", strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
}
