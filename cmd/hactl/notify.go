package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

// notifyTimeout is longer than the daemon tries a channel.
const notifyTimeout = time.Minute

func (c *cli) newNotify() *cobra.Command {
	cmd := &cobra.Command{
		Use:                        "notify",
		Short:                      "Try the channels on which you are told what happens",
		Long:                       "Try the channels on which people and programs are told what happens.",
		Example:                    "  hactl notify test",
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newNotifyTest())
	group(cmd)
	return cmd
}

func (c *cli) newNotifyTest() *cobra.Command {
	return &cobra.Command{
		Use:   "test [NAME]",
		Short: "Send a test through every channel, or through one, and say what came of it",
		Long: `Send a test through each notify block of the policy now, and say what came of
it. The node that leads sends, as it does when something happens; to try the
others, move and test again.

Exit code 0: every receiver took it; 1: one did not; 3: the policy has no such
channel.`,
		Example: `  hactl notify test
  hactl notify test ops          # every channel of that name
  hactl notify test email.ops`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &hadv1.NotifyTestRequest{By: c.user}
			if len(args) == 1 {
				req.Name = args[0]
			}
			return c.notifyTest(cmd.Context(), req)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return c.channelNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func (c *cli) channelNames(ctx context.Context) (names []string) {
	s, err := c.fetchStatus(ctx)
	if err != nil {
		return nil // the shell has no place for it
	}
	for _, n := range s.GetNotify() {
		names = append(names, n.GetChannel())
	}
	return names
}

func (c *cli) notifyTest(ctx context.Context, req *hadv1.NotifyTestRequest) error {
	answer, err := callWithin(ctx, c, c.limit(notifyTimeout), func(ctx context.Context, cl *client) (*hadv1.NotifyTestResponse, error) {
		return cl.NotifyTest(ctx, req)
	})
	if err != nil {
		return err
	}
	if c.json() {
		err = c.printDocument(answer)
	} else {
		err = c.print(renderNotifyTest(answer, c.view()))
	}
	if err != nil {
		return err
	}
	for _, r := range answer.GetResults() {
		if r.GetError() != "" {
			return &failure{code: exitFailed}
		}
	}
	return nil
}

func renderNotifyTest(answer *hadv1.NotifyTestResponse, v view) string {
	p := &page{view: v}
	for _, r := range answer.GetResults() {
		if r.GetError() != "" {
			p.entry(clean(r.GetChannel())+"  ", red, "FAILED: "+r.GetError())
			continue
		}
		p.entry(clean(r.GetChannel())+"  ", green, fmt.Sprintf("sent to %s in %s", r.GetTarget(), span(millis(r.GetTookMs()).Round(time.Millisecond))))
	}
	p.entry("", plain, "sent by "+answer.GetNode()+", which leads")
	return p.b.String()
}

// notifications says how the channels fare, one line each.
func (p *page) notifications(s *hadv1.StatusResponse) {
	label := "notify   "
	for _, n := range s.GetNotify() {
		text, style := n.GetChannel(), plain
		switch since := n.GetFailingSince(); {
		case since.IsValid():
			style = yellow
			text += fmt.Sprintf(" fails since %s, tried %s: %s", p.stamp(since, toTheSecond), plural(int(n.GetAttempts()), "time", "times"), n.GetError())
		case n.GetSentAt().IsValid():
			text += ", the latest message " + p.stamp(n.GetSentAt(), toTheSecond)
		default:
			text += ", nothing sent yet"
		}
		if n.GetWaiting() > 0 {
			text += fmt.Sprintf(" (%s)", plural(int(n.GetWaiting()), "event waits", "events wait"))
		}
		p.entry(label, style, text)
		label = "         "
	}
}

func describeNotified(m *hadv1.NotifyMark) (string, style) {
	what := plural(int(m.GetEvents()), "event", "events")
	switch m.GetOutcome() {
	case hadv1.NotifyMark_OUTCOME_SENT:
		return fmt.Sprintf("notified %s of %s", m.GetChannel(), what), faint
	case hadv1.NotifyMark_OUTCOME_GAVE_UP:
		return fmt.Sprintf("GAVE UP notifying %s of %s%s", m.GetChannel(), what, colon(m.GetWhy())), red
	case hadv1.NotifyMark_OUTCOME_CLOSED:
		return fmt.Sprintf("notify %s is no more in the policy", m.GetChannel()), plain
	case hadv1.NotifyMark_OUTCOME_UNSPECIFIED:
	}
	return fmt.Sprintf("notify %s: %s", m.GetChannel(), word(m.GetOutcome())), yellow
}

func describeNotice(n *hadv1.Notice, v view) (string, style) {
	since := " since " + v.stamp(n.GetSince(), toTheSecond)
	switch n.GetKind() {
	case hadv1.Notice_KIND_SILENT:
		return n.GetNode() + " doesn't answer" + since, yellow
	case hadv1.Notice_KIND_BACK:
		return n.GetNode() + " answers again", green
	case hadv1.Notice_KIND_WAITING:
		return "volumes of " + n.GetNode() + " are waited for" + since + colon(n.GetDetail()), red
	case hadv1.Notice_KIND_CUT_OFF:
		return n.GetNode() + " was without quorum" + since, yellow
	case hadv1.Notice_KIND_SYNC_FAILS:
		return "sync " + n.GetName() + " fails on " + n.GetNode() + since + colon(n.GetDetail()), red
	case hadv1.Notice_KIND_TOKEN_AMISS:
		return "token " + n.GetName() + " can't be put in place on " + n.GetNode() + since + colon(n.GetDetail()), red
	case hadv1.Notice_KIND_TOKEN_PLACED:
		return "token " + n.GetName() + " is in place again on " + n.GetNode(), green
	case hadv1.Notice_KIND_CERTIFICATE:
		what := "the TLS certificate of " + n.GetNode()
		if n.GetCertificate().GetCa() {
			what = "the CA of the TLS certificates"
		}
		return what + " expires " + v.stamp(n.GetCertificate().GetExpires(), toTheSecond), yellow
	case hadv1.Notice_KIND_UNSPECIFIED:
	}
	return "notice " + word(n.GetKind()) + " about " + n.GetNode() + colon(n.GetDetail()), yellow
}
