package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// SnapshotSave implements HA. The leader answers, with what it has applied after a
// barrier of its own: all that was committed when it was asked is in it.
func (s *Server) SnapshotSave(ctx context.Context, req *hadv1.SnapshotSaveRequest) (*hadv1.SnapshotSaveResponse, error) {
	return onLeader(ctx, s,
		func() (*hadv1.SnapshotSaveResponse, error) {
			if err := s.cfg.Node.Confirm(ctx); err != nil {
				return nil, err
			}
			state := s.cfg.Node.Saved()
			return &hadv1.SnapshotSaveResponse{File: &hadv1.SnapshotFile{
				Cluster: s.cfg.Cluster, ClusterId: state.GetBirth().GetClusterId(), At: timestamppb.Now(),
				Node: s.cfg.Self, Version: s.cfg.Version.GetVersion(), Index: state.GetAppliedIndex(), State: state,
			}}, nil
		},
		passOn(req, hadv1.HAClient.SnapshotSave))
}

// SnapshotRestore implements HA. Nothing of who holds, held or may hold is put
// back, so that a restore can't bring a closed epoch back nor make the log forget
// an open one (docs/decisions/0019).
func (s *Server) SnapshotRestore(ctx context.Context, req *hadv1.SnapshotRestoreRequest) (*hadv1.SnapshotRestoreResponse, error) {
	if text := req.GetPolicy().GetText(); text != "" {
		if diags := s.check(ctx, "policy.hcl", text); diags.HasErrors() {
			return nil, status.Errorf(codes.FailedPrecondition, "the saved policy doesn't fit this cluster; nothing was restored. hactl snapshot show FILE --policy prints it, to be changed and applied:\n%v", diags)
		}
	}
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.SnapshotRestoreResponse, error) { return s.restore(ctx, req) },
		passOn(req, hadv1.HAClient.SnapshotRestore))
}

// restoration is what one restore does, in order: the policy comes last, for with
// it a new cluster begins to own.
type restoration struct {
	item *hadv1.RestoredItem
	cmd  *hadv1.Command // nil: nothing is to be done
}

func (s *Server) restore(ctx context.Context, req *hadv1.SnapshotRestoreRequest) (*hadv1.SnapshotRestoreResponse, error) {
	view, _ := s.cfg.Node.View()
	if err := sameCluster(view.Birth, req); err != nil {
		return nil, err
	}
	resp := &hadv1.SnapshotRestoreResponse{Node: s.cfg.Self}
	for _, r := range s.restorations(view, req) {
		resp.Items = append(resp.Items, r.item)
		if r.cmd == nil || req.GetDryRun() {
			continue
		}
		if _, err := s.cfg.Node.Propose(ctx, r.cmd); err != nil {
			return nil, fmt.Errorf("restore %s: %w; what comes before it in the order drains, tokens, policy is restored, and a second restore goes on from there", r.item.GetWhat(), err)
		}
	}
	return resp, nil
}

// sameCluster returns an error for a file of another cluster than this, unless the
// operator says that this one takes the place of that.
func sameCluster(b *hadv1.Birth, req *hadv1.SnapshotRestoreRequest) error {
	id := req.GetClusterId()
	switch {
	case id == b.GetClusterId() || slices.Contains(b.GetFormer(), id):
		return nil // an earlier generation of this cluster is no other
	case req.GetReplaces() == "":
		return refuse("the snapshot is of the cluster %q with the ID %s, and this is %q with the ID %s. If that one is gone, and had runs on none of its nodes any more: --replaces %s",
			req.GetCluster(), id, b.GetCluster(), b.GetClusterId(), id[:min(8, len(id))])
	case len(req.GetReplaces()) < 8 || !strings.HasPrefix(id, req.GetReplaces()):
		return refuse("--replaces %s: the snapshot is of the cluster with the ID %s", req.GetReplaces(), id)
	}
	return nil
}

func (s *Server) restorations(view cluster.View, req *hadv1.SnapshotRestoreRequest) (all []restoration) {
	fresh := view.Policy == nil
	why := fmt.Sprintf("restored from the snapshot of %s, %s at entry %d", req.GetAt().AsTime().Format(time.RFC3339), req.GetCluster(), req.GetIndex())
	if r := req.GetReason(); r != "" {
		why += ": " + r
	}
	for _, d := range req.GetDrained() {
		all = append(all, s.restoreDrain(view, d, req.GetBy(), fresh))
	}
	for _, t := range req.GetTokens() {
		all = append(all, restoreToken(view, t, req.GetBy(), why))
	}
	if p := req.GetPolicy(); p != nil {
		all = append(all, restorePolicy(view, p, req.GetBy(), why))
	}
	return all
}

func kept(format string, args ...any) (hadv1.RestoredItem_Outcome, string) {
	return hadv1.RestoredItem_OUTCOME_KEPT, fmt.Sprintf(format, args...)
}

// restoreDrain drains a node that was drained, in a cluster that has owned nothing
// yet. In another one drains are as people want them now.
func (s *Server) restoreDrain(view cluster.View, d *hadv1.Drain, by string, fresh bool) (r restoration) {
	r.item = &hadv1.RestoredItem{What: "drain of " + d.GetNode(), Outcome: hadv1.RestoredItem_OUTCOME_RESTORED, Detail: "by " + d.GetBy()}
	member := slices.ContainsFunc(s.cfg.Members(), func(m *hadv1.Member) bool { return m.GetName() == d.GetNode() })
	switch {
	case view.Drained[d.GetNode()] != nil:
		r.item.Outcome, r.item.Detail = hadv1.RestoredItem_OUTCOME_SAME, "it is drained"
	case !member:
		r.item.Outcome, r.item.Detail = kept("%s is not a node of this cluster", d.GetNode())
	case !fresh:
		r.item.Outcome, r.item.Detail = kept("it isn't drained here, and this cluster works")
	default:
		r.cmd = &hadv1.Command{Record: &hadv1.Command_Drain{Drain: &hadv1.Drain{Node: d.GetNode(), By: by, Reason: d.GetReason()}}}
	}
	return r
}

// restoreToken puts a token's content back where there is none: what is there is
// what clients were given since.
func restoreToken(view cluster.View, t *hadv1.Token, by, why string) (r restoration) {
	saved, here := t.GetCurrent(), view.Token(t.GetName()).GetCurrent()
	r.item = &hadv1.RestoredItem{
		What: fmt.Sprintf("token %s, version %d", t.GetName(), saved.GetVersion()), Outcome: hadv1.RestoredItem_OUTCOME_RESTORED,
		Detail: "sealed with the token key " + saved.GetKeyId() + ", which the nodes need",
	}
	switch {
	case here != nil && slices.Equal(here.GetSealed(), saved.GetSealed()):
		r.item.Outcome, r.item.Detail = hadv1.RestoredItem_OUTCOME_SAME, fmt.Sprintf("it is version %d here", here.GetVersion())
	case here != nil:
		r.item.Outcome, r.item.Detail = kept("the cluster has another content, version %d: hactl token set changes it", here.GetVersion())
	default:
		r.cmd = &hadv1.Command{Record: &hadv1.Command_TokenSet{TokenSet: &hadv1.TokenSet{
			Name: t.GetName(), Sealed: saved.GetSealed(), KeyId: saved.GetKeyId(), Size: saved.GetSize(), By: by, Reason: why,
		}}}
	}
	return r
}

// restorePolicy applies the saved policy as a version of its own.
func restorePolicy(view cluster.View, p *hadv1.Policy, by, why string) (r restoration) {
	here := view.Policy.GetVersion()
	r.item = &hadv1.RestoredItem{
		What: fmt.Sprintf("policy version %d", p.GetVersion()), Outcome: hadv1.RestoredItem_OUTCOME_RESTORED, Detail: fmt.Sprintf("as version %d", here+1),
	}
	if here > 0 && view.Policy.GetText() == p.GetText() {
		r.item.Outcome, r.item.Detail = hadv1.RestoredItem_OUTCOME_SAME, fmt.Sprintf("it is version %d here", here)
		return r
	}
	r.cmd = &hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{ExpectedVersion: here, Text: p.GetText(), By: by, Reason: why}}}
	return r
}
