package etcd

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"holdfast/api/apitest"
	"holdfast/kv"
)

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	res, err := http.Post(url, "application/json", strings.NewReader(body)) //nolint:noctx // bounded by the test
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(must(t, text, err))
}

func TestGatewayIsEtcds(t *testing.T) {
	n := serve(t, Options{})
	base := "http://" + n.http(t)
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/v3/kv/put", `{"key":"YQ==","value":"MQ=="}`, 200, `"revision":"2"`},
		{"/v3/kv/range", `{"key":"YQ=="}`, 200, `"kvs":[{"key":"YQ==","create_revision":"2","mod_revision":"2","version":"1","value":"MQ=="}],"count":"1"`},
		{"/v3beta/kv/range", `{"key":"YQ=="}`, 200, `"count":"1"`},
		{"/v3/kv/range", `{}`, 400, `"message":"etcdserver: key is not provided"`},
		{"/v3/kv/range", `{"key":"YQ==","revision":"99"}`, 400, `"code":11`},
		{"/v3/kv/put", `{"key":`, 400, `"code":3`},
		{"/v3/kv/txn", `{"compare":[{"key":"YQ==","target":"VERSION","version":"1"}],"success":[{"requestPut":{"key":"Yg=="}}]}`, 200, `"succeeded":true`},
		{"/v3/kv/deleterange", `{"key":"Yg=="}`, 200, `"deleted":"1"`},
		{"/v3/kv/compaction", `{"revision":"3"}`, 200, `"header"`},
		{"/v3/nowhere", `{}`, 404, `"code":5`},
	} {
		// Where the encoder puts spaces changes from build to build.
		status, body := post(t, base+c.path, c.body)
		if status != c.status || !strings.Contains(strings.ReplaceAll(body, " ", ""), strings.ReplaceAll(c.want, " ", "")) {
			t.Errorf("%s %s: %d %s; want %d with %s", c.path, c.body, status, body, c.status, c.want)
		}
	}
	if status, _ := post(t, base+"/v3/kv/put", `{"key":"YQ==","value":"`+strings.Repeat("A", 4<<20)+`"}`); status < 400 {
		t.Errorf("a body of 4 MiB: %d", status)
	}
}

// Whoever is refused for now is told when to come again, as over REST.
func TestGatewaySaysWhenToComeAgain(t *testing.T) {
	for _, c := range []struct {
		err    kv.Error
		status int
		want   string
	}{
		{kv.Error{Code: kv.RateLimited, RetryAfter: 1500 * time.Millisecond}, 429, "2"},
		{kv.Error{Code: kv.RateLimited}, 429, "1"},
		{kv.Error{Code: kv.Invalid}, 400, ""},
	} {
		n := openRig(t, nil)
		n.admin.err = &c.err
		w := httptest.NewRecorder()
		n.server.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v3/maintenance/defragment", strings.NewReader("{}")).WithContext(n.ctx))
		if got := w.Header().Get("Retry-After"); w.Code != c.status || got != c.want {
			t.Errorf("%v: %d, to come again after %q; want %d, %q", &c.err, w.Code, got, c.status, c.want)
		}
	}
}

func TestGatewayStreamsWatches(t *testing.T) {
	n := serve(t, Options{})
	n.put(t, "a", "1")
	res, err := http.Post("http://"+n.http(t)+"/v3/watch", "application/json", strings.NewReader(`{"create_request":{"key":"YQ==","start_revision":"2"}}`)) //nolint:noctx // bounded by the test
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for _, want := range []string{`"created":true`, `"mod_revision":"2"`} {
		if !lines.Scan() || !strings.Contains(strings.ReplaceAll(lines.Text(), " ", ""), want) {
			t.Fatalf("got %q, %v; want %s", lines.Text(), lines.Err(), want)
		}
	}
}

func TestGatewayDoesNotWaitForABodyForEver(t *testing.T) {
	n := serve(t, Options{BodyTimeout: 50 * time.Millisecond})
	conn, err := net.Dial("tcp", n.http(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{\"key\":"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 400") {
		t.Errorf("got %q, %v; want 400", line, err)
	}
	if r := n.get(t, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}); r.Count != 0 {
		t.Error("something was stored")
	}
}

func TestCallsOverNetHTTPAreServed(t *testing.T) {
	n := serve(t, Options{})
	conn := dial(t, n.http(t))
	r, err := pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
	if must(t, r, err); r.Header.Revision != 2 {
		t.Errorf("put: %v", r)
	}
}

func TestHealthAndReflection(t *testing.T) {
	n := serve(t, Options{})
	check := func() grpc_health_v1.HealthCheckResponse_ServingStatus {
		r, err := grpc_health_v1.NewHealthClient(n.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		return must(t, r, err).Status
	}
	if got := check(); got != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health %v", got)
	}
	stream, err := grpc_reflection_v1.NewServerReflectionClient(n.conn).ServerReflectionInfo(t.Context())
	must(t, stream, err)
	must(t, any(nil), stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}))
	r, err := stream.Recv()
	if must(t, r, err); !strings.Contains(r.String(), "etcdserverpb.KV") {
		t.Errorf("reflection lists %v", r)
	}
	must(t, any(nil), stream.CloseSend())
	n.EndStreams()
	if got := check(); got != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health while draining %v", got)
	}
}

func TestClientVersionThatIsNoText(t *testing.T) {
	n := serve(t, Options{})
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataClientAPIVersionKey, "3.7.3")
	_, err := n.kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	must(t, any(nil), err)
	_, err = n.admit(metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, "\xff")))
	refused(t, err, rpctypes.ErrGRPCInvalidClientAPIVersion)
}

func TestCallsAreCountedUnderTheNamesOfDashboards(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	n := serve(t, Options{Metrics: reg})
	n.put(t, "a", "1")
	_, err := n.kv.Range(t.Context(), &pb.RangeRequest{})
	refused(t, err, rpctypes.ErrGRPCEmptyKey)
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	w.created(0)
	families, err := reg.Gather()
	must(t, families, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"grpc_server_started_total Put etcdserverpb.KV unary":                   1,
		"grpc_server_handled_total OK Put etcdserverpb.KV unary":                1,
		"grpc_server_handled_total InvalidArgument Range etcdserverpb.KV unary": 1,
		"grpc_server_msg_received_total Watch etcdserverpb.Watch bidi_stream":   1,
		"grpc_server_msg_sent_total Watch etcdserverpb.Watch bidi_stream":       1,
		"grpc_server_handled_total OK Watch etcdserverpb.Watch bidi_stream":     0,
		"holdfast_etcd_watches": 1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
	if got["etcd_network_client_grpc_received_bytes_total"] == 0 || got["etcd_network_client_grpc_sent_bytes_total"] == 0 {
		t.Error("bytes are not counted")
	}
}

// A first request may come while the server closes: with the race detector this fails if somebody begins to serve it while the
// end of all who serve is waited for.
func TestGatewayMayBeAskedWhileItCloses(t *testing.T) {
	for range 20 {
		s := New(Options{Backend: apitest.NewMemory(), Reporter: &reporter{leader: "1"}})
		var asked sync.WaitGroup
		for range 2 {
			asked.Go(func() {
				w := httptest.NewRecorder()
				s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v3/kv/range", strings.NewReader(`{"key":"YQ=="}`)))
				if w.Code != http.StatusOK && w.Code < 400 {
					t.Errorf("answered %d %s", w.Code, w.Body)
				}
			})
		}
		s.Close(t.Context())
		asked.Wait()
	}
}
