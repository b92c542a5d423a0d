package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/config"
)

const (
	// bundlePartMax bounds each file of a bundle; what is longer is cut, and says so.
	bundlePartMax = 8 << 20
	// bundleFilesMax bounds the list of files in the data dir.
	bundleFilesMax = 10_000
	// bundleJournalLines is some days of an agent that has trouble.
	bundleJournalLines = "5000"
	bundleCommandMax   = 20 * time.Second
)

func (p *program) supportBundleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "support-bundle [FILE]",
		Short: "Collect what somebody who helps from afar needs, without secrets",
		Long: `Collect what somebody who helps from afar needs, without secrets, into a .tar.gz.

It holds the checks, status, members, nodes, metrics and goroutines of the agent, its settings, its journal,
and the names and sizes of its files: no value of any key, no private key, no token. The names of keys may
be in the journal: look before you pass it on. It works without an agent that runs, and holds less then.
FILE - is standard output.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactArgs("FILE")(cmd, args)
			}
			return nil
		},
	}
	f := addClientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := fmt.Sprintf("holdfast-support-%s.tar.gz", time.Now().UTC().Format("20060102-150405"))
		if len(args) == 1 {
			name = args[0]
		}
		if name == "-" {
			return p.writeBundle(cmd.Context(), f, p.stdout)
		}
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return &exitError{exitRefused, err}
		}
		if err := errors.Join(p.writeBundle(cmd.Context(), f, file), file.Close()); err != nil {
			return &exitError{exitRefused, errors.Join(err, os.Remove(file.Name()))}
		}
		_, err = fmt.Fprintln(p.stdout, name)
		return err
	}
	return cmd
}

// bundle is an archive being written. Everything goes through its censor.
type bundle struct {
	tar    *tar.Writer
	censor censor
	made   time.Time
}

func (p *program) writeBundle(ctx context.Context, f *clientFlags, w io.Writer) error {
	zip := gzip.NewWriter(w)
	loaded, err := config.Load(p.sources(nil))
	b := &bundle{tar: tar.NewWriter(zip), censor: p.newCensor(loaded.Config), made: time.Now()}
	problems := ""
	if err != nil {
		problems = err.Error() + "\n\n"
	}
	settings, err := json.MarshalIndent(config.Settings(loaded.Config, loaded.Provenance), "", " ")
	if err != nil {
		return err
	}
	b.add("settings.txt", append([]byte(problems), settings...), nil)
	b.addJSON("version.json", buildOf())
	b.addJSON("checks.json", p.lookAt(ctx, f, nil))
	b.addAnswers(ctx, p, f)
	dir := loaded.Config.DataDir
	if f.dataDir != "" {
		dir = f.dataDir
	}
	list, err := listFiles(dir)
	b.add("files.txt", list, err)
	b.addCommands(ctx)
	return errors.Join(b.tar.Close(), zip.Close())
}

// addAnswers adds what the agent says of itself.
func (b *bundle) addAnswers(ctx context.Context, p *program, f *clientFlags) {
	c, err := p.connect(f)
	if err != nil {
		b.add("agent.error.txt", nil, err)
		return
	}
	for name, path := range map[string]string{
		"status.json": "/v1/status", "members.json": "/v1/members", "nodes.json": "/v1/nodes", "cert.json": certPath,
		"queue.json": "/v1/queue", "metrics.txt": "/metrics",
	} {
		a, err := c.do(ctx, call{method: http.MethodGet, path: path})
		if err != nil {
			b.add(name, nil, err)
			continue
		}
		b.add(name, a.body, nil)
	}
	a, err := c.do(ctx, call{method: http.MethodGet, path: "/debug/pprof/goroutine", query: map[string][]string{"debug": {"1"}}})
	if err != nil {
		b.add("goroutines.txt", nil, err)
		return
	}
	b.add("goroutines.txt", a.body, nil)
}

// addCommands adds what the machine says. The environment of the unit is not asked for: it may hold a token.
func (b *bundle) addCommands(ctx context.Context) {
	for name, args := range map[string][]string{
		"journal.txt": {"journalctl", "--no-pager", "--output=short-iso", "-n", bundleJournalLines, "-u", "holdfast.service"},
		"unit.txt": {"systemctl", "show", "holdfast.service", "-p", "ActiveState,SubState,Result,NRestarts,ExecMainStatus,ExecMainStartTimestamp," +
			"MemoryCurrent,MemoryPeak,CPUUsageNSec,TasksCurrent,WatchdogUSec,FragmentPath,DropInPaths,UnitFileState"},
		"disk.txt":    {"df", "-Pk"},
		"memory.txt":  {"free", "-m"},
		"network.txt": {"ip", "address"},
		"sockets.txt": {"ss", "-lntu"},
		"kernel.txt":  {"uname", "-a"},
	} {
		if runtime.GOOS != "linux" {
			return
		}
		bounded, cancel := context.WithTimeout(ctx, bundleCommandMax)
		out, err := exec.CommandContext(bounded, args[0], args[1:]...).CombinedOutput()
		cancel()
		b.add(name, out, err)
	}
}

func (b *bundle) addJSON(name string, v any) {
	text, err := json.MarshalIndent(v, "", " ")
	b.add(name, text, err)
}

// add adds a file. What could not be had is said in its place. An error in writing shows when the archive is closed.
func (b *bundle) add(name string, text []byte, err error) {
	if len(text) > bundlePartMax {
		text = append(text[:bundlePartMax:bundlePartMax], "\n(cut here)\n"...)
	}
	if err != nil {
		text = append(text, "\n("+err.Error()+")\n"...)
	}
	text = b.censor.clean(text)
	head := &tar.Header{Name: "holdfast-support/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: b.made, Format: tar.FormatPAX}
	if b.tar.WriteHeader(head) == nil {
		_, _ = b.tar.Write(text) // the archive remembers its first error
	}
}

// listFiles lists names, sizes and modes; no content.
func listFiles(dir string) ([]byte, error) {
	var list bytes.Buffer
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			fmt.Fprintf(&list, "%s: %v\n", path, err)
			return nil
		}
		if n++; n > bundleFilesMax {
			return fs.SkipAll
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		fmt.Fprintf(&list, "%s %12d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.DateTime), path)
		return nil
	})
	return list.Bytes(), err
}

// censor takes secrets out of text: those that this machine has been told, and whatever looks like one.
type censor struct{ known []string }

var (
	tokenLike = regexp.MustCompile(`HF1[0-9A-Za-z._~+/=-]{8,}`)
	keyLike   = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`)
	passLike  = regexp.MustCompile(`(?i)((?:token|password|passwd|secret|authorization|bearer)["']?\s*[=:]\s*(?:bearer\s+|basic\s+)?)["']?[^\s"',}]{6,}`)
)

func (p *program) newCensor(cfg config.Config) censor {
	var c censor
	secrets := []string{cfg.Token.Reveal(), p.getenv("HOLDFAST_TOKEN")}
	if cfg.TokenFile != "" {
		if text, err := os.ReadFile(cfg.TokenFile); err == nil {
			secrets = append(secrets, string(text))
		}
	}
	for _, s := range secrets {
		if s = strings.TrimSpace(s); s != "" {
			c.known = append(c.known, s)
		}
	}
	return c
}

func (c censor) clean(text []byte) []byte {
	for _, s := range c.known {
		text = bytes.ReplaceAll(text, []byte(s), []byte("(removed)"))
	}
	text = tokenLike.ReplaceAll(text, []byte("(token removed)"))
	text = keyLike.ReplaceAll(text, []byte("(private key removed)"))
	return passLike.ReplaceAll(text, []byte("${1}(removed)"))
}
