package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/internal/failpoint"
)

// failpointsCommand lists the instants at which a program that was built for that can be made to die.
func (p *program) failpointsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "failpoints",
		Short:  "List the points at which FAILPOINT=point kills this program",
		Hidden: true,
		Args:   noArgs(exitUsage),
		RunE: func(*cobra.Command, []string) error {
			for _, point := range failpoint.All() {
				if _, err := fmt.Fprintln(p.stdout, point); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
