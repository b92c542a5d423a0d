//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// foreign is a package manager that is at home on another distribution. Its own commands work on a Debian; what the package
// depends on, it cannot know of there.
type foreign struct {
	format, file     string // of a package, with VERSION for its version
	install, upgrade string // a command, to which the file is appended
	remove           string
	installed        string // says which version is
	aside            string // what is put beside the configuration file when a new version has another one
	keptAs           string // where a removal leaves a configuration that was changed
}

var (
	rpm = foreign{"rpm", "holdfast-VERSION-1.x86_64.rpm", "rpm --force-debian --nodeps -i", "rpm --force-debian --nodeps -U",
		"rpm --force-debian -e holdfast", "rpm -q holdfast", ".rpmnew", ".rpmsave"}
	pacman = foreign{"archlinux", "holdfast-VERSION-1-x86_64.pkg.tar.zst", "pacman -Udd --noconfirm", "pacman -Udd --noconfirm",
		"pacman -R --noconfirm holdfast", "pacman -Q holdfast", ".pacnew", ".pacsave"}
)

func TestAnRPMLivesItsLife(t *testing.T)          { t.Parallel(); rpm.live(t) }
func TestAPacmanPackageLivesItsLife(t *testing.T) { t.Parallel(); pacman.live(t) }

// live takes a package through what happens to one on a box: installed, started, upgraded under load with a configuration
// that was changed, upgraded to a version that refuses that, removed, installed again.
func (f foreign) live(t *testing.T) {
	m := newMachineWith(t, "rpm", "pacman-package-manager")
	if err := os.Remove(filepath.Join(m.root, "bin", "sh")); err != nil {
		t.Fatal(err)
	}
	m.link("bash", "/bin/sh") // as on distributions with these; pacman's functions are written for it
	for _, version := range []string{"0.0.1", "0.0.2", "0.0.3"} {
		m.copyIn(pack(t, version, f.format, f.file), "/srv/"+version, 0o644)
	}
	m.boot()
	run := func(command string, more ...string) string {
		t.Helper()
		return m.must(append(strings.Fields(command), more...)...)
	}

	t.Log("it is installed, and nothing is started")
	run(f.install, "/srv/0.0.1")
	if u := m.unit(); u["LoadState"] != "loaded" || u["ActiveState"] != "inactive" || u["UnitFileState"] != "disabled" {
		t.Errorf("%s, %s, %s", u["LoadState"], u["ActiveState"], u["UnitFileState"])
	}
	m.must("id", "holdfast")
	m.must("agent", "config", "check")
	m.must("systemctl", "enable", "--now", "holdfast.socket", "holdfast.service")
	m.waitUnit(30*time.Second, active)
	m.put("kept", "from-the-first")

	t.Log("it is upgraded under load, and the configuration of the box stays")
	const config = "# of this box\ndata-dir: /var/lib/holdfast\nsocket: /run/holdfast/agent.sock\n"
	m.write("/etc/holdfast/agent.yaml", config, 0o644)
	before := m.unit()
	l := m.load()
	out := run(f.upgrade, "/srv/0.0.2")
	u := m.waitUnit(30*time.Second, active)
	m.put("after", "the upgrade")
	l.ends(t, m)
	if u["MainPID"] == before["MainPID"] || len(l.refused) > 0 {
		t.Errorf("pid %s before and %s after, %d refused: %s", before["MainPID"], u["MainPID"], len(l.refused), out)
	}
	if got := m.must("cat", "/etc/holdfast/agent.yaml"); got != config {
		t.Errorf("the configuration is now\n%s", got)
	}

	t.Log("the new version refuses the configuration, and the old one goes on")
	m.write("/etc/holdfast/agent.d/new.yaml", "log-levle: debug\n", 0o644)
	before = m.unit()
	out = run(f.upgrade, "/srv/0.0.3")
	if !strings.Contains(out, "log-level") || !strings.Contains(out, "left running") || !strings.Contains(out, "systemctl restart holdfast") {
		t.Errorf("the upgrade does not say what to do:\n%s", out)
	}
	if u := m.unit(); !active(u) || u["MainPID"] != before["MainPID"] {
		t.Errorf("%s, pid %s before and %s after", u["ActiveState"], before["MainPID"], u["MainPID"])
	}
	if out := run(f.installed); !strings.Contains(out, "0.0.3") {
		t.Errorf("installed is %s", out)
	}
	m.must("rm", "/etc/holdfast/agent.d/new.yaml")

	t.Log("it is removed, and what it holds stays")
	run(f.remove)
	if out, err := m.run("pidof", "agent"); err == nil {
		t.Errorf("it still runs: %s", out)
	}
	if _, err := m.run("test", "-e", "/usr/bin/agent"); err == nil {
		t.Error("/usr/bin/agent is still there")
	}
	m.must("test", "-d", "/var/lib/holdfast/member")
	if got := m.must("cat", "/etc/holdfast/agent.yaml"+f.keptAs); got != config {
		t.Errorf("the configuration that was kept is\n%s", got)
	}
	run(f.install, "/srv/0.0.3")
	m.must("systemctl", "start", "holdfast.service")
	m.waitUnit(30*time.Second, active)
	eventually(t, 15*time.Second, func() string {
		if got := m.value("kept"); got != "from-the-first" {
			return "GET after it was installed again: " + got
		}
		return ""
	})
}
