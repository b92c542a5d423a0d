//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestACopiedMemberIsRefused starts a copy of a member's data dir beside the member, and then in its place. The copy has
// less than the member has acknowledged: it takes no part, and says what to do. The member goes on, and its vote counts.
func TestACopiedMemberIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, nil)
	third := s.boxes[2]
	third.expect(201, "PUT", "/v1/kv/a", "1", "")
	third.close()
	if code := third.stop(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, third.logTail())
	}
	copied := filepath.Join(s.dir, "copied")
	copyDir(t, third.data, copied)
	third.start()
	third.expect(200, "PUT", "/v1/kv/a", "2", "")
	refused := func(a *agent) {
		t.Helper()
		if code := a.waitExit(startMax); code != exitConfig || !strings.Contains(a.logTail(), "Give the box an empty data dir, --join and a token") {
			t.Errorf("exit code %d, want %d and a way out:\n%s", code, exitConfig, a.logTail())
		}
	}

	t.Log("beside the member")
	refused(launch(t, copied, freeAddr(t)))
	s.boxes[0].expect(200, "PUT", "/v1/kv/a", "2", "")
	eventually(t, startMax, func() string { // seconds later the others know which of the two has gone
		if r := third.do("PUT", "/v1/kv/a", []byte("2")); r.status != 200 {
			return fmt.Sprintf("%d %s\n%s", r.status, r.body, third.logTail())
		}
		return ""
	})
	s.boxes[0].waitVoters(3, startMax)

	t.Log("in the member's place")
	third.kill()
	s.boxes[0].expect(200, "PUT", "/v1/kv/a", "3", "")
	refused(launch(t, copied, third.addr, "--peer-listen", third.peer))

	t.Log("the member is back, and needed")
	third.start()
	s.boxes[1].kill()
	eventually(t, startMax, func() string {
		if r := third.do("PUT", "/v1/kv/a", []byte("4")); r.status != 200 {
			return fmt.Sprintf("%d %s\n%s", r.status, r.body, third.logTail())
		}
		return ""
	})
	s.boxes[0].expect(200, "GET", "/v1/kv/a?consistency=linearizable", "", "4")
}
