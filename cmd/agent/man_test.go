package main

import (
	"os"
	"strings"
	"testing"
)

func TestManualPagesNameEveryCommandAndSetting(t *testing.T) {
	w := newWorld(t)
	page := w.runs(0, "man")
	for _, want := range []string{".TH AGENT 1", ".SS agent kv get\n", ".SS agent config check\n", `\-\-token\-file`, ".B 78"} {
		if !strings.Contains(page, want) {
			t.Errorf("agent(1) lacks %q", want)
		}
	}
	w.runs(0, "man", "--dir", w.dir)
	text, err := os.ReadFile(w.path("agent.yaml.5"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "'") {
			t.Errorf("roff takes %q for a request", line)
		}
	}
	if !strings.Contains(string(text), `queue`) {
		t.Errorf("agent.yaml(5) is\n%s", text)
	}
}

// The variables and flags of a process that runs count, and not those of the one that asks.
func TestConfigCheckLooksAtARunningProcess(t *testing.T) {
	for _, tc := range []struct {
		cmdline, environ string
		code             int
		says             string
	}{
		{"agent\x00run\x00--log-level=debug\x00", "A=b\x00", 0, "good"},
		{"agent\x00--log-level\x00debug\x00", "A=b\x00HOLDFAST_NAME=x\x00", 0, "good"},
		{"agent\x00run\x00--log-levle=debug\x00", "A=b\x00", 78, "--log-level"},
		{"agent\x00run\x00", "HOLDFAST_LOG_LEVEL=loud\x00", 78, "loud"},
		{"agent\x00kv\x00watch\x00", "A=b\x00", 1, "has no settings"},
	} {
		w := newWorld(t)
		w.env = []string{"HOLDFAST_LOG_LEVEL=nonsense"}
		w.write("proc/42/cmdline", tc.cmdline)
		w.write("proc/42/environ", tc.environ)
		code := w.run("config", "check", "--pid", "42")
		if said := w.stdout.String() + w.stderr.String(); code != tc.code || !strings.Contains(said, tc.says) {
			t.Errorf("%q, %q: exit %d, want %d; it says %q, want %q", tc.cmdline, tc.environ, code, tc.code, said, tc.says)
		}
	}
	w := newWorld(t)
	if code := w.run("config", "check", "--pid", "41"); code != 1 {
		t.Errorf("a process that is not there: exit %d", code)
	}
}
