package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newStatus() *cobra.Command {
	var check, all bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show who owns what, since when and why, and how each node is",
		Long: `Show who owns the addresses, since when and why, how each node is, and how
fresh that knowledge is. The last line says what to do, if anything. Where no
daemon runs it says what this host's kernel still holds of one (exit code 4).

With --check it is a monitoring plugin: one line, exit code 0 OK, 1 WARNING,
2 CRITICAL, 3 UNKNOWN.

With --all it shows every cluster of this host, a line each; --check then gives
the code of the worst.`,
		Example: `  hactl status
  hactl status --check
  hactl status --all
  hactl status -o json | jq -r .ownership.owner`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				return c.statusAll(cmd.Context(), check)
			}
			s, err := c.fetchStatus(cmd.Context())
			switch {
			case check:
				return c.printCheck(s, err)
			case err != nil && noDaemon(err):
				return c.statusWithoutDaemon(cmd.Context(), err)
			case err != nil:
				return err
			case c.json():
				return c.printDocument(s)
			}
			return c.print(renderStatus(s, c.view()))
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "one line and an exit code for a monitoring system")
	cmd.Flags().BoolVar(&all, "all", false, "every cluster of this host")
	return cmd
}

func (c *cli) fetchStatus(ctx context.Context) (*hadv1.StatusResponse, error) {
	return call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.StatusResponse, error) {
		return cl.Status(ctx, &hadv1.StatusRequest{})
	})
}

// checkDocument is the plugin's answer in JSON; Code is also the exit code.
type checkDocument struct {
	SchemaVersion int    `json:"schema_version"`
	Code          int    `json:"code"`
	Line          string `json:"line"`
}

// printCheck answers a monitoring system. It never fails in hactl's own way:
// exit code 1 or 2 would say something about the cluster.
func (c *cli) printCheck(s *hadv1.StatusResponse, err error) error {
	result, line := levelUnknown, ""
	if err != nil {
		line = "HAD UNKNOWN - " + oneLine(asFailure(err).Error()) + "\n"
	} else {
		result, line = judge(s).level, pluginLine(s)
	}
	answer := func() error { return c.print(line) }
	if c.json() {
		answer = func() error {
			return c.printValue(checkDocument{schemaVersion, int(result), strings.TrimSpace(line)})
		}
	}
	if err := answer(); err != nil {
		result = levelUnknown
	}
	if result == levelOK {
		return nil
	}
	return &failure{code: int(result)}
}
