package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/config"
)

func (p *program) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Write, check and show the configuration",
		RunE:  group,
	}
	cmd.AddCommand(p.configInitCommand(), p.configCheckCommand(), p.configShowCommand(), p.configDocCommand())
	for _, c := range cmd.Commands() {
		c.DisableFlagsInUseLine = true
	}
	return cmd
}

func (p *program) configInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented sample file, or print it; a file that exists is left alone",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactArgs("FILE")(cmd, args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := io.WriteString(p.stdout, config.Sample())
				return err
			}
			return writeNew(args[0], config.Sample())
		},
	}
}

// writeNew writes a file that is not there yet.
func writeNew(path, content string) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // it holds no secrets
	if errors.Is(err, fs.ErrExist) {
		return exitf(exitRefused, "%s exists already: name another file, or compare with what agent config init prints", path)
	}
	if err != nil {
		return &exitError{exitRefused, err}
	}
	_, err = io.WriteString(file, content)
	if err = errors.Join(err, file.Close()); err != nil {
		return &exitError{exitRefused, err}
	}
	return nil
}

// configures a command whose flags are the settings, as those of `agent run`.
func configuring(cmd *cobra.Command) *cobra.Command {
	cmd.Annotations = map[string]string{configures: "yes"}
	cmd.Args = noArgs(exitConfig)
	config.AddFlags(cmd.Flags())
	return cmd
}

func (p *program) configCheckCommand() *cobra.Command {
	cmd := configuring(&cobra.Command{
		Use:   "check [flags]",
		Short: "Find everything wrong with the configuration, without starting anything",
	})
	pid := 0
	cmd.Flags().IntVar(&pid, "pid", 0, "check with the flags and variables of the agent that runs as this process, as before an upgrade")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sources := p.sources(cmd.Flags())
		if pid != 0 {
			var err error
			if sources, err = p.sourcesOf(pid); err != nil {
				return err
			}
		}
		loaded, err := p.loadFrom(sources)
		if err != nil {
			return err
		}
		if err := agent.Supports(loaded.Config); err != nil {
			return &exitError{exitConfig, err}
		}
		from := "no file"
		if len(loaded.Files) > 0 {
			from = strings.Join(loaded.Files, ", ")
		}
		_, err = fmt.Fprintf(p.stdout, "the configuration is good (%s)\n", from)
		return err
	}
	return cmd
}

func (p *program) configShowCommand() *cobra.Command {
	cmd := configuring(&cobra.Command{
		Use:   "show [flags]",
		Short: "Show every setting and where it comes from",
	})
	form := outputTable
	cmd.Flags().VarP(&form, "output", "o", "form of the output: table, json or yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		loaded, err := p.load(cmd)
		if err != nil {
			return err
		}
		list := config.Settings(loaded.Config, loaded.Provenance)
		if form != outputTable {
			return form.print(p.stdout, list)
		}
		rows := make([][]string, len(list))
		for i, s := range list {
			rows[i] = []string{s.Key, s.Value, s.Origin.String()}
		}
		return printTable(p.stdout, []string{"KEY", "VALUE", "FROM"}, rows)
	}
	return cmd
}

// load loads the settings as `agent run` with the same flags would, and notes the warnings.
func (p *program) load(cmd *cobra.Command) (config.Loaded, error) {
	return p.loadFrom(p.sources(cmd.Flags()))
}

func (p *program) loadFrom(sources config.Sources) (config.Loaded, error) {
	loaded, err := config.Load(sources)
	for _, w := range loaded.Warnings {
		p.note("%s", w)
	}
	if err != nil {
		return loaded, &exitError{exitConfig, err}
	}
	return loaded, nil
}

func (p *program) configDocCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doc",
		Short: "Print the reference of every setting, as Markdown",
		Args:  noArgs(exitUsage),
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(p.stdout, config.Reference())
			return err
		},
	}
}
