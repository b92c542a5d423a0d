package systemd

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unit is a unit file: section and key to the values given, in order.
type unit map[string][]string

// parse reads the subset of systemd.syntax(7) that the unit uses, and refuses the rest.
func parse(t *testing.T, text []byte) unit {
	t.Helper()
	u, section := unit{}, ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		key, value, pair := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[' && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
		case !pair || section == "" || key != strings.TrimSpace(key) || strings.HasSuffix(line, `\`):
			t.Fatalf("line %d is no assignment: %q", n, line)
		default:
			u[section+"."+key] = append(u[section+"."+key], value)
		}
	}
	return u
}

func service(t *testing.T) (text []byte, u unit) {
	t.Helper()
	text, err := Files.ReadFile("holdfast.service")
	if err != nil {
		t.Fatal(err)
	}
	return text, parse(t, text)
}

func TestUnitKeepsItsPromises(t *testing.T) {
	_, u := service(t)
	for key, want := range map[string]string{
		// started, watched and restarted as the agent expects it
		"Service.Type":                     "notify",
		"Service.NotifyAccess":             "main",
		"Service.ExecStart":                "/usr/bin/agent run",
		"Service.ExecReload":               `/bin/sh -c "kill -HUP $MAINPID"`,
		"Service.Restart":                  "always",
		"Service.RestartSec":               "5",
		"Service.RestartPreventExitStatus": "78",
		"Service.WatchdogSec":              "60",
		"Service.TimeoutStopSec":           "60",
		"Unit.StartLimitIntervalSec":       "0",
		// who and where
		"Service.User":                   "holdfast",
		"Service.Group":                  "holdfast",
		"Service.UMask":                  "0077",
		"Service.StateDirectory":         "holdfast",
		"Service.StateDirectoryMode":     "0700",
		"Service.RuntimeDirectory":       "holdfast",
		"Service.ConfigurationDirectory": "holdfast",
		// systemd makes it for root, whatever User= says: without the last digit the agent could not read it
		"Service.ConfigurationDirectoryMode": "0755",
		"Service.WorkingDirectory":           "/var/lib/holdfast",
		// the sandbox
		"Service.NoNewPrivileges":         "yes",
		"Service.CapabilityBoundingSet":   "",
		"Service.ProtectSystem":           "strict",
		"Service.ProtectHome":             "yes",
		"Service.PrivateDevices":          "yes",
		"Service.PrivateTmp":              "yes",
		"Service.PrivateUsers":            "yes",
		"Service.MemoryDenyWriteExecute":  "yes",
		"Service.RestrictNamespaces":      "yes",
		"Service.RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
		"Install.WantedBy":                "multi-user.target",
	} {
		if got := u[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q once", key, got, want)
		}
	}
	if got := u["Service.SystemCallFilter"]; !slices.Equal(got, []string{"@system-service", "~@privileged @resources"}) {
		t.Errorf("SystemCallFilter is %q", got)
	}
}

func TestUnitWaitsForNoNetwork(t *testing.T) {
	_, u := service(t)
	for key, values := range u {
		for _, v := range values {
			if strings.HasPrefix(key, "Unit.") && (strings.Contains(v, "network") || strings.Contains(v, "time-sync")) {
				t.Errorf("%s=%s: an agent starts without a network and without a clock", key, v)
			}
		}
	}
}

// systemd 252 warns about keys it does not know and goes on without them: a sandbox that silently is none.
func TestUnitHasNoKeyNewerThanSystemd252(t *testing.T) {
	_, u := service(t)
	for _, key := range []string{"RestartSteps", "RestartMaxDelaySec", "RestartMode", "MemoryZSwapMax", "OpenFile",
		"FileDescriptorStorePreserve", "DelegateSubgroup", "ImportCredential", "PrivatePIDs", "ProtectControlGroupsEx"} {
		if v, there := u["Service."+key]; there {
			t.Errorf("%s=%s is newer than systemd 252", key, v)
		}
	}
}

func TestSysusersMakesTheUserOfTheUnit(t *testing.T) {
	text, err := Files.ReadFile("holdfast.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	_, u := service(t)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "u" && fields[1] == u["Service.User"][0] {
			return
		}
	}
	t.Errorf("no line makes the user %s:\n%s", u["Service.User"], text)
}

// A backup taken by the timer is the agent's user's, keeps what README says, and nothing starts it by itself.
func TestTheBackupTimerIsOffUnlessEnabled(t *testing.T) {
	text, err := Files.ReadFile("holdfast-backup.service")
	if err != nil {
		t.Fatal(err)
	}
	u := parse(t, text)
	for key, want := range map[string]string{
		"Service.Type":           "oneshot",
		"Service.ExecStart":      "/usr/bin/agent snapshot save --dir /var/lib/holdfast-backup --keep 7 --socket /run/holdfast/agent.sock",
		"Service.User":           "holdfast",
		"Service.StateDirectory": "holdfast-backup",
		"Service.UMask":          "0077",
		"Service.ProtectSystem":  "strict",
	} {
		if got := u[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q once", key, got, want)
		}
	}
	if text, err = Files.ReadFile("holdfast-backup.timer"); err != nil {
		t.Fatal(err)
	}
	timer := parse(t, text)
	if u["Install.WantedBy"] != nil || !slices.Equal(timer["Install.WantedBy"], []string{"timers.target"}) || timer["Timer.Persistent"] == nil {
		t.Errorf("service %v, timer %v", u, timer)
	}
}

// The socket is one that an agent with the packages' configuration asks for, and nothing starts it by itself.
func TestTheSocketIsTheDefaultListener(t *testing.T) {
	text, err := Files.ReadFile("holdfast.socket")
	if err != nil {
		t.Fatal(err)
	}
	if got := parse(t, text)["Socket.ListenStream"]; !slices.Equal(got, []string{"127.0.0.1:2379"}) {
		t.Errorf("it listens on %q", got)
	}
	if text, err = Files.ReadFile("holdfast.preset"); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"holdfast.service", "holdfast.socket", "holdfast-backup.timer"} {
		if !strings.Contains(string(text), "\ndisable "+unit+"\n") {
			t.Errorf("nothing disables %s", unit)
		}
	}
}

// exposureMax is the most that `systemd-analyze security` may say, times ten.
const exposureMax = "12"

func TestSystemdAgrees(t *testing.T) {
	for _, name := range []string{"holdfast.service", "holdfast-backup.service"} {
		t.Run(name, func(t *testing.T) { systemdAgrees(t, name) })
	}
}

func systemdAgrees(t *testing.T, name string) {
	text, err := Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	u := parse(t, text)
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not on this machine; the other tests have read the unit")
		return
	}
	// Verify wants the program to be there; any will do.
	program := strings.Fields(u["Service.ExecStart"][0])[0]
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, bytes.Replace(text, []byte(program), []byte(self), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, err := exec.Command(tool, "security", "--offline=true", "--threshold="+exposureMax, path).CombinedOutput(); err != nil {
		t.Errorf("exposure is more than %s tenths: %v\n%s", exposureMax, err, out)
	}
}
