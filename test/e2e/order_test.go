//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestAnotherNodeChangesItsModeByName promotes and demotes a proxy from a member, by name, with no token at hand: whoever
// administers a member may say so. A node that is away is refused, and so is a command from a proxy.
func TestAnotherNodeChangesItsModeByName(t *testing.T) {
	b, first := newBoxes(t)
	third := b.start("third", "--mode", "proxy")
	third.waitSynced()
	if code, out := third.command("promote", "first"); code != 1 || !strings.Contains(out, "run the command on a member") {
		t.Errorf("from a proxy: exit %d\n%s", code, out)
	}
	if code, out := first.command("promote", "nobody"); code != 1 || !strings.Contains(out, "nobody") {
		t.Errorf("nobody: exit %d\n%s", code, out)
	}
	for _, change := range []string{"promote", "demote"} {
		code, out := first.command(change, "third")
		want := map[string]string{"promote": "member", "demote": "proxy"}[change]
		if code != 0 || !strings.Contains(out, "is a "+want) {
			t.Fatalf("agent %s third: exit %d\n%s\n%s", change, code, out, third.logTail())
		}
		if s := third.status(); s.Mode != want || s.Switch != nil {
			t.Errorf("after agent %s it is a %s (%+v)", change, s.Mode, s.Switch)
		}
	}
	if code, out := first.command("demote", "first"); code != 1 || !strings.Contains(out, "only voter") {
		t.Errorf("the last voter: exit %d\n%s", code, out)
	}
	third.stop()
	if code, out := first.command("promote", "third"); code != 75 || !strings.Contains(out, "connected to no member") {
		t.Errorf("away: exit %d\n%s", code, out)
	}
}
