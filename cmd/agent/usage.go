package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"holdfast/config"
)

// chapters are the commands by purpose, as help lists them. What is in none stands last.
var chapters = []struct {
	title    string
	commands []string
}{
	{"Run a node", []string{"run", "status", "check", "config", "version"}},
	{"Keys and values", []string{"kv", "queue"}},
	{"The cluster", []string{"members", "nodes", "token", "promote", "demote", "leave", "cert"}},
	{"Who may do what", []string{"auth", "user", "role"}},
	{"When it matters", []string{"snapshot", "recover", "support-bundle", "reseal", "prepare-image"}},
}

// textWidth is that of help where it is not on a terminal; textMin and textMax are the bounds on one.
const textWidth, textMin, textMax = 100, 60, 120

// usage writes what a command can be given. Commands that take the settings have more than eighty flags: these come by purpose, and of
// the root only those that are used most.
func (p *program) usage(usual func(*cobra.Command) error) func(*cobra.Command) error {
	return func(cmd *cobra.Command) error {
		if !isConfiguring(cmd) {
			return usual(cmd)
		}
		out, width := cmd.OutOrStderr(), widthOf(cmd.OutOrStderr())
		var b strings.Builder
		groups := config.FlagGroups(cmd.Flags())
		if cmd.HasParent() {
			fmt.Fprintf(&b, "Usage:\n  %s\n", cmd.UseLine())
			flagList(&b, "Flags", cmd.LocalFlags(), groups, width)
		} else {
			b.WriteString("Usage:\n  agent [flags]\n  agent [command]\n")
			writeChapters(&b, cmd)
			groups = groups[:1]
		}
		for _, g := range groups {
			flagList(&b, "Flags, "+g.Title, g.Flags, nil, width)
		}
		if !cmd.HasParent() {
			b.WriteString(`
All flags are in "agent run --help", and as settings of a file in "agent config init".
Use "agent [command] --help" for more information about a command.
`)
		}
		_, err := io.WriteString(out, b.String())
		return err
	}
}

func writeChapters(b *strings.Builder, root *cobra.Command) {
	line := func(c *cobra.Command) { fmt.Fprintf(b, "  %-15s%s\n", c.Name(), c.Short) }
	named := map[string]bool{}
	for _, chapter := range chapters {
		fmt.Fprintf(b, "\n%s:\n", chapter.title)
		for _, name := range chapter.commands {
			named[name] = true
			if c, _, err := root.Find([]string{name}); err == nil && c != root {
				line(c)
			}
		}
	}
	b.WriteString("\nOthers:\n")
	for _, c := range root.Commands() {
		if !named[c.Name()] && (c.IsAvailableCommand() || c.Name() == "help") {
			line(c)
		}
	}
}

// flagList lists those flags that are in none of the groups.
func flagList(b *strings.Builder, title string, flags *pflag.FlagSet, but []config.FlagGroup, width int) {
	rest := pflag.NewFlagSet(title, pflag.ContinueOnError)
	rest.SortFlags = flags.SortFlags
	flags.VisitAll(func(f *pflag.Flag) {
		for _, g := range but {
			if g.Flags.Lookup(f.Name) != nil {
				return
			}
		}
		rest.AddFlag(f)
	})
	if rest.HasAvailableFlags() {
		fmt.Fprintf(b, "\n%s:\n%s", title, rest.FlagUsagesWrapped(width))
	}
}

func widthOf(out io.Writer) int {
	f, ok := out.(*os.File)
	if !ok {
		return textWidth
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return textWidth
	}
	return max(textMin, min(width, textMax))
}
