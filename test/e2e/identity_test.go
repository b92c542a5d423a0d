//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/api"
)

// cli runs a command of the agent on the node of a data dir and returns what it printed and its exit code.
func cli(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv("AGENT"), append(args, "--data-dir", dir)...)
	cmd.Env = cleanEnv(t)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// mustRun is cli for a command that succeeds.
func mustRun(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, errOut, code := cli(t, dir, args...)
	if code != 0 {
		t.Fatalf("agent %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

// nodesOf lists the nodes by name, as a member sees them.
func nodesOf(t *testing.T, dir string) map[string]api.NodeInfo {
	t.Helper()
	var list api.NodeList
	if err := json.Unmarshal([]byte(mustRun(t, dir, "nodes", "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]api.NodeInfo{}
	for _, n := range list.Nodes {
		all[n.Name] = n
	}
	return all
}

func certOf(t *testing.T, dir string) (c api.CertificateInfo) {
	t.Helper()
	if err := json.Unmarshal([]byte(mustRun(t, dir, "cert", "show", "-o", "json")), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTheLifeOfAnIdentity follows a member and a proxy through a new CA, a copied data dir, a theft and an image.
func TestTheLifeOfAnIdentity(t *testing.T) {
	c := newCluster(t)
	member := c.member()
	token := c.file("token", joinToken(t, c.memberDir(), "1h").Token)
	proxyDir, proxyAddr := filepath.Join(c.dir, "proxy"), freeAddr(t)
	args := append(c.proxyArgs(token), "--name", "pump")
	proxy := start(t, proxyDir, proxyAddr, args...)
	proxy.waitSynced()

	t.Log("the list shows the proxy with what it reports")
	eventually(t, startMax, func() string {
		if p := nodesOf(t, c.memberDir())["pump"]; p.State != api.NodeConnected || p.Version == "" || p.QueueDepth == nil || p.Lag == nil || p.LastSeen == nil {
			return fmt.Sprintf("the proxy is listed as %+v", p)
		}
		return ""
	})
	if out, errOut, code := cli(t, proxyDir, "nodes", "ls"); code != 0 || !strings.Contains(out, "pump") {
		t.Errorf("on a proxy: exit code %d, %s%s", code, out, errOut)
	}

	t.Log("another CA takes over, without an interruption")
	if _, err := os.Stat(filepath.Join(c.memberDir(), "identity", "ca.pem")); !os.IsNotExist(err) {
		t.Errorf("the CA's key is on disk in the clear: %v", err)
	}
	old := certOf(t, c.memberDir())
	mustRun(t, c.memberDir(), "cert", "rotate", "--overlap", "1h")
	now := certOf(t, c.memberDir())
	if now.Issuer == old.Issuer || len(now.CAs) != 2 || !now.CAs[0].KeyHeld || now.CAs[1].Dropped == nil {
		t.Errorf("after the rotation the member shows %+v", now)
	}
	proxy.expect(201, "PUT", "/v1/kv/during", "x", "")
	if _, errOut, code := cli(t, c.memberDir(), "cert", "rotate", "--finish"); code != 1 || !strings.Contains(errOut, "pump among them") {
		t.Errorf("finished too early: exit code %d, %s", code, errOut)
	}
	mustRun(t, proxyDir, "cert", "renew")
	mustRun(t, c.memberDir(), "cert", "rotate", "--finish")
	eventually(t, startMax, func() string {
		if p := certOf(t, proxyDir); p.Issuer != now.Issuer || len(p.CAs) != 1 {
			return fmt.Sprintf("the proxy shows %+v", p)
		}
		if s := proxy.status(); s.Proxy.UplinkLost {
			return "no uplink with the new CA alone"
		}
		return ""
	})

	t.Log("a copy of the data dir is sent away while the first is there")
	copied := filepath.Join(c.dir, "copied")
	copyDir(t, proxyDir, copied)
	second := launch(t, copied, freeAddr(t), args...)
	eventually(t, startMax, func() string {
		if log := second.logTail(); !strings.Contains(log, "this data dir is a copy") || !strings.Contains(log, "agent prepare-image") {
			return "the copy does not say what it is"
		}
		return ""
	})
	if s := proxy.status(); s.Proxy.UplinkLost {
		t.Errorf("the first lost its uplink: %+v", s.Proxy)
	}
	second.stop()
	if out := mustRun(t, copied, "prepare-image"); !strings.Contains(out, "identity") {
		t.Errorf("prepare-image printed %s", out)
	}
	if _, errOut, code := cli(t, c.memberDir(), "prepare-image"); code != 75 || !strings.Contains(errOut, "in use") {
		t.Errorf("prepare-image beside an agent: exit code %d, %s", code, errOut)
	}

	t.Log("a stolen proxy is cut off within five seconds, and for good")
	began := time.Now()
	mustRun(t, c.memberDir(), "nodes", "revoke", "pump")
	for !proxy.status().Proxy.UplinkLost {
		if time.Since(began) > 5*time.Second {
			t.Fatal("it is still connected after 5 s")
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("cut off after %v", time.Since(began).Round(time.Millisecond))
	member.kill()
	member = c.member()
	proxy.kill()
	proxy = start(t, proxyDir, proxyAddr, args...)
	eventually(t, startMax, func() string {
		if !strings.Contains(proxy.logTail(), "has been revoked") {
			return "the proxy does not say that it was revoked"
		}
		return ""
	})
	if p := nodesOf(t, c.memberDir())["pump"]; p.State != api.NodeRevoked {
		t.Errorf("listed as %+v", p)
	}
	if _, errOut, code := cli(t, proxyDir, "cert", "renew"); code != 1 || !strings.Contains(errOut, "was revoked") {
		t.Errorf("it gets a new certificate: exit code %d, %s", code, errOut)
	}

	t.Log("the image joins as another node")
	c.file("token", joinToken(t, c.memberDir(), "1h").Token) // the one of before pins the CA that was dropped
	image := start(t, copied, freeAddr(t), args...)
	image.waitSynced()
	if got, was := image.status().NodeID, certOf(t, proxyDir).Node; got == was {
		t.Errorf("it is node %s again", got)
	}
	if code := member.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, member.logTail())
	}
	if _, errOut, code := cli(t, c.memberDir(), "prepare-image"); code != exitConfig || !strings.Contains(errOut, "has the data of a member") {
		t.Errorf("prepare-image of a member: exit code %d, %s", code, errOut)
	}
}

// copyDir copies the files of a data dir, but for its lock and socket.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case d.IsDir():
			return os.Mkdir(at, 0o700)
		case !d.Type().IsRegular() || d.Name() == "agent.lock":
			return nil
		}
		b, err := os.ReadFile(path) //nolint:gosec // the test's own folder
		if err != nil {
			return err
		}
		return os.WriteFile(at, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMembersAndProxiesOverIPv6Alone has three nodes on IPv6 addresses, found by each other over them only.
func TestMembersAndProxiesOverIPv6Alone(t *testing.T) {
	peer := func() string {
		l, err := net.ListenPacket("udp6", "[::1]:0") //nolint:noctx // returns at once
		if err != nil {
			t.Fatalf("this machine has no IPv6 loopback: %v", err)
		}
		defer l.Close()
		return l.LocalAddr().String()
	}
	dir := t.TempDir()
	first, second, third := filepath.Join(dir, "1"), filepath.Join(dir, "2"), filepath.Join(dir, "3")
	at := peer()
	start(t, first, freeAddr(t), "--peer-listen", at, "--name", "one")
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(mustRun(t, first, "token", "create")), 0o600); err != nil {
		t.Fatal(err)
	}
	two := start(t, second, freeAddr(t), "--peer-listen", peer(), "--join", at, "--token-file", token, "--name", "two")
	three := start(t, third, freeAddr(t), "--mode", "proxy", "--peer-listen", peer(), "--join", at, "--token-file", token, "--name", "three")
	eventually(t, startMax, func() string {
		if s := two.status(); s.Mode != "member" || s.Member == nil || s.Member.Leader == "" {
			return fmt.Sprintf("the second is %+v", s)
		}
		if s := three.status(); s.Proxy == nil || s.Proxy.UplinkLost {
			return fmt.Sprintf("the proxy is %+v", s.Proxy)
		}
		all := nodesOf(t, first)
		for name, n := range map[string]api.NodeInfo{"two": all["two"], "three": all["three"]} {
			if n.State != api.NodeConnected || n.Version == "" || !strings.HasPrefix(n.Address, "[::1]:") {
				return fmt.Sprintf("%s is listed as %+v", name, n)
			}
		}
		return ""
	})
	three.expect(201, "PUT", "/v1/kv/a", "over IPv6", "")
	two.expect(200, "GET", "/v1/kv/a?consistency=linearizable", "", "over IPv6")
	eventually(t, startMax, func() string { // the second member is given the CA's key
		if cert := certOf(t, second); len(cert.CAs) != 1 || !cert.CAs[0].KeyHeld {
			return fmt.Sprintf("the second member shows %+v", cert.CAs)
		}
		return ""
	})
	if n := nodesOf(t, second)["three"]; n.State != api.NodeConnected || n.Via != "one" {
		t.Errorf("the second member lists the proxy as %+v", n)
	}
}
