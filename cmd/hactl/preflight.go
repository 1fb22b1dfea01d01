package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

// preflightTimeout is longer than the nodes have to look at themselves.
const preflightTimeout = 30 * time.Second

func (c *cli) newPreflight() *cobra.Command {
	req := &hadv1.PreflightRequest{}
	cmd := &cobra.Command{
		Use:   "preflight [NODE]",
		Short: "Look whether a node could take over right now",
		Long: `Have a node, or all that may own, look at itself: interfaces and their links,
whether another host has an address, hook folders and who can change them,
volumes, fence devices (asked for their status, which switches nothing), clock,
space, safeguards; and whether the nodes have the same scripts. Nothing is
changed.

Test scripts are listed; --run-tests runs them. The exit code is 0 when nothing
failed, else 1.`,
		Example: `  hactl preflight
  hactl preflight beta --run-tests
  hactl preflight -o json | jq '.nodes[].findings[] | select(.level == "fail")'`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				req.Node = args[0]
			}
			return c.preflight(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeNode,
	}
	cmd.Flags().BoolVar(&req.RunTests, "run-tests", false, "run the Test scripts of the policy's addresses")
	return cmd
}

func (c *cli) preflight(ctx context.Context, req *hadv1.PreflightRequest) error {
	if c.timeout == 0 {
		c.timeout = preflightTimeout
	}
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.PreflightResponse, error) {
		return cl.Preflight(ctx, req)
	})
	if err != nil {
		return err
	}
	if c.json() {
		err = c.printDocument(r)
	} else {
		err = c.print(renderPreflight(r, c.view()))
	}
	bad := countFindings(r.GetCluster(), hadv1.Finding_LEVEL_FAIL)
	for _, n := range r.GetNodes() {
		bad += countFindings(n.GetFindings(), hadv1.Finding_LEVEL_FAIL)
	}
	if err == nil && bad > 0 {
		return &failure{code: exitFailed}
	}
	return err
}

func renderPreflight(r *hadv1.PreflightResponse, v view) string {
	p := &page{view: v}
	for i, n := range r.GetNodes() {
		if i > 0 {
			p.blank()
		}
		p.verdict(n)
		p.findings(n.GetFindings())
	}
	if len(r.GetCluster()) > 0 {
		p.blank()
		p.entry("", bold, "all together:")
		p.findings(r.GetCluster())
	}
	p.doubted(r.GetAnsweredBy(), r.GetDoubt())
	return p.b.String()
}

// verdict is a node's checklist in one line.
func (p *page) verdict(n *hadv1.NodePreflight) {
	bad, odd := countFindings(n.GetFindings(), hadv1.Finding_LEVEL_FAIL), countFindings(n.GetFindings(), hadv1.Finding_LEVEL_WARN)
	text, s := "ready to take over", green
	if n.GetOwns() {
		text = "owns, and is well"
	}
	if bad > 0 {
		text, s = fmt.Sprintf("NOT ready: %d of %s failed", bad, plural(len(n.GetFindings()), "check", "checks")), red
	} else if odd > 0 {
		text, s = text+", with "+plural(odd, "warning", "warnings"), yellow
	}
	p.entry(clean(n.GetNode())+": ", s, text)
}
