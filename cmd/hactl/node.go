package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// How long a change of the members is followed unless --timeout says otherwise,
// and how often it is looked at.
const (
	memberTimeout = 2 * time.Minute
	memberLook    = 300 * time.Millisecond
)

func (c *cli) newNode() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Show, add and remove the cluster's nodes",
		Long: `Show, add and remove the cluster's nodes while it runs. The cluster goes by its
own list, which every node has. The node blocks of had.hcl say how a new node
finds the others.`,
		Example: `  hactl node list
  hactl node add delta --address 10.0.0.14:7400
  hactl node remove beta`,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newNodeList(), c.newNodeAdd(), c.newNodeRemove())
	group(cmd)
	return cmd
}

func (c *cli) newNodeList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show who belongs to the cluster, and how far each is",
		Long: `Show who belongs to the cluster: who votes, who answers, who has the whole log,
and since when. Only the leader knows how far the others are.`,
		Example: `  hactl node list
  hactl node list -o json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := c.nodeList(cmd.Context())
			if err != nil {
				return err
			}
			if c.json() {
				return c.printDocument(r)
			}
			return c.print(renderNodes(r, c.plainView()))
		},
	}
}

func (c *cli) nodeList(ctx context.Context) (*hadv1.NodeListResponse, error) {
	return call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.NodeListResponse, error) {
		return cl.NodeList(ctx, &hadv1.NodeListRequest{})
	})
}

func renderNodes(r *hadv1.NodeListResponse, v view) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tVOTE\tADDRESS\tLOG\tVERSION\tSINCE")
	for _, n := range r.GetNodes() {
		m := n.GetMember()
		since := "birth"
		if m.GetAt() != nil {
			since = v.stamp(m.GetAt(), toTheSecond)
		}
		row := []string{m.GetName(), memberRole(n), vote(n), m.GetAddress(), progressOf(r, n), orDash(n.GetVersion()), since}
		for i := range row {
			row[i] = clean(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	for _, n := range r.GetNodes() {
		if n.GetWaits() != "" {
			fmt.Fprintf(&b, "\n%s", clean(n.GetWaits()))
		}
	}
	if !r.GetLeading() {
		fmt.Fprintf(&b, "\nThere is no leader that %s knows: how far the nodes are isn't known.", clean(r.GetAnsweredBy()))
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func memberRole(n *hadv1.NodeInfo) string {
	role := "data"
	if n.GetMember().GetWitness() {
		role = "witness"
	}
	switch {
	case n.GetOwner():
		role += ", owner"
	case n.GetLeader():
		role += ", leader"
	}
	return role
}

func vote(n *hadv1.NodeInfo) string {
	switch s := n.GetMember().GetStanding(); {
	case s == hadv1.Member_STANDING_JOINING:
		return "joining"
	case s == hadv1.Member_STANDING_LEAVING:
		return "leaving"
	case n.GetVoter():
		return "yes"
	}
	return "not yet"
}

func progressOf(r *hadv1.NodeListResponse, n *hadv1.NodeInfo) string {
	switch {
	case !r.GetLeading():
		return "-"
	case !n.GetReachable():
		return "doesn't answer"
	case n.GetBehind() > inStepEntries:
		return fmt.Sprintf("%d behind", n.GetBehind())
	}
	return "complete"
}

// inStepEntries is how much a node may lack that is as far as it can be: entries
// are on their way all the time.
const inStepEntries = 3

func (c *cli) newNodeAdd() *cobra.Command {
	req := &hadv1.NodeAddRequest{By: c.user}
	two := twoVoters{}
	cmd := &cobra.Command{
		Use:   "add NODE --address HOST:PORT",
		Short: "Make a node a member of the cluster",
		Long: `Make a node a member of the cluster. had runs there already, with an empty
data_dir and a had.hcl that lists it and at least one of the cluster's nodes; it
waits to be added. It gets the log first and its vote when it has caught up. What
the cluster owns stays where it is.

It can be interrupted at any time: it goes on by itself, and the same command
follows it again. The second node of a cluster of one gets its vote together with
the third, for two voters stop when either dies.`,
		Example: `  hactl node add delta --address 10.0.0.14:7400
  hactl node add gamma --address 10.0.0.13:7400 --witness`,
		Args: oneNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.GetAddress() == "" {
				return usageError("say how the other nodes reach it: --address HOST:PORT", nil, cmd)
			}
			req.Name, req.TwoVoters = args[0], two.accepted
			return c.nodeAdd(cmd.Context(), req)
		},
	}
	cmd.Flags().StringVar(&req.Address, "address", "", "`HOST:PORT` at which the other nodes reach it")
	cmd.Flags().BoolVar(&req.Witness, "witness", false, "it votes and never owns")
	two.flag(cmd)
	steerFlags(cmd, &req.Reason)
	return cmd
}

// twoVoters is the flag that accepts a cluster of two voters, spelled as in
// had.hcl.
type twoVoters struct{ accepted bool }

func (t *twoVoters) flag(cmd *cobra.Command) {
	cmd.Flags().Var(t, "two-voters", "\"accept\": two voters are wanted although the cluster stops when either dies")
}

// String implements pflag.Value.
func (t *twoVoters) String() string {
	if t.accepted {
		return "accept"
	}
	return ""
}

// Set implements pflag.Value.
func (t *twoVoters) Set(s string) error {
	if s != "accept" {
		return errors.New(`write --two-voters=accept, or leave it out`)
	}
	t.accepted = true
	return nil
}

// Type implements pflag.Value.
func (*twoVoters) Type() string { return "string" }

func (c *cli) nodeAdd(ctx context.Context, req *hadv1.NodeAddRequest) error {
	m, err := c.said(call(ctx, c, func(ctx context.Context, cl *client) (proto.Message, error) { return cl.NodeAdd(ctx, req) }))
	if err != nil {
		return err
	}
	added := m.(*hadv1.NodeAddResponse)
	if !added.GetKnown() {
		fmt.Fprintf(c.err, "%s is a member without a vote (log entry %d)\n", clean(req.GetName()), added.GetIndex())
	}
	id := added.GetMember().GetNodeId()
	return c.followMember(ctx, req.GetName(), "added", func(n *hadv1.NodeInfo) (string, bool) {
		switch {
		case n == nil || n.GetMember().GetNodeId() != id:
			return req.GetName() + " has been removed meanwhile", true
		case n.GetAwaitsThird():
			return n.GetWaits(), true
		case n.GetMember().GetStanding() == hadv1.Member_STANDING_UNSPECIFIED:
			return req.GetName() + " is a member and votes", true
		}
		return "", false
	})
}

func (c *cli) newNodeRemove() *cobra.Command {
	var yes bool
	req := &hadv1.NodeRemoveRequest{By: c.user}
	two := twoVoters{}
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node out of the cluster",
		Long: `Take a node out of the cluster. It may be dead: that is how a node is replaced,
remove it and add the new one under its name. What was removed never comes back
with its old data folder; empty data_dir first.

It is refused (exit code 3) while the node owns; with --yes what it owns is moved
first. It is refused as well when an epoch of the node is still open, when no
majority that answers would be left, and when two voters would be.`,
		Example: `  hactl node remove beta
  hactl node remove beta --yes     # what it owns is moved first
  hactl node remove gamma --two-voters=accept`,
		Args: oneNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.TwoVoters = args[0], two.accepted
			return c.nodeRemove(cmd.Context(), req, yes)
		},
		ValidArgsFunction: c.completeNode,
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the history")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask, and move first what the node owns")
	two.flag(cmd)
	return cmd
}

func (c *cli) nodeRemove(ctx context.Context, req *hadv1.NodeRemoveRequest, yes bool) error {
	list, err := c.nodeList(ctx)
	if err != nil {
		return err
	}
	is := nodeNamed(list, req.GetName())
	switch {
	case is == nil:
		return fail(exitUsage, "%q is not a node of %s", req.GetName(), list.GetCluster())
	case is.GetOwner() && !yes:
		return fail(exitRefused, "%s owns: hactl move first, or hactl node remove %s --yes, which does that", req.GetName(), req.GetName())
	case !yes:
		if err := c.askForName(ctx, req.GetName(), fmt.Sprintf("%s is to leave the cluster %s for good", req.GetName(), list.GetCluster())); err != nil {
			return err
		}
	}
	if is.GetOwner() {
		move := &hadv1.MoveRequest{By: req.GetBy(), Reason: "removal of " + req.GetName(), Operation: strings.ToLower(rand.Text()[:12])}
		if err := c.move(ctx, move); err != nil {
			return err
		}
		// Its epoch is open until its report is in the log.
		if err := c.awaitReleased(ctx, req.GetName()); err != nil {
			return err
		}
	}
	req.NodeId = is.GetMember().GetNodeId()
	if _, err := c.said(c.removal(ctx, req)); err != nil {
		return err
	}
	return c.followMember(ctx, req.GetName(), "removed", func(n *hadv1.NodeInfo) (string, bool) {
		if n != nil && n.GetMember().GetNodeId() == req.GetNodeId() {
			return "", false
		}
		return req.GetName() + " is no member any more: stop its had and empty its data_dir", true
	})
}

func (c *cli) removal(ctx context.Context, req *hadv1.NodeRemoveRequest) (proto.Message, error) {
	return call(ctx, c, func(ctx context.Context, cl *client) (proto.Message, error) { return cl.NodeRemove(ctx, req) })
}

// awaitReleased waits until a node that has been left owns nothing any more by the
// log: its report comes a moment after the new owner serves.
func (c *cli) awaitReleased(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit(memberTimeout))
	defer cancel()
	for {
		r, err := c.nodeList(ctx)
		if err != nil {
			return err
		}
		if n := nodeNamed(r, node); n == nil || !n.GetEpochOpen() {
			return nil
		}
		if !c.pause(ctx, memberLook) {
			return fail(exitFailed, "%s has been left, and its last epoch isn't closed yet: hactl status says what is missing; then the same command again", node)
		}
	}
}

func nodeNamed(r *hadv1.NodeListResponse, name string) *hadv1.NodeInfo {
	for _, n := range r.GetNodes() {
		if n.GetMember().GetName() == name {
			return n
		}
	}
	return nil
}

func (*cli) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// followMember shows what a change of a member waits for until it has come about.
// The change doesn't depend on being followed.
func (c *cli) followMember(ctx context.Context, name, what string, done func(*hadv1.NodeInfo) (string, bool)) error {
	allowed := c.limit(memberTimeout)
	following, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()
	told := ""
	for {
		r, err := c.nodeList(following)
		if err == nil && r.GetLeading() {
			n := nodeNamed(r, name)
			if text, ok := done(n); ok {
				if c.json() {
					return c.printDocument(r)
				}
				return c.print(clean(text) + "\n")
			}
			if w := n.GetWaits(); w != "" && w != told {
				fmt.Fprintln(c.err, clean(w))
				told = w
			}
		}
		if c.pause(following, memberLook) {
			continue
		}
		if ctx.Err() != nil {
			return fail(exitInterrupted, "%s is being %s without being watched: hactl node list shows how far it is", name, what)
		}
		return fail(exitFailed, "%s isn't %s after %s%s; it goes on by itself: hactl node list", name, what, allowed, colon(told))
	}
}
