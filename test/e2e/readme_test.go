//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// street is a bridge between machines.
type street struct {
	t    *testing.T
	name string
}

func newStreet(t *testing.T) *street {
	t.Helper()
	s := &street{t, fmt.Sprintf("hf%d", os.Getpid()%100000)}
	must(t, "ip", "link", "add", s.name, "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", s.name).Run() }) // its cables went with the machines
	must(t, "ip", "link", "set", s.name, "up")
	return s
}

// connect gives a booted machine a cable to the street, and an address.
func (s *street) connect(m *machine, n int) {
	s.t.Helper()
	end := fmt.Sprintf("%sx%d", s.name, n)
	must(s.t, "ip", "link", "add", end, "master", s.name, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(m.pid))
	must(s.t, "ip", "link", "set", end, "up")
	in := []string{"nsenter", "-t", fmt.Sprint(m.pid), "-n", "ip"}
	must(s.t, in[0], append(in[1:], "address", "add", fmt.Sprintf("10.99.0.%d/24", n), "dev", "eth0")...)
	must(s.t, in[0], append(in[1:], "link", "set", "eth0", "up")...)
}

// block is a fenced block of README's: the boxes that it is for, and its lines.
type block struct {
	boxes []string
	text  string
}

// blocks are those that name boxes behind the language.
func blocks(t *testing.T) (all []block) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "```")
	for i := 1; i < len(parts); i += 2 {
		info, body, _ := strings.Cut(parts[i], "\n")
		if words := strings.Fields(info); len(words) > 1 && words[0] == "sh" {
			all = append(all, block{words[1:], body})
		}
	}
	return all
}

// TestThreeBoxesAndAProxyAsReadmeHasThem runs README's lines verbatim, each box a Debian with its own systemd. The person
// who carries the token from box to box is this test.
func TestThreeBoxesAndAProxyAsReadmeHasThem(t *testing.T) {
	t.Parallel()
	package1 := pack(t, "0.0.1", "deb", debName)
	way := newStreet(t)
	boxes := map[string]*machine{}
	hosts := "127.0.0.1 localhost\n"
	for n := 1; n <= 4; n++ {
		hosts += fmt.Sprintf("10.99.0.%d box%d\n", n, n)
	}
	for n := 1; n <= 4; n++ {
		m := newMachine(t)
		name := fmt.Sprintf("box%d", n)
		m.copyIn(package1, "/root/holdfast.deb", 0o644)
		m.write("/etc/hosts", hosts, 0o644)
		m.write("/etc/hostname", name+"\n", 0o644)
		m.boot()
		way.connect(m, n)
		boxes[name] = m
	}
	t.Cleanup(func() {
		for name, m := range boxes {
			if t.Failed() {
				out, _ := m.run("journalctl", "--no-pager", "-b", "-u", "holdfast.service")
				t.Logf("journal of %s:\n%s", name, out)
			}
		}
	})
	found := blocks(t)
	if len(found) < 6 {
		t.Fatalf("README has %d blocks for boxes", len(found))
	}
	said, cached := map[string]string{}, 0
	for _, b := range found {
		for _, name := range b.boxes {
			m := boxes[name]
			if m == nil {
				t.Fatalf("README has a block for %q", name)
			}
			if key := cachedRead.FindStringSubmatch(b.text); key != nil { // of what was written on another box a moment ago
				caughtUp(t, m, key[1], key[2])
				cached++
			}
			out, err := m.run("sh", "-e", "-c", "cd /root 2>&1\n"+b.text)
			if err != nil {
				t.Fatalf("%s: %v\n%s\nit was told\n%s", name, err, out, b.text)
			}
			said[name] += out
			t.Logf("%s:\n%s", name, out)
			if strings.Contains(b.text, "> join-token") {
				token := m.must("cat", "/root/join-token")
				for _, other := range boxes {
					other.write("/root/join-token", token, 0o600)
				}
			}
			if strings.Contains(b.text, "enable --now holdfast") {
				settled(t, m)
			}
		}
	}
	if cached == 0 {
		t.Errorf("README reads nothing from a cache that may be behind, or does not say so as this test knows it: %v", cachedRead)
	}
	if !strings.Contains(said["box3"], "21.5") {
		t.Errorf("box3 did not read what box4 wrote:\n%s", said["box3"])
	}
	if !strings.Contains(said["box4"], "30") {
		t.Errorf("box4 did not read what box1 wrote:\n%s", said["box4"])
	}
	if leaders, others := strings.Count(said["box1"], "  leader  "), strings.Count(said["box1"], "  voter   "); leaders != 1 || others != 2 {
		t.Errorf("box1 sees %d leaders and %d other voters:\n%s", leaders, others, said["box1"])
	}
}

// cachedRead is a line that reads a key, and how many seconds old its answer may be.
var cachedRead = regexp.MustCompile(`agent kv get (\S+) +# from the proxy's cache, at most (\d+) s old`)

// caughtUp waits until a box has a key, for as long as the line allows it not to have it yet, and one command takes on a busy machine.
func caughtUp(t *testing.T, m *machine, key, seconds string) {
	t.Helper()
	n, err := strconv.Atoi(seconds)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Duration(n+5)*time.Second, func() string {
		if out, err := m.run("agent", "kv", "get", key); err != nil {
			return out
		}
		return ""
	})
}

// settled waits as a person would look: until the box says that it serves.
func settled(t *testing.T, m *machine) {
	t.Helper()
	outer := m.t
	m.t = t
	defer func() { m.t = outer }()
	m.waitUnit(60*time.Second, func(u unit) bool { return active(u) && strings.HasPrefix(u["StatusText"], "Serving") })
	eventually(t, 60*time.Second, func() string {
		if out, err := m.run("agent", "status"); err != nil || strings.Contains(out, "learner") || strings.Contains(out, "uplink_lost            true") {
			return out
		}
		return ""
	})
}
