package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// incompressible is a value that takes as many bytes on the way as it has.
func incompressible(seed uint64, size int) string {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b) // never fails
	return string(b)
}

// TestLongValuesUnderLoss holds how long values take of which a connection of quic-go carries few at that loss. Short ones meanwhile
// come after the long one before them, and no longer; no heartbeat is missed.
func TestLongValuesUnderLoss(t *testing.T) {
	for i, f := range []struct {
		name  string
		size  int
		count int
		gap   time.Duration
		rate  int64 // bits a second
		p50   time.Duration
		most  time.Duration
	}{
		{name: "64 kB", size: 64 << 10, count: 30, gap: 500 * time.Millisecond, rate: 100e6, p50: 250 * time.Millisecond, most: 600 * time.Millisecond},
		{name: "1 MiB", size: 1 << 20, count: 8, gap: 6 * time.Second, rate: 100e6, p50: time.Second, most: 2 * time.Second},
		{name: "1 MiB over 20 Mbit/s", size: 1 << 20, count: 6, gap: 6 * time.Second, rate: 20e6, p50: 1200 * time.Millisecond, most: 2500 * time.Millisecond},
		{name: "256 kB over 1 Mbit/s", size: 256 << 10, count: 5, gap: 12 * time.Second, rate: 1e6, p50: 3500 * time.Millisecond, most: 8 * time.Second},
	} {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := uint64(200 + i) //nolint:gosec // few
				c := New(t, Options{Seed: seed, Delay: floorRTT / 2})
				c.Start()
				leader := c.Leader()
				for _, a := range c.Nodes() {
					for _, b := range c.Others(a) {
						c.Net.Link(a.Name, b.Name).Loss(.05).Rate(f.rate)
					}
				}
				writeAt(t, leader, 200, 50*time.Millisecond) // in which the loss is noticed
				short := make(chan *latencies)
				go func() {
					short <- writeAt(t, leader, int(time.Duration(f.count)*f.gap/(50*time.Millisecond)), 50*time.Millisecond)
				}()
				long := &latencies{began: time.Now()}
				value := incompressible(seed, f.size)
				before := c.wire()
				for j := range f.count {
					began := time.Now()
					if _, err := leader.Do(context.Background(), put(fmt.Sprintf("long%02d", j), value)); err != nil {
						t.Errorf("value %d: %v", j, err)
					}
					long.add(began)
					time.Sleep(time.Until(began.Add(f.gap)))
				}
				s := <-short
				t.Logf("long %s; at most %s; short %s; %d bytes for each", long, long.quantile(1), s, (c.wire().Bytes-before.Bytes)/f.count)
				if c.Leader() != leader {
					t.Error("another member leads")
				}
				if p50, most := long.quantile(.5), long.quantile(1); p50 > f.p50 || most > f.most {
					t.Errorf("p50 %s, at most %s, want %s and %s", p50, most, f.p50, f.most)
				}
				if most := s.quantile(1); most > f.most+floorRTT {
					t.Errorf("a short one took %s", most)
				}
				if t.Failed() {
					long.keep(t, seed)
				}
			})
		})
	}
}
