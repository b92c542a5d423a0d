//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// debName is how the package of a version is called.
const debName = "holdfast_VERSION_amd64.deb"

// pack makes a package of the built program as a version, as make packages does, and returns the file.
func pack(t *testing.T, version, format, name string) string {
	t.Helper()
	cmd := exec.Command(".ci/package", version, "amd64", os.Getenv("NFPM"), format)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "PREBUILT="+os.Getenv("AGENT"), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pack %s: %v\n%s", version, err, out)
	}
	path, err := filepath.Abs(filepath.Join(cmd.Dir, "dist", strings.ReplaceAll(name, "VERSION", version)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) }) // of use to nobody afterwards
	return path
}

// TestAPackageLivesItsLife takes the deb through everything that happens to one on a box, under a real systemd: installed,
// started, upgraded under load, upgraded to a version that refuses the configuration, removed, installed again, purged.
func TestAPackageLivesItsLife(t *testing.T) {
	m := newMachine(t)
	for _, version := range []string{"0.0.1", "0.0.2", "0.0.3"} {
		m.copyIn(pack(t, version, "deb", debName), "/srv/"+version+".deb", 0o644)
	}
	m.boot()
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.run("journalctl", "--no-pager", "-b", "-u", "holdfast.service")
			t.Logf("journal:\n%s", out)
		}
	})
	for _, step := range []struct {
		name string
		test func(*testing.T, *machine)
	}{
		{"installs, and starts nothing", installsAndStartsNothing},
		{"serves a device's user", servesADevicesUser},
		{"keeps the port while it restarts", keepsThePortWhileItRestarts},
		{"is upgraded under load", upgradedUnderLoad},
		{"leaves the old one running when the new one refuses", leavesTheOldOneRunning},
		{"keeps data when removed", keepsDataWhenRemoved},
		{"takes the data when purged", takesTheDataWhenPurged},
	} {
		if !t.Run(step.name, func(t *testing.T) { outer := m.t; m.t = t; defer func() { m.t = outer }(); step.test(t, m) }) {
			t.Fatal("the steps after it stand on this one")
		}
	}
}

func (m *machine) dpkg(args ...string) string {
	m.t.Helper()
	return m.must(append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "dpkg"}, args...)...)
}

func installsAndStartsNothing(t *testing.T, m *machine) {
	m.dpkg("-i", "/srv/0.0.1.deb")
	if u := m.unit(); u["LoadState"] != "loaded" || u["ActiveState"] != "inactive" || u["UnitFileState"] != "disabled" {
		t.Errorf("%s, %s, %s", u["LoadState"], u["ActiveState"], u["UnitFileState"])
	}
	if out := m.must("id", "holdfast"); !strings.Contains(out, "(holdfast)") {
		t.Errorf("id: %s", out)
	}
	if out := strings.TrimSpace(m.must("cat", "/var/lib/dpkg/info/holdfast.conffiles")); out != "/etc/holdfast/agent.yaml" {
		t.Errorf("configuration files: %q", out)
	}
	m.must("agent", "config", "check")
}

// servesADevicesUser starts it and writes as somebody who has no business in its files.
func servesADevicesUser(t *testing.T, m *machine) {
	m.must("systemctl", "enable", "--now", "holdfast.service")
	m.waitUnit(30*time.Second, active)
	m.put("kept", "from-the-first")
	m.must("useradd", "--system", "device")
	if out, err := m.run("setpriv", "--reuid=device", "--regid=device", "--clear-groups", "agent", "kv", "get", "kept"); err == nil {
		t.Errorf("a user outside the group uses the socket for administration: %s", out)
	}
	if out := m.must("setpriv", "--reuid=device", "--regid=device", "--clear-groups", "agent", "kv", "put", "by", "device", "--endpoint", "http://127.0.0.1:2379"); !strings.Contains(out, "revision") {
		t.Errorf("a device's PUT: %s", out)
	}
}

// load writes key after key until it is stopped, and counts what was refused. Every acknowledged one is remembered.
type load struct {
	stop, done chan struct{}
	acked      []string
	refused    []string
}

func (m *machine) load() *load {
	l := &load{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for i := 0; ; i++ {
			select {
			case <-l.stop:
				return
			default:
			}
			key := fmt.Sprintf("load/%d", i)
			out, err := m.curl("-f", "-X", "PUT", "--data-binary", key, "http://127.0.0.1:2379/v1/kv/"+key)
			switch {
			case err == nil:
				l.acked = append(l.acked, key)
			case strings.Contains(out, "refused") || strings.Contains(out, "connect to"):
				l.refused = append(l.refused, out)
			}
		}
	}()
	return l
}

// ends stops the load and returns once every acknowledged write was read.
func (l *load) ends(t *testing.T, m *machine) {
	t.Helper()
	close(l.stop)
	<-l.done
	if len(l.acked) == 0 {
		t.Fatal("nothing was acknowledged")
	}
	listed := m.must("agent", "kv", "ls", "load/", "--limit", "0")
	there := map[string]bool{}
	for _, key := range strings.Fields(listed) {
		there[key] = true
	}
	for _, key := range l.acked {
		if !there[key] {
			t.Errorf("%s was acknowledged and is gone", key)
		}
	}
	t.Logf("%d acknowledged writes are there, %d connections were refused", len(l.acked), len(l.refused))
}

// keepsThePortWhileItRestarts has systemd hold the port of the devices.
func keepsThePortWhileItRestarts(t *testing.T, m *machine) {
	m.must("systemctl", "stop", "holdfast.service")
	m.must("systemctl", "enable", "--now", "holdfast.socket")
	m.must("systemctl", "start", "holdfast.service")
	m.waitUnit(30*time.Second, active)
	m.put("kept", "from-the-first")
	l := m.load()
	m.must("systemctl", "restart", "holdfast.service")
	m.waitUnit(30*time.Second, active)
	m.put("after", "the restart")
	l.ends(t, m)
	if len(l.refused) > 0 {
		t.Errorf("a device was refused: %s", l.refused[0])
	}
}

func upgradedUnderLoad(t *testing.T, m *machine) {
	m.write("/etc/holdfast/agent.yaml", "# of this box\ndata-dir: /var/lib/holdfast\nsocket: /run/holdfast/agent.sock\n", 0o644)
	before := m.unit()
	l := m.load()
	out := m.dpkg("--force-confold", "-i", "/srv/0.0.2.deb")
	u := m.waitUnit(30*time.Second, active)
	m.put("after", "the upgrade")
	l.ends(t, m)
	if u["MainPID"] == before["MainPID"] || len(l.refused) > 0 {
		t.Errorf("pid %s before and %s after, %d refused: %s", before["MainPID"], u["MainPID"], len(l.refused), out)
	}
	if got := m.must("cat", "/etc/holdfast/agent.yaml"); !strings.HasPrefix(got, "# of this box") {
		t.Errorf("the configuration is now\n%s", got)
	}
	if got := m.value("kept"); got != "from-the-first" {
		t.Errorf("GET after the upgrade: %q", got)
	}
}

// leavesTheOldOneRunning has a setting that the running program never read and the new one does not know.
func leavesTheOldOneRunning(t *testing.T, m *machine) {
	m.write("/etc/holdfast/agent.d/new.yaml", "log-levle: debug\n", 0o644)
	before := m.unit()
	out := m.dpkg("-i", "/srv/0.0.3.deb")
	if !strings.Contains(out, "log-level") || !strings.Contains(out, "left running") || !strings.Contains(out, "systemctl restart holdfast") {
		t.Errorf("the upgrade does not say what to do:\n%s", out)
	}
	if u := m.unit(); !active(u) || u["MainPID"] != before["MainPID"] {
		t.Errorf("%s, pid %s before and %s after", u["ActiveState"], before["MainPID"], u["MainPID"])
	}
	if out := m.must("dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Version}", "holdfast"); out != "ii 0.0.3" {
		t.Errorf("the package is %q", out)
	}
	m.must("rm", "/etc/holdfast/agent.d/new.yaml")
	m.must("agent", "config", "check", "--pid", before["MainPID"])
	m.must("systemctl", "restart", "holdfast.service")
	m.waitUnit(30*time.Second, active)
}

func keepsDataWhenRemoved(t *testing.T, m *machine) {
	m.put("kept", "over-removal")
	m.dpkg("-r", "holdfast")
	if out, err := m.run("pidof", "agent"); err == nil {
		t.Errorf("it still runs: %s", out)
	}
	m.must("test", "-d", "/var/lib/holdfast/member")
	m.must("test", "-f", "/etc/holdfast/agent.yaml")
	m.dpkg("-i", "/srv/0.0.3.deb")
	if u := m.unit(); u["UnitFileState"] != "enabled" {
		t.Errorf("it was enabled before it was removed, and is %s", u["UnitFileState"])
	}
	m.must("systemctl", "start", "holdfast.service")
	m.waitUnit(30*time.Second, active)
	eventually(t, 15*time.Second, func() string {
		if got := m.value("kept"); got != "over-removal" {
			return fmt.Sprintf("GET after it was installed again: %q", got)
		}
		return ""
	})
}

func takesTheDataWhenPurged(t *testing.T, m *machine) {
	m.must("install", "-d", "/var/lib/holdfast-backup")
	out := m.dpkg("-P", "holdfast")
	for _, path := range []string{"/var/lib/holdfast", "/etc/holdfast", "/usr/bin/agent", "/run/holdfast"} {
		if _, err := m.run("test", "-e", path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if _, err := m.run("test", "-d", "/var/lib/holdfast-backup"); err != nil || !strings.Contains(out, "holdfast-backup") {
		t.Errorf("the backups: %v\n%s", err, out)
	}
}
