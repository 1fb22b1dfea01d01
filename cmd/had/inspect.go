package main

import (
	"github.com/spf13/cobra"

	"had/internal/daemon"
)

// inspectCommand is what had starts itself as to look at volumes.
func inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "inspect",
		Short:  "The process beside the daemon that looks at volumes, and may hang",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.Inspect(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
