package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newFence() *cobra.Command {
	cmd := &cobra.Command{
		Use:                        "fence",
		Short:                      "Say that a silent node is off",
		Long:                       "Say what nobody but you can know: that a node which fell silent is off.",
		Example:                    "  hactl fence confirm alpha",
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newFenceConfirm())
	group(cmd)
	return cmd
}

func (c *cli) newFenceConfirm() *cobra.Command {
	var yes bool
	req := &hadv1.ConfirmFenceRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "confirm NODE",
		Short: "Say that you have seen that a node is off, so that its volumes can be mounted elsewhere",
		Long: `Say that you have seen that a silent node is off, or that its disks are
unplugged. Another node then mounts its volumes. If the node still runs, that
destroys what is on them: "it doesn't answer" is no reason.

It counts for the turn of ownership that is shown, never for a later one. Who
said it, when and why is in the history. It is refused (exit code 3) when nothing
of the node waits for it, and when the node leads or has renewed its lease.`,
		Example: `  hactl fence confirm alpha --reason "no power in its rack"
  hactl fence confirm alpha --yes    # in a script that has looked`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError(fmt.Sprintf("give one node, not %d", len(args)), nil, cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Node = args[0]
			return c.fenceConfirm(cmd.Context(), req, yes)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return c.nodeNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the history: what you have seen")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask for the node's name: you have looked")
	return cmd
}

func (c *cli) fenceConfirm(ctx context.Context, req *hadv1.ConfirmFenceRequest, yes bool) error {
	s, err := c.fetchStatus(ctx)
	if err != nil {
		return err
	}
	waiting, err := waitingFor(s, req.GetNode())
	if err != nil {
		return err
	}
	fmt.Fprint(c.err, renderConfirm(req.GetNode(), waiting, c.plainView()))
	if !yes {
		if err := c.askForName(ctx, req.GetNode(), fmt.Sprintf("you have seen that %s is off", req.GetNode())); err != nil {
			return err
		}
	}
	doc := confirmDocument{SchemaVersion: schemaVersion, Node: req.GetNode()}
	for _, u := range waiting {
		req.Epoch, req.LeaseIndex = u.GetEpoch(), u.GetLeaseIndex()
		_, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.ConfirmFenceResponse, error) {
			return cl.ConfirmFence(ctx, req)
		})
		switch {
		case err != nil && outcomeUnknown(err):
			return fail(exitUnknown, "whether the log has your word isn't known (%w): hactl history tells; to say it again does no harm", asFailure(err))
		case err != nil:
			return err
		}
		doc.Epochs = append(doc.Epochs, u.GetEpoch())
	}
	if c.json() {
		return c.printValue(doc)
	}
	return c.print(clean(fmt.Sprintf("%s is confirmed to be off (epoch %s): hactl status shows what follows", doc.Node, joinEpochs(doc.Epochs))) + "\n")
}

// confirmDocument is a confirmation in JSON.
type confirmDocument struct {
	SchemaVersion int      `json:"schema_version"`
	Node          string   `json:"node"`
	Epochs        []uint64 `json:"epochs"`
}

func joinEpochs(epochs []uint64) string {
	var all []string
	for _, e := range epochs {
		all = append(all, fmt.Sprint(e))
	}
	return strings.Join(all, ", ")
}

// waitingFor returns the epochs of a node that wait for a confirmation; the error
// says why there is none.
func waitingFor(s *hadv1.StatusResponse, node string) ([]*hadv1.Unsecured, error) {
	waiting := slices.DeleteFunc(slices.Clone(s.GetUnsecured()), func(u *hadv1.Unsecured) bool { return u.GetNode() != node })
	known := slices.ContainsFunc(s.GetNodes(), func(n *hadv1.NodeStatus) bool { return n.GetName() == node })
	switch {
	case len(waiting) > 0:
		return waiting, nil
	case !known:
		return nil, fail(exitUsage, "%q is not a node of %s", node, s.GetCluster())
	case !s.GetFreshness().GetConfirmed():
		return nil, fail(exitUnreachable, "nothing can be confirmed without a leader%s", colon(s.GetFreshness().GetNote()))
	case s.GetLeader() == node:
		return nil, fail(exitRefused, "%s leads the cluster: it is not off", node)
	}
	return nil, fail(exitRefused, "nothing of %s waits for a confirmation", node)
}

// renderConfirm says what a confirmation means.
func renderConfirm(node string, waiting []*hadv1.Unsecured, v view) string {
	p := &page{view: v}
	p.entry("", bold, fmt.Sprintf("You are about to say: I have seen that %s is off, or that its disks are unplugged.", clean(node)))
	p.blank()
	for _, u := range waiting {
		p.entry("epoch    ", plain, fmt.Sprintf("%d of %s", u.GetEpoch(), u.GetNode()))
		label := "volume   "
		for _, h := range u.GetVolumes() {
			p.entry(label, plain, volumeText(h))
			label = "         "
		}
		tried := u.GetTries()
		if tried == "" {
			tried = "nothing"
		}
		p.entry("tried    ", plain, tried)
	}
	p.blank()
	p.entry("", plain, fmt.Sprintf("Another node then mounts what is listed. If %s still runs, or is only paused or cut off, both write to it and destroy the data. That it doesn't answer is no reason: go and look.", clean(node)))
	p.blank()
	return p.b.String()
}

// askForName has the node's name typed in; yes is what --yes would say.
func (c *cli) askForName(ctx context.Context, node, yes string) error {
	return c.askFor(ctx, "node", node, yes)
}

// askFor is askForName for what has a name.
func (c *cli) askFor(ctx context.Context, what, name, yes string) error {
	if !c.asks {
		return fail(exitUsage, "this isn't a terminal, so nobody can be asked: give --yes if %s", yes)
	}
	fmt.Fprintf(c.err, "Type the %s's name to confirm: ", what)
	typed, err := c.typed(ctx)
	if err == nil && typed != name {
		err = fail(exitFailed, "not confirmed: %q is not %s; nothing was changed", typed, name)
	}
	return err
}

// typed is the line that somebody types at the terminal, without the space around it.
func (c *cli) typed(ctx context.Context) (string, error) {
	answer := make(chan string, 1)
	// A read from a terminal can't be cut short: after Ctrl-C the process ends, and
	// with it this.
	go func() {
		line, err := bufio.NewReader(c.in).ReadString('\n')
		if err != nil && line == "" {
			fmt.Fprintln(c.err)
		}
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(c.err)
		return "", fail(exitInterrupted, "nothing was changed")
	case line := <-answer:
		return line, nil
	}
}

// volumeText names a volume, its device and its place.
func volumeText(h *hadv1.HeldVolume) string {
	text := fmt.Sprintf("%s (%s) on %s", h.GetName(), h.GetDevice(), h.GetPath())
	if h.GetFstype() != "" {
		text += ", " + h.GetFstype()
	}
	return text
}
