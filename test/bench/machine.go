package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is what figures depend on and cannot be compared without.
type machine struct {
	CPU        string  `json:"cpu"`
	Cores      int     `json:"cores"`
	Kernel     string  `json:"kernel"`
	Go         string  `json:"go"`
	Filesystem string  `json:"filesystem"`
	SyncP50    float64 `json:"append_fdatasync_p50_ms"` // 4 KiB each, before the suites
	SyncP99    float64 `json:"append_fdatasync_p99_ms"`
	EndP50     float64 `json:"append_fdatasync_end_p50_ms"` // and after them
	EndP99     float64 `json:"append_fdatasync_end_p99_ms"`
}

// errMemory is for a directory in memory: fsync costs nothing there, so no figure of a durable store means anything.
var errMemory = errors.New("data directories would be in memory, where fsync means nothing: name a directory on a disk with -dir")

// inMemory names the filesystem of a run that asked for one without a disk.
const inMemory = "no disk (in memory)"

// look takes stock. A directory in memory is an error unless memory asks for it.
func look(dir string, memory bool) (machine, error) {
	m := machine{CPU: "unknown CPU", Cores: runtime.NumCPU(), Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(v)
				break
			}
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("uname: %w", err)
	}
	m.Kernel = string(bytes.TrimRight(u.Release[:], "\x00"))
	var err error
	if m.Filesystem, err = filesystem(dir); memory && errors.Is(err, errMemory) {
		m.Filesystem = inMemory
	} else if err != nil {
		return m, err
	}
	m.SyncP50, m.SyncP99, err = probe(dir)
	return m, err
}

func filesystem(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("statfs %s: %w", dir, err)
	}
	switch int64(st.Type) { //nolint:unconvert // the field is 32 bits wide on some architectures
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "", errMemory
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "xfs", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs", nil
	}
	return fmt.Sprintf("%#x", st.Type), nil
}

// probe is the disk alone: the price of one durable 4 KiB append after the other, in milliseconds.
func probe(dir string) (p50, p99 float64, err error) { return probePaced(context.Background(), dir, 0) }

// probePaced makes one append each so often, 0 for one after the other, and counts from when it was due: a disk, and a CPU,
// that have nothing to do in between take longer to begin.
func probePaced(ctx context.Context, dir string, every time.Duration) (p50, p99 float64, err error) {
	f, err := os.Create(filepath.Join(dir, "probe"))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := bytes.Repeat([]byte{0xa5}, 4096)
	var took []float64
	next := time.Now()
	for range 500 {
		t := time.Now()
		if every > 0 {
			if next = next.Add(every); next.After(t) {
				if err := wakeAt(ctx, next); err != nil {
					return 0, 0, err
				}
			}
			t = next
		}
		if _, err := f.Write(block); err != nil {
			return 0, 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, 0, fmt.Errorf("fdatasync: %w", err)
		}
		took = append(took, ms(time.Since(t)))
	}
	slices.Sort(took)
	return quantile(took, 0.5), quantile(took, 0.99), nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
