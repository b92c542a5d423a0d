//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
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
	if code, out := third.command("nodes", "ls"); code != 0 || !strings.Contains(out, "first") || !strings.Contains(out, "here") {
		t.Errorf("nodes ls on a proxy: exit %d\n%s", code, out)
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

// TestARevokedMemberLosesItsSeatAndOneThatLeavesIsForgotten takes two members out for good, one against its will.
func TestARevokedMemberLosesItsSeatAndOneThatLeavesIsForgotten(t *testing.T) {
	_, boxes, _, _ := threeBoxes(t)
	first := boxes[0]
	if code, out := first.command("nodes", "revoke", "box3"); code != 0 || !strings.Contains(out, "off the list of members") {
		t.Fatalf("revoke: exit %d\n%s", code, out)
	}
	first.waitVoters(2, startMax)
	if r := first.do(http.MethodPut, "/v1/kv/a", []byte("1")); r.status != 201 {
		t.Errorf("a write: %d %s", r.status, r.body)
	}
	if code, out := boxes[1].command("leave"); code != 0 {
		t.Fatalf("leave: exit %d\n%s\n%s", code, out, boxes[1].logTail())
	}
	if code := boxes[1].waitExit(startMax); code != 0 {
		t.Errorf("the box that left ended with %d\n%s", code, boxes[1].logTail())
	}
	code, out := first.command("nodes", "ls")
	if code != 0 || strings.Contains(out, "box2") || !strings.Contains(out, "revoked") {
		t.Errorf("nodes ls: exit %d\n%s", code, out)
	}
}

// TestAMemberThatLostItsDataAloneTakesItsPlaceAgain deletes what a member holds and leaves its identity and its record. It needs
// no token to come back, under another id; without --join it says what to do.
func TestAMemberThatLostItsDataAloneTakesItsPlaceAgain(t *testing.T) {
	c, boxes, _, _ := threeBoxes(t)
	boxes[0].expect(201, "PUT", "/v1/kv/a", "1", "")
	boxes[2].kill()
	if err := os.RemoveAll(filepath.Join(c.boxDir(3), "member")); err != nil {
		t.Fatal(err)
	}
	lone := launch(t, c.boxDir(3), freeAddr(t), "--name", "box3")
	if code := lone.waitExit(startMax); code != exitConfig || !strings.Contains(lone.logTail(), "--join") {
		t.Errorf("without --join it ended with %d\n%s", code, lone.logTail())
	}
	again := launch(t, c.boxDir(3), freeAddr(t), "--name", "box3", "--join", c.peerAddr)
	again.waitReady()
	boxes[0].waitVoters(3, startMax)
	again.expect(200, "GET", "/v1/kv/a", "", "1")
	for _, m := range boxes[0].members() {
		if m.Name == "box3" && (m.ID == "2" || m.ID == "3") {
			t.Errorf("it has the id %s again", m.ID)
		}
	}
}
