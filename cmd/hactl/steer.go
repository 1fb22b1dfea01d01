package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// The verbs that say who should own, and when nothing may change by itself.

// defaultFreeze is how long a freeze lasts unless --for says otherwise: one that
// was forgotten must end.
const defaultFreeze = time.Hour

func (c *cli) newFreeze() *cobra.Command {
	var d time.Duration
	req := &hadv1.FreezeRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "freeze",
		Short: "Let no owner change by itself for a while",
		Long: `Let no owner change by itself for a while: no check, no failback and no other
node's takeover. A person can still move and drain. It ends by itself.

It extends no lease. An owner that dies or is cut off during a freeze is NOT
succeeded: the addresses are nobody's until it is back, or until hactl unfreeze.
A second freeze replaces the first.`,
		Example: `  hactl freeze --for 30m --reason "the switch is replaced"
  hactl unfreeze`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d < time.Second {
				return usageError(fmt.Sprintf("--for %s: a freeze lasts for at least 1s", d), nil, cmd)
			}
			req.ForNs, req.Operation = int64(d), strings.ToLower(rand.Text()[:12])
			return steer(cmd.Context(), c, func(ctx context.Context, cl *client) (*hadv1.FreezeResponse, error) {
				return cl.Freeze(ctx, req)
			}, func(r *hadv1.FreezeResponse) string {
				return fmt.Sprintf("frozen until %s: hactl unfreeze ends it earlier", c.plainView().stamp(r.GetUntil(), toTheSecond))
			})
		},
	}
	cmd.Flags().DurationVar(&d, "for", defaultFreeze, "`TIME` after which it ends by itself")
	steerFlags(cmd, &req.Reason)
	return cmd
}

func (c *cli) newUnfreeze() *cobra.Command {
	req := &hadv1.UnfreezeRequest{By: c.user}
	cmd := &cobra.Command{
		Use:     "unfreeze",
		Short:   "End a freeze before its time",
		Long:    "End a freeze before its time. It is refused (exit code 3) when nothing is frozen.",
		Example: "  hactl unfreeze",
	}
	return steers(c, cmd, &req.Reason, func(ctx context.Context, cl *client) (*hadv1.UnfreezeResponse, error) {
		return cl.Unfreeze(ctx, req)
	}, func(*hadv1.UnfreezeResponse) string { return "nothing is frozen any more" })
}

func (c *cli) newResume() *cobra.Command {
	req := &hadv1.ResumeRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Let checks change the owner again",
		Long: `Let checks change the owner again, after the policy's limits have begun to keep
it where it is. What the limits count begins anew. It is refused (exit code 3)
when nothing is held.`,
		Example: `  hactl resume --reason "the database answers again"`,
	}
	return steers(c, cmd, &req.Reason, func(ctx context.Context, cl *client) (*hadv1.ResumeResponse, error) {
		return cl.Resume(ctx, req)
	}, func(*hadv1.ResumeResponse) string { return "checks change the owner again" })
}

func (c *cli) newFailback() *cobra.Command {
	req := &hadv1.MoveRequest{By: c.user, Preferred: true}
	cmd := &cobra.Command{
		Use:   "failback",
		Short: "Hand the addresses back to the node that the policy prefers",
		Long: `Hand the addresses back to the node that the policy prefers and wait until it
serves: hactl move, with the target from the policy's prefer. Of several that are
preferred to the owner it is the first that could own. It is refused (exit code 3)
when there is none.`,
		Example: "  hactl failback",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Operation = strings.ToLower(rand.Text()[:12])
			return c.move(cmd.Context(), req)
		},
	}
	steerFlags(cmd, &req.Reason)
	return cmd
}

func (c *cli) newDrain() *cobra.Command {
	req := &hadv1.DrainRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Take a node out: it owns nothing until it is undrained",
		Long: `Take a node out of ownership, for as long as it takes. What it owns moves to
another node first, and is waited for. It is refused (exit code 3) when the node
owns and no other could. A drained node owns nothing, even when all others fail.`,
		Example: `  hactl drain alpha --reason "new disk"
  hactl undrain alpha`,
		Args: oneNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Node = args[0]
			return c.drain(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeNode,
	}
	steerFlags(cmd, &req.Reason)
	return cmd
}

func (c *cli) newUndrain() *cobra.Command {
	req := &hadv1.UndrainRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "undrain NODE",
		Short: "Let a drained node own again",
		Long: `Let a drained node own again. Nothing moves because of it, but for a failback
that the policy asks for. It is refused (exit code 3) when the node isn't drained.`,
		Example: "  hactl undrain alpha",
		Args:    oneNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Node = args[0]
			return steer(cmd.Context(), c, func(ctx context.Context, cl *client) (*hadv1.UndrainResponse, error) {
				return cl.Undrain(ctx, req)
			}, func(*hadv1.UndrainResponse) string { return req.GetNode() + " may own again" })
		},
		ValidArgsFunction: c.completeNode,
	}
	steerFlags(cmd, &req.Reason)
	return cmd
}

// steerFlags are what every one of these verbs takes.
func steerFlags(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "`TEXT` kept in the history")
	cmd.Flags().Bool("yes", false, "accepted for scripts: it never asks")
}

// steers makes cmd one of these verbs that takes no argument.
func steers[T proto.Message](c *cli, cmd *cobra.Command, reason *string, say func(context.Context, *client) (T, error), text func(T) string) *cobra.Command {
	cmd.Args = args(cobra.NoArgs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return steer(cmd.Context(), c, say, text) }
	steerFlags(cmd, reason)
	return cmd
}

// steer has one of these said and prints what it means.
func steer[T proto.Message](ctx context.Context, c *cli, say func(context.Context, *client) (T, error), text func(T) string) error {
	r, err := c.said(call(ctx, c, func(ctx context.Context, cl *client) (proto.Message, error) { return say(ctx, cl) }))
	if err != nil {
		return err
	}
	if c.json() {
		return c.printDocument(r)
	}
	return c.print(clean(text(r.(T))) + "\n")
}

// said explains an answer that may or may not have come about.
func (c *cli) said(r proto.Message, err error) (proto.Message, error) {
	if err != nil && outcomeUnknown(err) {
		return nil, fail(exitUnknown, "whether the log has it isn't known (%w): hactl history tells", asFailure(err))
	}
	return r, err
}

func (c *cli) drain(ctx context.Context, req *hadv1.DrainRequest) error {
	begun := time.Now()
	m, err := c.said(call(ctx, c, func(ctx context.Context, cl *client) (proto.Message, error) { return cl.Drain(ctx, req) }))
	if err != nil {
		return err
	}
	r := m.(*hadv1.DrainResponse)
	text := req.GetNode() + " is drained"
	if r.GetOwns() {
		fmt.Fprintf(c.err, "%s is drained; waiting until another node owns\n", clean(req.GetNode()))
		owner, err := c.awaitOther(ctx, req.GetNode(), c.limit(moveTimeout)-time.Since(begun))
		if err != nil {
			return err
		}
		text += fmt.Sprintf(", and %s owns now", owner)
	}
	if c.json() {
		return c.printDocument(r)
	}
	return c.print(clean(text) + "\n")
}

// awaitOther returns the owner once it is another node.
func (c *cli) awaitOther(ctx context.Context, node string, allowed time.Duration) (owner string, err error) {
	cl, err := c.connect()
	if err != nil {
		return "", err
	}
	defer cl.close()
	waiting, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()
	sub := &subscription[hadv1.WatchResponse]{
		client: cl,
		open: func(ctx context.Context, opts ...grpc.CallOption) (grpc.ServerStreamingClient[hadv1.WatchResponse], error) {
			return cl.Watch(ctx, &hadv1.WatchRequest{}, opts...)
		},
		persist: true,
		lost:    c.reportLoss(),
		handle: func(m *hadv1.WatchResponse) (bool, error) {
			o := m.GetStatus().GetOwnership()
			owner = o.GetOwner()
			return o.GetState() == hadv1.Ownership_STATE_OWNED && owner != node, nil
		},
	}
	if err := sub.run(waiting); err != nil {
		if ctx.Err() == nil && waiting.Err() != nil {
			return "", fail(exitFailed, "%s is drained, but no other node owns after %s: hactl status says why; it moves as soon as one can", node, allowed.Round(time.Second))
		}
		return "", err
	}
	return owner, nil
}
