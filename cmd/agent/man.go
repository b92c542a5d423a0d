package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/config"
)

func (p *program) manCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "man [flags]",
		Short: "Print the manual page, or write all of them into a folder",
		Args:  noArgs(exitUsage),
		RunE: func(cmd *cobra.Command, _ []string) error {
			page := manPage(cmd.Root())
			if dir == "" {
				_, err := p.stdout.Write(page)
				return err
			}
			return errors.Join(writePage(dir, "agent.1", page), writePage(dir, "agent.yaml.5", settingsPage()))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "write agent.1 and agent.yaml.5 into this folder instead")
	return cmd
}

func writePage(dir, name string, page []byte) error {
	if err := os.WriteFile(filepath.Join(dir, name), page, 0o644); err != nil { //nolint:gosec // everybody may read it
		return &exitError{exitRefused, err}
	}
	return nil
}

// manPage is agent(1): the whole tree of commands on one page, in roff.
func manPage(root *cobra.Command) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH AGENT 1 \"\" \"Holdfast\" \"Holdfast\"\n.SH NAME\nagent \\- %s\n", roff(root.Short))
	b.WriteString(".SH SYNOPSIS\n.B agent\n[\\fIflags\\fR]\n.br\n.B agent\n\\fIcommand\\fR [\\fIflags\\fR]\n.SH DESCRIPTION\n")
	roffText(&b, root.Long)
	b.WriteString(".SH COMMANDS\n")
	manCommands(&b, root)
	b.WriteString(".SH SETTINGS\nFlags of\n.B agent run\nare settings: each is also a key of the configuration file and a variable; see\n.BR agent.yaml (5).\n")
	for _, g := range config.FlagGroups(root.Flags()) {
		fmt.Fprintf(&b, ".SS Flags, %s\n", roff(g.Title))
		manFlags(&b, g.Flags)
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, code := range [][2]string{
		{"0", "done"}, {"1", "the server said no; the message says what"}, {"2", "usage"}, {"69", "no agent there"},
		{"70", "a fault of the agent"}, {"75", "try again"}, {"78", "configuration: only a person can mend it"},
	} {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", code[0], roff(code[1]))
	}
	b.WriteString(`.SH FILES
.TP
.I /etc/holdfast/agent.yaml, /etc/holdfast/agent.d/*.yaml
settings
.TP
.I /var/lib/holdfast
data
.TP
.I /run/holdfast/agent.sock
socket for administration
.SH SEE ALSO
.BR agent.yaml (5)
`)
	return b.Bytes()
}

func manCommands(b *bytes.Buffer, parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if c.Hidden || c.Name() == "help" {
			continue
		}
		fmt.Fprintf(b, ".SS %s\n", roff(c.CommandPath()))
		if c.Runnable() && !c.HasSubCommands() {
			fmt.Fprintf(b, ".B %s\n.PP\n", roff(c.UseLine()))
		}
		text := c.Long
		if text == "" {
			text = c.Short
		}
		roffText(b, text)
		if !isConfiguring(c) { // its flags are all settings
			manFlags(b, c.LocalFlags())
		}
		manCommands(b, c)
	}
}

func manFlags(b *bytes.Buffer, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		short := ""
		if f.Shorthand != "" {
			short = "\\-" + f.Shorthand + ", "
		}
		fmt.Fprintf(b, ".TP\n\\fB%s\\-\\-%s\\fR", short, roff(f.Name))
		if kind != "" {
			fmt.Fprintf(b, " \\fI%s\\fR", roff(kind))
		}
		fmt.Fprintf(b, "\n%s\n", roff(usage))
	})
	b.WriteString(".PP\n")
}

// settingsPage is agent.yaml(5): the commented sample, which explains every setting.
func settingsPage() []byte {
	var b bytes.Buffer
	b.WriteString(`.TH AGENT.YAML 5 "" "Holdfast" "Holdfast"
.SH NAME
agent.yaml \- settings of a Holdfast agent
.SH DESCRIPTION
.I /etc/holdfast/agent.yaml
is read first, then
.I /etc/holdfast/agent.d/*.yaml
in lexical order; a later value replaces an earlier one whole. Variables
(HOLDFAST_ and the key in capitals) win over files, flags over variables.
.B agent config check
finds every mistake,
.B agent config show
says what is in force and why. This is what
.B agent config init
writes:
.PP
.nf
`)
	for line := range strings.Lines(config.Sample()) {
		b.WriteString(roffLine(strings.TrimRight(line, "\n")) + "\n")
	}
	b.WriteString(".fi\n.SH SEE ALSO\n.BR agent (1)\n")
	return b.Bytes()
}

// roffText writes paragraphs; what is indented stays as it is.
func roffText(w io.Writer, text string) {
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if strings.HasPrefix(paragraph, " ") || strings.HasPrefix(paragraph, "\t") {
			fmt.Fprint(w, ".nf\n")
			for line := range strings.Lines(paragraph) {
				fmt.Fprintln(w, roffLine(strings.TrimRight(line, "\n")))
			}
			fmt.Fprint(w, ".fi\n.PP\n")
			continue
		}
		for line := range strings.Lines(paragraph) {
			fmt.Fprintln(w, roffLine(strings.TrimRight(line, "\n")))
		}
		fmt.Fprintln(w, ".PP")
	}
}

// roffLine is a line that roff does not take for a request.
func roffLine(line string) string {
	line = roff(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// roff escapes what roff would read as its own.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
}
