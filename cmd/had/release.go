package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"had/internal/daemon"
	"had/internal/failover"
)

// released is the answer of had release.
type released struct {
	SchemaVersion int      `json:"schema_version"`
	Epoch         uint64   `json:"epoch"` // 0: nothing was held
	Addresses     []string `json:"addresses"`
	Scripts       int      `json:"interrupted_scripts"`
	Rebooted      bool     `json:"rebooted"`
}

func releaseCommand() *cobra.Command {
	var flags nodeFlags
	var output outputFlag
	var local bool
	cmd := &cobra.Command{
		Use:   "release --local",
		Short: "Drop everything this host holds after the daemon has died",
		Long: `Take down what a daemon that died left on this host: scripts still running, and
addresses. It then runs PreRel and PostRel with HAD_FORCED=1. The next start of
the daemon tells the cluster. It refuses while the daemon runs. systemd's
ExecStopPost calls it.`,
		Example: "  had release --local",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !local {
				return usageError{errors.New("say --local: this command acts on this host alone (to move addresses to another node: hactl move)")}
			}
			if err := output.check(); err != nil {
				return err
			}
			cfg, err := flags.daemonConfig(cmd)
			if err != nil {
				return err
			}
			first, _, stop := untilSignal(context.Background())
			defer stop()
			r, err := daemon.ReleaseLocal(first, cfg)
			if err != nil {
				return err
			}
			return printReleased(cmd, &output, r)
		},
	}
	flags.register(cmd)
	output.register(cmd)
	cmd.Flags().BoolVar(&local, "local", false, "act on this host, without the cluster")
	return cmd
}

func printReleased(cmd *cobra.Command, output *outputFlag, r failover.Recovered) error {
	v := released{SchemaVersion: schemaVersion, Epoch: r.Epoch, Addresses: []string{}, Scripts: r.Scripts, Rebooted: r.Rebooted}
	for _, a := range r.Addresses {
		v.Addresses = append(v.Addresses, a.Addr.String())
	}
	text := "this host holds nothing\n"
	if r.Epoch != 0 {
		text = fmt.Sprintf("released epoch %d: %s; the cluster is told when had starts again\n", r.Epoch, strings.Join(v.Addresses, ", "))
	}
	return output.print(cmd.OutOrStdout(), v, text)
}
