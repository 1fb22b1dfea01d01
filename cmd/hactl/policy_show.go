package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newPolicyShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show [VERSION]",
		Short: "Print the policy in force, or an earlier one",
		Long: `Print the text of the policy in force, or of an earlier version, exactly as it was
applied, on stdout; its version, and who applied it when and why, on stderr.`,
		Example: `  hactl policy show
  hactl policy show 7`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return c.policyShow(cmd, args, true) },
	}
}

func (c *cli) newPolicyExport() *cobra.Command {
	return &cobra.Command{
		Use:   "export [VERSION]",
		Short: "Print a policy's text alone, for a file",
		Long: `Print the text of the policy in force, or of an earlier version, exactly as it was
applied, and nothing else.`,
		Example: `  hactl policy export > policy.hcl
  hactl policy export 7 | hactl policy plan -`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return c.policyShow(cmd, args, false) },
	}
}

func (c *cli) policyShow(cmd *cobra.Command, args []string, tell bool) error {
	version, err := c.versionOr(cmd, args, noVersion)
	if err != nil {
		return err
	}
	r, err := call(cmd.Context(), c, func(ctx context.Context, cl *client) (*hadv1.PolicyShowResponse, error) {
		return cl.PolicyShow(ctx, &hadv1.PolicyShowRequest{Version: version})
	})
	p := r.GetPolicy()
	switch {
	case err != nil:
		return err
	case c.json():
		return c.printDocument(r)
	case p == nil:
		return fail(exitRefused, "%w", errNoPolicy)
	}
	if tell {
		fmt.Fprintf(c.err, "version %d of %s%s%s\n", p.GetVersion(), c.view().stamp(p.GetAt(), toTheSecond), by(clean(p.GetBy())), colon(clean(p.GetReason())))
	}
	text := p.GetText()
	if c.isTerminal {
		text = strings.Join(cleanBlock(text), "\n") + "\n"
	}
	return c.print(text)
}

// errNoPolicy is said where one is needed.
var errNoPolicy = errors.New("there is no policy yet: hactl policy apply FILE makes one")
