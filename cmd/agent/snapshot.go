package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/config"
)

func (p *program) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Take, verify and restore backups",
		Long: `Take, verify and restore backups.

A backup is the whole state of a member at one moment: every key with its history, and what the
cluster knows of leases and queues. The keys of the cluster's CA and the identity of the node are
not in it.`,
		RunE: group,
	}
	cmd.AddCommand(p.snapshotSaveCommand(), p.snapshotVerifyCommand(), p.snapshotRestoreCommand())
	return cmd
}

func (p *program) snapshotSaveCommand() *cobra.Command {
	s := &saver{program: p}
	cmd := &cobra.Command{
		Use:   "save FILE [flags]",
		Short: "Take a backup of a running member",
		Long: `Take a backup of a running member, verify it, and only then give it its name.

When the link is cut it is connected again and read on; a second run with the same FILE goes on too,
for two minutes. With --dir the file gets a name with the time, and --keep removes the oldest.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if s.dir != "" && len(args) == 0 {
				return nil
			}
			return exactArgs("FILE")(cmd, args)
		},
	}
	f := addClientFlags(cmd)
	cmd.Flags().StringVar(&s.dir, "dir", "", "take it into this folder, under a name with the time, instead of FILE")
	cmd.Flags().IntVar(&s.keep, "keep", 0, "with --dir: how many backups to keep there; 0 is all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if s.keep < 0 || s.keep > 0 && s.dir == "" || s.dir != "" && len(args) > 0 {
			return exitf(exitUsage, "give FILE, or --dir and, to remove old ones, --keep with a number")
		}
		ctx, c, done, err := p.session(cmd, f)
		if err != nil {
			return err
		}
		defer done()
		s.client = c
		if s.path = s.fileIn(time.Now()); len(args) > 0 {
			s.path = args[0]
		}
		r, err := s.save(ctx)
		if err != nil {
			return err
		}
		return p.printBackup(f.output, r)
	}
	return cmd
}

func (p *program) snapshotVerifyCommand() *cobra.Command {
	form := outputTable
	cmd := &cobra.Command{
		Use:   "verify FILE [flags]",
		Short: "Read a backup whole and say what it holds",
		Long: `Read a backup whole, verify its checksum and every record in it, and say what it holds.

FILE may also be a snapshot of etcd. Nothing is changed, and no agent is asked.`,
		Args: exactArgs("FILE"),
	}
	cmd.Flags().VarP(&form, "output", "o", "form of the output: table, json or yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := p.interruptible(cmd.Context())
		defer stop()
		at := p.steps("reading " + args[0])
		r, err := agent.VerifyBackup(ctx, args[0])
		at.end()
		if err != nil {
			return offlineError(err)
		}
		return p.printBackup(form, r)
	}
	return cmd
}

// offlineError gives an error of package agent its exit code.
func offlineError(err error) error { return &exitError{agent.ExitCode(err), err} }

func (p *program) printBackup(form output, r agent.BackupReport) error {
	if form != outputTable {
		return form.print(p.stdout, r)
	}
	rows := [][]string{{"file", r.File}, {"kind", r.Kind}, {"size", sizeText(r.Bytes)}, {"sha256", orNone(r.SHA256)}}
	if r.Created != nil {
		rows = append(rows, []string{"created", r.Created.Format(time.RFC3339)}, []string{"version", r.Version})
	}
	if r.Epoch != "" {
		rows = append(rows, []string{"cluster", r.Cluster}, []string{"epoch", r.Epoch})
	}
	return printTable(p.stdout, nil, append(rows, []string{"revision", number(r.Revision)}, []string{"compacted to", number(r.Compact)},
		[]string{"keys", number(r.Keys)}, []string{"changes", number(r.Changes)}, []string{"leases", number(r.Leases)}))
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// sizeText is a size with a unit that can be read, and the bytes.
func sizeText(n int64) string {
	if n < 1<<20 {
		return number(n) + " bytes"
	}
	return fmt.Sprintf("%.1f MiB (%d bytes)", float64(n)/(1<<20), n)
}

func (p *program) snapshotRestoreCommand() *cobra.Command {
	form := outputTable
	var r agent.Restoration
	cmd := &cobra.Command{
		Use:   "restore FILE [flags]",
		Short: "Make the data directory of a new cluster of a backup",
		Long: `Make the data directory of a new cluster of one member of a backup, or of a snapshot or a copied
db of etcd 3.4 to 3.7. No agent may run on it; start one afterwards.

The new cluster has another id and epoch: nodes of the former one refuse it. Revisions go on, the
history is kept, leases get their time anew. The directory must be empty, but for identity/ of the node
that it was, with which it keeps the cluster's CA, so that its proxies find it without joining anew.

Of an etcd the users, with their passwords, and roles are taken over too, and authentication is on if it
was there.`,
		Args: exactArgs("FILE"),
	}
	flags := cmd.Flags()
	flags.StringVar(&r.DataDir, "data-dir", "", "data directory to make; default: that of the configuration")
	flags.Int64Var(&r.Bump, "bump-revision", 0, "raise the revision by so much and end the history there, for clients that keep revisions and know no epochs")
	flags.BoolVar(&r.DropUsers, "drop-users", false, "leave out the users and roles of a snapshot of etcd: whoever reaches the agent may do everything")
	flags.VarP(&form, "output", "o", "form of the output: table, json or yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if r.Bump < 0 || r.Bump > bumpMax {
			return exitf(exitUsage, "--bump-revision must be between 0 and %d", int64(bumpMax))
		}
		ctx, stop := p.interruptible(cmd.Context())
		defer stop()
		var err error
		if r.Offline, err = p.offline(r.DataDir); err != nil {
			return err
		}
		r.File = args[0]
		at := p.steps("looking at " + r.File)
		r.Tell = at.next
		done, err := agent.Restore(ctx, r)
		at.end()
		if err != nil {
			return offlineError(err)
		}
		return p.printRestored(form, r.DataDir, done)
	}
	return cmd
}

// bumpMax is more than any cluster has in its life, and leaves room for as much again.
const bumpMax = 1 << 60

// offline is what commands on a data dir need; an empty dir is that of the configuration.
func (p *program) offline(dir string) (agent.Offline, error) {
	if dir == "" {
		loaded, err := config.Load(p.sources(nil))
		if err != nil {
			return agent.Offline{}, &exitError{exitConfig, err}
		}
		dir = loaded.Config.DataDir
	}
	return agent.Offline{DataDir: dir, Version: buildOf().Version}, nil
}

func (p *program) printRestored(form output, dir string, r agent.Restored) error {
	if form != outputTable {
		return form.print(p.stdout, r)
	}
	rows := [][]string{{"cluster", r.Cluster}, {"epoch", r.Epoch}, {"node", r.Node}, {"revision", number(r.Revision)}, {"keys", number(r.Keys)}, {"leases", number(r.Leases)}}
	if r.Retired != "" {
		rows = append(rows, []string{"former member", r.Retired})
	}
	if r.Users > 0 {
		rows = append(rows, []string{"users", number(int64(r.Users))}, []string{"authentication", map[bool]string{true: "on", false: "off"}[r.Auth]})
	}
	if err := printTable(p.stdout, nil, rows); err != nil {
		return err
	}
	if r.Freed > 0 {
		p.note("%d keys named a lease that was gone; they live under none", r.Freed)
	}
	p.note("start it with: agent --data-dir %s", dir)
	if !r.SameIdentity {
		p.note("this is a new node with a new CA: other boxes have to join it anew, with tokens of its own (agent token create)")
	}
	return nil
}
