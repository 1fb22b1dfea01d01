package main

import (
	"github.com/spf13/cobra"

	"had/internal/guard"
)

// guardCommand is what had starts itself as; nobody else can use it.
func guardCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "guard",
		Short:  "The process beside the daemon that ends a lease when the daemon can't",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return guard.Main(cmd.ErrOrStderr()) },
	}
}

// mounterCommand is what a guard starts itself as.
func mounterCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "mounter",
		Short:  "The process beside the guard that mounts and unmounts, and may hang",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(*cobra.Command, []string) error { return guard.MounterMain() },
	}
}
