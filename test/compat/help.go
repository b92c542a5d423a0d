package compat

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// commands is what a binary's help lists: each command that does something, with its own flags.
type commands map[string][]string

var (
	commandLine = regexp.MustCompile(`^  ([a-z][a-z-]*) +\S`)
	flagLine    = regexp.MustCompile(`^ +(?:-[a-z], )?--([a-z][a-z-]*)`)
)

// listCommands asks for the help of a binary and of all that it lists.
func listCommands(ctx context.Context, bin string) (commands, error) {
	c := commands{}
	return c, c.list(ctx, bin, nil)
}

func (c commands) list(ctx context.Context, bin string, path []string) error {
	out, err := exec.CommandContext(ctx, bin, append(slices.Clone(path), "--help")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s --help: %w\n%s", bin, strings.Join(path, " "), err, out)
	}
	subs, flags := parseHelp(string(out))
	if len(subs) == 0 {
		c[strings.Join(path, " ")] = flags
		return nil
	}
	for _, s := range subs {
		if err := c.list(ctx, bin, append(slices.Clone(path), s)); err != nil {
			return err
		}
	}
	return nil
}

// parseHelp finds the subcommands, under any title that ends with "commands", and the flags.
func parseHelp(text string) (subs, flags []string) {
	in := ""
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		title := strings.ToLower(strings.TrimSuffix(strings.TrimSpace(line), ":"))
		switch {
		case line == "":
			in = ""
		case !strings.HasPrefix(line, " "):
			in = title
		case strings.HasSuffix(in, "commands"):
			if m := commandLine.FindStringSubmatch(line); m != nil {
				subs = append(subs, m[1])
			}
		case in == "flags":
			if m := flagLine.FindStringSubmatch(line); m != nil && m[1] != "help" {
				flags = append(flags, m[1])
			}
		}
	}
	return subs, flags
}

// valued are the flags of every command that have a value of their own word, as the rows write them.
var valued = []string{"-w", "--write-out", "--endpoints", "--user", "--password", "--auth-jwt-token"}

// path is the command that a row runs, without flags and arguments.
func (c commands) path(words []string) string {
	var plain []string
	skip := false
	for _, w := range words {
		switch {
		case skip:
			skip = false
		case slices.Contains(valued, w):
			skip = true
		case !strings.HasPrefix(w, "-"):
			plain = append(plain, w)
		}
	}
	for n := min(len(plain), 2); n > 0; n-- {
		path := strings.Join(plain[:n], " ")
		if _, ok := c[path]; ok {
			return path
		}
	}
	return ""
}
