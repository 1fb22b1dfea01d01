package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newWhyNot() *cobra.Command {
	return &cobra.Command{
		Use:   "why-not NODE",
		Short: "Show what keeps a node from owning, and what to do about it",
		Long: `Hold every rule of ownership against a node: does it answer, is it up to date,
what does it say of itself, what have its earlier turns come to, is anybody else
to be waited for. What it says of itself is as it last told the leader;
hactl preflight looks anew.

The exit code is 0 when it could own now, or does, and 3 when something keeps it
from it.`,
		Example: `  hactl why-not beta
  hactl why-not beta -o json | jq -r '.findings[] | select(.level == "fail").detail'`,
		Args: oneNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(ctx context.Context, cl *client) (*hadv1.WhyNotResponse, error) {
				return cl.WhyNot(ctx, &hadv1.WhyNotRequest{Node: args[0]})
			})
			if err != nil {
				return err
			}
			show := func() error { return c.print(renderWhyNot(r, c.view())) }
			if c.json() {
				show = func() error { return c.printDocument(r) }
			}
			if err := show(); err != nil || r.GetCould() {
				return err
			}
			return &failure{code: exitRefused}
		},
		ValidArgsFunction: c.completeNode,
	}
}

// oneNode wants the one NODE of a verb.
func oneNode(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError(fmt.Sprintf("give one node, not %d", len(args)), nil, cmd)
	}
	return nil
}

func (c *cli) completeNode(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.nodeNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
}

func renderWhyNot(r *hadv1.WhyNotResponse, v view) string {
	p := &page{view: v}
	bad := countFindings(r.GetFindings(), hadv1.Finding_LEVEL_FAIL)
	node := clean(r.GetNode())
	switch {
	case r.GetOwns() && bad == 0:
		p.entry("", green, node+" owns, and nothing keeps it from it.")
	case r.GetOwns():
		p.entry("", red, fmt.Sprintf("%s owns, and %s.", node, plural(bad, "rule speaks against it", "rules speak against it")))
	case r.GetCould():
		p.entry("", green, node+" could take over now.")
	default:
		p.entry("", red, fmt.Sprintf("%s can't take over: %s.", node, plural(bad, "rule keeps it from it", "rules keep it from it")))
	}
	p.blank()
	p.findings(r.GetFindings())
	if why := r.GetStays(); why != "" {
		p.blank()
		p.entry("Why it doesn't own: ", plain, why+".")
	}
	p.doubted(r.GetAnsweredBy(), r.GetDoubt())
	if next := r.GetNext(); next != "" {
		p.b.WriteString(p.paint(bold, "Next: "+clean(next)) + "\n")
	}
	return p.b.String()
}
