package compat

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// The packages that are built from this module, whose go.mod pins their version.
const (
	etcdPackage = "go.etcd.io/etcd/server/v3"
	ctlPackage  = "go.etcd.io/etcd/etcdctl/v3"
)

// binaries are the files that are run.
type binaries struct{ etcd, ctl, agent string }

// built makes what has to be made, once for all tests. go build writes nothing where nothing changed.
var built = sync.OnceValues(func() (b binaries, err error) {
	cache := os.Getenv("CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return b, fmt.Errorf("find the user's cache directory (set CACHE): %w", err)
		}
		cache = filepath.Join(user, "holdfast-build")
	}
	cache = filepath.Join(cache, "compat")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return b, fmt.Errorf("make the cache: %w", err)
	}
	b = binaries{etcd: filepath.Join(cache, "etcd"), ctl: filepath.Join(cache, "etcdctl"), agent: os.Getenv("AGENT")}
	if err := build(".", etcdPackage, b.etcd); err != nil {
		return b, err
	}
	if err := build(".", ctlPackage, b.ctl); err != nil {
		return b, err
	}
	if b.agent == "" {
		b.agent = filepath.Join(cache, "agent")
		return b, build(filepath.Join("..", ".."), "./cmd/agent", b.agent)
	}
	if _, err := os.Stat(b.agent); err != nil {
		return b, fmt.Errorf("AGENT: %w", err)
	}
	return b, nil
})

func build(dir, pkg, bin string) error {
	cmd := exec.Command("go", "build", "-C", dir, "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, bytes.TrimSpace(out))
	}
	return nil
}
