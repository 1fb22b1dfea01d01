package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/backup"
	"had/internal/durable"
	hadv1 "had/proto/had/v1"
)

func (c *cli) newSnapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save the cluster's state to a file, look at one, put back what may be put back",
		Long: `Save the cluster's state to a file, look at such a file, and put back of it what
may be put back: the policy, tokens, drains. Who owns or has owned is never put
back. docs/disaster.md says when you need it.`,
		Example: `  hactl snapshot save /var/backups/had-$(date +%F).snapshot
  hactl snapshot show /var/backups/had-2026-11-30.snapshot`,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newSnapshotSave(), c.newSnapshotShow(), c.newSnapshotRestore())
	group(cmd)
	return cmd
}

// newRecover is where people look for it.
func (c *cli) newRecover() *cobra.Command {
	return &cobra.Command{
		Use:   "recover",
		Short: "Say what to do when the majority of the nodes is lost for ever",
		Long: `hactl asks a daemon that runs, and this is done where none can: on a node that is
left, with had stopped, by the program had itself. docs/disaster.md leads through
it.`,
		Example: "  had recover --dry-run    # on the node that is left",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return fail(exitUsage, "recovering is done by had, on the node that is left, while had is stopped there: had recover --dry-run shows what it would do (docs/disaster.md)")
		},
	}
}

func oneSnapshot(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError(fmt.Sprintf("give one file, not %d", len(args)), nil, cmd)
	}
	return nil
}

func (c *cli) newSnapshotSave() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Save the state of the cluster to a file",
		Long: `Save the state of the cluster to a file that only its owner can read: policy,
tokens (encrypted, as in the log), drains and history, as the leader has them
after an entry that was committed meanwhile. A file that is there already is
replaced only with --yes. Keep it on another machine, with had.hcl, the
certificates, the hook folder, and the token key if you replicate tokens: none of
these is in it.`,
		Example: `  hactl snapshot save /var/backups/had-$(date +%F).snapshot
  hactl snapshot save /var/backups/had.snapshot --yes    # over yesterday's`,
		Args: oneSnapshot,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.snapshotSave(cmd.Context(), args[0], yes)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "replace the file if it is there")
	return cmd
}

func (c *cli) snapshotSave(ctx context.Context, path string, replace bool) error {
	if _, err := os.Lstat(path); err == nil && !replace {
		return fail(exitRefused, "%s is there already: --yes replaces it", path)
	}
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.SnapshotSaveResponse, error) {
		return cl.SnapshotSave(ctx, &hadv1.SnapshotSaveRequest{By: c.user})
	})
	if err != nil {
		return err
	}
	data, err := backup.Encode(r.GetFile())
	if err != nil {
		return err
	}
	switch err := durable.WriteFile(path, data, replace); {
	case errors.Is(err, fs.ErrExist):
		return fail(exitRefused, "%s is there already: --yes replaces it", path)
	case err != nil:
		return fmt.Errorf("save the snapshot; what was there stays: %w", err)
	}
	if c.json() {
		return c.printValue(newSnapshotDocument(path, r.GetFile()))
	}
	return c.print(fmt.Sprintf("%s: cluster %s as of entry %d, policy version %d, %d bytes\n", path, clean(r.GetFile().GetCluster()), r.GetFile().GetIndex(), r.GetFile().GetState().GetPolicy().GetVersion(), len(data)))
}

func (c *cli) newSnapshotShow() *cobra.Command {
	var policy bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Check a saved file and say what is in it",
		Long: `Check a saved file, to its last byte, and say what is in it. It asks no daemon.
With --policy it prints the policy's text and nothing else.`,
		Example: `  hactl snapshot show had.snapshot
  hactl snapshot show had.snapshot --policy > policy.hcl`,
		Args: oneSnapshot,
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := readSnapshot(args[0])
			if err != nil {
				return err
			}
			switch text := f.GetState().GetPolicy().GetText(); {
			case policy && text == "":
				return fail(exitRefused, "%s has no policy", args[0])
			case policy:
				return c.print(text)
			case c.json():
				return c.printValue(newSnapshotDocument(args[0], f))
			}
			return c.print(renderSnapshot(f, c.view()))
		},
	}
	cmd.Flags().BoolVar(&policy, "policy", false, "print the policy's text alone")
	return cmd
}

func readSnapshot(path string) (*hadv1.SnapshotFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fail(exitUsage, "read the snapshot: %w", err)
	}
	f, err := backup.Decode(data)
	if err != nil {
		return nil, fail(exitUsage, "read the snapshot %s: %w", path, err)
	}
	return f, nil
}

func (c *cli) newSnapshotRestore() *cobra.Command {
	var yes, dryRun bool
	req := &hadv1.SnapshotRestoreRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put back of a saved file what may be put back",
		Long: `Put back of a saved file, into a cluster that runs, what may be put back: the
policy, as a new version; contents of tokens where the cluster has none; and, while
the cluster has no policy yet, drains. Each is a record of its own in the history.
Owners, epochs, releases and the history of then are never put back: who may hold
what is known by the nodes that live, not by a file.

A file of another cluster is refused, unless --replaces names that cluster's ID:
this cluster takes its place, and had runs on none of its nodes any more. Nothing
but you can know that; if it is wrong, two nodes own the addresses.`,
		Example: `  hactl snapshot restore had.snapshot --dry-run
  hactl snapshot restore had.snapshot --replaces 3f9c0a1b --reason "new servers"`,
		Args: oneSnapshot,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readSnapshot(args[0])
			if err != nil {
				return err
			}
			return c.snapshotRestore(cmd.Context(), f, req, yes, dryRun)
		},
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the history")
	cmd.Flags().StringVar(&req.Replaces, "replaces", "", "`ID` of the file's cluster, at least 8 digits: it is gone for good")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask: you have read what it would do")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and end")
	return cmd
}

func (c *cli) snapshotRestore(ctx context.Context, f *hadv1.SnapshotFile, req *hadv1.SnapshotRestoreRequest, yes, dryRun bool) error {
	s := f.GetState()
	req.Cluster, req.ClusterId, req.At, req.Index = f.GetCluster(), f.GetClusterId(), f.GetAt(), f.GetIndex()
	req.Policy, req.Drained = s.GetPolicy(), s.GetDrained()
	for _, t := range s.GetTokens() {
		t = proto.CloneOf(t)
		t.Earlier = nil
		req.Tokens = append(req.Tokens, t)
	}
	ask := func() (*hadv1.SnapshotRestoreResponse, error) {
		return call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.SnapshotRestoreResponse, error) {
			return cl.SnapshotRestore(ctx, req)
		})
	}
	req.DryRun = true
	plan, err := ask()
	if err != nil {
		return err
	}
	if !dryRun && restores(plan) {
		fmt.Fprint(c.err, renderRestored(plan, true))
		if !yes {
			if err := c.askFor(ctx, "cluster", f.GetCluster(), "that is what you want"); err != nil {
				return err
			}
		}
		req.DryRun = false
		if plan, err = ask(); err != nil {
			if outcomeUnknown(err) {
				return fail(exitUnknown, "how much was restored isn't known (%w): hactl history tells; a second restore goes on from there", asFailure(err))
			}
			return err
		}
	}
	if c.json() {
		return c.printDocument(plan)
	}
	return c.print(renderRestored(plan, req.DryRun))
}

// restores reports whether anything would be put back.
func restores(r *hadv1.SnapshotRestoreResponse) bool {
	for _, i := range r.GetItems() {
		if i.GetOutcome() == hadv1.RestoredItem_OUTCOME_RESTORED {
			return true
		}
	}
	return false
}

func renderRestored(r *hadv1.SnapshotRestoreResponse, would bool) string {
	words := map[hadv1.RestoredItem_Outcome]string{
		hadv1.RestoredItem_OUTCOME_RESTORED: "restored", hadv1.RestoredItem_OUTCOME_SAME: "the same", hadv1.RestoredItem_OUTCOME_KEPT: "not restored",
	}
	if would {
		words[hadv1.RestoredItem_OUTCOME_RESTORED] = "would be restored"
	}
	if len(r.GetItems()) == 0 {
		return "the file has nothing to restore: no policy, no token, no drain\n"
	}
	var b strings.Builder
	for _, i := range r.GetItems() {
		fmt.Fprintf(&b, "%-28s %s%s\n", clean(i.GetWhat()), words[i.GetOutcome()], clean(colon(i.GetDetail())))
	}
	return b.String()
}

// renderSnapshot says what is in a file.
func renderSnapshot(f *hadv1.SnapshotFile, v view) string {
	s, p := f.GetState(), &page{view: v}
	p.entry("cluster  ", bold, fmt.Sprintf("%s, ID %s%s", f.GetCluster(), f.GetClusterId(), generation(s.GetBirth())))
	p.entry("saved    ", plain, fmt.Sprintf("%s by %s, which led (had %s)", v.stamp(f.GetAt(), toTheSecond), f.GetNode(), f.GetVersion()))
	p.entry("log      ", plain, fmt.Sprintf("as of entry %d", f.GetIndex()))
	var members []string
	for _, m := range s.GetBirth().GetMembers() {
		members = append(members, m.GetName())
	}
	p.entry("nodes    ", plain, strings.Join(members, ", "))
	if pol := s.GetPolicy(); pol != nil {
		p.entry("policy   ", plain, fmt.Sprintf("version %d of %s%s", pol.GetVersion(), v.stamp(pol.GetAt(), toTheSecond), by(pol.GetBy())))
	} else {
		p.entry("policy   ", plain, "none")
	}
	for _, t := range s.GetTokens() {
		p.entry("token    ", plain, fmt.Sprintf("%s, version %d, %d bytes, sealed with the token key %s, which isn't in the file", t.GetName(), t.GetCurrent().GetVersion(), t.GetCurrent().GetSize(), t.GetCurrent().GetKeyId()))
	}
	for _, d := range s.GetDrained() {
		p.entry("drained  ", plain, d.GetNode()+by(d.GetBy())+colon(d.GetReason()))
	}
	for _, o := range s.GetOpen() {
		p.entry("owner    ", plain, fmt.Sprintf("%s held epoch %d then; this is never restored", o.GetInstance().GetNode(), o.GetEpoch()))
	}
	p.entry("history  ", plain, fmt.Sprintf("%d events, for reading only", len(s.GetHistory())))
	p.entry("checked  ", plain, "whole: its checksum matches")
	return p.b.String()
}

func generation(b *hadv1.Birth) string {
	if n := len(b.GetFormer()); n > 0 {
		return fmt.Sprintf(" (generation %d)", n+1)
	}
	return ""
}

// snapshotDocument is a file in JSON.
type snapshotDocument struct {
	SchemaVersion int      `json:"schema_version"`
	File          string   `json:"file"`
	Cluster       string   `json:"cluster"`
	ClusterID     string   `json:"cluster_id"`
	Generation    int      `json:"generation"`
	SavedAt       string   `json:"saved_at"`
	SavedBy       string   `json:"saved_by"`
	Index         uint64   `json:"index"`
	Nodes         []string `json:"nodes"`
	PolicyVersion uint64   `json:"policy_version"` // 0: none
	Tokens        []string `json:"tokens"`
	Drained       []string `json:"drained"`
	Events        int      `json:"events"`
}

func newSnapshotDocument(path string, f *hadv1.SnapshotFile) snapshotDocument {
	s := f.GetState()
	d := snapshotDocument{
		SchemaVersion: schemaVersion, File: path, Cluster: f.GetCluster(), ClusterID: f.GetClusterId(), Generation: 1 + len(s.GetBirth().GetFormer()),
		SavedAt: stampJSON(f.GetAt()), SavedBy: f.GetNode(), Index: f.GetIndex(), Nodes: []string{}, PolicyVersion: s.GetPolicy().GetVersion(),
		Tokens: []string{}, Drained: []string{}, Events: len(s.GetHistory()),
	}
	for _, m := range s.GetBirth().GetMembers() {
		d.Nodes = append(d.Nodes, m.GetName())
	}
	for _, t := range s.GetTokens() {
		d.Tokens = append(d.Tokens, t.GetName())
	}
	for _, n := range s.GetDrained() {
		d.Drained = append(d.Drained, n.GetNode())
	}
	return d
}

func stampJSON(t *timestamppb.Timestamp) string {
	return t.AsTime().Format(time.RFC3339Nano)
}
