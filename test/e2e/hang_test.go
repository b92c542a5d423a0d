//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// hangs is what makes a loop hang once /run/hang is there, and shortens the waits of the unit, not its mechanism. The file is gone
// by the next start.
const hangs = `[Service]
WatchdogSec=3
TimeoutAbortSec=20
RestartSec=100ms
ExecStartPre=+/bin/rm -f /run/hang
Environment=FAILPOINT_HANG_IF=/run/hang FAILPOINT_HANG=`

// TestALoopThatHangsIsNamedAndTheAgentStartedAgain has each of the loops that the watchdog goes by hang, in a program built for
// that, under a real systemd: it ends the agent with SIGABRT and starts it again, and the journal says which loop it was, and where.
func TestALoopThatHangsIsNamedAndTheAgentStartedAgain(t *testing.T) {
	t.Parallel()
	program := failpointsProgram(t)

	t.Run("the loop that applies log entries", func(t *testing.T) {
		m := placed(t, program)
		m.write("/etc/systemd/system/holdfast.service.d/hang.conf", hangs+"member/apply\n", 0o644)
		m.boot()
		m.must("systemctl", "start", "holdfast.service")
		m.waitUnit(30*time.Second, active)
		m.put("kept", "over-a-hang")
		m.hangsAt("the loop that applies log entries", func() {
			_, _ = m.curl("-X", "PUT", "--data-binary", "1", "--max-time", "1", "http://127.0.0.1:2379/v1/kv/hangs") // unanswered
		})
		eventually(t, 15*time.Second, func() string {
			if got := m.value("kept"); got != "over-a-hang" {
				return "GET after the hang: " + got
			}
			return ""
		})
		m.put("after", "the hang")
	})

	t.Run("the loop that feeds the cache", func(t *testing.T) {
		m := placed(t, program)
		m.write("/etc/systemd/system/holdfast.service.d/hang.conf", hangs+"proxy/feed\n", 0o644)
		m.write("/etc/systemd/system/member.service", "[Service]\nType=notify\nExecStart=/usr/bin/agent run --config /srv/member.yaml --data-dir /srv/member --socket /srv/member/agent.sock --listen http://127.0.0.1:2479 --peer-listen 127.0.0.1:2480\n", 0o644)
		m.write("/srv/member.yaml", "# the settings of the other one are not for it\n", 0o644)
		m.write("/etc/holdfast/agent.d/join.yaml", "mode: proxy\njoin: 127.0.0.1:2480\nproxy: {prefixes: site/}\n", 0o644)
		m.boot()
		m.must("systemctl", "start", "member.service")
		m.must("sh", "-ec", "agent token create --data-dir /srv/member --role proxy > /root/join-token; chmod 0600 /root/join-token")
		m.write("/etc/systemd/system/holdfast.service.d/token.conf", "[Service]\nLoadCredential=token:/root/join-token\n", 0o644)
		m.must("systemctl", "daemon-reload")
		m.must("agent", "kv", "put", "site/1", "before", "--data-dir", "/srv/member")
		m.must("systemctl", "start", "holdfast.service")
		m.waitUnit(30*time.Second, func(u unit) bool { return active(u) && strings.HasPrefix(u["StatusText"], "Serving as proxy") })
		m.reads("site/1", "before")
		m.hangsAt("the loop that feeds the cache", func() { m.must("agent", "kv", "put", "site/1", "after", "--data-dir", "/srv/member") })
		m.reads("site/1", "after")
	})
}

// reads waits until a key is read so.
func (m *machine) reads(key, want string) {
	m.t.Helper()
	eventually(m.t, 15*time.Second, func() string {
		if got := m.value(key); got != want {
			return "GET " + key + ": " + got
		}
		return ""
	})
}

// hangsAt has the loop hang at what work gives it to do, and expects what its users are to find.
func (m *machine) hangsAt(loop string, work func()) {
	m.t.Helper()
	before := m.unit()
	m.must("touch", "/run/hang")
	work()
	u := m.waitUnit(60*time.Second, func(u unit) bool { return active(u) && u["MainPID"] != before["MainPID"] })
	journal := m.must("journalctl", "--no-pager", "-b", "-u", "holdfast.service")
	for _, text := range []string{"node gave no sign of life", loop + " has been at the same piece of work", "Watchdog timeout", "SIGABRT", "failpoint.Hang"} {
		if !strings.Contains(journal, text) {
			m.t.Errorf("%q is not in the journal (%s restarts):\n%s", text, u["NRestarts"], journal)
			return
		}
	}
}
