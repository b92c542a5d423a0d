//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// exposureMax is the worst grade that systemd-analyze may give the unit; a unit without any hardening gets 9.6.
const exposureMax = 1.2

// installed is a machine with the agent on it as a package would put it there, enabled, not booted.
func installed(t *testing.T) *machine {
	t.Helper()
	m := placed(t, os.Getenv("AGENT"))
	m.link("/usr/lib/systemd/system/holdfast.service", "/etc/systemd/system/multi-user.target.wants/holdfast.service")
	return m
}

// placed is a machine with this program on it, not enabled and not booted.
func placed(t *testing.T, program string) *machine {
	t.Helper()
	m := newMachine(t)
	m.copyIn(program, "/usr/bin/agent", 0o755)
	for from, to := range map[string]string{
		"systemd/holdfast.service":  "/usr/lib/systemd/system/holdfast.service",
		"systemd/holdfast.sysusers": "/usr/lib/sysusers.d/holdfast.conf",
		"packaging/agent.yaml":      "/etc/holdfast/agent.yaml",
	} {
		m.copyIn(filepath.Join("..", "..", from), to, 0o644)
	}
	return m
}

// unit is what systemd says of the service.
type unit map[string]string

func (m *machine) unit() unit {
	m.t.Helper()
	u := unit{}
	for line := range strings.Lines(m.must("systemctl", "show", "holdfast.service")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		u[name] = value
	}
	return u
}

// waitUnit waits until the unit is as wanted and returns what it is then.
func (m *machine) waitUnit(within time.Duration, wanted func(unit) bool) unit {
	m.t.Helper()
	var u unit
	eventually(m.t, within, func() string {
		u = m.unit()
		if wanted(u) {
			return ""
		}
		return fmt.Sprintf("holdfast.service is %s/%s, result %s, pid %s, restarts %s, status %q", u["ActiveState"], u["SubState"],
			u["Result"], u["MainPID"], u["NRestarts"], u["StatusText"])
	})
	return u
}

func active(u unit) bool { return u["ActiveState"] == "active" && u["SubState"] == "running" }

// value reads a key over HTTP.
func (m *machine) value(key string) string {
	out, err := m.curl("http://127.0.0.1:2379/v1/kv/" + key)
	if err != nil {
		return fmt.Sprintf("%s %v", out, err)
	}
	return out
}

// put writes a key over HTTP and expects it to be stored. A leader may still be wanted for a moment after a start.
func (m *machine) put(key, value string) {
	m.t.Helper()
	eventually(m.t, 15*time.Second, func() string {
		out, err := m.curl("-X", "PUT", "--data-binary", value, "http://127.0.0.1:2379/v1/kv/"+key)
		if err == nil && regexp.MustCompile(`^\{"revision":[0-9]+`).MatchString(out) {
			return ""
		}
		return fmt.Sprintf("PUT %s: %s %v", key, out, err)
	})
}

func TestSystemdRunsTheAgent(t *testing.T) {
	m := installed(t)
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
		{"is active after boot, with a status", activeAfterBoot},
		{"verifies", verifies},
		{"is hardened", hardened},
		{"gives nothing away", givesNothingAway},
		{"serves and administers", servesAndAdministers},
		{"logs in fields, and nothing while nothing changes", logsInFields},
		{"is restarted when killed", restartedWhenKilled},
		{"reloads", reloads},
		{"is restarted by the watchdog when it hangs", restartedByWatchdog},
		{"stops", stops},
		{"hands secrets over that only root may read", handsSecretsOver},
		{"stays down when only a person can help", staysDown},
	} {
		if !t.Run(step.name, func(t *testing.T) { outer := m.t; m.t = t; defer func() { m.t = outer }(); step.test(t, m) }) {
			t.Fatal("the steps after it stand on this one")
		}
	}
}

func activeAfterBoot(t *testing.T, m *machine) {
	u := m.waitUnit(30*time.Second, func(u unit) bool { return active(u) && strings.HasPrefix(u["StatusText"], "Serving") })
	since := func(name string) time.Duration {
		usec, err := strconv.ParseInt(u[name], 10, 64)
		if err != nil {
			t.Fatalf("%s=%q", name, u[name])
		}
		return time.Duration(usec) * time.Microsecond
	}
	t.Logf("active %v after it was started, status %q", since("ActiveEnterTimestampMonotonic")-since("InactiveExitTimestampMonotonic"), u["StatusText"])
	if u["Type"] != "notify" || u["NRestarts"] != "0" {
		t.Errorf("type %s, %s restarts", u["Type"], u["NRestarts"])
	}
}

func verifies(t *testing.T, m *machine) {
	if out := m.must("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/holdfast.service"); strings.Contains(out, "holdfast") {
		t.Errorf("systemd-analyze verify has something to say:\n%s", out)
	}
}

func hardened(t *testing.T, m *machine) {
	out := m.must("systemd-analyze", "security", "--no-pager", "--offline=true", "/usr/lib/systemd/system/holdfast.service")
	found := regexp.MustCompile(`Overall exposure level for holdfast.service: ([0-9.]+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no grade in:\n%s", out)
	}
	t.Log(found[0])
	if grade, err := strconv.ParseFloat(found[1], 64); err != nil || grade > exposureMax {
		t.Errorf("exposure %s, at most %v is accepted:\n%s", found[1], exposureMax, out)
	}
}

// givesNothingAway looks at who the agent is and who may read what it has.
func givesNothingAway(t *testing.T, m *machine) {
	pid := m.unit()["MainPID"]
	if user := strings.TrimSpace(m.must("stat", "-c", "%U", "/proc/"+pid)); user != "holdfast" {
		t.Errorf("it runs as %s", user)
	}
	for path, want := range map[string]string{
		"/var/lib/holdfast/":       "700 holdfast holdfast",
		"/run/holdfast/":           "750 holdfast holdfast",
		"/run/holdfast/agent.sock": "660 holdfast holdfast",
	} {
		if got := strings.TrimSpace(m.must("stat", "-L", "-c", "%a %U %G", path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if out := strings.TrimSpace(m.must("find", "/var/lib/holdfast/", "-type", "f", "-perm", "/077")); out != "" {
		t.Errorf("others may read\n%s", out)
	}
}

func servesAndAdministers(t *testing.T, m *machine) {
	m.put("site/42/temp", "21.5")
	if got := m.value("site/42/temp"); got != "21.5" {
		t.Errorf("GET: %q", got)
	}
	// The defaults of a package: the commands find the socket by themselves.
	if out := m.must("agent", "kv", "get", "site/42/temp"); strings.TrimSpace(out) != "21.5" {
		t.Errorf("agent kv get: %q", out)
	}
	if out := m.must("agent", "status"); !strings.Contains(out, "member") {
		t.Errorf("agent status: %q", out)
	}
}

// logsInFields asks the journal for an event, and then watches it for a while: a box that is idle wears no flash.
func logsInFields(t *testing.T, m *machine) {
	if out := m.must("journalctl", "--no-pager", "-b", "-u", "holdfast.service", "-o", "json", "HOLDFAST_EVENT=agent ready"); !strings.Contains(out, `"HOLDFAST_STATUS":"Serving`) {
		t.Errorf("the event is not in the journal with its fields: %s", out)
	}
	count := func() int {
		return strings.Count(m.must("journalctl", "--no-pager", "-b", "-u", "holdfast.service", "-o", "cat"), "\n")
	}
	before := count()
	time.Sleep(10 * time.Second) // what is tested is that nothing happens
	if after := count(); after != before {
		t.Errorf("%d lines in 10 s of doing nothing:\n%s", after-before, m.must("journalctl", "--no-pager", "-b", "-u", "holdfast.service", "-n", fmt.Sprint(after-before)))
	}
}

func restartedWhenKilled(t *testing.T, m *machine) {
	m.put("kept", "over-a-kill")
	before := m.unit()
	m.must("systemctl", "kill", "-s", "KILL", "holdfast.service")
	u := m.waitUnit(30*time.Second, func(u unit) bool { return active(u) && u["MainPID"] != before["MainPID"] })
	if u["NRestarts"] != "1" {
		t.Errorf("%s restarts", u["NRestarts"])
	}
	eventually(t, 15*time.Second, func() string {
		if got := m.value("kept"); got != "over-a-kill" {
			return fmt.Sprintf("GET after the kill: %q", got)
		}
		return ""
	})
}

func reloads(t *testing.T, m *machine) {
	before := m.unit()
	m.write("/etc/holdfast/agent.d/test.yaml", "log-level: debug\nstore:\n  flush: 10s\n", 0o644)
	m.must("systemctl", "reload", "holdfast.service")
	eventually(t, 10*time.Second, func() string {
		out := m.must("journalctl", "--no-pager", "-b", "-u", "holdfast.service")
		if strings.Contains(out, "log-level") && strings.Contains(out, "store.flush") {
			return ""
		}
		return "the journal names neither what was reloaded nor what was not:\n" + out
	})
	if u := m.unit(); !active(u) || u["MainPID"] != before["MainPID"] {
		t.Errorf("%s/%s, pid %s before and %s after", u["ActiveState"], u["SubState"], before["MainPID"], u["MainPID"])
	}
	if got := m.value("kept"); got != "over-a-kill" {
		t.Errorf("GET after the reload: %q", got)
	}
}

// restartedByWatchdog stops the process without ending it. The waits of the unit are shortened, not its mechanism.
func restartedByWatchdog(t *testing.T, m *machine) {
	m.write("/etc/systemd/system/holdfast.service.d/soon.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\nRestartSec=100ms\n", 0o644)
	m.must("systemctl", "daemon-reload")
	m.must("systemctl", "restart", "holdfast.service")
	before := m.waitUnit(30*time.Second, active)
	time.Sleep(5 * time.Second) // longer than WatchdogSec: an agent that is well is left alone
	if u := m.unit(); u["MainPID"] != before["MainPID"] || u["NRestarts"] != "0" {
		t.Fatalf("the watchdog bites an agent that is well: pid %s, then %s", before["MainPID"], u["MainPID"])
	}
	m.must("systemctl", "kill", "-s", "STOP", "holdfast.service")
	u := m.waitUnit(30*time.Second, func(u unit) bool { return active(u) && u["MainPID"] != before["MainPID"] })
	if out := m.must("journalctl", "--no-pager", "-b", "-u", "holdfast.service"); !strings.Contains(out, "Watchdog timeout") {
		t.Errorf("restarted (%s restarts), but not by the watchdog:\n%s", u["NRestarts"], out)
	}
	eventually(t, 15*time.Second, func() string {
		if got := m.value("kept"); got != "over-a-kill" {
			return fmt.Sprintf("GET after the hang: %q", got)
		}
		return ""
	})
}

func stops(t *testing.T, m *machine) {
	began := time.Now()
	m.must("systemctl", "stop", "holdfast.service")
	u := m.unit()
	t.Logf("stopped in %v", time.Since(began).Round(time.Millisecond))
	if u["ActiveState"] != "inactive" || u["Result"] != "success" || u["ExecMainStatus"] != "0" {
		t.Errorf("%s, result %s, status %s", u["ActiveState"], u["Result"], u["ExecMainStatus"])
	}
	m.must("systemctl", "start", "holdfast.service")
	m.waitUnit(30*time.Second, active)
	eventually(t, 15*time.Second, func() string {
		if got := m.value("kept"); got != "over-a-kill" {
			return fmt.Sprintf("GET after stop and start: %q", got)
		}
		return ""
	})
}

// handsSecretsOver has the key of an https listener, and its certificate, come from systemd, as systemd/README.md has it.
func handsSecretsOver(t *testing.T, m *machine) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "edge"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	m.write("/root/box.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})), 0o600)
	m.write("/root/box.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), 0o600)
	m.write("/etc/systemd/system/holdfast.service.d/tls.conf", "[Service]\nLoadCredential=tls-key:/root/box.key\nLoadCredential=tls-cert:/root/box.pem\n", 0o644)
	m.write("/etc/holdfast/agent.d/https.yaml", "listen: [http://127.0.0.1:2379, https://127.0.0.1:2443]\n", 0o644)
	m.must("systemctl", "daemon-reload")
	m.must("systemctl", "restart", "holdfast.service")
	m.waitUnit(30*time.Second, active)
	eventually(t, 15*time.Second, func() string {
		if got, err := m.curl("--cacert", filepath.Join(m.root, "root", "box.pem"), "https://127.0.0.1:2443/v1/kv/kept"); err != nil || got != "over-a-kill" {
			return fmt.Sprintf("GET over https: %q %v", got, err)
		}
		return ""
	})
	if out, err := m.run("setpriv", "--reuid=holdfast", "--regid=holdfast", "--clear-groups", "cat", "/root/box.key"); err == nil {
		t.Errorf("the agent's user reads the key itself: %s", out)
	}
}

func staysDown(t *testing.T, m *machine) {
	m.write("/etc/holdfast/agent.d/test.yaml", "log-levle: debug\n", 0o644)
	_, _ = m.run("systemctl", "restart", "holdfast.service") // it says that the start failed
	u := m.waitUnit(20*time.Second, func(u unit) bool { return u["ActiveState"] == "failed" })
	if u["ExecMainStatus"] != strconv.Itoa(exitConfig) || u["NRestarts"] != "0" {
		t.Errorf("status %s, %s restarts", u["ExecMainStatus"], u["NRestarts"])
	}
	if out := m.must("journalctl", "--no-pager", "-b", "-u", "holdfast.service"); !strings.Contains(out, "log-levle") || !strings.Contains(out, "log-level") {
		t.Errorf("the journal does not say what to mend:\n%s", out)
	}
}
