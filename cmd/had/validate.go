package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"had/internal/policy"
)

func validateCommand() *cobra.Command {
	var config, node, policyFile string
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check a node file, and a policy file, without running anything",
		Long: `Check the node file, and with --policy a policy file against it. Nothing is
changed, and no daemon is needed. Exit code 2 when a file is refused.`,
		Example: "  had validate\n  had validate --config ./had.hcl --policy ./policy.hcl\n  had validate --node beta",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := readNodeFile(config, node, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: node %s of cluster %s, %d nodes\n", config, f.Node, f.Cluster, len(f.Members))
			if policyFile == "" {
				return nil
			}
			return validatePolicy(cmd, policyFile, f.Members)
		},
	}
	cmd.Flags().StringVarP(&config, "config", "c", defaultConfig, "the node file")
	cmd.Flags().StringVar(&node, "node", "", "check the file as this node's (default: the host name)")
	cmd.Flags().StringVarP(&policyFile, "policy", "p", "", "a policy file to check too; - reads standard input")
	return cmd
}

func validatePolicy(cmd *cobra.Command, path string, members []policy.Member) error {
	src, err := readFileOr(path, cmd.InOrStdin())
	if err != nil {
		return usageError{fmt.Errorf("read the policy: %w", err)}
	}
	p, diags := policy.ParsePolicy(path, src)
	if !diags.HasErrors() {
		diags = append(diags, p.CheckMembers(members)...)
	}
	for _, d := range diags.Warnings() {
		fmt.Fprint(cmd.ErrOrStderr(), d.Rendered)
	}
	if err := diags.Err(); err != nil {
		return usageError{err}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: %d addresses\n", path, len(p.VIPs))
	return nil
}

func readFileOr(path string, stdin io.Reader) ([]byte, error) {
	if path != "-" {
		return os.ReadFile(path)
	}
	if stdin == nil {
		return nil, errors.New("there is no standard input")
	}
	return io.ReadAll(stdin)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  had version",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := buildVersion()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "had %s (commit %s, %s)\n", v.GetVersion(), orUnknown(v.GetCommit()), v.GetGo())
			return err
		},
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
