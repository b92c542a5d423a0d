package etcd

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/internal/wire"
	"holdfast/kv"
)

// checking keeps nothing, and notes what could not be sent on.
type checking struct {
	*apitest.Memory
	fault atomic.Pointer[error] // of a handler that may outlive its call
}

func (c *checking) note(err error) {
	if err != nil {
		c.fault.Store(&err)
	}
}

// unsent is what could not be sent on since it was asked last, nil if all could.
func (c *checking) unsent() error {
	if err := c.fault.Swap(nil); err != nil {
		return *err
	}
	return nil
}

func (c *checking) Do(_ context.Context, command kv.Command) (kv.Result, error) {
	c.note(wire.CheckCommand(command))
	return kv.Result{}, kv.Errorf(kv.NoLeader, "nothing is kept here")
}

func (c *checking) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	c.note(wire.CheckQuery(q))
	return c.Memory.Read(ctx, q)
}

// fuzzed is a Server over a checking, and a client in memory.
func fuzzed(f *testing.F) (*checking, *Server, *grpc.ClientConn) {
	f.Helper()
	node := &checking{Memory: apitest.NewMemory()}
	replica := &admin{snapshot: func() (io.ReadSeekCloser, int64, error) {
		return nil, 0, kv.Errorf(kv.Busy, "another one is being read")
	}}
	s := New(Options{Backend: node, Reporter: healthy{}, Admin: func() api.Admin { return replica }, Name: "box"})
	l := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///fuzzed", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = conn.Close()
		s.Close(context.Background())
		if err := <-served; err != nil {
			f.Error(err)
		}
	})
	return node, s, conn
}

// asTheyAre passes messages on without a look at them.
type asTheyAre struct{}

func (asTheyAre) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (asTheyAre) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (asTheyAre) Name() string { return "proto" }

// fuzzWait is for calls that wait or watch.
const fuzzWait = 5 * time.Millisecond

// FuzzCalls sends any bytes as the message of any call. What reaches the backend can be sent on, and nothing panics.
func FuzzCalls(f *testing.F) {
	node, s, conn := fuzzed(f)
	var methods []string
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			methods = append(methods, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(methods)
	for i := range methods {
		f.Add(uint8(i), []byte("\x0a\x01a\x12\x01b")) // a key, and a value or an end
		f.Add(uint8(i), []byte("\x0a\x05\x0a\x01a\x12\x00"))
	}
	f.Fuzz(func(t *testing.T, which uint8, said []byte) {
		method := methods[int(which)%len(methods)]
		ctx, cancel := context.WithTimeout(t.Context(), fuzzWait)
		defer cancel()
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodecV2(asTheyAre{}))
		if err == nil && stream.SendMsg(&said) == nil && stream.CloseSend() == nil {
			for err == nil {
				var answer []byte
				err = stream.RecvMsg(&answer)
			}
		}
		if err := node.unsent(); err != nil {
			t.Fatalf("%s: %x passed, and cannot be sent: %v", method, said, err)
		}
		if got := status.Convert(err); got.Code() == codes.Internal && strings.Contains(got.Message(), "internal fault") {
			t.Fatalf("%s: %x: %v", method, said, err)
		}
	})
}

// FuzzGateway sends any body to any path of the JSON gateway.
func FuzzGateway(f *testing.F) {
	node, s, _ := fuzzed(f)
	for _, row := range [][2]string{
		{"kv/range", `{"key":"YQ==","range_end":"AA==","limit":"7","sort_order":"DESCEND"}`}, {"kv/put", `{"key":"YQ==","value":"YQ==","lease":"1"}`},
		{"kv/txn", `{"compare":[{"key":"YQ==","target":"MOD","mod_revision":"1","result":"LESS"}],"success":[{"request_txn":{"success":[{"request_put":{"key":"YQ=="}}]}}]}`},
		{"watch", `{"create_request":{"key":"YQ=="}}`}, {"lease/grant", `{"TTL":"60"}`}, {"auth/authenticate", `{"name":"a","password":"b"}`},
		{"auth/role/grant", `{"name":"r","perm":{"permType":"READWRITE","key":"YQ=="}}`}, {"cluster/member/list", `{}`}, {"maintenance/snapshot", `{}`}, {"lock/lock", `{"name":"YQ=="}`},
	} {
		f.Add(row[0], []byte(row[1]))
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), fuzzWait)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://box", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Path = gatewayPath + path
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if err := node.unsent(); err != nil {
			t.Fatalf("%s: %s passed, and cannot be sent: %v", path, body, err)
		}
		if strings.Contains(w.Body.String(), "internal fault") {
			t.Fatalf("%s %s: %d %s", path, body, w.Code, w.Body)
		}
		if line, _, _ := strings.Cut(w.Body.String(), "\n"); ctx.Err() == nil && w.Code >= http.StatusBadRequest && !json.Valid([]byte(line)) {
			t.Fatalf("%s %s: %d %s", path, body, w.Code, line)
		}
	})
}
