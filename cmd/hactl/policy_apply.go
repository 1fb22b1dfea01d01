package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	hadv1 "had/proto/had/v1"
)

// shortestTrial is the least time for a confirmation: a person has to look first.
const shortestTrial = 5 * time.Second

// policyWrite is a policy that is to be put in force.
type policyWrite struct {
	req    *hadv1.PolicyApplyRequest
	within time.Duration // to confirm it; 0: it is for good
	based  bool          // on req.ExpectedVersion, as --base says
	yes    bool
}

func (c *cli) newPolicyApply() *cobra.Command {
	w := &policyWrite{req: &hadv1.PolicyApplyRequest{By: c.user}}
	cmd := &cobra.Command{
		Use:   "apply FILE|-",
		Short: "Make a policy the one in force on every node",
		Long: `Show what a policy would change and do (hactl policy plan), ask, and commit it
to the log, from where every node takes it. Without a terminal give --yes. A policy
with errors changes nothing; the exit code is then 2. The text that is in force
already isn't applied again.

It is applied to the version that the plan was made from: if somebody else has
applied another one since, it is refused (exit code 3). With --base a script says
which version it was made from.

With --confirm-within the policy before comes back by itself unless hactl policy
confirm is said in time, whatever becomes of this terminal, its network or the
leader. Until then nothing else can be applied.`,
		Example: `  hactl policy apply policy.hcl --reason "second address"
  hactl policy apply policy.hcl --confirm-within 2m && curl -fsS http://192.0.2.10/ && hactl policy confirm
  hactl policy apply policy.hcl --yes --base 3`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			w.based = cmd.Flags().Changed("base")
			name, text, err := c.readPolicy(args[0])
			if err != nil {
				return err
			}
			if args[0] == "-" && !w.yes {
				return usageError("the policy comes from stdin, so nobody can be asked there: give --yes", nil, cmd)
			}
			w.req.Filename, w.req.Text = name, text
			return c.writePolicy(cmd, w)
		},
	}
	cmd.Flags().Uint64Var(&w.req.ExpectedVersion, "base", 0, "only if version `N` is in force (0: none yet)")
	w.flags(cmd)
	return cmd
}

func (c *cli) newPolicyRollback() *cobra.Command {
	w := &policyWrite{req: &hadv1.PolicyApplyRequest{By: c.user}}
	cmd := &cobra.Command{
		Use:   "rollback [VERSION]",
		Short: "Put an earlier policy in force again",
		Long: `Show what going back to an earlier policy would change and do, ask, and apply its
text as a new version. Without VERSION it is the one before the version in force. A
policy that waits for its confirmation is undone by it at once.`,
		Example: `  hactl policy rollback
  hactl policy rollback 7 --reason "the new check is wrong"`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			w.req.RollbackTo, err = c.versionOr(cmd, args, c.versionBefore)
			if err != nil {
				return err
			}
			w.req.Filename = fmt.Sprintf("policy version %d", w.req.GetRollbackTo())
			return c.writePolicy(cmd, w)
		},
	}
	w.flags(cmd)
	return cmd
}

func (w *policyWrite) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.req.Reason, "reason", "", "`TEXT` kept in the history")
	cmd.Flags().DurationVar(&w.within, "confirm-within", 0, "`TIME` after which it is undone, unless hactl policy confirm is said")
	cmd.Flags().BoolVar(&w.yes, "yes", false, "don't ask")
}

// writePolicy shows the plan of a policy, asks, and applies it to what the plan was
// made from.
func (c *cli) writePolicy(cmd *cobra.Command, w *policyWrite) error {
	ctx, req := cmd.Context(), w.req
	if cmd.Flags().Changed("confirm-within") && w.within < shortestTrial {
		return usageError(fmt.Sprintf("--confirm-within %s: nobody confirms in less than %s", w.within, shortestTrial), nil, cmd)
	}
	plan, err := c.planned(ctx, &hadv1.PolicyPlanRequest{Filename: req.GetFilename(), Text: req.GetText(), RollbackTo: req.GetRollbackTo()})
	name := clean(req.GetFilename())
	switch {
	case tooOldToPlan(err) && req.GetRollbackTo() == 0:
		fmt.Fprintf(c.err, "There is no plan: %v\n", asFailure(err))
		req.CheckVersion = w.based
	case err != nil:
		return err
	case plan.GetUnchanged():
		return c.printApplied(&hadv1.PolicyApplyResponse{Version: plan.GetBase(), Unchanged: true, Diagnostics: plan.GetDiagnostics(), Trial: plan.GetTrial()})
	case w.based && req.GetExpectedVersion() != plan.GetBase():
		return fail(exitRefused, "policy version %d is in force, not %d: somebody applied one meanwhile; look at it and apply again", plan.GetBase(), req.GetExpectedVersion())
	default:
		fmt.Fprint(c.err, renderPlan(plan, name, c.plainView()))
		req.CheckVersion, req.ExpectedVersion = true, plan.GetBase()
	}
	if !w.yes && (plan == nil || plan.GetBase() != 0) { // the first policy takes nothing from anybody
		if err := c.askYes(ctx, "Apply it?"); err != nil {
			return err
		}
	}
	req.ConfirmWithinNs = int64(w.within)
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.PolicyApplyResponse, error) {
		return cl.PolicyApply(ctx, req)
	})
	switch {
	case err != nil && outcomeUnknown(err):
		return fail(exitUnknown, "whether %s was applied isn't known (%w): hactl policy history tells", name, asFailure(err))
	case err != nil:
		return err
	case c.printErrors(r.GetDiagnostics()):
		return fail(exitUsage, "%s is not a valid policy: nothing was applied", name)
	}
	return c.printApplied(r)
}

// tooOldToPlan reports whether a plan failed because the had that was asked, or the
// leader's, is older than plans are: then there is none, and all else goes on.
func tooOldToPlan(err error) bool {
	code := status.Code(err)
	return code == codes.Unimplemented || code == codes.FailedPrecondition
}

// printErrors shows the errors of a policy; the plan has shown the warnings.
func (c *cli) printErrors(all []*hadv1.Diagnostic) bool {
	var errs []*hadv1.Diagnostic
	for _, d := range all {
		if d.GetSeverity() != hadv1.Diagnostic_SEVERITY_WARNING {
			errs = append(errs, d)
		}
	}
	return c.printDiagnostics(errs)
}

func (c *cli) printApplied(r *hadv1.PolicyApplyResponse) (err error) {
	if c.json() {
		err = c.printDocument(r)
	} else {
		err = c.print(c.applied(r))
	}
	if err != nil {
		return fmt.Errorf("say that version %d is in force: %w", r.GetVersion(), err)
	}
	return nil
}

func (c *cli) applied(r *hadv1.PolicyApplyResponse) string {
	text := fmt.Sprintf("policy version %d is in force\n", r.GetVersion())
	if r.GetUnchanged() {
		text = fmt.Sprintf("policy version %d is unchanged: the same text is in force already\n", r.GetVersion())
	}
	if t := r.GetTrial(); t != nil {
		text += fmt.Sprintf("it is undone at %s, unless you say: hactl policy confirm\n", c.plainView().stamp(t.GetUntil(), toTheSecond))
	}
	return text
}

// askYes has somebody at the terminal agree.
func (c *cli) askYes(ctx context.Context, question string) error {
	if !c.asks {
		return fail(exitUsage, "this isn't a terminal, so nobody can be asked: give --yes")
	}
	fmt.Fprintf(c.err, "\n%s Only yes is a yes: ", question)
	typed, err := c.typed(ctx)
	if err == nil && !strings.EqualFold(typed, "yes") && !strings.EqualFold(typed, "y") {
		err = fail(exitFailed, "not confirmed: nothing was changed")
	}
	return err
}

// versionOr reads the VERSION of a command line, or asks for another.
func (c *cli) versionOr(cmd *cobra.Command, args []string, otherwise func(context.Context) (uint64, error)) (uint64, error) {
	if len(args) == 0 {
		return otherwise(cmd.Context())
	}
	var v uint64
	if n, err := fmt.Sscanf(args[0], "%d", &v); err != nil || n != 1 || fmt.Sprint(v) != args[0] || v == 0 {
		return 0, usageError(fmt.Sprintf("%q is no version: hactl policy history lists them", args[0]), nil, cmd)
	}
	return v, nil
}

// versionBefore is the version before the one in force.
func (c *cli) versionBefore(ctx context.Context) (uint64, error) {
	r, err := c.policyVersions(ctx)
	switch {
	case err != nil:
		return 0, err
	case len(r.GetPolicies()) < 2:
		return 0, fail(exitRefused, "there is no earlier policy to go back to")
	}
	return r.GetPolicies()[1].GetVersion(), nil
}

// noVersion stands for the version in force.
func noVersion(context.Context) (uint64, error) { return 0, nil }

func (c *cli) newPolicyConfirm() *cobra.Command {
	req := &hadv1.PolicyConfirmRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "confirm [VERSION]",
		Short: "Keep a policy that would be undone by itself",
		Long: `Keep a policy that was applied with --confirm-within. It is refused (exit code 3)
when nothing waits for a confirmation, or another version than VERSION does.`,
		Example: "  hactl policy confirm",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if req.Version, err = c.versionOr(cmd, args, noVersion); err != nil {
				return err
			}
			return steer(cmd.Context(), c, func(ctx context.Context, cl *client) (*hadv1.PolicyConfirmResponse, error) {
				return cl.PolicyConfirm(ctx, req)
			}, func(r *hadv1.PolicyConfirmResponse) string {
				return fmt.Sprintf("policy version %d is there for good", r.GetVersion())
			})
		},
	}
	steerFlags(cmd, &req.Reason)
	return cmd
}
