//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a Debian with its systemd as PID 1, in namespaces of its own on this kernel. What it does not have: limits
// on memory, power cuts.
type machine struct {
	t       *testing.T
	root    string
	pid     int      // of its systemd, seen from here
	init    []string // what is PID 1 instead of systemd
	outer   *exec.Cmd
	cgroup  string
	console string // file
}

// newMachine unpacks one, not booted yet.
func newMachine(t *testing.T) *machine { return newMachineWith(t) }

// newMachineWith has further packages of Debian on it.
func newMachineWith(t *testing.T, packages ...string) *machine {
	t.Helper()
	tar := filepath.Join(os.Getenv("CACHE"), strings.Join(append([]string{"systemd-root"}, packages...), "-")+".tar")
	m := unpacked(t, tar, append([]string{"systemd-sysv", "dbus"}, packages...)...)
	// No device or kernel setting of this machine is its business.
	for _, unit := range []string{"systemd-udevd.service", "systemd-udev-trigger.service", "systemd-modules-load.service",
		"systemd-sysctl.service", "systemd-remount-fs.service", "systemd-networkd.service", "systemd-timesyncd.service", "apt-daily.timer", "apt-daily-upgrade.timer"} {
		m.link("/dev/null", "/etc/systemd/system/"+unit)
	}
	m.write("/etc/fstab", "", 0o644)
	m.write("/etc/hostname", "edge\n", 0o644)
	return m
}

// unpacked is a Debian with these packages, kept as a tar.
func unpacked(t *testing.T, tar string, packages ...string) *machine {
	t.Helper()
	must(t, "systemd/root.sh", tar, strings.Join(packages, ","))
	m := &machine{t: t, root: t.TempDir()}
	must(t, "tar", "-C", m.root, "--numeric-owner", "-xf", tar)
	return m
}

func (m *machine) write(path, text string, mode fs.FileMode) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(to, path string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(to, path)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) copyIn(from, to string, mode fs.FileMode) {
	m.t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(to, string(text), mode)
}

// boot starts systemd and waits until its manager answers. The machine is gone when the test ends.
func (m *machine) boot() {
	m.t.Helper()
	m.makeCgroup()
	group, err := os.Open(m.cgroup)
	if err != nil {
		m.t.Fatal(err)
	}
	defer group.Close()
	console, err := os.CreateTemp(m.t.TempDir(), "console-*.log")
	if err != nil {
		m.t.Fatal(err)
	}
	defer console.Close()
	m.console = console.Name()
	m.outer = exec.Command("unshare", append([]string{"--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--cgroup", "--kill-child",
		"systemd/boot.sh", m.root}, m.init...)...)
	m.outer.Stdout, m.outer.Stderr = console, console
	m.outer.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Setpgid: true}
	if err := m.outer.Start(); err != nil {
		m.t.Fatalf("start namespaces in %s: %v", m.cgroup, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = m.outer.Wait() // it is killed, or its console says why it ended
	}()
	m.t.Cleanup(func() {
		if m.t.Failed() {
			text, _ := os.ReadFile(m.console)
			m.t.Logf("console:\n%s", text)
		}
		_ = m.outer.Process.Kill() // takes PID 1 along, and that everything
		<-ended
		m.removeCgroup()
	})
	eventually(m.t, 30*time.Second, func() string {
		select {
		case <-ended:
			text, _ := os.ReadFile(m.console)
			m.t.Fatalf("systemd did not boot:\n%s", text)
		default:
		}
		if m.pid == 0 {
			m.pid = m.child()
			return "no PID 1 yet"
		}
		if m.init != nil {
			return ""
		}
		out, err := m.run("systemctl", "is-system-running")
		switch state := strings.TrimSpace(out); state {
		case "running", "degraded":
			return ""
		default:
			return fmt.Sprintf("systemctl is-system-running: %s %v", state, err)
		}
	})
}

// makeCgroup makes a fresh group in the v2 tree, wherever that is mounted.
func (m *machine) makeCgroup() {
	m.t.Helper()
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if field := strings.Fields(lines.Text()); len(field) > 2 && field[2] == "cgroup2" {
			if m.cgroup, err = os.MkdirTemp(field[1], "holdfast-e2e-"); err != nil {
				m.t.Fatal(err)
			}
			return
		}
	}
	m.t.Fatal("no cgroup2 is mounted here, and systemd does not boot without")
}

// removeCgroup removes the groups that the machine has made, deepest first, once the kernel has seen their processes off.
func (m *machine) removeCgroup() {
	eventually(m.t, 10*time.Second, func() string {
		var groups []string
		_ = filepath.WalkDir(m.cgroup, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		var last error
		for i := len(groups) - 1; i >= 0; i-- {
			if err := os.Remove(groups[i]); err != nil {
				last = err
			}
		}
		if last != nil {
			return last.Error()
		}
		return ""
	})
}

// child is the PID 1 of the machine, 0 if it is not there yet: the child of unshare, once it has become systemd, or its init.
func (m *machine) child() int {
	pid := m.outer.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	want := "systemd"
	if m.init != nil {
		want = filepath.Base(m.init[0])
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); err != nil || strings.TrimSpace(string(name)) != want {
		return 0
	}
	return child
}

// run runs a command in the machine.
func (m *machine) run(args ...string) (string, error) {
	args = append([]string{"-t", strconv.Itoa(m.pid), "-a", "--root", "--wd=/", "env", "-i",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_COLORS=0"}, args...)
	out, err := exec.Command("timeout", append([]string{"60", "nsenter"}, args...)...).CombinedOutput()
	return string(out), err
}

// must is run for a command that has to work.
func (m *machine) must(args ...string) string {
	m.t.Helper()
	out, err := m.run(args...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// curl is the curl of this side, on the network of the machine.
func (m *machine) curl(args ...string) (string, error) {
	args = append([]string{"-t", strconv.Itoa(m.pid), "-n", "curl", "-sS", "--max-time", "10"}, args...)
	out, err := exec.Command("timeout", append([]string{"60", "nsenter"}, args...)...).CombinedOutput()
	return string(out), err
}
