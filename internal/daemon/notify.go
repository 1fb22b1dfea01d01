package daemon

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/api"
	"had/internal/notify"
	hadv1 "had/proto/had/v1"
)

// newNotifier makes what tells people of the cluster. It takes from the ring what
// it asks for, and the ring knows nothing of it.
func (n *node) newNotifier() *notify.Notifier {
	return notify.New(notify.Config{
		Cluster: n.cfg.File.Cluster, Self: n.local.instance, Log: n.raft, Policy: n.controller.PolicyInForce,
		Record: n.controller.Pass, Report: n.notice, Silent: n.silent, Runs: n.runs,
		Waiting:  func() []notify.Waiting { return api.VolumesWaiting(n.raft, n.controller, n.cfg.File.Node) },
		Troubles: n.troubles, Certificates: n.allCertificates,
		Logger: n.cfg.Logger.Named("notify"),
	})
}

// notice reports what people are to be told.
func (n *node) notice(ctx context.Context, r *hadv1.Notice) error {
	_, err := n.local.journal.Append(ctx, &hadv1.Report{
		At: timestamppb.Now(), Node: n.cfg.File.Node, Body: &hadv1.Report_Notice{Notice: r},
	})
	return err
}

// silent says of each other node whether it doesn't answer this leader.
func (n *node) silent() map[string]bool {
	fresh := n.controller.Answers().Fresh
	out := map[string]bool{}
	for _, m := range n.members() {
		if m.GetName() != n.cfg.File.Node {
			out[m.GetName()] = !fresh[m.GetName()]
		}
	}
	return out
}

// troubles are what the nodes that answer can't keep as it should be.
func (n *node) troubles() map[string][]notify.Trouble {
	p, _ := n.controller.PolicyInForce()
	syncs, _ := n.controller.Syncs(p)
	tokens, _ := n.controller.Tokens(p)
	out := map[string][]notify.Trouble{n.cfg.File.Node: troublesOf(syncs, tokens)}
	now := n.controller.Answers()
	for node, p := range now.Peers {
		if now.Fresh[node] && p.Health != nil {
			out[node] = troublesOf(p.Health.GetSyncs(), p.Health.GetTokens())
		}
	}
	return out
}

// failsFor is how many runs of a sync fail in a row before it counts: one may
// have met a reboot.
const failsFor = 3

func troublesOf(syncs []*hadv1.SyncStatus, tokens *hadv1.TokenHealth) (all []notify.Trouble) {
	for _, s := range syncs {
		if s.GetFailures() >= failsFor && s.GetState() != hadv1.SyncStatus_STATE_OWNER && s.GetState() != hadv1.SyncStatus_STATE_HELD {
			all = append(all, notify.Trouble{Kind: hadv1.Notice_KIND_SYNC_FAILS, Name: s.GetName(), Detail: s.GetWhy()})
		}
	}
	for _, p := range tokens.GetPlaces() {
		if p.GetWrong() != "" {
			all = append(all, notify.Trouble{Kind: hadv1.Notice_KIND_TOKEN_AMISS, Name: p.GetName(), Detail: p.GetWrong()})
		}
	}
	return all
}

// runs says what this leader knows of another run of had.
func (n *node) runs(other *hadv1.Instance) notify.Presence {
	if other.GetNode() == n.cfg.File.Node {
		return notify.Gone // it was an earlier run of this node
	}
	switch h := n.controller.Answers().Peers[other.GetNode()]; {
	case h.Err != "":
		return notify.Gone
	case h.Health == nil:
		return notify.Unknown
	case proto.Equal(h.Health.GetInstance(), other):
		return notify.There
	}
	return notify.Gone
}
