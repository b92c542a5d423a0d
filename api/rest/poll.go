package rest

import (
	"context"
	"errors"
	"net/http"
	"time"

	"holdfast/kv"
)

// How long ?index waits.
const (
	pollDefault = time.Minute
	pollMax     = waitMax
)

// poll is ?index=R: wait until something in the range has changed after revision R, then answer as ever. What has
// changed is not said, only what is there now; the answer's Holdfast-Revision is the index to go on with, and nothing
// falls between the two.
type poll struct {
	asked bool
	index int64
	wait  time.Duration
}

// parsePoll reads ?index, and of ?wait what is given of it.
func parsePoll(p *params, wait time.Duration, hasWait bool) (poll, error) {
	if _, asked := p.text("index"); !asked {
		return poll{}, nil
	}
	index, err := p.number("index", 0)
	if !hasWait {
		wait = pollDefault
	}
	return poll{asked: true, index: index, wait: wait}, err
}

// errPollOver says that nothing has changed for as long as the request would wait.
var errPollOver = errors.New("nothing has changed")

// await waits for a change of the range, if the request has asked for that, and makes f want an answer that shows it.
// It counts as a watch. done is true if nothing has changed, and 304 has been answered.
func (h *Handler) await(w http.ResponseWriter, r *http.Request, key, end []byte, f *freshness) (done bool, err error) {
	if !f.poll.asked {
		return false, nil
	}
	leave, err := h.admitWatch()
	if err != nil {
		return false, err
	}
	defer leave()
	ctx, cancel := context.WithTimeoutCause(r.Context(), f.poll.wait, errPollOver)
	defer cancel()
	defer context.AfterFunc(h.stopping, cancel)()
	at, err := h.changed(ctx, key, end, f.poll.index)
	switch {
	case err == nil:
		f.minRevision, f.wait = max(f.minRevision, at.Revision), waitDefault
		return false, nil
	case h.stopping.Err() != nil:
		return false, errStopping()
	case !errors.Is(context.Cause(ctx), errPollOver):
		return false, err
	}
	header := w.Header()
	header["Holdfast-Revision"] = []string{formatRevision(max(at.Revision, f.poll.index))}
	if !at.Epoch.IsZero() {
		header["Holdfast-Epoch"] = h.epochHeader(at.Epoch)
	}
	w.WriteHeader(http.StatusNotModified)
	return true, nil
}

// changed returns once something in the range has changed after a revision, with the revision of that. If ctx ends
// first it returns an error, and the newest revision up to which it is sure that nothing has.
func (h *Handler) changed(ctx context.Context, key, end []byte, after int64) (at kv.Header, err error) {
	spec := kv.WatchSpec{Watches: []kv.Watch{{Key: key, End: end, From: after + 1, Progress: true}}}
	for b, err := range h.opts.Backend.Watch(ctx, spec) {
		switch {
		case err != nil:
			return at, err
		case b.Canceled && b.Err != nil && b.Err.Code == kv.Compacted:
			// Too long ago to tell. What is there now is the answer all the same.
			return kv.Header{Epoch: b.Epoch, Revision: b.Err.Revision}, nil
		case b.Canceled && b.Err != nil:
			return at, b.Err
		case len(b.Events) > 0:
			return kv.Header{Epoch: b.Epoch, Revision: b.Events[0].KV.ModRevision}, nil
		case b.Progress:
			at = b.Header
		default:
			at.Epoch = b.Epoch
		}
	}
	if err := ctx.Err(); err != nil {
		return at, err
	}
	return at, kv.Errorf(kv.Stopping, "the watch of the node has ended; ask again")
}

// admitWatch counts a watch, or refuses it.
func (h *Handler) admitWatch() (leave func(), err error) {
	if h.stopping.Err() != nil {
		return nil, errStopping()
	}
	if h.watches.Add(1) > int64(h.opts.WatchesMax) {
		h.watches.Add(-1)
		return nil, kv.Errorf(kv.Busy, "%d watches are open, which is the limit (limits.watches)", h.opts.WatchesMax)
	}
	return func() { h.watches.Add(-1) }, nil
}
