package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newPolicyHistory() *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "List the policies that were in force: who, when and why",
		Long: `List the policies that were in force, the latest first: who applied them, when,
how and why. The latest 50 are kept, and the texts of as many of them as have room
in 1 MiB; hactl policy rollback brings one of those back.`,
		Example: `  hactl policy history
  hactl policy export 7 | diff - policy.hcl`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := c.policyVersions(cmd.Context())
			switch {
			case err != nil:
				return err
			case c.json():
				return c.printDocument(r)
			case len(r.GetPolicies()) == 0:
				return fail(exitRefused, "%w", errNoPolicy)
			}
			return c.print(renderVersions(r, c.view()))
		},
	}
}

func (c *cli) policyVersions(ctx context.Context) (*hadv1.PolicyVersionsResponse, error) {
	return call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.PolicyVersionsResponse, error) {
		return cl.PolicyVersions(ctx, &hadv1.PolicyVersionsRequest{})
	})
}

func renderVersions(r *hadv1.PolicyVersionsResponse, v view) string {
	p := &page{view: v}
	for i, policy := range r.GetPolicies() {
		s := plain
		if i == 0 {
			s = bold
		}
		label := fmt.Sprintf("%4d  %s  ", policy.GetVersion(), v.stamp(policy.GetAt(), toTheSecond))
		text := how(policy, r.GetTrial(), v) + by(policy.GetBy()) + colon(policy.GetReason())
		if !slices.Contains(r.GetTexts(), policy.GetVersion()) {
			text += " (its text is kept no longer)"
		}
		p.entry(label, s, text)
	}
	return p.b.String()
}

// how says in which way a policy came about, and whether it is there for good.
func how(p *hadv1.Policy, t *hadv1.PolicyTrial, v view) string {
	var b strings.Builder
	switch p.GetKind() {
	case hadv1.PolicyApply_KIND_ROLLBACK:
		fmt.Fprintf(&b, "rolled back to version %d", p.GetOfVersion())
	case hadv1.PolicyApply_KIND_UNDO:
		fmt.Fprintf(&b, "undone, back to version %d", p.GetOfVersion())
	case hadv1.PolicyApply_KIND_UNSPECIFIED:
		b.WriteString("applied")
	}
	switch {
	case t.GetVersion() == p.GetVersion() && t != nil:
		fmt.Fprintf(&b, ", to be confirmed until %s,", v.stamp(t.GetUntil(), toTheSecond))
	case p.GetConfirmed() != nil:
		fmt.Fprintf(&b, ", confirmed%s,", by(p.GetConfirmed().GetBy()))
	}
	return b.String()
}

// describePolicy says which policy came into force, for the history of everything.
func describePolicy(p *hadv1.PolicyApply, v view) (string, style) {
	text, s := fmt.Sprintf("policy version %d applied", p.GetExpectedVersion()+1), plain
	switch p.GetKind() {
	case hadv1.PolicyApply_KIND_ROLLBACK:
		text += fmt.Sprintf(", the text of version %d", p.GetOfVersion())
	case hadv1.PolicyApply_KIND_UNDO:
		text, s = fmt.Sprintf("policy version %d undone: version %d is the text of version %d", p.GetExpectedVersion(), p.GetExpectedVersion()+1, p.GetOfVersion()), yellow
	case hadv1.PolicyApply_KIND_UNSPECIFIED:
	}
	if p.GetConfirmUntil() != nil {
		text += ", to be confirmed until " + v.stamp(p.GetConfirmUntil(), toTheSecond)
	}
	return text + by(p.GetBy()) + colon(p.GetReason()), s
}

// describeExtended says what an owner may mount since.
func describeExtended(x *hadv1.Extend) string {
	var all []string
	for _, h := range x.GetVolumes() {
		all = append(all, volumeText(h))
	}
	return fmt.Sprintf("epoch %d has more volumes: %s", x.GetEpoch(), strings.Join(all, "; "))
}
