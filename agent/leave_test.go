package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/config"
)

// A node that leaves takes nothing along that somebody was told is kept: not what waits in its queue, and not what it has on its disk.
func TestANodeThatLeavesKeepsWhatItHas(t *testing.T) {
	cfg := settings(t)
	cfg.Queue.Prefixes = []config.QueuePrefix{{Prefix: "q/"}}
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	c, socket := httpClient(t, nil), overSocket(t, a)
	expect(t, socket, "POST", "http://agent/v1/queue/pause", "", 200)
	id := expect(t, c, "PUT", a.Addrs()[0]+"/v1/kv/q/a?write=queue", "v", 202).header.Get("Holdfast-Op")
	for _, body := range []string{`{}`, `{"force":true}`} {
		r := expect(t, socket, "POST", "http://agent/v1/nodes/self/leave", body, 412)
		if !strings.Contains(r.body, "1 writes wait in the queue") || !strings.Contains(r.body, "agent queue discard") {
			t.Errorf("%s: %s", body, r.body)
		}
		if isClosed(a.Done()) {
			t.Fatal("it has left")
		}
	}
	expect(t, socket, "DELETE", "http://agent/v1/queue/"+id, "", 200)
	expect(t, c, "PUT", a.Addrs()[0]+"/v1/kv/b", "v", 201)
	expect(t, socket, "POST", "http://agent/v1/nodes/self/leave", `{"force":true}`, 200)
	within(t, "it stops", a.Done())
	if err := a.Err(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	left, err := filepath.Glob(filepath.Join(cfg.DataDir, leftName, "*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("it left %v, %v", left, err)
	}
	for _, name := range []string{memberName, queueName, identityName, modeFile} {
		if _, err := os.Stat(filepath.Join(left[0], name)); err != nil {
			t.Errorf("not kept: %v", err)
		}
		if _, err := os.Stat(filepath.Join(cfg.DataDir, name)); err == nil {
			t.Errorf("%s is still in its place", name)
		}
	}

	a = launch(t, cfg, Options{})
	within(t, "ready as another", a.Ready())
	expect(t, c, "GET", a.Addrs()[0]+"/v1/kv/b", "", 404)
}
