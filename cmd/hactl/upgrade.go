package main

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newUpgrade() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "See how far an upgrade of had is, or end it for good",
		Long: `See which had each node runs, what the cluster's log may have in it, and who
keeps it from more. Until something new is used, or hactl upgrade finish, each
node can go back to the had it ran before.`,
		Example: `  hactl upgrade
  hactl upgrade finish --reason "a week without trouble"`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.upgrade(cmd.Context()) },
	}
	cmd.AddCommand(c.newUpgradeFinish())
	return cmd
}

func (c *cli) newUpgradeFinish() *cobra.Command {
	req := &hadv1.UpgradeFinishRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "finish",
		Short: "Let the log have what is new; there is no way back",
		Long: `Let the cluster's log have all that the had of every node reads. The first use of
something new does the same. There is no way back: a node with an older had stops
with a sentence that says so. It is refused (exit code 3) while some node runs an
older had or doesn't answer.`,
		Example: `  hactl upgrade finish --reason "a week without trouble"`,
	}
	return steers(c, cmd, &req.Reason, func(ctx context.Context, cl *client) (*hadv1.UpgradeFinishResponse, error) {
		return cl.UpgradeFinish(ctx, req)
	}, func(r *hadv1.UpgradeFinishResponse) string {
		if r.GetIndex() == 0 {
			return fmt.Sprintf("the log had records of level %d already", r.GetLevel())
		}
		return fmt.Sprintf("the log may have records of level %d now: no older had can join any more", r.GetLevel())
	})
}

func (c *cli) upgrade(ctx context.Context) error {
	s, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.StatusResponse, error) {
		return cl.Status(ctx, &hadv1.StatusRequest{})
	})
	switch {
	case err != nil:
		return err
	case s.GetLevel() == nil:
		return fail(exitRefused, "%s, which answers, runs a had that is older than this hactl: upgrade it first, then ask again", clean(s.GetAnsweredBy()))
	case c.json():
		return c.printDocument(s.GetLevel())
	}
	return c.print(renderUpgrade(s, c.view()))
}

func renderUpgrade(s *hadv1.StatusResponse, v view) string {
	p := &page{view: v}
	l := s.GetLevel()
	names, versions := len("NODE"), len("HAD")
	for _, n := range s.GetNodes() {
		names, versions = max(names, utf8.RuneCountInString(clean(n.GetName()))), max(versions, utf8.RuneCountInString(clean(n.GetVersion())))
	}
	p.entry(pad("NODE", names)+"  "+pad("HAD", versions)+"  ", plain, "READS RECORDS UP TO")
	for _, n := range s.GetNodes() {
		text, style := fmt.Sprintf("level %d", n.GetRecordLevel()), plain
		switch {
		case unasked(s, n):
			text, style = "not known here: only the leader asks", yellow
		case n.GetRecordLevel() == 0 || !n.GetReachable():
			text, style = "it doesn't answer", red
		case n.GetRecordLevel() < l.GetKnown():
			style = yellow
		}
		p.entry(pad(clean(n.GetName()), names)+"  "+pad(clean(n.GetVersion()), versions)+"  ", style, text)
	}
	p.blank()
	p.entry("The log has records up to ", bold, fmt.Sprintf("level %d", l.GetInForce()))
	for _, b := range l.GetBehind() {
		p.entry("- ", yellow, b)
	}
	switch {
	case l.GetInForce() == l.GetKnown():
		p.entry("", plain, "No had that reads less can join any more.")
	case len(l.GetBehind()) > 0:
		p.entry("", plain, fmt.Sprintf("What needs level %d is refused until every node reads it. Each node can go back to the had it ran before.", l.GetKnown()))
	case strings.TrimSpace(s.GetLeader()) != "":
		p.entry("", plain, fmt.Sprintf("Each node can go back to the had it ran before, until the first use of something that needs level %d, or hactl upgrade finish.", l.GetKnown()))
	}
	return p.b.String()
}
