//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha1" //nolint:gosec // the format has it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// apk is a package of Alpine's, as apk-v2(5) describes it: concatenated gzip streams, the first with what is known of the package and
// its scripts, the second with its files. apk itself is not to be had on Debian: this reads the format by its description, with
// nothing of the program that wrote it, and stands in for apk in the order in which that does things.
type apk struct {
	t       *testing.T
	info    map[string]string
	scripts map[string]string
	files   []apkFile
}

type apkFile struct {
	*tar.Header
	content string
}

// apkVersion is what apk takes for a version.
var apkVersion = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*[a-z]?(_(alpha|beta|pre|rc|cvs|svn|git|hg|p)[0-9]*)*-r[0-9]+$`)

// apkScripts are the scripts that apk knows; one by another name it would never run.
var apkScripts = []string{".pre-install", ".post-install", ".pre-upgrade", ".post-upgrade", ".pre-deinstall", ".post-deinstall"}

func readAPK(t *testing.T, path string) *apk {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := &apk{t: t, info: map[string]string{}, scripts: map[string]string{}}
	in := bytes.NewReader(raw)
	for _, f := range segment(t, in) {
		switch {
		case f.Name == ".PKGINFO":
			for line := range strings.Lines(f.content) {
				if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok && !strings.HasPrefix(key, "#") {
					a.info[key] = value
				}
			}
		case slices.Contains(apkScripts, f.Name):
			a.scripts[f.Name] = f.content
		default:
			t.Errorf("apk would not know what to do with %s", f.Name)
		}
	}
	data := raw[len(raw)-in.Len():]
	if sum := sha256.Sum256(data); a.info["datahash"] != hex.EncodeToString(sum[:]) {
		t.Errorf("datahash is %s, and the files have %x", a.info["datahash"], sum)
	}
	if a.info["pkgname"] != "holdfast" || a.info["arch"] != "x86_64" || !apkVersion.MatchString(a.info["pkgver"]) {
		t.Errorf("it is %s %s for %s", a.info["pkgname"], a.info["pkgver"], a.info["arch"])
	}
	a.files = segment(t, in)
	if in.Len() > 0 {
		t.Errorf("%d bytes follow the files", in.Len())
	}
	for _, f := range a.files {
		sum := sha1.Sum([]byte(f.content)) //nolint:gosec // as above
		if f.Typeflag == tar.TypeReg && f.PAXRecords["APK-TOOLS.checksum.SHA1"] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s has the checksum %q, want %x", f.Name, f.PAXRecords["APK-TOOLS.checksum.SHA1"], sum)
		}
		if strings.HasPrefix(f.Name, "/") || f.Uid != 0 || f.Gid != 0 {
			t.Errorf("%s of %d:%d", f.Name, f.Uid, f.Gid)
		}
	}
	return a
}

// segment reads the next gzip stream as a tar, which need not have an end.
func segment(t *testing.T, in *bytes.Reader) (files []apkFile) {
	t.Helper()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false)
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		content, rerr := io.ReadAll(r)
		if err != nil || rerr != nil {
			t.Fatal(err, rerr)
		}
		files = append(files, apkFile{head, string(content)})
	}
}

// script runs a script of the package as apk does, if there is one.
func (a *apk) script(m *machine, name string, args ...string) string {
	a.t.Helper()
	text, ok := a.scripts[name]
	if !ok {
		return ""
	}
	path := "/lib/apk/exec/holdfast-" + a.info["pkgver"] + name
	m.write(path, text, 0o755)
	return m.must(append([]string{path}, args...)...)
}

// put unpacks the files. A configuration that was changed stays, and the new one is put beside it.
func (a *apk) put(m *machine, former *apk) {
	a.t.Helper()
	for _, f := range a.files {
		at := "/" + f.Name
		switch f.Typeflag {
		case tar.TypeDir:
			m.must("mkdir", "-p", at)
		case tar.TypeReg:
			if now, err := os.ReadFile(filepath.Join(m.root, at)); err == nil && former != nil && strings.HasPrefix(at, "/etc/") && string(now) != former.content(f.Name) {
				at += ".apk-new"
			}
			_ = os.Remove(filepath.Join(m.root, at)) // the program may run: it is replaced, not written over
			m.write(at, f.content, fs.FileMode(f.Mode).Perm())
			m.must("chmod", fmt.Sprintf("%o", f.Mode&0o7777), at)
		default:
			a.t.Fatalf("%s is of type %c", f.Name, f.Typeflag)
		}
	}
}

func (a *apk) content(name string) string {
	for _, f := range a.files {
		if f.Name == name {
			return f.content
		}
	}
	return ""
}

func (a *apk) add(m *machine) {
	a.t.Helper()
	a.script(m, ".pre-install", a.info["pkgver"])
	a.put(m, nil)
	a.script(m, ".post-install", a.info["pkgver"])
}

func (a *apk) upgrade(m *machine, former *apk) string {
	a.t.Helper()
	out := a.script(m, ".pre-upgrade", a.info["pkgver"], former.info["pkgver"])
	a.put(m, former)
	return out + a.script(m, ".post-upgrade", a.info["pkgver"], former.info["pkgver"])
}

// del removes the files, but for a configuration that was changed.
func (a *apk) del(m *machine) {
	a.t.Helper()
	a.script(m, ".pre-deinstall", a.info["pkgver"])
	for _, f := range slices.Backward(a.files) {
		at := filepath.Join(m.root, f.Name)
		if now, err := os.ReadFile(at); err == nil && strings.HasPrefix(f.Name, "etc/") && string(now) != f.content {
			continue
		}
		_ = os.Remove(at) // a folder that is not empty stays
	}
	a.script(m, ".post-deinstall", a.info["pkgver"])
}

// newAlpine is a machine with what Alpine has: busybox as its shell and init, OpenRC, and busybox's way to make users.
func newAlpine(t *testing.T) *machine {
	t.Helper()
	m := unpacked(t, filepath.Join(os.Getenv("CACHE"), "openrc-root.tar"), "busybox", "openrc", "passwd", "procps")
	m.init = []string{"/bin/busybox", "init"}
	m.write("/etc/inittab", "::sysinit:/bin/sh -c 'cd / && mkdir -p /run/openrc && cd /run/openrc && mkdir -p starting started stopping inactive wasinactive failed hotplugged daemons options exclusive scheduled tmp && : >softlevel'\n", 0o644)
	m.write("/etc/init.d/localmount", "#!/sbin/openrc-run\nstart() { :; }\n", 0o755) // what is to be mounted is
	for name, text := range map[string]string{
		"addgroup": "#!/bin/sh\n[ \"$1\" = -S ] && exec groupadd --system \"$2\"\n",
		"adduser": "#!/bin/sh\nwhile getopts SDHh:s:G:g: o; do case $o in h) home=$OPTARG ;; s) shell=$OPTARG ;; G) group=$OPTARG ;; esac; done\n" +
			"shift $((OPTIND - 1))\nexec useradd --system --no-create-home --home-dir \"$home\" --shell \"$shell\" --gid \"$group\" \"$1\"\n",
	} {
		_ = os.Remove(filepath.Join(m.root, "usr", "sbin", name))
		m.write("/usr/sbin/"+name, text, 0o755)
	}
	if err := os.Remove(filepath.Join(m.root, "bin", "sh")); err != nil {
		t.Fatal(err)
	}
	m.link("busybox", "/bin/sh")
	m.boot()
	eventually(t, 10*time.Second, func() string {
		if _, err := m.run("test", "-e", "/run/openrc/softlevel"); err != nil {
			return "the machine has not begun"
		}
		return ""
	})
	return m
}

// agentPID is the process that OpenRC's supervisor has started.
func (m *machine) agentPID() string {
	out, err := m.run("pidof", "agent")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// TestAnAlpinePackageLivesItsLife does for the apk what live does for its kin, with OpenRC for systemd.
func TestAnAlpinePackageLivesItsLife(t *testing.T) {
	t.Parallel()
	m := newAlpine(t)
	var of []*apk
	for _, version := range []string{"0.0.1", "0.0.2", "0.0.3"} {
		of = append(of, readAPK(t, pack(t, version, "apk", "holdfast_VERSION-r0_x86_64.apk")))
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.run("tail", "-n", "60", "/var/log/holdfast.log")
			t.Logf("log:\n%s", out)
		}
	})

	t.Log("it is installed, and nothing is started")
	of[0].add(m)
	if pid := m.agentPID(); pid != "" {
		t.Errorf("an agent runs: %s", pid)
	}
	m.must("id", "holdfast")
	m.must("agent", "config", "check")
	m.must("rc-update", "add", "holdfast", "default")
	m.must("rc-service", "holdfast", "start")
	m.put("kept", "from-the-first")
	if user := strings.TrimSpace(m.must("stat", "-c", "%U", "/proc/"+m.agentPID())); user != "holdfast" {
		t.Errorf("it runs as %s", user)
	}

	t.Log("it is reloaded, and started again when it is killed")
	before := m.agentPID()
	m.write("/etc/holdfast/agent.d/test.yaml", "log-level: debug\n", 0o644)
	m.must("rc-service", "holdfast", "reload")
	eventually(t, 10*time.Second, func() string {
		if out := m.must("cat", "/var/log/holdfast.log"); !strings.Contains(out, "log-level") {
			return "the log does not say what was reloaded:\n" + out
		}
		return ""
	})
	if pid := m.agentPID(); pid != before {
		t.Errorf("pid %s before and %s after", before, pid)
	}
	m.must("rm", "/etc/holdfast/agent.d/test.yaml")
	m.must("kill", "-9", before)
	eventually(t, 20*time.Second, func() string {
		if pid := m.agentPID(); pid == "" || pid == before {
			return "it is not started again: pid " + pid
		}
		return ""
	})
	m.reads("kept", "from-the-first")

	t.Log("it is upgraded under load, and the configuration of the box stays")
	const config = "# of this box\ndata-dir: /var/lib/holdfast\nsocket: /run/holdfast/agent.sock\n"
	m.write("/etc/holdfast/agent.yaml", config, 0o644)
	before = m.agentPID()
	l := m.load()
	out := of[1].upgrade(m, of[0])
	m.put("after", "the upgrade")
	l.ends(t, m)
	if pid := m.agentPID(); pid == before || pid == "" {
		t.Errorf("pid %s before and %s after: %s", before, pid, out)
	}
	if got := m.must("cat", "/etc/holdfast/agent.yaml"); got != config {
		t.Errorf("the configuration is now\n%s", got)
	}

	t.Log("the new version refuses the configuration, and the old one goes on")
	m.write("/etc/holdfast/agent.d/new.yaml", "log-levle: debug\n", 0o644)
	before = m.agentPID()
	out = of[2].upgrade(m, of[1])
	if !strings.Contains(out, "log-level") || !strings.Contains(out, "left running") || !strings.Contains(out, "rc-service holdfast restart") {
		t.Errorf("the upgrade does not say what to do:\n%s", out)
	}
	if pid := m.agentPID(); pid != before {
		t.Errorf("pid %s before and %s after", before, pid)
	}
	m.must("rm", "/etc/holdfast/agent.d/new.yaml")

	t.Log("it is removed, and what it holds stays")
	of[2].del(m)
	if pid := m.agentPID(); pid != "" {
		t.Errorf("it still runs: %s", pid)
	}
	if out := m.must("rc-update", "show", "default"); strings.Contains(out, "holdfast") {
		t.Errorf("it is still to be started: %s", out)
	}
	if _, err := m.run("test", "-e", "/usr/bin/agent"); err == nil {
		t.Error("/usr/bin/agent is still there")
	}
	m.must("test", "-d", "/var/lib/holdfast/member")
	if got := m.must("cat", "/etc/holdfast/agent.yaml"); got != config {
		t.Errorf("the configuration that was kept is\n%s", got)
	}
	of[2].add(m)
	m.must("rc-service", "holdfast", "start")
	m.reads("kept", "from-the-first")
	m.must("rc-service", "holdfast", "stop")
	if pid := m.agentPID(); pid != "" {
		t.Errorf("it still runs: %s", pid)
	}
}
