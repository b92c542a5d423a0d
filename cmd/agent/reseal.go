package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/config"
)

func (p *program) resealCommand() *cobra.Command {
	var dir, from, to string
	var open bool
	cmd := &cobra.Command{
		Use:   "reseal (--to FILE | --open) [flags]",
		Short: "Seal the keys of a stopped agent with another secret, or with none",
		Long: `Seal the keys in the data directory of a stopped agent with another secret, or with none.

An agent that is given a secret (seal-file, or a credential holdfast.seal) seals its keys itself when it
starts. This is for when that secret has to change, as before a TPM is cleared or the disk moves into
another machine. Cut short, run it again. Afterwards hand the agent the new secret, or none.`,
		Args: noArgs(exitUsage),
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "data directory; without it that of the configuration")
	cmd.Flags().StringVar(&from, "from", "", "file with the secret of now; without it seal-file of the configuration. Keys that are not sealed need none")
	cmd.Flags().StringVar(&to, "to", "", "file with the secret to seal them with")
	cmd.Flags().BoolVar(&open, "open", false, "leave them unsealed, for whoever has the disk")
	cmd.MarkFlagsOneRequired("to", "open")
	cmd.MarkFlagsMutuallyExclusive("to", "open")
	cmd.RunE = func(*cobra.Command, []string) error {
		loaded, err := config.Load(p.sources(nil))
		if err != nil && !unreadable(err) && (dir == "" || from == "") {
			return &exitError{exitConfig, err}
		}
		dir, from = cmp.Or(dir, loaded.Config.DataDir), cmp.Or(from, loaded.Config.SealFile)
		changed, err := agent.Reseal(dir, from, to)
		for _, name := range changed {
			if _, err := fmt.Fprintf(p.stdout, "changed %s\n", name); err != nil {
				return err
			}
		}
		if err != nil {
			return &exitError{agent.ExitCode(err), err}
		}
		if len(changed) == 0 {
			p.note("all keys are so already")
		}
		return nil
	}
	return cmd
}
