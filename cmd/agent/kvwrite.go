package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// valueBytesMax is the largest value that any agent can be set up to take.
const valueBytesMax = 16 << 20

// writeFlags are preconditions of a write, and what may acknowledge it.
type writeFlags struct {
	ifMatch, ifNoneMatch string
	write                string
}

func addWriteFlags(cmd *cobra.Command) *writeFlags {
	f := &writeFlags{}
	cmd.Flags().StringVar(&f.ifMatch, "if-match", "", "only if the key is at this revision; * is any")
	cmd.Flags().StringVar(&f.ifNoneMatch, "if-none-match", "", "only if the key is not at this revision; * or nothing: only if it does not exist")
	cmd.Flags().Lookup("if-none-match").NoOptDefVal = "*"
	cmd.Flags().StringVar(&f.write, "write", "", "sync: the cluster has it; queue: this node's queue; auto, the default: the cluster, or the queue if that takes too long")
	return f
}

// apply adds the flags to a call.
func (f *writeFlags) apply(c *call) error {
	if f.write != "" {
		c.query.Set("write", f.write)
	}
	for name, value := range map[string]string{"If-Match": f.ifMatch, "If-None-Match": f.ifNoneMatch} {
		if value == "" {
			continue
		}
		if value != "*" {
			revision, err := strconv.ParseInt(value, 10, 64)
			if err != nil || revision < 1 {
				return exitf(exitUsage, "%s: %q is neither a revision nor *", name, value)
			}
			value = `"` + value + `"`
		}
		c.header.Set(name, value)
	}
	return nil
}

func (p *program) putCommand(f *kvFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "put KEY VALUE [flags]",
		Short: "Set a key; - reads the value from standard input",
		Args:  exactArgs("KEY", "VALUE (- reads it from standard input)"),
	}
	write := addWriteFlags(cmd)
	var ttl time.Duration
	var lease string
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long the key is to live, under a lease of its own")
	cmd.Flags().StringVar(&lease, "lease", "", "the lease that the key is to live under, in hexadecimal digits")
	cmd.MarkFlagsMutuallyExclusive("ttl", "lease")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := f.key(args[0], false)
		if err != nil {
			return err
		}
		value := []byte(args[1])
		if args[1] == "-" {
			if value, err = readValue(p.stdin); err != nil {
				return err
			}
		}
		call := call{method: http.MethodPut, path: keyPath(key), query: url.Values{}, header: http.Header{}, body: value}
		if err := write.apply(&call); err != nil {
			return err
		}
		if cmd.Flags().Changed("ttl") {
			call.query.Set("ttl", ttl.String())
		}
		if cmd.Flags().Changed("lease") {
			call.query.Set("lease", lease)
		}
		return p.write(cmd, f, call)
	}
	return cmd
}

func readValue(in io.Reader) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(in, valueBytesMax+1))
	if err != nil {
		return nil, exitf(exitUsage, "read the value: %w", err)
	}
	if len(value) > valueBytesMax {
		return nil, exitf(exitUsage, "the value is larger than %d bytes, and no agent takes more", valueBytesMax)
	}
	return value, nil
}

func (p *program) delCommand(f *kvFlags) *cobra.Command {
	var prefix bool
	cmd := &cobra.Command{
		Use:   "del KEY [flags]",
		Short: "Remove a key, or with --prefix all below it",
		Args:  exactArgs("KEY"),
	}
	cmd.Flags().BoolVar(&prefix, "prefix", false, "remove every key that begins with KEY")
	write := addWriteFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := f.key(args[0], false)
		if err != nil {
			return err
		}
		call := call{method: http.MethodDelete, path: keyPath(key), query: url.Values{}, header: http.Header{}}
		if prefix {
			call.query.Set("prefix", "")
		}
		if err := write.apply(&call); err != nil {
			return err
		}
		return p.write(cmd, f, call)
	}
	return cmd
}

// write makes a call that changes something and prints what became of it.
func (p *program) write(cmd *cobra.Command, f *kvFlags, c call) error {
	ctx, cl, done, err := p.session(cmd, f.clientFlags)
	if err != nil {
		return err
	}
	defer done()
	a, err := cl.do(ctx, c)
	if err != nil {
		return err
	}
	if a.status == http.StatusAccepted {
		return p.noteQueued(f.output, a)
	}
	if f.output != outputTable {
		return f.output.printJSON(p.stdout, a.body)
	}
	var result struct {
		Revision *int64 `json:"revision"`
		Deleted  *int64 `json:"deleted"`
	}
	if err := json.Unmarshal(a.body, &result); err != nil || result.Revision == nil {
		return &exitError{exitRefused, errors.Join(err, fmt.Errorf("%s answered %d without a revision: is it an agent?", cl.target.name, a.status))}
	}
	text := fmt.Sprintf("revision %d", *result.Revision)
	if result.Deleted != nil {
		text += fmt.Sprintf(", deleted %d", *result.Deleted)
	}
	_, err = fmt.Fprintln(p.stdout, text)
	return err
}

// noteQueued says that a write is kept here and not committed. It is no revision, so a table has nothing to print.
func (p *program) noteQueued(form output, a *answer) error {
	until := ""
	if at := a.header.Get("Holdfast-Expires"); at != "" {
		until = " and is given up at " + at
	}
	id := a.header.Get("Holdfast-Op")
	p.note("queued as %s: it is on this node's disk, not committed yet%s (agent queue wait %s)", id, until, id)
	if form == outputTable {
		return nil
	}
	return form.printJSON(p.stdout, a.body)
}
