package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// builder makes the binaries: stripped, without cgo and without paths, the way they are shipped. The Go build cache
// makes doing it again cheap, so it is done on every run and nothing stale is measured.
type builder struct {
	cache   string
	product string
}

func newBuilder(cache, product string) (*builder, error) {
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find the user's cache directory (set -cache): %w", err)
		}
		cache = filepath.Join(user, "holdfast-bench")
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", cache, err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache: %w", err)
	}
	return &builder{cache: cache, product: product}, nil
}

// agent builds the product.
func (b *builder) agent(ctx context.Context) (string, error) {
	return b.build(ctx, b.product, "./cmd/agent", "agent", "-tags=grpcnotrace") // as the Makefile does
}

// etcd builds the peer, from this module, whose go.mod pins its version.
func (b *builder) etcd(ctx context.Context) (string, error) {
	return b.build(ctx, ".", "./cmd/etcd", "etcd")
}

func (b *builder) build(ctx context.Context, dir, pkg, name string, flags ...string) (string, error) {
	bin := filepath.Join(b.cache, name)
	args := append([]string{"build", "-C", dir, "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s in %s (run this as go run -C test/bench .): %w\n%s", pkg, dir, err, bytes.TrimSpace(out))
	}
	return bin, nil
}
