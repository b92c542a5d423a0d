package mvcc

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"holdfast/kv"
)

const benchKeys = 10_000

func benchKey(i int) []byte {
	h := uint32(i) * 2654435761 % benchKeys
	return fmt.Appendf(nil, "bench/site/%08d", h)
}

func benchStore(b *testing.B, opts Options, keys int) *Store {
	b.Helper()
	s, err := Open(filepath.Join(b.TempDir(), "store"), opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	for i := range keys {
		benchApply(b, s, []Entry{{uint64(i + 1), kv.Command{Ops: []kv.Op{kv.Put{Key: fmt.Appendf(nil, "bench/site/%08d", i), Value: make([]byte, 128)}}}}})
	}
	if err := s.Flush(); err != nil {
		b.Fatal(err)
	}
	return s
}

func benchApply(b *testing.B, s *Store, entries []Entry) {
	b.Helper()
	if _, err := s.Apply(entries); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkApplyPut puts 128 bytes on random keys; the flushes that this takes are part of it.
func BenchmarkApplyPut(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			s := benchStore(b, Options{}, benchKeys)
			entries := make([]Entry, batch)
			value := make([]byte, 128)
			index := s.Applied()
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				for i := range entries {
					index++
					entries[i] = Entry{index, kv.Command{Ops: []kv.Op{kv.Put{Key: benchKey(int(index)), Value: value}}}}
				}
				benchApply(b, s, entries)
				n += batch
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/put")
		})
	}
}

func BenchmarkPointRead(b *testing.B) {
	for _, where := range []string{"file", "overlay"} {
		b.Run(where, func(b *testing.B) {
			s := benchStore(b, Options{FlushBytes: 64 << 20}, benchKeys)
			if where == "overlay" {
				for i := range benchKeys {
					benchApply(b, s, []Entry{{uint64(benchKeys + i + 1), kv.Command{Ops: []kv.Op{kv.Put{Key: benchKey(i), Value: make([]byte, 128)}}}}})
				}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				page, err := s.Read(kv.Query{Ops: []kv.Op{kv.Range{Key: benchKey(i)}}})
				if err != nil || len(page.Ops[0].KVs) != 1 {
					b.Fatal(err, page)
				}
			}
		})
	}
}

func BenchmarkRange100(b *testing.B) {
	s := benchStore(b, Options{}, benchKeys)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		from := (i * 7919) % (benchKeys - 100)
		q := kv.Range{Key: fmt.Appendf(nil, "bench/site/%08d", from), End: fmt.Appendf(nil, "bench/site/%08d", from+100)}
		page, err := s.Read(kv.Query{Ops: []kv.Op{q}})
		if err != nil || len(page.Ops[0].KVs) != 100 {
			b.Fatal(err, len(page.Ops[0].KVs))
		}
	}
}

// BenchmarkFlush flushes 1,000 changes of random keys, and reports what that writes for each.
func BenchmarkFlush(b *testing.B) {
	s := benchStore(b, Options{FlushBytes: 64 << 20}, benchKeys)
	index := s.Applied()
	before := s.layers.Load().file.db.Stats()
	n := 0
	for b.Loop() {
		b.StopTimer()
		for range 1000 {
			index++
			n++
			key := binary.BigEndian.AppendUint32([]byte("bench/"), uint32(index)*2654435761%benchKeys)
			benchApply(b, s, []Entry{{index, kv.Command{Ops: []kv.Op{kv.Put{Key: key, Value: make([]byte, 128)}}}}})
		}
		b.StartTimer()
		if err := s.Flush(); err != nil {
			b.Fatal(err)
		}
	}
	after := s.layers.Load().file.db.Stats()
	written := after.TxStats.GetPageAlloc() - before.TxStats.GetPageAlloc()
	b.ReportMetric(float64(written)/float64(n), "B/put")
}

// BenchmarkFanOut puts a key that a thousand streams watch, and waits until each has the event. What counts is the CPU of an
// event: the time of a round depends on who else is on the machine.
func BenchmarkFanOut(b *testing.B) {
	const streams = 1000
	s := benchStore(b, Options{}, 1)
	ctx, cancel := context.WithCancel(b.Context())
	var running, ready, got sync.WaitGroup
	defer running.Wait()
	defer cancel()
	ready.Add(streams)
	control := make(chan kv.WatchControl)
	for range streams {
		running.Go(func() {
			spec := kv.WatchSpec{Watches: []kv.Watch{{Key: []byte("watched")}}, Control: control}
			for batch := range s.Watch(ctx, spec) {
				if batch.Created {
					ready.Done()
				}
				for range batch.Events {
					got.Done()
				}
			}
		})
	}
	ready.Wait()
	index, before := s.Applied(), cpu(b)
	b.ReportAllocs()
	for b.Loop() {
		got.Add(streams)
		index++
		benchApply(b, s, []Entry{{index, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("watched"), Value: make([]byte, 128)}}}}})
		got.Wait()
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N)/streams, "cpu-ns/event")
}

// cpu is what the process has used, in nanoseconds.
func cpu(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
