package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is a file system of a server's own, on a loop device over a sparse file, so that every byte its device is told to
// write is the server's, the journal's included. It is mounted in a namespace that ends with the server; the open
// directory keeps it until the last count has been taken.
//
// What the kernel charges a process with (write_bytes of /proc/PID/io) is no stand-in: it leaves out the journal, which
// is three quarters of what an append and fsync cost, and counts a whole folio, up to some hundred kB, when 4 KiB of
// it are made dirty.
type disk struct {
	dir  *os.File
	stat string
}

// imageBytes is the size of the sparse file: more than any run writes, and than what a store wants to keep free.
const imageBytes = 4 << 30

// diskTools are the commands that a disk takes, besides root.
var diskTools = [...]string{"mkfs.ext4", "unshare", "mount", "losetup"}

// makeImage makes an empty ext4 on a file. Nothing of making it is left to be done in the background.
func makeImage(ctx context.Context, path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, imageBytes); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-N", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// onDisk is the command that runs another with the image mounted on dir. All of it is one process.
func onDisk(image, dir, bin string, args []string) (string, []string) {
	const script = `mount -o loop "$0" "$1" && mkdir "$1/data" && cd "$1/data" && shift && exec "$@"`
	return "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", script, image, dir, bin}, args...)
}

// openDisk finds the disk of a process that was started with onDisk and is ready.
func openDisk(pid int, image, dir string) (*disk, error) {
	out, err := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", image).Output()
	if err != nil {
		return nil, fmt.Errorf("losetup: %w", err)
	}
	name := filepath.Base(strings.TrimSpace(string(out)))
	if !strings.HasPrefix(name, "loop") {
		return nil, fmt.Errorf("no loop device for %s", image)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/root%s", pid, dir))
	if err != nil {
		return nil, err
	}
	return &disk{dir: f, stat: "/sys/block/" + name + "/stat"}, nil
}

// wrote is how many bytes the device has been told to write, after it was told to write all there is.
func (d *disk) wrote() (int64, error) {
	if err := unix.Syncfs(int(d.dir.Fd())); err != nil {
		return 0, fmt.Errorf("syncfs: %w", err)
	}
	b, err := os.ReadFile(d.stat)
	if err != nil {
		return 0, err
	}
	return parseDiskStat(string(b))
}

// parseDiskStat reads the sectors written, the seventh field of /sys/block/*/stat, in units of 512 bytes whatever the
// device (Documentation/block/stat.rst).
func parseDiskStat(stat string) (int64, error) {
	f := strings.Fields(stat)
	if len(f) < 7 {
		return 0, fmt.Errorf("not a block device's stat: %q", stat)
	}
	n, err := strconv.ParseInt(f[6], 10, 64)
	return n * 512, err
}

// Close lets the file system go.
func (d *disk) Close() error { return d.dir.Close() }

// disks reports whether servers can be given disks of their own, and if not why.
func (b *bench) disks(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("that takes root")
	}
	for _, tool := range diskTools {
		if !installed(tool) {
			return fmt.Errorf("%s is not installed", tool)
		}
	}
	image, dir, err := b.image(ctx)
	defer b.discard(dir)
	if err != nil {
		return err
	}
	bin, args := onDisk(image, filepath.Join(dir, "mnt"), "true", nil)
	if out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// image makes a directory with an image in it and a place to mount it on.
func (b *bench) image(ctx context.Context) (image, dir string, err error) {
	if dir, err = b.tempDir(); err != nil {
		return "", "", err
	}
	if err := os.Mkdir(filepath.Join(dir, "mnt"), 0o700); err != nil {
		return "", dir, err
	}
	image = filepath.Join(dir, "image")
	return image, dir, makeImage(ctx, image)
}
