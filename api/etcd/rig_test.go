package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
)

// rig is a Server on loopback over a leased, an Admin that says what a test wants, and a client.
type rig struct {
	*testing.T
	ctx     context.Context
	backend *leased
	admin   *admin
	server  *Server
	conn    *grpc.ClientConn
	stop    func() // ends the server; may be called again
}

// openRig opens one; change may be nil. Without an Admin it is a proxy.
func openRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	n := &rig{T: t, backend: newLeased(), admin: &admin{}}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	n.ctx = ctx
	o := Options{Backend: n.backend, Reporter: healthy{}, Admin: func() api.Admin { return n.admin }, Name: "box"}
	withPolicy(&o)
	if change != nil {
		change(&o)
	}
	n.server = New(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.server.Serve(l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	if n.conn, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	n.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if n.server.Close(ctx) {
			t.Error("calls had to be cut off")
		}
		wg.Wait()
	})
	t.Cleanup(func() {
		cancel()
		_ = n.conn.Close()
		n.stop()
	})
	return n
}

func asProxy(o *Options) { o.Admin = nil }

// healthy is a node that has a leader.
type healthy struct{}

func (healthy) Report() api.Status {
	return api.Status{Ready: true, Member: &api.MemberStatus{Leader: "1"}}
}

// refused fails the test unless err has the code and the text, or with a text that ends in "..." begins with it.
func (n *rig) refused(err error, code codes.Code, text string) {
	n.Helper()
	got := status.Convert(err)
	begin, cut := strings.CutSuffix(text, "...")
	if got.Code() != code || got.Message() != text && !(cut && strings.HasPrefix(got.Message(), begin)) {
		n.Errorf("got %v %q, want %v %q", got.Code(), got.Message(), code, text)
	}
}

// ok is the answer of a call that did not fail.
func ok[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// put sets a key behind the server's back.
func (n *rig) put(key, value string, lease int64) kv.Header {
	n.Helper()
	r, err := n.backend.Do(n.ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value), Lease: lease}}})
	if err != nil {
		n.Fatal(err)
	}
	return r.Header
}

// keys lists what begins with a prefix, oldest first.
func (n *rig) keys(prefix string) []string {
	n.Helper()
	key, end := kv.PrefixRange([]byte(prefix))
	page, err := n.backend.Read(n.ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: key, End: end, Sort: kv.TargetCreate, Order: kv.OrderAscend}}})
	if err != nil {
		n.Fatal(err)
	}
	names := []string{}
	for _, v := range page.Ops[0].KVs {
		names = append(names, string(v.Key))
	}
	return names
}

// post asks the JSON gateway.
func (n *rig) post(path, body string) (status int, answer map[string]any) {
	n.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)).WithContext(n.ctx)
	n.server.ServeHTTP(w, r)
	data, err := io.ReadAll(w.Result().Body)
	if err != nil {
		n.Fatal(err)
	}
	if line, _, _ := bytes.Cut(data, []byte("\n")); json.Unmarshal(line, &answer) != nil {
		n.Fatalf("%s: %d with %q, which is no JSON", path, w.Code, data)
	}
	return w.Code, answer
}

// admin is what a test wants a replica to say. Its zero value is a lone member that leads.
type admin struct {
	mu        sync.Mutex
	replicas  []kv.Replica
	local     []bool // of the calls of Replicas
	condition kv.Condition
	err       error // of every call that can fail
	hash      kv.Hash
	moved     []uint64
	snapshot  func() (io.ReadSeekCloser, int64, error)
}

func (a *admin) Replicas(_ context.Context, local bool) ([]kv.Replica, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.local = append(a.local, local)
	return a.replicas, a.err
}

func (a *admin) RemoveReplica(_ context.Context, id uint64) error {
	if a.err != nil {
		return a.err
	}
	for i, r := range a.replicas {
		if r.ID == id {
			a.replicas = append(a.replicas[:i:i], a.replicas[i+1:]...)
			return nil
		}
	}
	return kv.Errorf(kv.KeyNotFound, "there is no member %d", id)
}

func (a *admin) Wanted() kv.Wanted { return kv.Wanted{Voters: 3} }

func (a *admin) SetWanted(context.Context, kv.Wanted) error { return a.err }

func (a *admin) Condition() kv.Condition { return a.condition }

func (a *admin) Hash(_ context.Context, revision int64) (kv.Hash, error) {
	h := a.hash
	if revision != 0 {
		h.Revision = revision
	}
	return h, a.err
}

func (a *admin) Defragment(context.Context) error { return a.err }

func (a *admin) MoveLeader(_ context.Context, to uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.moved = append(a.moved, to)
	return a.err
}

func (a *admin) Snapshot(context.Context) (io.ReadSeekCloser, int64, error) { return a.snapshot() }
