package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"holdfast/config"
)

// An agent is found where one with the same configuration would be.
func TestTheAgentIsFound(t *testing.T) {
	w := newWorld(t)
	t.Chdir(w.dir)
	named := func(name string) string {
		newFakeAgent(t, w.path(name), answering(200, "", name))
		return w.path(name)
	}
	asks := func(want string, args ...string) {
		t.Helper()
		if got := w.runs(0, append([]string{"kv", "get", "k"}, args...)...); got != want {
			t.Errorf("%v: asked %q, want %q\n%s", args, got, want, w.stderr)
		}
	}
	w.runs(69, "kv", "get", "k")
	w.says("neither holdfast.data/agent.sock nor "+w.path("run/agent.sock"), "--socket")

	w.write("run/x", "")
	named("run/agent.sock")
	asks("run/agent.sock") // the packages' place
	w.write("holdfast.data/x", "")
	named("holdfast.data/agent.sock")
	asks("holdfast.data/agent.sock") // the default

	w.write("dir/x", "")
	named("dir/agent.sock")
	w.write("etc/agent.yaml", "data-dir: "+w.path("dir")+"\n")
	asks("dir/agent.sock") // configured
	w.write("etc/agent.d/1.yaml", "socket: "+named("s1")+"\n")
	asks("s1")
	w.env = []string{"HOLDFAST_SOCKET=" + named("s2")}
	asks("s2")

	asks("s1", "--socket", w.path("s1")) // named on the command line
	asks("dir/agent.sock", "--data-dir", w.path("dir"))
	asks("s1", "--endpoint", "unix://"+w.path("s1"))
	server := httptest.NewServer(answering(200, "", "tcp"))
	defer server.Close()
	asks("tcp", "--endpoint", server.URL)
}

func TestAFaultyConfigurationIsNoReasonToGuess(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "", "v"))
	w.write("etc/agent.yaml", "sokcet: /x\n")
	w.env = []string{"HOLDFAST_SOKCET=/x"}
	w.runs(78, "kv", "get", "k")
	w.says("did you mean socket?", "did you mean HOLDFAST_SOCKET?")
	w.runs(0, "kv", "get", "k", "--socket", f.socket) // it is not asked
}

func TestAConfigurationOneMayNotReadIsPassedOver(t *testing.T) {
	denied := &config.Fault{Problem: "no", Err: fmt.Errorf("open x: %w", fs.ErrPermission)}
	if !unreadable(errors.Join(denied, denied)) || unreadable(errors.Join(denied, &config.Fault{Problem: "other"})) {
		t.Error("only faults of permission may be passed over")
	}
}

func TestNobodyThereIs69(t *testing.T) {
	w := newWorld(t)
	w.runs(69, "kv", "get", "k", "--socket", w.path("none.sock"))
	w.says("no agent at "+w.path("none.sock"), "no such file", "is it running?")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", w.path("dead.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w.runs(69, "status", "--socket", w.path("dead.sock"))
	w.says("connection refused")
	tcp, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := tcp.Close(); err != nil {
		t.Fatal(err)
	}
	w.runs(69, "kv", "put", "k", "v", "--endpoint", "http://"+tcp.Addr().String())
	if strings.Contains(w.stderr.String(), "not known") {
		t.Errorf("nothing was sent, so its outcome is known: %s", w.stderr)
	}
}

func TestASocketOneMayNotUseIsNotNobody(t *testing.T) {
	c := &client{target: socketTarget("/run/holdfast/agent.sock")}
	err := c.failed(call{method: "GET"}, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", fs.ErrPermission)})
	if e := asExit(err); e.code != 1 || !strings.Contains(e.Error(), "you may not use /run/holdfast/agent.sock") {
		t.Errorf("got %d: %v", e.code, e)
	}
	err = c.failed(call{method: "PUT"}, &net.OpError{Op: "dial", Err: context.DeadlineExceeded})
	if e := asExit(err); e.code != 69 {
		t.Errorf("a dial that times out: got %d: %v", e.code, e)
	}
}
