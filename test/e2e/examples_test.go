//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// exampleMax is how long one example may take, what it has to fetch and build included.
const exampleMax = 5 * time.Minute

// TestExamples runs everything in examples/ as its README says, in a copy, against the built binary.
func TestExamples(t *testing.T) {
	addr := freeAddr(t)
	a := start(t, filepath.Join(t.TempDir(), "d"), addr)
	host, port, _ := strings.Cut(addr, ":")
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(here, "..", "..", "examples")
	examples := map[string]struct {
		lines []string // run in a copy of the example's folder, one after the other
		want  string   // part of what they print
	}{
		"curl":        {[]string{"sh tour.sh " + a.url}, "412"},
		"python":      {[]string{"python3 readings.py " + a.url + " 3"}, "3 readings are listed"},
		"micropython": {[]string{"python3 reading.py " + host + " " + port, here + "/micropython.sh reading.py " + host + " " + port}, "stored 201\nstored 201\n"},
		"c": {[]string{
			"cc -Wall -Wextra -Werror -O2 -o put put.c",
			"./put " + host + " " + port + " examples/c/temp 21.5 pump-8-1",
			"./put " + host + " " + port + " examples/c/temp 21.5 pump-8-1", // sent again
		}, "201\n201\n"},
		"javascript": {[]string{"npm ci --ignore-scripts --no-audit --no-fund", "node index.js " + addr}, "alone in here"},
		"go-client":  {[]string{"go run . " + addr}, "alone in here"},
		"embed":      {[]string{"go run holdfast/examples/embed " + filepath.Join(t.TempDir(), "embedded")}, "examples/embed/greeting = hello"},
	}
	folders, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if _, known := examples[folder.Name()]; folder.IsDir() && !known {
			t.Errorf("nothing runs examples/%s", folder.Name())
		}
	}
	for name, example := range examples {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), exampleMax)
			defer cancel()
			dir := filepath.Join(root, name)
			if name != "embed" { // part of the module: it builds where it is
				dir = t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, name))); err != nil {
					t.Fatal(err)
				}
			}
			var said strings.Builder
			for _, line := range example.lines {
				words := strings.Fields(line)
				cmd := exec.CommandContext(ctx, words[0], words[1:]...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "no_proxy=127.0.0.1")
				cmd.Stdout, cmd.Stderr = &said, &said
				if err := cmd.Run(); err != nil {
					t.Fatalf("%s: %v\n%s", line, err, said.String())
				}
			}
			if !strings.Contains(said.String(), example.want) {
				t.Errorf("%q is not in what it printed:\n%s", example.want, said.String())
			}
		})
	}
}
