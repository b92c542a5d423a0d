package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// writer is a client on the spot of the member, which writes a key every 20 ms.
type writer struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	times []time.Duration
	err   error
}

// latency is of the PUTs of a while, in seconds.
type latency struct {
	Count         int
	P50, P99, Max float64
}

const writeEvery = 20 * time.Millisecond

func (c *writer) begin(ctx context.Context, m *member) {
	ctx, c.stop = context.WithCancel(ctx)
	c.times, c.err = nil, nil
	c.done.Go(func() {
		tick := time.NewTicker(writeEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			took, err := m.put(context.WithoutCancel(ctx), "local")
			if err != nil {
				c.err = fmt.Errorf("a client of the member: %w", err)
				return
			}
			c.times = append(c.times, took)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
}

// end ends it and says how it fared.
func (c *writer) end() (latency, error) {
	c.stop()
	c.done.Wait()
	if c.err != nil {
		return latency{}, c.err
	}
	slices.Sort(c.times)
	at := func(share float64) float64 { return c.times[int(share*float64(len(c.times)-1))].Seconds() }
	return latency{len(c.times), at(0.5), at(0.99), at(1)}, nil
}
