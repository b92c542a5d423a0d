package auth

import (
	"context"
	"iter"
	"testing"
	"time"

	"holdfast/kv"
)

type nullNode struct{}

func (nullNode) Do(context.Context, kv.Command) (kv.Result, error) { return kv.Result{}, nil }
func (nullNode) Read(context.Context, kv.Query) (kv.Page, error)   { return kv.Page{}, nil }
func (nullNode) Watch(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(func(kv.Batch, error) bool) {}
}

func BenchmarkGuardPut(b *testing.B) {
	p := shop(b)
	token, err := p.Sign("writer", time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]struct {
		p  *Policy
		by kv.By
	}{"off": {nil, kv.By{}}, "token": {p, kv.By{Token: "Bearer " + token}}, "certificate": {p, kv.By{Principal: "writer"}}} {
		b.Run(name, func(b *testing.B) {
			g := NewGuard(nullNode{}, func() Source { return Source{Policy: func() (*Policy, bool) { return c.p, true }, Signs: true} }, Options{})
			cmd := kv.Command{By: c.by, Ops: []kv.Op{kv.Put{Key: []byte("a1"), Value: []byte("v")}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Do(b.Context(), cmd); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
