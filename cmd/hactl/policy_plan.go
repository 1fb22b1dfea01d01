package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newPolicyPlan() *cobra.Command {
	var detailed bool
	cmd := &cobra.Command{
		Use:   "plan FILE|-",
		Short: "Show what applying a policy would change and do",
		Long: `Show what applying a policy would change, by block and attribute, and what that
would do to what is served: which addresses stay, come and go, what is mounted,
whether services restart. Nothing changes.

With --detailed-exitcode the exit code is 0 when the same text is in force, 2 when
it is another one, and 1 for every error.`,
		Example: `  hactl policy plan policy.hcl
  hactl policy plan policy.hcl --detailed-exitcode || echo "not what is in force"`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := c.policyPlan(cmd.Context(), args[0])
			switch {
			case !detailed:
				return err
			case err != nil:
				return fail(exitFailed, "%w", asFailure(err))
			case changes:
				return &failure{code: exitChanges}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit with 2 when there are changes")
	return cmd
}

// exitChanges is --detailed-exitcode's, as terraform plan has it.
const exitChanges = 2

// policyPlan shows a plan and reports whether there is anything to apply.
func (c *cli) policyPlan(ctx context.Context, path string) (changes bool, err error) {
	name, text, err := c.readPolicy(path)
	if err != nil {
		return false, err
	}
	r, err := c.planned(ctx, &hadv1.PolicyPlanRequest{Filename: name, Text: text})
	switch {
	case err != nil:
		return false, err
	case c.json():
		err = c.printDocument(r)
	default:
		err = c.print(renderPlan(r, clean(name), c.view()))
	}
	return !r.GetUnchanged(), err
}

// planned asks for a plan and shows what is wrong or worth a warning.
func (c *cli) planned(ctx context.Context, req *hadv1.PolicyPlanRequest) (*hadv1.PolicyPlanResponse, error) {
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.PolicyPlanResponse, error) {
		return cl.PolicyPlan(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	if c.printDiagnostics(r.GetDiagnostics()) {
		return nil, fail(exitUsage, "%s is not a valid policy: nothing was applied", policyName(req))
	}
	return r, nil
}

func policyName(req *hadv1.PolicyPlanRequest) string {
	if v := req.GetRollbackTo(); v != 0 {
		return fmt.Sprintf("policy version %d", v)
	}
	return clean(req.GetFilename())
}
