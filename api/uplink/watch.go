package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// controlQueue is how many watch controls wait; when it is full the stream is read no further.
const controlQueue = 16

// watching is a stream of batches, with the controls that come up meanwhile.
type watching struct {
	*request
	ctx      context.Context
	cancel   context.CancelFunc
	spec     kv.WatchSpec
	controls chan kv.WatchControl
	reading  sync.WaitGroup

	mu  sync.Mutex // one frame at a time
	err error      // why a batch could not be written
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
	w := &watching{request: q, spec: spec, controls: make(chan kv.WatchControl, controlQueue)}
	w.spec.By.Node, w.spec.Control = q.peer.speaker(spec.By.Node), w.controls
	w.ctx, w.cancel = context.WithCancel(q.taking)
	return w.run, nil
}

// run writes the watch down the stream.
func (w *watching) run() error {
	w.reading.Go(w.read)
	w.server.backend.Watch(w.ctx, w.spec)(w.send)
	w.cancel()
	w.st.CancelRead(codeDone) // wakes the reader of controls
	w.reading.Wait()
	return w.err
}

// send writes a batch, or the end of all.
func (w *watching) send(b kv.Batch, err error) (more bool) {
	if err != nil {
		w.err = w.write(wire.AppendAnyError(nil, err))
		return false
	}
	if err := w.write(wire.AppendBatch(nil, b)); err != nil {
		w.err = fmt.Errorf("write a batch: %w", err)
		return false
	}
	return true
}

func (w *watching) write(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return wire.WriteFrame(w.st, b)
}

// read passes on what the peer asks for, until it has said that no more will come, or has gone away, which ends the watch.
func (w *watching) read() {
	for {
		if _, err := w.r.Peek(1); err != nil { // waits, from a shallow stack: see line
			w.readAll(errors.Is(err, io.EOF))
			return
		}
		if !w.control() {
			w.readAll(false)
			return
		}
	}
}

func (w *watching) readAll(asked bool) {
	if asked {
		close(w.controls)
	} else {
		w.cancel()
	}
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
		rctx, cancel := context.WithTimeout(w.ctx, requestTimeout)
		_, err := w.server.backend.Read(rctx, kv.Query{By: kv.By{Node: w.peer.Node}})
		cancel()
		if err != nil {
			return w.write(wire.AppendBatch(nil, kv.Batch{WatchID: kv.WatchAll, Progress: true, Err: asError(err)})) == nil
		}
	}
	select {
	case w.controls <- c:
		return true
	case <-w.ctx.Done():
		return false
	}
}
