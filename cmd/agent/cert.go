package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/config"
)

const certPath = "/v1/cert"

func (p *program) certCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Show and renew this node's certificate, and replace the cluster's CA",
		Long: `Show and renew this node's certificate, and replace the cluster's CA.

Certificates renew themselves at two thirds of their life, and up to a year after their end. It works
over the administration socket only.`,
		RunE: group,
	}
	f := addClientFlags(cmd)
	cmd.AddCommand(
		p.certCallCommand(f, "show", "Show this node's certificate and the CAs that it trusts", http.MethodGet, certPath),
		p.certCallCommand(f, "renew", "Get this node a new certificate now", http.MethodPost, certPath+"/renew"),
		p.certCACommand(f),
		p.certRotateCommand(f),
	)
	return cmd
}

func (p *program) certCallCommand(f *clientFlags, name, short, method, path string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " [flags]",
		Short: short,
		Args:  noArgs(exitUsage),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := p.ask(cmd, f, call{method: method, path: path})
			if err != nil {
				return err
			}
			return p.printCert(f, a.body)
		},
	}
}

func (p *program) printCert(f *clientFlags, doc []byte) error {
	if f.output != outputTable {
		return f.output.printJSON(p.stdout, doc)
	}
	return p.printStatus(withoutPEM(doc))
}

func (p *program) certRotateCommand(f *clientFlags) *cobra.Command {
	var caFile string
	var overlap time.Duration
	var finish, force bool
	cmd := &cobra.Command{
		Use:   "rotate [flags]",
		Short: "Replace the CA of the cluster, on a member",
		Long: `Replace the CA of the cluster, on a member.

The new CA issues at once; the old one is still trusted for the overlap, in which every node that
connects gets a certificate of the new one by itself. A box that is away for longer joins again with a
token. --finish ends the overlap now, as after a theft.

--ca-file brings a CA of your own: a PEM file with one key, ed25519 or P-256, and its certificate. Each
member keeps the key, sealed, to issue with.`,
		Args: noArgs(exitUsage),
	}
	flags := cmd.Flags()
	flags.StringVar(&caFile, "ca-file", "", "PEM file with the key and certificate of the new CA; without it one is made")
	flags.DurationVar(&overlap, "overlap", 30*24*time.Hour, "how long the old CA is still trusted")
	flags.BoolVar(&finish, "finish", false, "drop the old CA now; refused while nodes have no certificate of the new one")
	flags.BoolVar(&force, "force", false, "with --finish: drop it although such nodes have to join again")
	cmd.MarkFlagsMutuallyExclusive("finish", "ca-file")
	cmd.MarkFlagsMutuallyExclusive("finish", "overlap")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if force && !finish {
			return exitf(exitUsage, "--force goes with --finish")
		}
		path, body := certPath+"/finish", any(map[string]bool{"force": force})
		if !finish {
			ask := map[string]string{"overlap": overlap.String()}
			if caFile != "" {
				pem, err := os.ReadFile(caFile)
				if err != nil {
					return exitf(exitUsage, "--ca-file: %w", err)
				}
				ask["pem"] = string(pem)
			}
			path, body = certPath+"/rotate", ask
		}
		doc, err := json.Marshal(body)
		if err != nil {
			return err
		}
		a, err := p.ask(cmd, f, call{method: http.MethodPost, path: path, header: http.Header{"Content-Type": {"application/json"}}, body: doc})
		if err != nil {
			return err
		}
		if finish {
			p.note("the old CA is dropped: what has only a certificate of it joins again with a token")
		} else {
			p.note("nodes take the new CA over by themselves; join tokens made before are good while the old one is trusted")
		}
		return p.printCert(f, a.body)
	}
	return cmd
}

func (p *program) prepareImageCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "prepare-image [flags]",
		Short: "Take the identity out of a data directory, so that an image of this machine can be copied",
		Long: `Take the identity out of a data directory, so that an image of this machine can be copied.

Run it with the agent stopped, as the last step before the image is taken. Each copy then draws an
identity of its own when it starts, and joins as the configuration says: give the copies a token with
enough uses. A member's data and writes that wait in a queue are refused: they would be in every copy,
or in none. The cache of a proxy goes.`,
		Args: noArgs(exitUsage),
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "data directory; without it that of the configuration")
	cmd.RunE = func(*cobra.Command, []string) error { return p.prepareImage(dir) }
	return cmd
}

func (p *program) prepareImage(dir string) error {
	if dir == "" {
		loaded, err := config.Load(p.sources(nil))
		if err != nil && !unreadable(err) {
			return &exitError{exitConfig, err}
		}
		dir = loaded.Config.DataDir
	}
	removed, err := agent.PrepareImage(dir)
	if err != nil {
		return &exitError{agent.ExitCode(err), err}
	}
	if len(removed) == 0 {
		p.note("%s has no identity: nothing to do", dir)
		return nil
	}
	for _, name := range removed {
		if _, err := fmt.Fprintf(p.stdout, "removed %s\n", name); err != nil {
			return err
		}
	}
	p.note("the image may be taken; do not start the agent before")
	return nil
}
