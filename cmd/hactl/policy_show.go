package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newPolicyShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the policy in force",
		Long: `Print the text of the policy in force, exactly as it was applied, on stdout;
its version, and who applied it when and why, on stderr.`,
		Example: `  hactl policy show
  hactl policy show > policy.hcl`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.policyShow(cmd.Context()) },
	}
}

func (c *cli) policyShow(ctx context.Context) error {
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.PolicyShowResponse, error) {
		return cl.PolicyShow(ctx, &hadv1.PolicyShowRequest{})
	})
	p := r.GetPolicy()
	switch {
	case err != nil:
		return err
	case c.json():
		return c.printDocument(r)
	case p == nil:
		return fail(exitRefused, "there is no policy yet: hactl policy apply FILE makes one")
	}
	fmt.Fprintf(c.err, "version %d of %s%s%s\n", p.GetVersion(), c.view().stamp(p.GetAt(), toTheSecond), by(clean(p.GetBy())), colon(clean(p.GetReason())))
	text := p.GetText()
	if c.isTerminal {
		text = strings.Join(cleanBlock(text), "\n") + "\n"
	}
	return c.print(text)
}
