//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files of an identity that are keys or worth as much.
var keyFiles = []string{"node.pem", "ca.pem", "sessions.json", "server.pem"}

const (
	sealMark  = "-----BEGIN HOLDFAST SEALED-----"
	sealName  = "holdfast.seal" // of the credential
	someSeal  = "an altogether random secret\n"
	otherSeal = "quite another random secret"
)

// credentials is a folder as systemd makes one, with what is to be the secret of the seal; "" for none. It returns the command that
// starts an agent with it.
func credentials(t *testing.T, secret string) (dir string, through []string) {
	t.Helper()
	dir = t.TempDir()
	if secret != "" {
		if err := os.WriteFile(filepath.Join(dir, sealName), []byte(secret), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return dir, []string{"env", "CREDENTIALS_DIRECTORY=" + dir}
}

// keysOf returns which key files there are in a data dir, and which of them are sealed.
func keysOf(t *testing.T, dir string) (there, sealed []string) {
	t.Helper()
	for _, name := range keyFiles {
		text, err := os.ReadFile(filepath.Join(dir, "identity", name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		there = append(there, name)
		if bytes.HasPrefix(text, []byte(sealMark)) {
			sealed = append(sealed, name)
		}
	}
	return there, sealed
}

// noKeyIsOpen looks through all files of a data dir for a key in the clear.
func noKeyIsOpen(t *testing.T, dir string) {
	t.Helper()
	there, sealed := keysOf(t, dir)
	if len(there) == 0 || len(sealed) != len(there) {
		t.Errorf("of %v only %v are sealed", there, sealed)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, "identity", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("PRIVATE KEY")) || bytes.Contains(text, []byte("HOLDFAST NODE")) {
			t.Errorf("%s has a key in the clear", e.Name())
		}
	}
}

// TestKeysAreSealedByACredential gives a credential to an agent that has keys already, takes it away, and gives another one.
func TestKeysAreSealedByACredential(t *testing.T) {
	dir, addr := filepath.Join(t.TempDir(), "d"), freeAddr(t)
	args := []string{"--peer-listen", freeUDP(t), "--listen", "https://" + freeAddr(t), "--tls-auto"}
	with := func(secret string) *agent {
		t.Helper()
		_, through := credentials(t, secret)
		return launchIn(t, through, dir, addr, args...)
	}
	refused := func(a *agent, parts ...string) {
		t.Helper()
		if code := a.waitExit(startMax); code != 78 {
			t.Errorf("exit %d, want 78\n%s", code, a.logTail())
		}
		for _, part := range parts {
			if !strings.Contains(a.logTail(), part) {
				t.Errorf("%q is not in what it says:\n%s", part, a.logTail())
			}
		}
	}
	a := with("")
	a.waitReady()
	a.expect(201, "PUT", "/v1/kv/a", "1", "")
	eventually(t, startMax, func() string {
		if there, _ := keysOf(t, dir); len(there) < 2 || there[len(there)-1] != "server.pem" {
			return "no certificate of https yet"
		}
		return ""
	})
	if _, sealed := keysOf(t, dir); len(sealed) > 0 {
		t.Errorf("sealed without a secret: %v", sealed)
	}
	a.kill()
	leftover := filepath.Join(dir, "identity", ".node.pem.123")
	if err := os.WriteFile(leftover, []byte("-----BEGIN PRIVATE KEY-----"), 0o600); err != nil {
		t.Fatal(err)
	}

	t.Log("the next start with a secret seals them")
	a = with(someSeal)
	a.waitReady()
	a.expect(200, "GET", "/v1/kv/a", "", "1")
	noKeyIsOpen(t, dir)
	was := certOf(t, dir)
	eventually(t, startMax, func() string { // once the member knows the CA again
		if _, errOut, code := cli(t, dir, "cert", "renew"); code != 0 {
			return fmt.Sprintf("agent cert renew: exit %d, %s", code, errOut)
		}
		return ""
	})
	mustRun(t, dir, "cert", "rotate") // what is written from now on is sealed too
	if now := certOf(t, dir); now.Issuer == was.Issuer {
		t.Errorf("the certificate is still of %s", now.Issuer)
	}
	noKeyIsOpen(t, dir)
	if out, errOut, code := cli(t, dir, "check", "seal"); code != 0 || !strings.Contains(out, "is sealed") {
		t.Errorf("agent check seal: exit %d, %s%s", code, out, errOut)
	}
	a.kill()

	t.Log("without it, or with another one, nothing starts and nothing is changed")
	before, err := os.ReadFile(filepath.Join(dir, "identity", "node.pem"))
	if err != nil {
		t.Fatal(err)
	}
	refused(with(""), "is sealed, and there is no secret", "LoadCredentialEncrypted=holdfast.seal")
	refused(with(otherSeal), "sealed with another secret, or is damaged", "hand over the secret")
	refused(with("short"), "seal-file", "16 to 4096 random ones")
	if after, err := os.ReadFile(filepath.Join(dir, "identity", "node.pem")); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the identity was changed: %v", err)
	}
	if code, out := commandAt(t, dir, "recover", "--dry-run"); code != 0 {
		t.Errorf("a command that needs no key: exit %d, %s", code, out)
	}

	t.Log("another secret")
	first, _ := credentials(t, someSeal)
	second, _ := credentials(t, otherSeal)
	if code, out := commandAt(t, dir, "reseal", "--to", filepath.Join(second, sealName)); code != 78 {
		t.Errorf("resealed without the secret of now: exit %d, %s", code, out)
	}
	mustRun(t, dir, "reseal", "--from", filepath.Join(first, sealName), "--to", filepath.Join(second, sealName))
	refused(with(someSeal), "sealed with another secret")
	a = with(otherSeal)
	a.waitReady()
	a.expect(200, "GET", "/v1/kv/a", "", "1")
	a.expect(201, "PUT", "/v1/kv/b", "2", "")
	noKeyIsOpen(t, dir)
	if code := a.stop(); code != 0 {
		t.Errorf("exit %d", code)
	}

	t.Log("and none")
	mustRun(t, dir, "reseal", "--from", filepath.Join(second, sealName), "--open")
	a = with("")
	a.waitReady()
	a.expect(200, "GET", "/v1/kv/b", "", "2")
}

// founded is the dir of a member that was stopped, with a key.
func (c *crash) founded() (dir, addr string, args []string) {
	c.t.Helper()
	dir, addr = filepath.Join(c.dir, "node"), freeAddr(c.t)
	args = []string{"--peer-listen", freeUDP(c.t)}
	a := start(c.t, dir, addr, args...)
	a.expect(201, "PUT", "/v1/kv/a", "1", "")
	c.stops(a)
	return dir, addr, args
}

// serves starts the agent with a secret and wants it to have what it had, under seal.
func (c *crash) serves(dir, addr, secret string, args []string) {
	c.t.Helper()
	_, through := credentials(c.t, secret)
	a := launchIn(c.t, through, dir, addr, args...)
	a.waitReady()
	a.expect(200, "GET", "/v1/kv/a", "", "1")
	noKeyIsOpen(c.t, dir)
	c.stops(a)
}

// sealsItsKeys dies while the keys that an agent has are sealed for the first time.
func (c *crash) sealsItsKeys() {
	dir, addr, args := c.founded()
	_, through := credentials(c.t, someSeal)
	c.dies(launchIn(c.t, append(through, c.through()...), dir, addr, args...))
	c.serves(dir, addr, someSeal, args)
}

// resealsItsKeys dies while they are sealed with another secret.
func (c *crash) resealsItsKeys() {
	dir, addr, args := c.founded()
	c.serves(dir, addr, someSeal, args)
	first, _ := credentials(c.t, someSeal)
	second, _ := credentials(c.t, otherSeal)
	reseal := []string{"reseal", "--data-dir", dir, "--from", filepath.Join(first, sealName), "--to", filepath.Join(second, sealName)}
	c.command(reseal...)
	command(c.t, 0, reseal...)
	c.serves(dir, addr, otherSeal, args)
}
