package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

// syncTimeout is how long `sync run` waits: what is copied may be large.
const syncTimeout = time.Hour

func (c *cli) newSync() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Copy the owner's data to the other nodes now, or end a hold",
		Long: `Run the policy's sync blocks now, or end the hold of one. How each is on each
node is in hactl status.`,
		Example: `  hactl sync run pages
  hactl sync resume pages`,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newSyncRun(), c.newSyncResume())
	group(cmd)
	return cmd
}

// oneSync wants the name of one sync.
func oneSync(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError(fmt.Sprintf("give the name of one sync, not %d", len(args)), nil, cmd)
	}
	return nil
}

func (c *cli) newSyncRun() *cobra.Command {
	req := &hadv1.SyncRunRequest{}
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Copy the owner's data now",
		Long: `Copy the owner's data now, to every node that doesn't own, and wait for the
end. One that is running already is waited for. It goes on when you don't wait
(Ctrl-C, or --timeout, by default an hour).

The exit code is 0 when every node has a whole copy, 1 when a command failed, 3
when it wasn't run: it is held, or there is nobody to copy from.`,
		Example: `  hactl sync run pages
  hactl sync run pages --node beta --timeout 10m`,
		Args: oneSync,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			return c.syncRun(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeSyncs,
	}
	cmd.Flags().StringVar(&req.Node, "node", "", "copy to this `NODE` only")
	c.completeFlag(cmd, "node", c.nodeNames)
	return cmd
}

func (c *cli) syncRun(ctx context.Context, req *hadv1.SyncRunRequest) error {
	c.timeout = c.limit(syncTimeout)
	resp, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.SyncRunResponse, error) { return cl.SyncRun(ctx, req) })
	if err != nil {
		return err
	}
	if c.json() {
		if err := c.printDocument(resp); err != nil {
			return err
		}
	}
	code := exitDone
	for _, r := range resp.GetRuns() {
		line, one := renderRun(r)
		if code = max(code, one); !c.json() {
			if err := c.print(clean(line) + "\n" + outputOf(r.GetResult(), c.view())); err != nil {
				return err
			}
		}
	}
	if code != exitDone {
		return &failure{code: code}
	}
	return nil
}

// renderRun says what became of a run, and the exit code it stands for.
func renderRun(r *hadv1.SyncRun) (line string, code int) {
	s := r.GetResult()
	if s == nil {
		return fmt.Sprintf("%s: not run%s", r.GetNode(), colon(r.GetWhy())), exitRefused
	}
	text, _ := describeSync(s)
	if s.GetOutcome() != hadv1.SyncResult_OUTCOME_COPIED {
		code = exitFailed
	}
	return r.GetNode() + ": " + text, code
}

// outputOf is what a run that failed wrote last, indented.
func outputOf(s *hadv1.SyncResult, v view) string {
	if s == nil || !syncFailed(s) {
		return ""
	}
	text := ""
	for _, line := range lastLines(s.GetOutputTail()) {
		text += v.paint(plain, "  | "+line) + "\n"
	}
	return text
}

func (c *cli) newSyncResume() *cobra.Command {
	var yes bool
	req := &hadv1.SyncResumeRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "resume NAME",
		Short: "Say that the owner's data are the ones to keep, so that they are copied again",
		Long: `End the hold of a sync: say that the present owner's data are the ones to keep.

After the owner has changed, the newest data may be on the node that owned
before: a sync would overwrite them there. So it is held unless the new owner had
completed one from the owner before it. Look at the data of both first; what only
the previous owner has, save or merge by hand.

It counts while this node owns. Who said it, when and why is in the history. It
is refused (exit code 3) when the sync isn't held, or the owner has changed.`,
		Example: `  hactl sync resume pages --reason "compared both, beta has everything"
  hactl sync resume pages --yes    # in a script that has looked`,
		Args: oneSync,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			return c.syncResume(cmd.Context(), req, yes)
		},
		ValidArgsFunction: c.completeSyncs,
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the history: what you have seen")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask for the owner's name: you have looked")
	return cmd
}

func (c *cli) syncResume(ctx context.Context, req *hadv1.SyncResumeRequest, yes bool) error {
	s, err := c.fetchStatus(ctx)
	if err != nil {
		return err
	}
	y, err := heldSync(s, req.GetName())
	if err != nil {
		return err
	}
	fmt.Fprint(c.err, renderResume(y, c.plainView()))
	if !yes {
		if err := c.askForName(ctx, y.GetOwner(), fmt.Sprintf("the data of %s are the ones to keep", y.GetOwner())); err != nil {
			return err
		}
	}
	req.Epoch = y.GetEpoch()
	_, err = call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.SyncResumeResponse, error) {
		return cl.SyncResume(ctx, req)
	})
	switch {
	case err != nil && outcomeUnknown(err):
		return fail(exitUnknown, "whether the log has your word isn't known (%w): hactl status tells; to say it again does no harm", asFailure(err))
	case err != nil:
		return err
	}
	if c.json() {
		return c.printValue(resumeDocument{schemaVersion, req.GetName(), y.GetOwner(), y.GetEpoch()})
	}
	return c.print(clean(fmt.Sprintf("sync %s goes on, from %s", req.GetName(), y.GetOwner())) + "\n")
}

// resumeDocument is the end of a hold in JSON.
type resumeDocument struct {
	SchemaVersion int    `json:"schema_version"`
	Name          string `json:"name"`
	Owner         string `json:"owner"`
	Epoch         uint64 `json:"epoch"`
}

// heldSync returns the sync of that name; the error says why its hold can't be
// ended.
func heldSync(s *hadv1.StatusResponse, name string) (*hadv1.SyncSummary, error) {
	i := slices.IndexFunc(s.GetSyncs(), func(y *hadv1.SyncSummary) bool { return y.GetName() == name })
	switch {
	case i < 0:
		return nil, fail(exitUsage, "the policy has no sync called %q", name)
	case s.GetSyncs()[i].GetHeld() == "":
		return nil, fail(exitRefused, "sync %s is not held", name)
	case !s.GetFreshness().GetConfirmed():
		return nil, fail(exitUnreachable, "nothing can be resumed without a leader%s", colon(s.GetFreshness().GetNote()))
	}
	return s.GetSyncs()[i], nil
}

// renderResume says what the end of a hold means.
func renderResume(y *hadv1.SyncSummary, v view) string {
	p := &page{view: v}
	p.entry("", bold, fmt.Sprintf("You are about to say: the data of %s are the ones to keep.", y.GetOwner()))
	p.blank()
	p.entry("", plain, fmt.Sprintf("sync %s then copies from %s to the other nodes. What %s wrote while it owned and %s doesn't have is overwritten there, or deleted: look at both first.",
		y.GetName(), y.GetOwner(), y.GetPreviousOwner(), y.GetOwner()))
	p.blank()
	return p.b.String()
}

// completeSyncs offers the names of syncs.
func (c *cli) completeSyncs(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if s, err := c.fetchStatus(cmd.Context()); err == nil {
		for _, y := range s.GetSyncs() {
			names = append(names, y.GetName())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
