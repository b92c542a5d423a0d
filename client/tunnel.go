package client

import (
	"context"
	"errors"
	"io"
	"sync"

	"holdfast/internal/wire"
)

// tunnelBuffer is what each direction of a tunnel holds in memory: what goes through one is small and rare.
const tunnelBuffer = 1 << 10

// Carry connects a stream of a node below with one to the node above, both ways, until either ends. The error is why what comes from
// above has ended early, nil if it came to its end.
func (c *Client) Carry(ctx context.Context, low Stream) error {
	l, err := c.live(ctx)
	if err != nil {
		return err
	}
	l.leave() // whoever is behind opens another tunnel when the client moves
	ctx, cancel := context.WithCancel(ctx)
	var moving sync.WaitGroup
	defer moving.Wait()
	defer cancel()
	moving.Go(func() {
		select {
		case <-l.retired:
			cancel()
		case <-ctx.Done():
		}
	})
	high, err := l.OpenStream(ctx)
	if err != nil {
		return unavailable(err)
	}
	var rising sync.WaitGroup
	defer rising.Wait()
	defer low.CancelRead(0) // wakes who reads from below
	defer high.Abort(0)
	defer context.AfterFunc(ctx, func() { high.Abort(0) })()
	if err := wire.WriteFrame(high, wire.UplinkRequest{Verb: wire.UplinkTunnel}.Append(nil)); err != nil {
		return unavailable(err)
	}
	rising.Go(func() {
		if failed, err := pass(high, low); failed != nil || err != nil {
			high.Abort(0)
			return
		}
		_ = high.Close() // a stream that is broken is noticed by its reader
	})
	failed, err := pass(low, high)
	if failed != nil {
		return failed
	}
	return err
}

// pass copies until the end of src, which is no error, or until reading has failed, or writing.
func pass(dst io.Writer, src io.Reader) (failed, err error) {
	b := make([]byte, tunnelBuffer)
	for {
		n, rerr := src.Read(b)
		if n > 0 {
			if _, err := dst.Write(b[:n]); err != nil {
				return nil, err
			}
		}
		switch {
		case errors.Is(rerr, io.EOF):
			return nil, nil
		case rerr != nil:
			return rerr, nil
		}
	}
}
