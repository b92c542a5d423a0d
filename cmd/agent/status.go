package main

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/config"
)

func (p *program) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [flags]",
		Short: "Show how the agent is doing",
		Args:  noArgs(exitUsage),
	}
	f := addClientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, c, done, err := p.session(cmd, f)
		if err != nil {
			return err
		}
		defer done()
		a, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/status"})
		if err != nil {
			return err
		}
		if f.output != outputTable {
			return f.output.printJSON(p.stdout, a.body)
		}
		return printStatus(p.stdout, a.body)
	}
	return cmd
}

// printStatus prints whatever the agent reports, line by line, so that a newer agent's news is shown too. Sizes get a
// unit that can be read.
func printStatus(w io.Writer, doc []byte) error {
	tree, err := parseTree(doc)
	if err != nil {
		return exitf(exitRefused, "the status is no JSON: %w", err)
	}
	rows := tree.leaves("", nil)
	for _, row := range rows {
		n, err := strconv.ParseInt(row[1], 10, 64)
		if err == nil && strings.HasSuffix(row[0], "_bytes") && n >= int64(config.KiB) {
			row[1] += " (" + roughly(config.Size(n)) + ")"
		}
	}
	return printTable(w, nil, rows)
}

// roughly rounds a size down to whole units, of which there are at most four digits.
func roughly(size config.Size) string {
	for _, unit := range []config.Size{config.TiB, config.GiB, config.MiB, config.KiB} {
		if size >= unit {
			return (size / unit * unit).String()
		}
	}
	return size.String()
}
