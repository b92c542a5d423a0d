package main

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// kvFlags are the flags of all kv commands.
type kvFlags struct {
	*clientFlags
	keyBase64 bool
}

func (p *program) kvCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Read, write and watch keys",
		Long: `Read, write and watch keys.

A key is any bytes; what a command line cannot hold is given in base64 with --key-base64.`,
		RunE: group,
	}
	f := &kvFlags{clientFlags: addClientFlags(cmd)}
	cmd.PersistentFlags().BoolVar(&f.keyBase64, "key-base64", false, "the key is given in base64, as lists show it in JSON")
	cmd.AddCommand(p.getCommand(f), p.putCommand(f), p.delCommand(f), p.lsCommand(f), p.watchCommand(f), p.exportCommand(f), p.importCommand(f))
	return cmd
}

// key is the key that an argument means.
func (f *kvFlags) key(arg string, mayBeEmpty bool) (string, error) {
	if f.keyBase64 {
		raw, err := base64.StdEncoding.DecodeString(arg)
		if err != nil {
			return "", exitf(exitUsage, "the key %q is not base64: %w", arg, err)
		}
		arg = string(raw)
	}
	if arg == "" && !mayBeEmpty {
		return "", &exitError{exitUsage, errors.New("a key must not be empty")}
	}
	return arg, nil
}

// keyPath is where a key is served, before escaping.
func keyPath(key string) string { return "/v1/kv/" + key }

// exactArgs is cobra.ExactArgs with a message that names them.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return exitf(exitUsage, "%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return exitf(exitUsage, "%s takes %s, and %q is too much: quote what has spaces", cmd.CommandPath(), strings.Join(names, " and "), args[len(names)])
		}
		return nil
	}
}

// readFlags say how fresh an answer must be.
type readFlags struct {
	consistency  string
	maxStaleness time.Duration
	minRevision  int64
	wait         time.Duration
}

func addReadFlags(cmd *cobra.Command) *readFlags {
	f := &readFlags{}
	flags := cmd.Flags()
	flags.StringVar(&f.consistency, "consistency", "", "linearizable, bounded, local or auto")
	flags.DurationVar(&f.maxStaleness, "max-staleness", 0, "oldest answer to accept; implies --consistency=bounded")
	flags.Int64Var(&f.minRevision, "min-revision", 0, "revision that the answer must have seen")
	flags.DurationVar(&f.wait, "wait", 0, "how long to wait for --min-revision")
	return f
}

// apply adds the flags to a call.
func (f *readFlags) apply(cmd *cobra.Command, c *call) {
	consistency := f.consistency
	if cmd.Flags().Changed("max-staleness") {
		c.query.Set("max_staleness", f.maxStaleness.String())
		if consistency == "" {
			consistency = "bounded"
		}
	}
	if consistency != "" {
		c.query.Set("consistency", consistency)
	}
	if f.minRevision != 0 {
		c.header.Set("Holdfast-Min-Revision", strconv.FormatInt(f.minRevision, 10))
	}
	if f.wait != 0 {
		c.query.Set("wait", f.wait.String())
	}
}
