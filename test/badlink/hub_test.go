//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wired is a hub whose hosts are socket pairs instead of namespaces: the test holds the other ends.
type wired struct {
	*Hub
	t    *testing.T
	ends []int
}

func newWired(t *testing.T, names ...string) *wired {
	t.Helper()
	h, err := newHub(names, 1500, 1, Params{})
	if err != nil {
		t.Fatal(err)
	}
	w := &wired{Hub: h, t: t}
	for i, ho := range h.hosts {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ho.fd = pair[0]
		w.ends = append(w.ends, pair[1])
		h.route[address(i)] = i
	}
	for i := range h.hosts {
		go h.read(i)
	}
	go h.deliver()
	t.Cleanup(func() {
		if err := h.close(t.Context()); err != nil {
			t.Error(err)
		}
		for _, fd := range w.ends {
			_ = unix.Close(fd) // ends the reader
		}
	})
	return w
}

func address(host int) uint32 { return 10<<24 + uint32(host) + 1 }

// packetOf is a bare IPv4 header and a payload.
func packetOf(from, to int, payload string) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[9] = 0x45, unix.IPPROTO_UDP
	binary.BigEndian.PutUint32(b[12:], address(from))
	binary.BigEndian.PutUint32(b[16:], address(to))
	return append(b, payload...)
}

func (w *wired) send(from, to int, payload string) {
	w.t.Helper()
	if _, err := unix.Write(w.ends[from], packetOf(from, to, payload)); err != nil {
		w.t.Fatal(err)
	}
}

// receives fails unless the next packet at a host has this payload.
func (w *wired) receives(host int, payload string) {
	w.t.Helper()
	got := make([]byte, 2000)
	fds := []unix.PollFd{{Fd: int32(w.ends[host]), Events: unix.POLLIN}}
	deadline := time.Now().Add(10 * time.Second)
	for {
		n, err := unix.Poll(fds, 1000)
		if n == 1 {
			break
		}
		if err != nil && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			w.t.Fatalf("nothing arrives at host %d (%v)\n%s", host, err, w.do("stats", "--all"))
		}
	}
	n, err := unix.Read(w.ends[host], got)
	if err != nil || n < 20 || string(got[20:n]) != payload {
		w.t.Fatalf("host %d gets %q, %v; want %q", host, got[:n], err, payload)
	}
}

func (w *wired) do(args ...string) string {
	w.t.Helper()
	out, err := w.command(args)
	if err != nil {
		w.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// settled waits until all packets sent have been judged.
func (w *wired) settled(from, to int, sent uint64) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		n := w.links[from][to].S.InPkts
		w.mu.Unlock()
		if n >= sent {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d of %d packets were read", n, sent)
		}
	}
}

func TestACutLinkCarriesNothingUntilItIsHealed(t *testing.T) {
	w := newWired(t, "a", "b", "c")
	w.send(0, 1, "before")
	w.receives(1, "before")
	w.do("partition", "a-b")
	w.send(0, 1, "cut")
	w.send(0, 2, "to another")
	w.receives(2, "to another")
	w.settled(0, 1, 2)
	w.do("heal")
	w.send(0, 1, "after")
	w.receives(1, "after") // and not "cut"
	if s := w.links[0][1].S; s.CutDrop != 1 || s.OutPkts != 2 {
		t.Errorf("%+v, want one cut and two delivered", s)
	}
}

func TestAnAddressIsLearnedFromWhoUsesIt(t *testing.T) {
	w := newWired(t, "a", "b")
	moved := packetOf(7, 1, "from an address of its own")
	if _, err := unix.Write(w.ends[0], moved); err != nil {
		t.Fatal(err)
	}
	w.receives(1, "from an address of its own")
	w.send(1, 7, "answer")
	w.receives(0, "answer")
}

func TestTheDelayIsKept(t *testing.T) {
	w := newWired(t, "a", "b")
	w.do("set", "a>b", "delay", "80ms")
	begin := time.Now()
	w.send(0, 1, "slow")
	w.receives(1, "slow")
	if took := time.Since(begin); took < 80*time.Millisecond {
		t.Errorf("arrived after %v, want 80 ms at least", took)
	}
}

func TestTargets(t *testing.T) {
	h, err := newHub([]string{"a", "b", "c-d"}, 1500, 1, Params{})
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"a-b": "[[0 1] [1 0]]", "a>b": "[[0 1]]", "a>": "[[0 1] [0 2]]", ">a": "[[1 0] [2 0]]", "a-c-d": "[[0 2] [2 0]]",
		"c-d": "[[0 2] [1 2] [2 0] [2 1]]", "a,b|c-d": "[[0 2] [1 2] [2 0] [2 1]]", "all": "[[0 1] [0 2] [1 0] [1 2] [2 0] [2 1]]",
		"a-x": "no", "x": "no", "a|x": "no", "a>x": "no", "x>": "no",
	} {
		got, err := h.targets(target)
		if err != nil && want != "no" || err == nil && fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v; want %s", target, got, err, want)
		}
	}
}

func TestAWrongCommandChangesNothing(t *testing.T) {
	h, err := newHub([]string{"a", "b"}, 1500, 1, Params{})
	if err != nil {
		t.Fatal(err)
	}
	before := h.show()
	for _, args := range []string{
		"set a-b", "set a-b loss", "set a-b loss 5% delay x", "set a-x loss 5%", "set a uprate x", "set a uprate 1mbit loss 5%",
		"partition", "partition a-b x", "heal x", "stats --what", "dance",
	} {
		if _, err := h.command(strings.Fields(args)); err == nil {
			t.Errorf("%s: no error", args)
		}
	}
	if after := h.show(); after != before {
		t.Errorf("before\n%safter\n%s", before, after)
	}
}

func TestUpRefusesWhatItCannotMake(t *testing.T) {
	for args, says := range map[string]string{
		"":                          "two names",
		"--hosts a":                 "two names",
		"--hosts a,a":               "repeated",
		"--hosts a,all":             "bad",
		"--hosts":                   "wants a value",
		"hosts a,b":                 "what is",
		"--hosts a,b --mtu 10":      "mtu",
		"--hosts a,b --loss 200%":   "loss",
		"--hosts a,b --nonsense 10": "unknown parameter",
	} {
		if _, err := parseUp(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("up %s: %v, want an error that says %q", args, err, says)
		}
	}
	o, err := parseUp(strings.Fields("--hosts a,b --delay=5ms --seed 7 --prefix x-"))
	if err != nil || len(o.Hosts) != 2 || o.P.Delay != 5*time.Millisecond || o.Seed != 7 || o.Prefix != "x-" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestScenario(t *testing.T) {
	cues, err := parseScenario("# warm up\nat 5s set a-b loss 10% # lossy\n\nafter 2s heal all\n")
	if err != nil || len(cues) != 2 || cues[0].after || cues[0].offset != 5*time.Second || len(cues[0].command) != 4 || !cues[1].after {
		t.Errorf("%+v, %v", cues, err)
	}
	for _, bad := range []string{"in 5s heal all", "at 5 heal all", "at 5s"} {
		if _, err := parseScenario(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestStatsAreResetOnceShown(t *testing.T) {
	w := newWired(t, "a", "b")
	w.send(0, 1, "x")
	w.receives(1, "x")
	if out := w.do("stats", "--json", "--reset"); !bytes.Contains([]byte(out), []byte(`"OutPkts": 1`)) {
		t.Errorf("no packet in %s", out)
	}
	if out := w.do("stats"); strings.Contains(out, "a>b") {
		t.Errorf("still counted: %s", out)
	}
}
