package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent"
)

func (p *program) recoverCommand() *cobra.Command {
	form := outputTable
	var dir string
	var yes, dry bool
	cmd := &cobra.Command{
		Use:   "recover [flags]",
		Short: "Make a cluster of one of a member whose cluster has lost its quorum for good",
		Long: `Make a cluster of one of a member whose cluster has lost its quorum for good.

Everything that this member has on disk is kept; what the others acknowledged and this one never got is
lost. If several members are left, run it with --dry-run on each, and recover the one with the highest
last term and, among those, the highest last index. The others, and the members that are lost, must
never run again with their old data: they belong to a cluster that is no more. Join them anew.

It also makes the record of a lone member whose mode.json is damaged or gone.

The agent has to be stopped. The former data is kept below retired/, and is the way back.`,
		Args: noArgs(exitUsage),
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "data-dir", "", "data directory of the member; default: that of the configuration")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&dry, "dry-run", false, "say what is there and what may be lost, and change nothing")
	flags.VarP(&form, "output", "o", "form of the output: table, json or yaml")
	cmd.MarkFlagsMutuallyExclusive("yes", "dry-run")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := p.interruptible(cmd.Context())
		defer stop()
		o, err := p.offline(dir)
		if err != nil {
			return err
		}
		if isTerminal(p.stderr) { // lines that stay: it asks in between
			o.Tell = func(what string) { p.note("%s", what) }
		}
		var asking error
		done, err := agent.Recover(ctx, agent.Recovery{Offline: o, Confirm: func(l agent.Loss) bool {
			switch {
			case !dry:
				asking = printLoss(p.stderr, l)
			case form == outputTable:
				asking = printLoss(p.stdout, l)
			default:
				asking = form.print(p.stdout, l)
			}
			return asking == nil && !dry && (yes || p.agrees())
		}})
		switch {
		case asking != nil:
			return asking
		case dry && errors.Is(err, agent.ErrNotConfirmed):
			return nil
		case errors.Is(err, agent.ErrNotConfirmed):
			return &exitError{exitRefused, err}
		case err != nil:
			return offlineError(err)
		}
		return p.printRestored(form, o.DataDir, done)
	}
	return cmd
}

// printLoss says what is kept and what may be lost.
func printLoss(w io.Writer, l agent.Loss) error {
	others := make([]string, len(l.Others))
	for i, id := range l.Others {
		others[i] = fmt.Sprint(id)
	}
	with := "which had no other members"
	if len(others) > 0 {
		with = "with the other members " + strings.Join(others, ", ")
	}
	unsure := "all of it is known to have been committed"
	if n := l.LastIndex - l.Committed; n > 0 {
		unsure = fmt.Sprintf("the last %d entries may never have been committed, nor acknowledged to anybody; they are kept", n)
	}
	lost := "nothing: there was nobody else who could have acknowledged anything"
	if len(others) > 0 {
		lost = fmt.Sprintf("whatever the others committed behind index %d: writes that were acknowledged while this member was down, cut off or behind", l.LastIndex)
	}
	_, err := fmt.Fprintf(w, `member    replica %d of cluster %s, %s
log       up to index %d of term %d, last written %s (elections count)
kept      revision %d with %d keys and %d leases; %s
lost      %s
`, l.Replica, l.Cluster, with, l.LastIndex, l.LastTerm, l.Written.Format(time.RFC3339), l.Revision, l.Keys, l.Leases, unsure, lost)
	return err
}

// agrees asks. Without an answer the answer is no.
func (p *program) agrees() bool {
	fmt.Fprint(p.stderr, "Make a new cluster of this member alone? Type yes: ")
	line, err := bufio.NewReader(io.LimitReader(p.stdin, 1024)).ReadString('\n')
	return (err == nil || errors.Is(err, io.EOF)) && strings.TrimSpace(line) == "yes"
}
