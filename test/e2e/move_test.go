//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDataSurvivesANewHostNameAndANewPlace starts an agent again after the machine was renamed, as DHCP does to edge
// nodes, and after its data dir was moved to another disk.
func TestDataSurvivesANewHostNameAndANewPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for i, host := range []string{"factory", "edge-17", "edge-17"} {
		if i == 2 {
			moved := filepath.Join(t.TempDir(), "elsewhere")
			if err := os.Rename(dir, moved); err != nil {
				t.Fatal(err)
			}
			dir = moved
		}
		a := launchIn(t, []string{"unshare", "--uts", "sh", "-c", `hostname "$1" && shift && exec "$@"`, "sh", host}, dir, freeAddr(t), "--peer-listen", freeUDP(t))
		a.waitReady()
		for old := range i {
			key := fmt.Sprintf("/v1/kv/start/%d", old)
			if r := a.do("GET", key, nil); r.status != 200 || string(r.body) != "v" {
				t.Errorf("on %s in %s: GET %s: %d %s", host, dir, key, r.status, r.body)
			}
		}
		if r := a.do("PUT", fmt.Sprintf("/v1/kv/start/%d", i), []byte("v")); r.status != 201 {
			t.Errorf("on %s in %s: PUT: %d %s", host, dir, r.status, r.body)
		}
		if i == 1 {
			a.kill()
			continue
		}
		if code := a.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

// TestIdleAgentLeavesTheDiskAlone measures what an agent without clients writes.
func TestIdleAgentLeavesTheDiskAlone(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "data"), freeAddr(t), "--store-flush=1s")
	if r := a.do("PUT", "/v1/kv/k", []byte("v")); r.status != 201 {
		t.Fatalf("PUT: %d %s", r.status, r.body)
	}
	written := func() (bytes int64) {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", a.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		var ignored int64
		if _, err := fmt.Sscanf(string(text), "rchar: %d\nwchar: %d\nsyscr: %d\nsyscw: %d\nread_bytes: %d\nwrite_bytes: %d",
			&ignored, &ignored, &ignored, &ignored, &ignored, &bytes); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		return bytes
	}
	last := written()
	eventually(t, 15*time.Second, func() string { // the flush of the put comes first
		before := last
		time.Sleep(3 * time.Second)
		if last = written(); last != before {
			return fmt.Sprintf("%d bytes written in 3 s without a request", last-before)
		}
		return ""
	})
}

// TestBoxesThatAllHaveOtherAddressesFindEachOther starts all members of a cluster at new addresses at once. Two of them are
// told where the first is, as by a name that leads there now; the first is told nothing.
func TestBoxesThatAllHaveOtherAddressesFindEachOther(t *testing.T) {
	c, boxes, token, _ := threeBoxes(t)
	boxes[1].expect(201, "PUT", "/v1/kv/a", "1", "")
	for _, b := range boxes {
		b.stop()
	}
	c.peerAddr = freeUDP(t)
	boxes[0] = c.launchMember()
	for n := 2; n <= 3; n++ {
		boxes[n-1] = launch(t, c.boxDir(n), freeAddr(t), c.boxArgs(n, token)...)
	}
	for _, b := range boxes {
		b.waitReady() // with a leader or without
	}
	eventually(t, startMax, func() string {
		for _, b := range boxes {
			if r := b.do("PUT", "/v1/kv/b", []byte("2")); r.status/100 != 2 {
				return fmt.Sprintf("%d %s\n%s", r.status, r.body, b.logTail())
			}
		}
		return ""
	})
	if log := boxes[0].logTail(); !strings.Contains(log, "start this one with --join") {
		t.Errorf("the first does not say what it waits for:\n%s", log)
	}
}
