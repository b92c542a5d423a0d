//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestTheAPIIsAsItsPageHasIt runs each line of docs/api.md and compares the status with the one behind it.
func TestTheAPIIsAsItsPageHasIt(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, t.TempDir(), freeAddr(t))
	line := regexp.MustCompile(`^curl (.*?) +# ([0-9]{3})( or [0-9]{3})?\b`)
	ran, fenced := 0, false
	for l := range strings.Lines(string(text)) {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, "```") {
			fenced = strings.HasPrefix(l, "```sh")
			continue
		}
		if !fenced || !strings.HasPrefix(l, "curl ") {
			continue
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			t.Errorf("no status behind %q", l)
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		cmd := exec.CommandContext(ctx, "sh", "-c", "curl -s -w '\\n%{http_code}' "+m[1])
		cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "url="+a.url, "dir="+a.dir)
		out, err := cmd.Output() // a watch ends with curl's own time
		cancel()
		got := strings.TrimSpace(string(out))
		if !strings.HasSuffix(got, m[2]) {
			t.Errorf("%s\nis answered with (%v)\n%s", l, err, got)
		}
		ran++
	}
	if ran < 40 {
		t.Errorf("the page has %d lines that were run", ran)
	}
}
