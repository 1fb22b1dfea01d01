package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	hadv1 "had/proto/had/v1"
)

const waitTimeout = 60 * time.Second

func (c *cli) newWait() *cobra.Command {
	var condition string
	cmd := &cobra.Command{
		Use:   "wait --for healthy|owner=NODE",
		Short: "Wait until the cluster is well, or a node owns",
		Long: `Wait until the status is as asked for, confirmed by a quorum, and print it in
one line. healthy is what status --check calls OK: somebody owns, every node is
well, no check fails, nothing is frozen or held; and every check has passed since
it began to run. owner=NODE is that this node serves.

The exit code is 1 when it isn't so within --timeout (60s unless given), and 4
when no daemon answered at all.`,
		Example: `  hactl wait --for healthy --timeout 2m
  hactl wait --for owner=beta && run-the-backup`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			met, err := waitFor(condition, cmd)
			if err != nil {
				return err
			}
			return c.wait(cmd.Context(), condition, met)
		},
	}
	cmd.Flags().StringVar(&condition, "for", "", "what to wait for: `healthy|owner=NODE`")
	c.completeFlag(cmd, "for", func(ctx context.Context) []string {
		all := []string{"healthy"}
		for _, n := range c.nodeNames(ctx) {
			all = append(all, "owner="+n)
		}
		return all
	})
	return cmd
}

// waitFor reads a condition.
func waitFor(condition string, cmd *cobra.Command) (met func(*hadv1.StatusResponse) bool, err error) {
	node, isOwner := strings.CutPrefix(condition, "owner=")
	switch {
	case condition == "healthy":
		return func(s *hadv1.StatusResponse) bool { return judge(s).level == levelOK && len(unsettled(s)) == 0 }, nil
	case isOwner && node != "":
		return func(s *hadv1.StatusResponse) bool {
			o := s.GetOwnership()
			return s.GetFreshness().GetConfirmed() && o.GetState() == hadv1.Ownership_STATE_OWNED && o.GetOwner() == node
		}, nil
	case condition == "":
		return nil, usageError("say what to wait for: --for healthy or --for owner=NODE", nil, cmd)
	}
	return nil, usageError(fmt.Sprintf("--for %q: take healthy or owner=NODE", condition), nil, cmd)
}

// unsettled are the checks that have not said anything yet: a status may still
// call that well, since a service has its time to start.
func unsettled(s *hadv1.StatusResponse) (all []string) {
	for _, n := range s.GetNodes() {
		for _, c := range n.GetChecks() {
			if n.GetReachable() && c.GetState() == hadv1.CheckStatus_STATE_UNSPECIFIED {
				all = append(all, fmt.Sprintf("%s: check %s has not passed yet%s", n.GetName(), c.GetName(), colon(c.GetDetail())))
			}
		}
	}
	return all
}

func (c *cli) wait(ctx context.Context, condition string, met func(*hadv1.StatusResponse) bool) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	allowed := c.limit(waitTimeout)
	ctx, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()
	var last *hadv1.StatusResponse
	var lost error
	sub := &subscription[hadv1.WatchResponse]{
		client: cl, persist: true, lost: func(err error) { lost = err },
		open: func(ctx context.Context, opts ...grpc.CallOption) (grpc.ServerStreamingClient[hadv1.WatchResponse], error) {
			return cl.Watch(ctx, &hadv1.WatchRequest{}, opts...)
		},
		handle: func(m *hadv1.WatchResponse) (bool, error) {
			last, lost = m.GetStatus(), nil
			return met(last), nil
		},
	}
	err = sub.run(ctx)
	switch {
	case err == nil && c.json():
		return c.printDocument(last)
	case err == nil:
		return c.print(summary(last, judge(last)) + "\n")
	case !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return err
	case last == nil:
		f := asFailure(noAnswer(allowed))
		if never, ok := errors.AsType[*lostError](cl.dialer.lost(nil)); ok && never.dial != nil {
			f = never.failure()
		} else if lost != nil {
			f = asFailure(lost)
		}
		return fail(f.code, "not %s within %s: %w", condition, allowed, f)
	}
	v := judge(last)
	if condition == "healthy" && v.level == levelOK {
		v.remarks = append(v.remarks, unsettled(last)...)
	}
	return fail(exitFailed, "not %s within %s: %s", condition, allowed, summary(last, v))
}
