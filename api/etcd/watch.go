package etcd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"holdfast/kv"
)

// watchService is etcdserverpb.Watch.
type watchService struct {
	pb.UnimplementedWatchServer
	*Server
}

const (
	// autoWatchID in a request has the server choose.
	autoWatchID = 0
	// noWatchID is the id in the answer to a watch that was refused.
	noWatchID = -1
	// controlsAhead is how many requests are read before the Backend has taken the first. Then the client waits.
	controlsAhead = 16
)

// The reasons that etcd's store gives for refusing a watch.
const (
	reasonEmptyRange  = "mvcc: watcher range is empty"
	reasonDuplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// Watch serves many watches on one stream, as one stream of the Backend: ten thousand watches are two goroutines. A client
// that does not read holds up its own stream and nothing else; the Backend catches it up later.
func (s watchService) Watch(stream pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	w := &watchStream{Server: s.Server, ctx: ctx, stream: stream, control: make(chan kv.WatchControl, controlsAhead), watches: map[int64]*watching{}}
	w.changed = sync.NewCond(&w.mu)
	defer context.AfterFunc(ctx, w.wake)()
	defer w.forgetAll()
	s.receivers.Go(func() { // ends when this call has
		if err := w.receive(); err != nil {
			cancel(err)
		}
	})
	for b, err := range s.opts.Backend.Watch(ctx, kv.WatchSpec{Control: w.control}) {
		if err != nil && ctx.Err() == nil {
			return s.refusal(ctx, err)
		}
		if err != nil {
			break
		}
		if err := w.deliver(b); err != nil {
			return err
		}
	}
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return nil // the client will ask for no more, and its last watch has ended
	case errors.Is(cause, context.Canceled):
		return rpctypes.ErrGRPCWatchCanceled
	default:
		return cause
	}
}

// watchStream is a running Watch. One goroutine receives, the other sends; refusals are sent by the first.
type watchStream struct {
	*Server
	ctx     context.Context
	stream  pb.Watch_WatchServer
	control chan kv.WatchControl
	sending sync.Mutex // of one message

	mu      sync.Mutex
	changed *sync.Cond // watches or pending became fewer
	watches map[int64]*watching
	nextID  int64
	pending int // watches that the Backend has not confirmed yet
}

// watching is one watch. Its id is taken until the client cancels it, and has been told so.
//
//	pending --confirmed--> open --cancel asked for--> ending --> gone
//	                          \----compacted--> compacted --^
type watching struct {
	confirmed bool
	ending    bool // the client has cancelled it, the Backend has not said so yet
	compacted bool // the Backend has ended it, the client has not cancelled it yet
	fragment  bool
}

// receive takes requests until the stream ends.
func (w *watchStream) receive() error {
	defer close(w.control)
	for {
		r, err := w.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil // open watches go on
		}
		if err != nil {
			return err
		}
		switch r := r.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			err = w.create(r.CreateRequest)
		case *pb.WatchRequest_CancelRequest:
			err = w.cancel(r.CancelRequest.GetWatchId())
		case *pb.WatchRequest_ProgressRequest:
			err = w.progress()
		}
		if err != nil {
			return err
		}
	}
}

func (w *watchStream) create(r *pb.WatchCreateRequest) error {
	watch := kv.Watch{Key: r.GetKey(), End: r.GetRangeEnd(), From: r.GetStartRevision(), PrevKV: r.GetPrevKv(), Progress: r.GetProgressNotify()}
	if len(watch.Key) == 0 {
		watch.Key = []byte{0} // the least key
	}
	for _, f := range r.GetFilters() {
		watch.NoPuts = watch.NoPuts || f == pb.WatchCreateRequest_NOPUT
		watch.NoDeletes = watch.NoDeletes || f == pb.WatchCreateRequest_NODELETE
	}
	switch {
	case watch.From < 0:
		return w.refuse(rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted))
	case len(watch.End) > 0 && !bytes.Equal(watch.End, kv.FromKey()) && bytes.Compare(watch.Key, watch.End) >= 0:
		return w.refuse(reasonEmptyRange)
	}
	id, reason := w.take(r.GetWatchId(), r.GetFragment())
	if reason != "" {
		return w.refuse(reason)
	}
	watch.ID = id
	return w.ask(kv.WatchControl{Add: &watch})
}

// take gives a new watch its id.
func (w *watchStream) take(wanted int64, fragment bool) (id int64, refused string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.watches[wanted] != nil && w.watches[wanted].ending && w.ctx.Err() == nil {
		w.changed.Wait()
	}
	switch {
	case wanted == noWatchID:
		return 0, text(kv.Errorf(kv.Invalid, "the watch id -1 stands for all watches"))
	case len(w.watches) >= w.opts.WatchesMax:
		return 0, text(&kv.Error{Code: kv.RateLimited})
	case wanted != autoWatchID && w.watches[wanted] != nil:
		return 0, reasonDuplicateID
	case wanted == autoWatchID:
		for w.watches[w.nextID] != nil {
			w.nextID++
		}
		wanted = w.nextID
		w.nextID++
	}
	w.watches[wanted] = &watching{fragment: fragment}
	w.pending++
	w.metrics.watches.Add(1)
	return wanted, ""
}

// refuse answers a request for a watch. Answers come in the order of requests, so it waits for those before it.
func (w *watchStream) refuse(reason string) error {
	w.mu.Lock()
	for w.pending > 0 && w.ctx.Err() == nil {
		w.changed.Wait()
	}
	w.mu.Unlock()
	return w.send(&pb.WatchResponse{
		Header: w.header(w.here(w.ctx)), WatchId: noWatchID, Created: true, Canceled: true, CancelReason: reason,
	})
}

// cancel ends a watch. An id that names none is not answered, as in etcd.
func (w *watchStream) cancel(id int64) error {
	w.mu.Lock()
	one := w.watches[id]
	known := one != nil && !one.ending
	over := known && one.compacted
	if over {
		w.forget(id)
	} else if known {
		one.ending = true
	}
	w.mu.Unlock()
	switch {
	case over:
		return w.send(&pb.WatchResponse{Header: w.header(w.here(w.ctx)), WatchId: id, Canceled: true})
	case known:
		return w.ask(kv.WatchControl{Cancel: id})
	}
	return nil
}

// progress asks how far all watches are. Without any nobody could be told.
func (w *watchStream) progress() error {
	w.mu.Lock()
	none := len(w.watches) == 0
	w.mu.Unlock()
	if none {
		return nil
	}
	return w.ask(kv.WatchControl{Progress: true})
}

// ask hands a request to the Backend.
func (w *watchStream) ask(c kv.WatchControl) error {
	select {
	case w.control <- c:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

// forget frees an id. It is called with mu held.
func (w *watchStream) forget(id int64) {
	if w.watches[id] == nil {
		return
	}
	delete(w.watches, id)
	w.metrics.watches.Add(-1)
	w.changed.Broadcast()
}

func (w *watchStream) forgetAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.watches {
		w.forget(id)
	}
}

// wake has everybody look again who waits for changed.
func (w *watchStream) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed.Broadcast()
}

// send sends one message: a WatchResponse, or one that is encoded.
func (w *watchStream) send(m any) error {
	w.sending.Lock()
	defer w.sending.Unlock()
	return w.stream.SendMsg(m)
}
