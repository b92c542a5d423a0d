package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/config"
	"holdfast/internal/failpoint"
)

// rootCommand builds the tree of commands. The root is `agent run`.
func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "agent",
		Short: "Holdfast, a key-value agent for edge nodes",
		Long: `Holdfast, a key-value agent for edge nodes.

Without a command it runs a node, as "agent run" does; no configuration is needed.`,
		Args:              rootArgs,
		RunE:              p.run,
		SilenceErrors:     true, // exit prints them
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	config.AddFlags(root.Flags())
	root.SetFlagErrorFunc(p.flagError)
	root.SetUsageFunc(p.usage(new(cobra.Command).UsageFunc()))
	root.AddCommand(p.runCommand(), p.kvCommand(), p.queueCommand(), p.tokenCommand(), p.userCommand(), p.roleCommand(), p.authCommand(), p.membersCommand(), p.nodesCommand(), p.certCommand(), p.statusCommand(),
		p.snapshotCommand(), p.recoverCommand(), p.prepareImageCommand(), p.resealCommand(), p.configCommand(), p.versionCommand(), p.manCommand(), p.checkCommand(), p.supportBundleCommand())
	root.AddCommand(p.switchCommands()...)
	if failpoint.Built {
		root.AddCommand(p.failpointsCommand())
	}
	for _, c := range root.Commands() {
		c.DisableFlagsInUseLine = true
	}
	return root
}

// rootArgs refuses an unknown command and names the nearest one.
func rootArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknownCommand(cmd, args[0])
}

func unknownCommand(cmd *cobra.Command, name string) error {
	text := fmt.Sprintf("there is no command %q", cmd.CommandPath()+" "+name)
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		text += ": did you mean " + strings.Join(near, " or ") + "?"
	} else {
		text += ": see " + cmd.CommandPath() + " --help"
	}
	return &exitError{exitUsage, errors.New(text)}
}

// group is the behaviour of a command that only has subcommands.
func group(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	cmd.SetOut(cmd.ErrOrStderr())
	if err := cmd.Help(); err != nil {
		return err
	}
	return &exitError{code: exitUsage}
}

// alone is the behaviour of a command that has subcommands and does as one of them where none is named.
func alone(do func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return do(cmd, args)
	}
}

// configures marks the commands whose flags are the settings of an agent: a fault in these is one of configuration.
const configures = "configures"

func isConfiguring(cmd *cobra.Command) bool {
	return !cmd.HasParent() || cmd.Annotations[configures] != ""
}

// flagError explains a flag that cannot be parsed. For the settings it finds everything else that is wrong too.
func (p *program) flagError(cmd *cobra.Command, err error) error {
	if isConfiguring(cmd) {
		return p.allFaults(cmd, err)
	}
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return &exitError{exitUsage, err}
	}
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		return exitf(exitUsage, "there is no flag -%s: see %s --help", short, cmd.CommandPath())
	}
	name := unknown.GetSpecifiedName()
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := config.Nearest(name, names); near != "" {
		return exitf(exitUsage, "there is no flag --%s: did you mean --%s?", name, near)
	}
	return exitf(exitUsage, "there is no flag --%s: see %s --help", name, cmd.CommandPath())
}

// allFaults loads the settings although a flag is wrong, so that everything wrong is said at once.
func (p *program) allFaults(cmd *cobra.Command, err error) error {
	var also []*pflag.Flag
	cmd.Flags().VisitAll(func(f *pflag.Flag) { also = append(also, f) })
	flags, faults := config.ParseFlags(argsOf(cmd, p.args), also...)
	if faults == nil { // cobra minds, and the settings alone would not
		return &exitError{exitConfig, err}
	}
	_, more := config.Load(p.sources(flags))
	return &exitError{exitConfig, errors.Join(faults, more)}
}

// argsOf removes the names of the command itself from the arguments.
func argsOf(cmd *cobra.Command, args []string) []string {
	names := strings.Fields(cmd.CommandPath())[1:]
	rest := make([]string, 0, len(args))
	for _, a := range args {
		if len(names) > 0 && a == names[0] {
			names = names[1:]
			continue
		}
		rest = append(rest, a)
	}
	return rest
}

func (p *program) sources(flags *pflag.FlagSet) config.Sources {
	return config.Sources{Flags: flags, Environ: p.env, Dir: p.configDir}
}
