package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newPolicyValidate() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE|-",
		Short: "Check a policy without applying it",
		Long: `Check a policy with the daemon, which knows the cluster's nodes and timing.
Nothing changes. Errors show the line and a hint; the exit code is then 2.`,
		Example: `  hactl policy validate policy.hcl
  generate-policy | hactl policy validate -`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error { return c.policyValidate(cmd.Context(), args[0]) },
	}
}

func (c *cli) policyValidate(ctx context.Context, path string) error {
	name, text, err := c.readPolicy(path)
	if err != nil {
		return err
	}
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.PolicyValidateResponse, error) {
		return cl.PolicyValidate(ctx, &hadv1.PolicyValidateRequest{Filename: name, Text: text})
	})
	if err != nil {
		f := asFailure(err)
		if f.code == exitUnreachable {
			return fail(f.code, "%w; without a daemon: had validate --policy %s", f, path)
		}
		return err
	}
	failed := c.printDiagnostics(r.GetDiagnostics()) || !r.GetValid()
	if c.json() {
		err = c.printDocument(r)
	} else if !failed {
		err = c.print(clean(name) + " is valid\n")
	}
	if failed {
		return errors.Join(err, fail(exitUsage, "%s is not a valid policy", name))
	}
	if err != nil {
		return fmt.Errorf("say that %s is valid: %w", name, err)
	}
	return nil
}
