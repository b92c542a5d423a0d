package api

import (
	"context"
	"sync/atomic"
)

type nameKey struct{}

// WithName returns ctx with a place for the name of who asks, which only the judge behind the door finds out from a token.
// Whoever wants to write it down asks NameIn afterwards. A place that is there already is kept.
func WithName(ctx context.Context) context.Context {
	if _, ok := ctx.Value(nameKey{}).(*atomic.Value); ok {
		return ctx
	}
	return context.WithValue(ctx, nameKey{}, new(atomic.Value))
}

// SetName puts a name into its place, if there is one.
func SetName(ctx context.Context, name string) {
	if place, ok := ctx.Value(nameKey{}).(*atomic.Value); ok {
		place.Store(name)
	}
}

// NameIn is the name that was found out, empty if none was.
func NameIn(ctx context.Context) string {
	if place, ok := ctx.Value(nameKey{}).(*atomic.Value); ok {
		name, _ := place.Load().(string)
		return name
	}
	return ""
}
