package contract

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"holdfast/api"
	"holdfast/api/rest"
	"holdfast/internal/namespace"
	"holdfast/kv"
)

// within is a Backend whose every range must lie inside the prefix.
type within struct {
	api.Backend
	t      *testing.T
	prefix string
}

func (w within) look(key, end []byte) {
	w.t.Helper()
	if len(key) == 0 && len(end) == 0 {
		return // nothing, which is refused
	}
	last := kv.PrefixEnd([]byte(w.prefix))
	if !bytes.HasPrefix(key, []byte(w.prefix)) || len(end) > 0 && !bytes.Equal(end, last) && !bytes.HasPrefix(end, []byte(w.prefix)) {
		w.t.Errorf("the range %q to %q goes beyond %q", key, end, w.prefix)
	}
}

func (w within) compares(all []kv.Compare) {
	for _, c := range all {
		w.look(c.Key, c.End)
	}
}

func (w within) ops(ops []kv.Op) {
	for _, op := range ops {
		switch op := op.(type) {
		case kv.Put:
			w.look(op.Key, nil)
		case kv.Delete:
			w.look(op.Key, op.End)
		case kv.Range:
			w.look(op.Key, op.End)
		case kv.Txn:
			w.compares(op.Compares)
			w.ops(op.Then)
			w.ops(op.Else)
		case kv.Each:
			for _, c := range op.Commands {
				w.command(c)
			}
		}
	}
}

func (w within) command(c kv.Command) {
	for _, g := range c.Guards {
		w.look(g.Key, g.End)
	}
	w.ops(c.Ops)
}

func (w within) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	w.command(c)
	return w.Backend.Do(ctx, c)
}

func (w within) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	w.ops(q.Ops)
	return w.Backend.Read(ctx, q)
}

func (w within) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	for _, one := range spec.Watches {
		w.look(one.Key, one.End)
	}
	return w.Backend.Watch(ctx, spec)
}

func TestANamespaceKeepsTheContract(t *testing.T) {
	const prefix = "ns/"
	keeps(t, func(t *testing.T) api.Backend {
		return namespace.New(within{mirror(t, openMember(t)), t, prefix}, prefix)
	})
}

// everything is what a store has, in order.
func everything(t *testing.T, b api.Backend) []kv.KeyValue {
	t.Helper()
	page, err := b.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: kv.FromKey(), End: kv.FromKey()}}})
	if err != nil {
		t.Fatal(err)
	}
	return page.Ops[0].KVs
}

// etcd's grpc-proxy writes the keys of locks and elections beside its namespace.
func TestEtcdsAPIStaysInsideANamespace(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := openMember(t)
	inside := serveEtcd(t, namespace.New(m, "ns/"))
	etcdKeys(ctx, t, pb.NewKVClient(inside))
	etcdWatches(ctx, t, pb.NewKVClient(inside), pb.NewWatchClient(inside))
	passOn(ctx, t, inside, inside)
	lease := grant(ctx, t, inside)
	l, err := v3lockpb.NewLockClient(inside).Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
	if err != nil || !bytes.HasPrefix(l.Key, []byte("l/")) {
		t.Errorf("locked %q, %v", l.GetKey(), err)
	}
	e, err := v3electionpb.NewElectionClient(inside).Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: []byte("me")})
	if err != nil || string(e.Leader.Name) != "e" || !bytes.HasPrefix(e.Leader.Key, []byte("e/")) {
		t.Errorf("elected %+v, %v", e.GetLeader(), err)
	}
	ttl, err := pb.NewLeaseClient(inside).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: lease, Keys: true})
	if err != nil || len(ttl.Keys) != 2 || !bytes.HasPrefix(ttl.Keys[0], []byte("e/")) {
		t.Errorf("the lease has %q, %v", ttl.GetKeys(), err)
	}
	for _, v := range everything(t, m) {
		if !bytes.HasPrefix(v.Key, []byte("ns/")) {
			t.Errorf("%q was written outside", v.Key)
		}
	}
	// A lease that somebody outside has put keys under.
	if _, err := m.Do(ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("outside"), Lease: lease}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewLeaseClient(inside).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: lease}); err == nil {
		t.Error("a lease with keys outside was revoked")
	}
	if ttl, err := pb.NewLeaseClient(inside).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: lease, Keys: true}); err != nil || len(ttl.Keys) != 2 {
		t.Errorf("the lease shows %q, %v", ttl.GetKeys(), err)
	}
	for name, call := range map[string]func() error{
		"user add": func() error {
			return errOf(pb.NewAuthClient(inside).UserAdd(ctx, &pb.AuthUserAddRequest{Name: "u", Password: "p"}))
		},
		"role list": func() error { return errOf(pb.NewAuthClient(inside).RoleList(ctx, &pb.AuthRoleListRequest{})) },
		"hash":      func() error { return errOf(pb.NewMaintenanceClient(inside).HashKV(ctx, &pb.HashKVRequest{})) },
		"snapshot": func() error {
			s, err := pb.NewMaintenanceClient(inside).Snapshot(ctx, &pb.SnapshotRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"alarm": func() error {
			return errOf(pb.NewMaintenanceClient(inside).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_CORRUPT}))
		},
	} {
		if err := call(); err == nil {
			t.Errorf("%s was answered", name)
		}
	}
}

func TestRESTStaysInsideANamespace(t *testing.T) {
	m := openMember(t)
	for _, k := range []string{"m/x", "n", "ns", "ns/", "ns0", "z"} {
		if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(k), Value: []byte("secret")}}}); err != nil {
			t.Fatal(err)
		}
	}
	before := everything(t, m)
	s := httptest.NewServer(rest.New(rest.Options{Backend: namespace.New(m, "ns/"), Reporter: leading{}}))
	defer s.Close()
	call := func(method, path, body string, header ...string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	for _, c := range []struct{ method, path, body string }{
		{"PUT", "/v1/kv/own", "mine"}, {"PUT", "/v1/kv/..%2fm/x", "mine"}, {"PUT", "/v1/kv//", "mine"}, {"PUT", "/v1/kv/%00", "mine"}, {"PUT", "/v1/kv/ns/", "mine"},
		{"PUT", "/v1/kv/short?ttl=600s", "mine"},
		{"POST", "/v1/batch", `{"put":{"key":"m/x","value":"mine"}}` + "\n" + `{"delete":{"key":"z"}}`},
		{"POST", "/v1/txn", `{"then":[{"put":{"key":"n","value":"mine"}},{"get":{"key":"","prefix":true}},{"txn":{"then":[{"get":{"key":"m/x"}},{"delete":{"key":"m/","prefix":true}}]}}]}`},
		{"GET", "/v1/kv/?prefix", ""}, {"GET", "/v1/kv/?prefix&keys_only", ""}, {"GET", "/v1/kv/m?prefix", ""},
		{"GET", "/v1/kv/m/x", ""}, {"GET", "/v1/kv/ns", ""}, {"GET", "/v1/kv/z", ""}, {"GET", "/v1/kv/?prefix&index=1&wait=1s", ""},
		{"DELETE", "/v1/kv/m/x", ""}, {"DELETE", "/v1/kv/ns?prefix", ""}, {"DELETE", "/v1/kv/n?prefix", ""}, {"DELETE", "/v1/kv/z", ""}, {"DELETE", "/v1/kv/%FF?prefix", ""},
	} {
		status, text := call(c.method, c.path, c.body)
		if status == http.StatusBadRequest || status >= 500 || strings.Contains(text, "secret") || strings.Contains(text, "c2VjcmV0") || strings.Contains(text, `"ns/own`) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, text)
		}
	}
	for _, now := range everything(t, m)[:2] {
		if string(now.Value) != "secret" {
			t.Errorf("%q was changed", now.Key)
		}
	}
	left := map[string]bool{}
	for _, v := range everything(t, m) {
		left[fmt.Sprintf("%q at %d", v.Key, v.ModRevision)] = true
		if !bytes.HasPrefix(v.Key, []byte("ns/")) && string(v.Value) != "secret" {
			t.Errorf("%q was written outside", v.Key)
		}
	}
	for _, v := range before {
		if !left[fmt.Sprintf("%q at %d", v.Key, v.ModRevision)] {
			t.Errorf("%q was changed or deleted", v.Key)
		}
	}
	if status, text := call("PUT", "/v1/kv/own", "again", "If-Match", `"1"`); status != http.StatusPreconditionFailed || strings.Contains(text, "ns/") {
		t.Errorf("a precondition that fails: %d %s", status, text)
	}
	if status, text := call("GET", "/v1/kv/own", ""); status != http.StatusOK || text != "mine" {
		t.Errorf("own: %d %s", status, text)
	}
}
