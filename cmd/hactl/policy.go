package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check, apply and show what the cluster owns",
		Long:  "Check, apply and show the policy: what the cluster owns and how it moves.",
		Example: `  hactl policy plan policy.hcl
  hactl policy apply policy.hcl --reason "second address"
  hactl policy export > policy.hcl`,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(
		c.newPolicyInit(), c.newPolicyFmt(), c.newPolicyValidate(), c.newPolicyPlan(), c.newPolicyApply(), c.newPolicyConfirm(),
		c.newPolicyShow(), c.newPolicyHistory(), c.newPolicyRollback(), c.newPolicyExport(),
	)
	group(cmd)
	return cmd
}

// readPolicy reads the file named on the command line, "-" for stdin. name is
// what diagnostics call it.
func (c *cli) readPolicy(path string) (name, text string, err error) {
	name = path
	var b []byte
	if path == "-" {
		name = "<stdin>"
		b, err = io.ReadAll(c.in)
	} else {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return "", "", fail(exitUsage, "read the policy: %w", err)
	}
	return name, string(b), nil
}

// printDiagnostics writes what is wrong with a policy to stderr and reports
// whether any of it is an error.
func (c *cli) printDiagnostics(all []*hadv1.Diagnostic) (failed bool) {
	for _, d := range all {
		failed = failed || d.GetSeverity() != hadv1.Diagnostic_SEVERITY_WARNING
		text := d.GetRendered()
		if text == "" {
			text = fmt.Sprintf("%s:%d,%d: %s: %s%s", d.GetFile(), d.GetLine(), d.GetColumn(), word(d.GetSeverity()), d.GetSummary(), colon(d.GetDetail()))
		}
		fmt.Fprintln(c.err, strings.Join(cleanBlock(text), "\n"))
	}
	return failed
}
