package main

import (
	"net/http"

	"github.com/spf13/cobra"
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
		return f.output.printJSON(p.stdout, a.body)
	}
	return cmd
}
