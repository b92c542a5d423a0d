//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	diskSize  = 1 << 30
	reserve   = diskSize / 8 // store.disk-reserve on a disk of that size, a little less in truth
	valueSize = 256 << 10
)

// TestFullDiskRefusesWritesAndRecovers writes until the disk of an agent is full. Then writes are answered 507, reads and
// deletes go on, a kill and a restart on the full disk lose nothing, and as soon as there is room writes are accepted
// again, without anybody's help.
func TestFullDiskRefusesWritesAndRecovers(t *testing.T) {
	disk := &disk{t: t, path: smallDisk(t)}
	addr := freeAddr(t)
	a := start(t, filepath.Join(disk.path, "data"), addr, "--store-flush=500ms")

	disk.leave(reserve + 200<<20)
	refusal := disk.writeUntilRefused(a)
	t.Logf("507 after %d values of %d KiB, with %d MiB free: %s", len(disk.acked), valueSize>>10, disk.free()>>20, refusal)
	disk.servesReads(a)
	if r := a.do("DELETE", "/v1/kv/"+disk.acked[0], nil); r.status != http.StatusOK {
		t.Errorf("DELETE on a full disk: %d %s", r.status, r.body)
	}
	disk.acked = disk.acked[1:]
	disk.leave(reserve / 2)
	a.kill()
	disk.recovers(disk.restart(addr), addr)
}

// TestDiskFilledToTheLastByteLosesNothing takes every byte away under a running agent, as a core dump of another program
// does. It may acknowledge a little more, which it then has, and goes on answering: 507 to writes.
func TestDiskFilledToTheLastByteLosesNothing(t *testing.T) {
	disk := &disk{t: t, path: smallDisk(t)}
	addr := freeAddr(t)
	a := start(t, filepath.Join(disk.path, "data"), addr, "--store-flush=500ms")
	for n := range 20 {
		key := fmt.Sprintf("before-%d", n)
		if r := a.do("PUT", "/v1/kv/"+key, disk.value(key)); r.status != http.StatusCreated {
			t.Fatalf("PUT: %d %s", r.status, r.body)
		}
		disk.acked = append(disk.acked, key)
	}
	disk.leave(0)
	disk.eventuallyRefuses(a, "more")
	time.Sleep(2 * time.Second) // some flushes come due
	disk.servesReads(a)
	a.kill()
	disk.recovers(disk.restart(addr), addr)
}

// recovers gives room, and expects the agent to take writes again.
func (d *disk) recovers(a *agent, addr string) {
	d.t.Helper()
	d.room()
	select {
	case <-a.exited: // it has said that trying again may help, and this is what a service manager would do
		a = start(d.t, a.dir, addr)
	default:
	}
	eventually(d.t, 30*time.Second, func() string {
		if r := a.do("PUT", "/v1/kv/room-again", d.value("room-again")); r.status != http.StatusCreated {
			return fmt.Sprintf("PUT with room again: %d %s", r.status, r.body)
		}
		return ""
	})
	d.servesReads(a)
	if code := a.stop(); code != 0 {
		d.t.Errorf("exit code %d when asked to stop", code)
	}
}

// TestWritesAreAcceptedAgainWhileRunning goes back and forth between too little room and enough.
func TestWritesAreAcceptedAgainWhileRunning(t *testing.T) {
	disk := &disk{t: t, path: smallDisk(t)}
	a := start(t, filepath.Join(disk.path, "data"), freeAddr(t), "--store-flush=500ms")
	for round := range 3 {
		disk.leave(reserve / 4)
		disk.eventuallyRefuses(a, fmt.Sprintf("full-%d", round))
		disk.room()
		eventually(t, 10*time.Second, func() string {
			r := a.do("PUT", fmt.Sprintf("/v1/kv/room/%d", round), []byte("v"))
			if r.status == http.StatusCreated {
				return ""
			}
			return fmt.Sprintf("PUT with room again: %d %s", r.status, r.body)
		})
	}
	disk.servesReads(a)
}

// disk is a small file system and what was acknowledged on it.
type disk struct {
	t     *testing.T
	path  string
	acked []string
}

// smallDisk mounts a file system of diskSize: ext4 in a file, or memory where there are no loop devices.
func smallDisk(t *testing.T) string {
	t.Helper()
	image, at := filepath.Join(t.TempDir(), "disk.ext4"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, diskSize); err != nil {
		t.Fatal(err)
	}
	must(t, "mkfs.ext4", "-q", "-m", "0", "-F", image)
	out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput()
	if err != nil {
		t.Logf("no loop mount here (%v: %s): a file system in memory instead, whose fsync proves nothing", err, out)
		must(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", diskSize), "tmpfs", at)
	}
	t.Cleanup(func() { must(t, "umount", at) })
	return at
}

// must runs a command that has to work.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (d *disk) free() int64 {
	d.t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.path, &s); err != nil {
		d.t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// leave fills the disk until only so many bytes are free.
func (d *disk) leave(bytes int64) {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.path, "filler"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for chunk := make([]byte, 1<<20); ; {
		more := d.free() - bytes
		if more <= 0 {
			return
		}
		// A short write is the end of the disk, which was the aim: the file system keeps a little for itself.
		if n, err := f.Write(chunk[:min(more, int64(len(chunk)))]); n == 0 || err != nil {
			if bytes > 0 {
				d.t.Fatalf("fill the disk: %v", err)
			}
			return
		}
	}
}

// room gives back what leave took.
func (d *disk) room() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.path, "filler")); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) value(key string) []byte {
	return []byte(strings.Repeat(key+" ", valueSize/(len(key)+1)))
}

// writeUntilRefused puts new keys until it is answered 507, and returns what that says.
func (d *disk) writeUntilRefused(a *agent) string {
	d.t.Helper()
	for n := range 10 * diskSize / valueSize {
		key := fmt.Sprintf("disk/%05d", n)
		r := a.do("PUT", "/v1/kv/"+key, d.value(key))
		switch r.status {
		case http.StatusCreated:
			d.acked = append(d.acked, key)
			continue
		case http.StatusInsufficientStorage:
		default:
			d.t.Fatalf("PUT %s: %d %s", key, r.status, r.body)
		}
		var problem struct{ Code, Outcome, Detail string }
		if err := json.Unmarshal(r.body, &problem); err != nil || problem.Code != "no-space" || problem.Outcome != "none" || problem.Detail == "" {
			d.t.Errorf("507 says %s", r.body)
		}
		if r.header.Get("Retry-After") == "" {
			d.t.Error("507 has no Retry-After")
		}
		if len(d.acked) < 10 {
			d.t.Fatalf("only %d values were accepted, with %d MiB free", len(d.acked), d.free()>>20)
		}
		return problem.Detail
	}
	d.t.Fatalf("never refused, %d MiB free", d.free()>>20)
	return ""
}

// eventuallyRefuses puts new keys until it is answered 507, soon: an agent need not look at the disk for each write. What
// it acknowledges until then counts.
func (d *disk) eventuallyRefuses(a *agent, prefix string) {
	d.t.Helper()
	n := 0
	eventually(d.t, 15*time.Second, func() string {
		n++
		key := fmt.Sprintf("%s-%d", prefix, n)
		r := a.do("PUT", "/v1/kv/"+key, d.value(key))
		switch r.status {
		case http.StatusInsufficientStorage:
			return ""
		case http.StatusCreated:
			d.acked = append(d.acked, key)
		default:
			d.t.Fatalf("PUT %s: %d %s", key, r.status, r.body)
		}
		return fmt.Sprintf("PUT with %d MiB free: %d %s", d.free()>>20, r.status, r.body)
	})
}

// servesReads looks at all that was acknowledged, and at what never may fail.
func (d *disk) servesReads(a *agent) {
	d.t.Helper()
	for _, key := range d.acked {
		if r := a.do("GET", "/v1/kv/"+key, nil); r.status != http.StatusOK || string(r.body) != string(d.value(key)) {
			d.t.Fatalf("GET %s: %d, %d bytes", key, r.status, len(r.body))
		}
	}
	for _, path := range []string{"/livez", "/v1/status", "/metrics"} {
		if r := a.do("GET", path, nil); r.status != http.StatusOK {
			d.t.Errorf("GET %s: %d %s", path, r.status, r.body)
		}
	}
}

// restart starts the agent on the full disk. It may serve; else it has to end with 75 and say that it wants room.
func (d *disk) restart(addr string) *agent {
	d.t.Helper()
	a := launch(d.t, filepath.Join(d.path, "data"), addr)
	ctx, cancel := context.WithTimeout(d.t.Context(), startMax)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case <-a.exited:
			text := a.logTail()
			if code := a.cmd.ProcessState.ExitCode(); code != exitTemporary || !strings.Contains(text, "space") {
				d.t.Errorf("start on a full disk: exit code %d, want %d and a word on space:\n%s", code, exitTemporary, text)
			}
			return a
		case <-time.After(50 * time.Millisecond):
		}
		if r, err := call(ctx, http.DefaultClient, "GET", a.url+"/readyz", nil); err == nil && r.status == http.StatusOK {
			d.servesReads(a)
			if r := a.do("PUT", "/v1/kv/full", d.value("full")); r.status != http.StatusInsufficientStorage {
				d.t.Errorf("PUT after a restart on a full disk: %d %s", r.status, r.body)
			}
			return a
		}
	}
	d.t.Fatalf("start on a full disk: neither ready nor ended:\n%s", a.logTail())
	return nil
}
