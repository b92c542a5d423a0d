package etcd

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/kv"
)

// watcher is a stream of a client.
type watcher struct {
	t      *testing.T
	stream pb.Watch_WatchClient
	got    chan *pb.WatchResponse
	err    chan error
}

func (n *node) open(t *testing.T, pairs ...string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), pairs...))
	stream, err := n.watch.Watch(ctx)
	must(t, stream, err)
	w := &watcher{t, stream, make(chan *pb.WatchResponse, 4096), make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := stream.Recv()
			if err != nil {
				w.err <- err
				return
			}
			w.got <- r
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *watcher) send(r *pb.WatchRequest) {
	w.t.Helper()
	if err := w.stream.Send(r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watcher) create(r *pb.WatchCreateRequest) {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (w *watcher) cancel(id int64) {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (w *watcher) progress() {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

func (w *watcher) next() *pb.WatchResponse {
	w.t.Helper()
	select {
	case r := <-w.got:
		return r
	case err := <-w.err:
		select {
		case r := <-w.got: // came before the end
			w.err <- err
			return r
		default:
			w.t.Fatalf("the stream ended: %v", err)
		}
	case <-time.After(patience):
		w.t.Fatal("nothing came")
	}
	return nil
}

func (w *watcher) ended() error {
	w.t.Helper()
	for {
		select {
		case r := <-w.got:
			w.t.Logf("before the end: %v", r)
		case err := <-w.err:
			return err
		case <-time.After(patience):
			w.t.Fatal("the stream goes on")
		}
	}
}

// created fails the test unless the next message confirms a watch.
func (w *watcher) created(id int64) *pb.WatchResponse {
	w.t.Helper()
	r := w.next()
	if !r.Created || r.Canceled || r.WatchId != id || r.Header.GetClusterId() == 0 || r.Header.MemberId == 0 {
		w.t.Fatalf("got %v, want watch %d to be created", r, id)
	}
	return r
}

// refused fails the test unless the next message refuses a watch.
func (w *watcher) refused(reason string) {
	w.t.Helper()
	r := w.next()
	if !r.Created || !r.Canceled || r.WatchId != -1 || r.CancelReason != reason || r.Header.GetClusterId() == 0 {
		w.t.Fatalf("got %v, want a refusal as %q", r, reason)
	}
}

// show is events in short: p for put, d for delete, key, revision, and the value before.
func show(events []*mvccpb.Event) string {
	var all []string
	for _, e := range events {
		one := fmt.Sprintf("%c:%s@%d", "pd"[e.Type], e.Kv.Key, e.Kv.ModRevision)
		if e.PrevKv != nil {
			one += "(" + string(e.PrevKv.Value) + ")"
		}
		all = append(all, one)
	}
	return strings.Join(all, " ")
}

// events collects events of one watch until there are so many.
func (w *watcher) events(id int64, n int) string {
	w.t.Helper()
	var all []*mvccpb.Event
	for len(all) < n {
		r := w.next()
		if r.WatchId != id || r.Created || r.Canceled {
			w.t.Fatalf("got %v, want events of watch %d", r, id)
		}
		if len(r.Events) > 0 && r.Header.Revision < r.Events[len(r.Events)-1].Kv.ModRevision {
			w.t.Errorf("header at %d before the events %s", r.Header.Revision, show(r.Events))
		}
		all = append(all, r.Events...)
	}
	return show(all)
}

func (w *watcher) want(got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("events %q, want %q", got, want)
	}
}

func (n *node) delete(t *testing.T, key string) {
	t.Helper()
	r, err := n.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(key)})
	must(t, r, err)
}

func (n *node) compact(t *testing.T, rev int64) {
	t.Helper()
	r, err := n.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: rev})
	must(t, r, err)
}

func TestWatchDeliversEventsOfItsRange(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("c"), PrevKv: true})
	if r := w.created(0); r.Header.Revision != 1 {
		t.Errorf("created at %d, want the store's revision", r.Header.Revision)
	}
	n.put(t, "a", "1")
	n.put(t, "c", "outside")
	n.put(t, "a", "2")
	n.delete(t, "a")
	w.want(w.events(0, 3), "p:a@2 p:a@4(1) d:a@5(2)")
}

func TestDeleteEventHasKeyAndRevisionOnly(t *testing.T) {
	n := serve(t, Options{})
	n.put(t, "a", "1")
	n.delete(t, "a")
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
	w.created(0)
	e := w.next().Events[0]
	if e.Type != mvccpb.Event_DELETE || string(e.Kv.Key) != "a" || e.Kv.ModRevision != 3 || e.Kv.CreateRevision != 0 || e.Kv.Version != 0 || e.Kv.Value != nil || e.PrevKv != nil {
		t.Errorf("event %v", e)
	}
}

func TestWatchFromARevision(t *testing.T) {
	n := serve(t, Options{})
	for range 4 {
		n.put(t, "a", "") // 2 to 5
	}
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
	w.created(0)
	w.want(w.events(0, 3), "p:a@3 p:a@4 p:a@5")
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 8}) // the future
	w.created(1)
	w.cancel(0)
	if r := w.next(); !r.Canceled || r.WatchId != 0 || r.CancelReason != "" || r.CompactRevision != 0 || r.Header.Revision != 5 {
		t.Fatalf("cancel: %v", r)
	}
	for range 4 {
		n.put(t, "a", "") // 6 to 9
	}
	w.want(w.events(1, 2), "p:a@8 p:a@9")
}

func TestWatchOfCompactedHistoryIsCreatedAndCancelled(t *testing.T) {
	n := serve(t, Options{})
	for range 4 {
		n.put(t, "a", "")
	}
	n.compact(t, 4)
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2, WatchId: 7})
	w.created(7)
	if r := w.next(); !r.Canceled || r.Created || r.WatchId != 7 || r.CompactRevision != 4 || r.CancelReason != "" || r.Header.Revision != 0 {
		t.Fatalf("got %v", r)
	}
	// The id is taken until the client gives it back, which clients do.
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7})
	w.refused(reasonDuplicateID)
	w.cancel(7)
	if r := w.next(); !r.Canceled || r.WatchId != 7 || r.CompactRevision != 0 {
		t.Fatalf("cancel: %v", r)
	}
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7})
	w.created(7)
}

func TestWatchIDs(t *testing.T) {
	n := serve(t, Options{WatchesMax: 6})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 1})
	w.created(1)
	w.create(&pb.WatchCreateRequest{Key: []byte("b")})
	w.created(0)
	w.create(&pb.WatchCreateRequest{Key: []byte("c")}) // 1 is taken
	w.created(2)
	w.create(&pb.WatchCreateRequest{Key: []byte("d"), WatchId: 2})
	w.refused(reasonDuplicateID)
	w.create(&pb.WatchCreateRequest{Key: []byte("d"), WatchId: -5})
	w.created(-5)
	w.create(&pb.WatchCreateRequest{Key: []byte("d"), WatchId: -1})
	w.refused("holdfast: invalid request: the watch id -1 stands for all watches")
	w.cancel(99) // not answered
	w.cancel(1)
	w.create(&pb.WatchCreateRequest{Key: []byte("e"), WatchId: 1}) // free again at once
	if r := w.next(); !r.Canceled || r.Created || r.WatchId != 1 {
		t.Fatalf("got %v, want the end of watch 1", r)
	}
	w.created(1)
	w.create(&pb.WatchCreateRequest{Key: []byte("f")})
	w.created(3)
	w.create(&pb.WatchCreateRequest{Key: []byte("g")})
	w.created(4)
	w.create(&pb.WatchCreateRequest{Key: []byte("h")})
	w.refused("etcdserver: too many requests")
	n.put(t, "e", "")
	w.want(w.events(1, 1), "p:e@2")
	if got := n.metrics.watches.Load(); got != 6 {
		t.Errorf("%d watches are counted, want 6", got)
	}
}

func TestWatchOfABadRangeIsRefusedInTurn(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t)
	for range 20 { // whatever the Backend still has to do comes first
		w.create(&pb.WatchCreateRequest{Key: []byte("a")})
		w.create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")})
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("a")})
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: -1})
	}
	for i := range 20 {
		w.created(int64(i))
		w.refused(reasonEmptyRange)
		w.refused(reasonEmptyRange)
		w.refused("etcdserver: mvcc: required revision has been compacted")
	}
}

func TestWatchOfEverything(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}})
	w.created(0)
	w.create(&pb.WatchCreateRequest{Key: []byte("m"), RangeEnd: []byte{0}})
	w.created(1)
	n.put(t, "a", "")
	w.want(w.events(0, 1), "p:a@2")
}

func TestFilters(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
	w.created(0)
	n.put(t, "a", "")
	n.delete(t, "a")
	w.want(w.events(0, 1), "d:a@3")
	w.cancel(0)
	w.next()
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}})
	w.created(1)
	n.put(t, "a", "")
	w.want(w.events(1, 2), "p:a@2 p:a@4")
}

func TestProgressOnRequest(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t)
	w.progress() // nobody to tell
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	w.created(0)
	n.put(t, "other", "")
	w.progress()
	if r := w.next(); r.WatchId != -1 || len(r.Events) != 0 || r.Header.Revision != 2 || r.Created || r.Canceled {
		t.Errorf("progress: %v", r)
	}
}

func TestTransactionIsOneMessage(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("z")})
	w.created(0)
	var ops []*pb.RequestOp
	for _, key := range []string{"b", "a", "c"} {
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}})
	}
	r, err := n.kv.Txn(t.Context(), &pb.TxnRequest{Success: ops})
	must(t, r, err)
	if r := w.next(); show(r.Events) != "p:b@2 p:a@2 p:c@2" && show(r.Events) != "p:a@2 p:b@2 p:c@2" {
		t.Errorf("got %v", r)
	}
}

func TestLargeMessagesComeInFragmentsWhereThatIsAllowed(t *testing.T) {
	n := serve(t, Options{RequestMax: 1 << 20})
	var ops []*pb.RequestOp
	for i := range 100 {
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: fmt.Appendf(nil, "k%03d", i), Value: make([]byte, 10<<10)}}})
	}
	r, err := n.kv.Txn(t.Context(), &pb.TxnRequest{Success: ops})
	must(t, r, err)
	r, err = n.kv.Txn(t.Context(), &pb.TxnRequest{Success: ops})
	must(t, r, err)
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 3, PrevKv: true, Fragment: true})
	w.created(0)
	var seen int
	for fragments := 1; ; fragments++ {
		r := w.next()
		seen += len(r.Events)
		if r.Header.Revision != 3 {
			t.Errorf("header at %d", r.Header.Revision)
		}
		if !r.Fragment {
			if fragments != 2 {
				t.Errorf("2 MiB came in %d fragments of at most 1.5 MiB", fragments)
			}
			break
		}
	}
	if seen != 100 {
		t.Errorf("%d events, want 100", seen)
	}
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 3, PrevKv: true})
	w.created(1)
	if r := w.next(); len(r.Events) != 100 || r.Fragment {
		t.Errorf("without leave to fragment: %d events, fragment %v", len(r.Events), r.Fragment)
	}
}

func TestManyWatchesOnOneStream(t *testing.T) {
	const many = 10_000
	n := serve(t, Options{Backend: apitest.NewMemory()})
	w := n.open(t)
	w.got = make(chan *pb.WatchResponse, many)
	go func() {
		for i := range many {
			_ = w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: fmt.Appendf(nil, "k%05d", i)}}})
		}
	}()
	for i := range many {
		w.created(int64(i))
	}
	n.put(t, "k00000", "")
	n.put(t, "k09999", "")
	w.want(w.events(0, 1), "p:k00000@2")
	w.want(w.events(many-1, 1), "p:k09999@3")
}

func TestStreamGoesOnWhenItsClientAsksForNoMore(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	w.created(0)
	if err := w.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	n.put(t, "a", "")
	w.want(w.events(0, 1), "p:a@2")
}

func TestStreamsEndWithTheNode(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	w.created(0)
	n.EndStreams()
	refused(t, w.ended(), rpctypes.ErrGRPCStopped)
	refused(t, n.open(t).ended(), rpctypes.ErrGRPCStopped)
}

func TestStreamThatRequiresALeader(t *testing.T) {
	n := serve(t, Options{})
	w := n.open(t, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	w.created(0)
	patient := n.open(t)
	patient.create(&pb.WatchCreateRequest{Key: []byte("a")})
	patient.created(0)
	n.reporter.set("")
	refused(t, w.ended(), rpctypes.ErrGRPCNoLeader)
	refused(t, n.open(t, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader).ended(), rpctypes.ErrGRPCNoLeader)
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	_, err := n.kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	refused(t, err, rpctypes.ErrGRPCNoLeader)
	n.put(t, "a", "")
	patient.want(patient.events(0, 1), "p:a@2")
}

func TestClientThatGoesEndsItsStream(t *testing.T) {
	b := &counted{Backend: apitest.NewMemory(), ended: make(chan struct{}, 1)}
	n := serve(t, Options{Backend: b})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := n.watch.Watch(ctx)
	must(t, stream, err)
	must(t, any(nil), stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}))
	r, err := stream.Recv()
	must(t, r, err)
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("the client got %v", err)
	}
	select {
	case <-b.ended:
	case <-time.After(patience):
		t.Fatal("the Backend's stream goes on")
	}
}

// counted tells when a stream has ended.
type counted struct {
	api.Backend
	ended chan struct{}
}

func (c *counted) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		defer func() { c.ended <- struct{}{} }()
		c.Backend.Watch(ctx, spec)(yield)
	}
}

// script is a Backend whose streams say what they are told.
type script struct {
	api.Backend
	batches []kv.Batch
	err     error
}

func (s script) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		<-spec.Control
		for _, b := range s.batches {
			b.Epoch.Cluster, b.Member = 1, 1
			if !yield(b, nil) {
				return
			}
		}
		if s.err != nil {
			yield(kv.Batch{}, s.err)
			return
		}
		<-ctx.Done()
	}
}

func TestWhatIsSaidOfAProxysLinkIsNotForTheseClients(t *testing.T) {
	n := serve(t, Options{Backend: script{Backend: apitest.NewMemory(), batches: []kv.Batch{
		{Created: true}, {WatchID: kv.WatchAll, State: kv.WatchStale}, {WatchID: kv.WatchAll, State: kv.WatchSynced},
		{WatchID: 0, Progress: true, Header: kv.Header{Revision: 4}}, {WatchID: 0, Canceled: true, Err: kv.Errorf(kv.SlowConsumer, "too slow")},
	}, err: kv.Errorf(kv.Stopping, "bye")}})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true})
	w.created(0)
	if r := w.next(); r.WatchId != 0 || r.Header.Revision != 4 || len(r.Events) != 0 {
		t.Errorf("got %v, want progress", r)
	}
	if r := w.next(); !r.Canceled || r.CancelReason != "holdfast: the watcher fell behind: too slow" || r.CompactRevision != 0 {
		t.Errorf("got %v, want the end and why", r)
	}
	refused(t, w.ended(), rpctypes.ErrGRPCStopped)
}

func TestWatchThatTheBackendRefuses(t *testing.T) {
	n := serve(t, Options{Backend: script{Backend: apitest.NewMemory(), batches: []kv.Batch{
		{Created: true, Canceled: true, Err: kv.Errorf(kv.PermissionDenied, "not yours")},
	}}})
	w := n.open(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	w.refused("rpc error: code = PermissionDenied desc = etcdserver: permission denied") // as etcd has it
}

func TestFragmentsFit(t *testing.T) {
	var all []*mvccpb.Event
	for range 10 {
		all = append(all, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: make([]byte, 90)}})
	}
	if n := fit(all, 250); n != 2 {
		t.Errorf("%d events of 100 bytes fit into 250", n)
	}
	if n := fit(all, 1); n != 1 {
		t.Errorf("%d events in a fragment that is too small for any", n)
	}
	if n := fit(all, 1<<20); n != 10 {
		t.Errorf("%d events fit into 1 MiB", n)
	}
}
