package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"holdfast/internal/relay"
	"holdfast/internal/wire"
	"holdfast/kv"
)

// watching is a stream of batches, with the controls that come up meanwhile.
type watching struct {
	*request
	push  kv.WatchPush
	ended chan struct{} // closed by End

	mu  sync.Mutex // one frame at a time
	err error      // why a batch could not be written; read once ended is closed
}

// watch begins a watch.
func (q *request) watch(body []byte) (lasting func() error, err error) {
	spec, err := wire.DecodeWatchSpec(body)
	var fault *kv.Error
	if err != nil {
		fault = malformed(err)
	} else {
		fault = watchesInScope(spec.Watches, q.peer)
	}
	if fault != nil {
		return nil, wire.WriteFrame(q.st, wire.AppendError(nil, fault))
	}
	w := &watching{request: q, ended: make(chan struct{})}
	spec.By.Node = q.peer.speaker(spec.By.Node)
	if w.push, err = relay.Push(q.taking, q.server.backend, spec, w); err != nil {
		return nil, wire.WriteFrame(q.st, wire.AppendAnyError(nil, err))
	}
	return w.run, nil
}

// run has the watch written down the stream, and passes on what the peer asks for, until it has said that no more will come, or
// has gone away, which ends the watch.
func (w *watching) run() error {
	w.push.Start()
	for {
		if err := w.r.Await(); err != nil { // waits, from a shallow stack: see Line
			if errors.Is(err, io.EOF) {
				w.push.Close()
			} else {
				w.push.Stop()
			}
			break
		}
		if !w.control() {
			w.push.Stop()
			break
		}
	}
	select {
	case <-w.ended:
	case <-w.taking.Done():
		w.push.Stop()
		<-w.ended
	}
	return w.err
}

// Bring writes a batch.
func (w *watching) Bring(b kv.Batch) (more bool) {
	if err := w.write(wire.AppendBatch(nil, b)); err != nil {
		w.err = fmt.Errorf("write a batch: %w", err)
		return false
	}
	return true
}

// End writes why the watch has ended, if that has to be said.
func (w *watching) End(err error) {
	if err != nil && w.err == nil {
		w.err = w.write(wire.AppendAnyError(nil, err))
	}
	w.st.CancelRead(codeDone) // wakes the reader of controls
	close(w.ended)
}

func (w *watching) write(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return wire.WriteFrame(w.st, b)
}

// control takes one control, and reports whether the watch goes on. A round takes a read index first; rounds are asked for one
// at a time, so taking it here delays nothing but the next control. What fails it answers itself.
func (w *watching) control() (more bool) {
	frame, err := wire.ReadFrame(w.r)
	if err != nil {
		return false
	}
	c, err := wire.DecodeWatchControl(frame)
	if err != nil {
		w.server.log.Warn("uplink watch ended: its control cannot be read", "peer", w.peer.Node, "error", err)
		return false
	}
	if c.Add != nil {
		if fault := watchesInScope([]kv.Watch{*c.Add}, w.peer); fault != nil {
			return w.write(wire.AppendBatch(nil, kv.Batch{WatchID: c.Add.ID, Canceled: true, Err: fault})) == nil
		}
	}
	if c.Progress {
		rctx, cancel := context.WithTimeout(w.taking, requestTimeout)
		_, err := w.server.backend.Read(rctx, kv.Query{By: kv.By{Node: w.peer.Node}})
		cancel()
		if err != nil {
			return w.write(wire.AppendBatch(nil, kv.Batch{WatchID: kv.WatchAll, Progress: true, Err: asError(err)})) == nil
		}
	}
	w.push.Ask(c)
	return true
}
