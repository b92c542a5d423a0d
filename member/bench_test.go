package member

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/kv"
)

// drive calls fn b.N times from n goroutines and reports the rate and the latencies.
func drive(b *testing.B, n int, fn func(i int64) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	took := make([]time.Duration, b.N)
	b.ResetTimer()
	for range n {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				began := time.Now()
				if err := fn(i); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	report(b, took)
}

func BenchmarkPut(b *testing.B) {
	for _, n := range []int{1, 32, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := start(b, b.TempDir())
			value := make([]byte, 128)
			_, _ = rand.NewChaCha8([32]byte{}).Read(value)
			syncs, written := m.fs.syncs.Load(), m.fs.written.Load()
			drive(b, n, func(int64) error {
				key := fmt.Appendf(nil, "key/%06d", rand.IntN(10_000))
				_, err := m.Do(b.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: key, Value: value}}})
				return err
			})
			b.ReportMetric(float64(m.fs.syncs.Load()-syncs)/float64(b.N), "fsyncs/op")
			b.ReportMetric(float64(m.fs.written.Load()-written)/float64(b.N), "logB/op")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1, 32, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := start(b, b.TempDir())
			for i := range 1000 {
				m.put(fmt.Sprintf("key/%06d", i), "v")
			}
			drive(b, n, func(int64) error {
				key := fmt.Appendf(nil, "key/%06d", rand.IntN(1000))
				_, err := m.Read(b.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: key}}})
				return err
			})
		})
	}
}

func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	start(b, dir).close()
	for b.Loop() {
		start(b, dir).close()
	}
}

// report adds the rate and the median and 99th percentile of took.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "op/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}
