package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"holdfast/api"
	"holdfast/kv"
)

// deliver sends what the Backend says. What it says of a proxy's link is for clients that know of one.
func (w *watchStream) deliver(b kv.Batch) error {
	switch {
	case b.Created && b.Canceled && b.Err != nil && b.Err.Code == kv.Compacted:
		begun, ended := b, b // etcd has it in two steps
		begun.Canceled, ended.Created = false, false
		if err := w.send(w.settle(begun)); err != nil {
			return err
		}
		return w.send(w.settle(ended))
	case b.Created || b.Canceled:
		return w.send(w.settle(b))
	case len(b.Events) > 0:
		return w.sendEvents(b)
	case b.Progress:
		return w.send(&pb.WatchResponse{Header: w.header(b.Header), WatchId: b.WatchID})
	}
	return nil
}

// settle notes the beginning or the end of a watch, and returns the answer.
func (w *watchStream) settle(b kv.Batch) *pb.WatchResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &pb.WatchResponse{Header: w.header(b.Header), WatchId: b.WatchID, Created: b.Created, Canceled: b.Canceled}
	one := w.watches[b.WatchID]
	if b.Created && one != nil && !one.confirmed {
		one.confirmed = true
		w.pending--
		w.changed.Broadcast()
	}
	switch {
	case !b.Canceled:
	case b.Created: // refused
		r.WatchId, r.CancelReason = noWatchID, reason(b.Err)
		w.forget(b.WatchID)
	case b.Err != nil && b.Err.Code == kv.Compacted && one != nil && !one.ending:
		one.compacted = true
		r.CompactRevision = max(b.Err.Revision, 1) // clients tell it by that; the header has no revision, as in etcd
		r.Header.Revision = 0
	default:
		r.CancelReason = reason(b.Err)
		w.forget(b.WatchID)
	}
	return r
}

// reason is why a watch has ended, for its client; empty if that has asked for it.
func reason(e *kv.Error) string {
	if e == nil {
		return ""
	}
	switch e.Code {
	case kv.PermissionDenied, kv.Unauthenticated, kv.UserEmpty, kv.AuthOldRevision:
		// etcd has the whole of the error here, and its clients tell by that whether to come again with another token.
		return status.Error(codes.Code(api.FaceOf(e.Code).GRPC), text(e)).Error()
	}
	return text(e)
}

// sendEvents sends the events of a watch: in one message, unless that is too large and the watch allows fragments.
func (w *watchStream) sendEvents(b kv.Batch) error {
	fragment := len(b.Events) > 1 && w.fragments(b.WatchID)
	if !fragment && shareable(b.Events) {
		return w.send(w.shared.share(b.Header, b.WatchID, b.Events))
	}
	r := &pb.WatchResponse{Header: w.header(b.Header), WatchId: b.WatchID, Events: events(b.Events)}
	if !fragment || proto.Size(r) < w.messageMax() {
		return w.send(r)
	}
	all, bare := r.Events, proto.Size(&pb.WatchResponse{Header: r.Header, WatchId: r.WatchId, Fragment: true})
	for len(all) > 0 {
		n := fit(all, w.messageMax()-bare)
		// A message that was sent is gRPC's: each fragment is one of its own.
		f := &pb.WatchResponse{Header: r.Header, WatchId: r.WatchId, Events: all[:n:n], Fragment: n < len(all)}
		if err := w.send(f); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// fragments reports whether a watch allows messages with a part of a revision.
func (w *watchStream) fragments(id int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.watches[id]
	return one != nil && one.fragment
}

// eventOverhead is what an event takes in a message beside itself: its tag, and its length.
const eventOverhead = 6

// fit returns how many of the events stay below so many bytes, one at least.
func fit(all []*mvccpb.Event, most int) int {
	size := 0
	for i, e := range all {
		if size += proto.Size(e) + eventOverhead; i > 0 && size >= most {
			return i
		}
	}
	return len(all)
}

// event is a message and what it points to, in one allocation.
type event struct {
	event mvccpb.Event
	kv    mvccpb.KeyValue
}

// events are changes as a message has them.
func events(from []kv.Event) []*mvccpb.Event {
	all, refs := make([]event, len(from)), make([]*mvccpb.Event, len(from))
	for i := range from {
		e, f := &all[i], &from[i]
		e.event.Kv = &e.kv
		if f.Delete {
			e.event.Type = mvccpb.Event_DELETE
			e.kv.Key, e.kv.ModRevision = f.KV.Key, f.KV.ModRevision
		} else {
			fill(&e.kv, &f.KV)
		}
		if f.Prev != nil && !f.IsCreate() {
			e.event.PrevKv = &mvccpb.KeyValue{}
			fill(e.event.PrevKv, f.Prev)
		}
		refs[i] = &e.event
	}
	return refs
}
