package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newPolicyApply() *cobra.Command {
	req := &hadv1.PolicyApplyRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "apply FILE|-",
		Short: "Make a policy the one in force on every node",
		Long: `Check a policy and commit it to the log, from where every node takes it. A
policy with errors changes nothing; the exit code is then 2. The text that is
in force already isn't applied again.

With --expect-version it is refused (exit code 3) if somebody else has applied
another one since.`,
		Example: `  hactl policy apply policy.hcl --reason "second address"
  hactl policy apply policy.hcl --expect-version 3`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.CheckVersion = cmd.Flags().Changed("expect-version")
			return c.policyApply(cmd.Context(), args[0], req)
		},
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the history")
	cmd.Flags().Uint64Var(&req.ExpectedVersion, "expect-version", 0, "only if version `N` is in force (0: none yet)")
	cmd.Flags().Bool("yes", false, "accepted for scripts: apply never asks")
	return cmd
}

func (c *cli) policyApply(ctx context.Context, path string, req *hadv1.PolicyApplyRequest) error {
	name, text, err := c.readPolicy(path)
	if err != nil {
		return err
	}
	req.Filename, req.Text = name, text
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.PolicyApplyResponse, error) {
		return cl.PolicyApply(ctx, req)
	})
	if err != nil {
		if outcomeUnknown(err) {
			return fail(exitUnknown, "whether %s was applied isn't known (%w): hactl policy show tells", name, asFailure(err))
		}
		return err
	}
	failed := c.printDiagnostics(r.GetDiagnostics())
	if c.json() {
		err = c.printDocument(r)
	} else if !failed {
		err = c.print(applied(r))
	}
	switch {
	case failed:
		return fail(exitUsage, "%s is not a valid policy: nothing was applied", name)
	case err != nil:
		return fmt.Errorf("say that version %d is in force: %w", r.GetVersion(), err)
	}
	return nil
}

func applied(r *hadv1.PolicyApplyResponse) string {
	if r.GetUnchanged() {
		return fmt.Sprintf("policy version %d is unchanged: the same text is in force already\n", r.GetVersion())
	}
	return fmt.Sprintf("policy version %d is in force\n", r.GetVersion())
}
