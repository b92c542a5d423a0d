package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// Watch opens one stream on the present connection. It ends with UpstreamUnavailable when the connection does; whoever
// wants more (a proxy) opens another from the revision it has.
func (c *Client) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		l, err := c.liveEarly(ctx)
		if err != nil {
			yield(kv.Batch{}, err)
			return
		}
		l.leave() // whoever watches goes along when the client moves
		if err := watch(ctx, l, spec, yield); err != nil {
			yield(kv.Batch{}, err)
		}
	}
}

// watch runs one stream. It returns nil if the consumer had enough or ctx ended.
func watch(ctx context.Context, l *link, spec kv.WatchSpec, yield func(kv.Batch, error) bool) error {
	st, err := l.OpenStream(ctx)
	if err != nil {
		return unavailable(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { st.Abort(0) })
	moved := make(chan struct{})
	var moving sync.WaitGroup
	moving.Go(func() {
		select {
		case <-l.retired:
			st.Abort(0)
		case <-moved:
		}
	})
	defer moving.Wait()
	defer close(moved)
	var beside sync.WaitGroup
	waiting := newBacklog(l)
	defer waiting.end()
	defer beside.Wait()
	defer stop()
	defer st.Abort(0)
	defer cancel()
	req := wire.UplinkRequest{Verb: wire.UplinkWatch, Body: wire.AppendWatchSpec(nil, spec)}
	if err := wire.WriteFrame(st, req.Append(nil)); err != nil {
		return unavailable(err)
	}
	if spec.Control == nil { // the end of what is asked for is the end of the stream's upper half
		if err := st.Close(); err != nil {
			return unavailable(err)
		}
	} else {
		beside.Go(func() { controls(ctx, st, spec.Control) })
	}
	beside.Go(func() { waiting.fill(ctx, st) })
	for {
		frame, err := waiting.take(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF): // its last watch is gone, and no more can come
			return nil
		case err != nil:
			if e := l.Err(); e != nil {
				err = e
			} else if isClosed(l.retired) {
				err = errMoved
			}
			return unavailable(err)
		}
		if wire.IsError(frame) {
			e, err := wire.DecodeError(frame)
			if err != nil {
				return fmt.Errorf("uplink: %w", err)
			}
			return e
		}
		b, err := wire.DecodeBatch(frame)
		if err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
		if !yield(b, nil) {
			return nil
		}
	}
}

// controls sends what the consumer asks for until ctx or the channel ends.
func controls(ctx context.Context, st Stream, in <-chan kv.WatchControl) {
	for {
		select {
		case c, ok := <-in:
			if !ok {
				_ = st.Close() // a stream that is broken is noticed by its reader
				return
			}
			if wire.WriteFrame(st, wire.AppendWatchControl(nil, c)) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
