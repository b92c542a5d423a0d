package main

import (
	"github.com/spf13/cobra"
)

// switchCommands are the ways out that refusals of `agent run` name. They are here so that who follows the advice learns
// what this version can do, not that there is no such command.
func (p *program) switchCommands() []*cobra.Command {
	leave := p.notYet("leave", "Take this node out of its cluster; not in this version",
		"this version cannot leave a cluster. To begin anew, stop the agent, move the data directory away and start it")
	leave.Flags().Bool("force", false, "leave although this is the last member; its data stays behind")
	return []*cobra.Command{
		p.notYet("promote", "Make a proxy a member; not in this version",
			"this version cannot promote: a proxy stays one. Start this node as a member in an empty data directory"),
		p.notYet("demote", "Make a member a proxy; not in this version",
			"this version cannot demote: a member stays one. Start this node with --mode=auto or --mode=member to go on as it was"),
		leave,
	}
}

func (p *program) notYet(name, short, text string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name + " [flags]",
		Short: short,
		Args:  noArgs(exitUsage),
		RunE:  func(*cobra.Command, []string) error { return exitf(exitRefused, "%s", text) },
	}
	addClientFlags(cmd)
	return cmd
}
