package compat

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// nodeLimit is how long installing the client, and talking with it, may take.
const nodeLimit = 2 * time.Minute

// TestNodeClient holds the conversation of node/talk.js with both sides.
func TestNodeClient(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), nodeLimit)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = "node"
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci (Debian: apt-get install nodejs npm): %v\n%s", err, out)
	}
	p := newPair(t)
	said := map[*side]*strings.Builder{p.etcd: {}, p.subject: {}}
	etcdErr, subjectErr := p.both(func(s *side) error {
		cmd := exec.CommandContext(ctx, "node", "talk.js", s.addr)
		cmd.Dir = "node"
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		cmd.Stdout, cmd.Stderr = said[s], said[s]
		return cmd.Run()
	})
	if etcdErr != nil {
		t.Fatalf("with etcd: %v\n%s", etcdErr, said[p.etcd])
	}
	if d := diff(said[p.etcd].String(), said[p.subject].String()); d != "" {
		t.Errorf("%s differs:\n%s", subjectName(), d)
	}
	if subjectErr != nil {
		t.Errorf("with %s: %v", subjectName(), subjectErr)
	}
}
