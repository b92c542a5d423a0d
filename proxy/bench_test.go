package proxy

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"holdfast/kv"
)

// BenchmarkCachedRead is a read of one of ten thousand mirrored keys of 128 bytes, which the feed brought a while ago.
func BenchmarkCachedRead(b *testing.B) {
	l := newLink()
	const n = 10_000
	var keys [][]byte
	for i := range n {
		key := fmt.Appendf(nil, "a/%05d", i)
		keys = append(keys, key)
		if _, err := l.Do(b.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: key, Value: make([]byte, 128)}}}); err != nil {
			b.Fatal(err)
		}
	}
	began := time.Now()
	p, err := New(Options{Upstream: l, Path: filepath.Join(b.TempDir(), "c"), Prefixes: [][]byte{[]byte("a/")}, Clock: func() time.Duration { return time.Since(began) }})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(b.Context())
	go func() { done <- p.Run(ctx) }()
	for !p.State().Synced {
		time.Sleep(time.Millisecond)
	}
	q := kv.Query{MaxAge: time.Hour}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i = (i + 7919) % n
		q.Ops = []kv.Op{kv.Range{Key: keys[i]}}
		if page, err := p.Read(b.Context(), q); err != nil || page.Source != kv.SourceCache {
			b.Fatal(page, err)
		}
	}
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	if err := p.Close(); err != nil {
		b.Error(err)
	}
}
