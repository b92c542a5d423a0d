//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTheBackupTimerTakesBackups runs what the timer runs, as systemd does.
func TestTheBackupTimerTakesBackups(t *testing.T) {
	m := installed(t)
	for _, name := range []string{"holdfast-backup.service", "holdfast-backup.timer"} {
		m.copyIn(filepath.Join("..", "..", "systemd", name), "/usr/lib/systemd/system/"+name, 0o644)
	}
	m.boot()
	m.waitUnit(30*time.Second, active)
	m.put("a", "kept")
	m.must("systemctl", "start", "holdfast-backup.service")
	names := strings.Fields(m.must("ls", "/var/lib/holdfast-backup"))
	if len(names) != 1 || !strings.HasSuffix(names[0], ".backup") {
		t.Fatalf("the folder holds %q", names)
	}
	if out := m.must("agent", "snapshot", "verify", "/var/lib/holdfast-backup/"+names[0]); !strings.Contains(out, "keys          1\n") {
		t.Errorf("the backup holds:\n%s", out)
	}
	m.must("systemctl", "enable", "--now", "holdfast-backup.timer")
	if out := m.must("systemctl", "list-timers", "--no-pager"); !strings.Contains(out, "holdfast-backup.timer") {
		t.Errorf("no timer:\n%s", out)
	}
}
