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
		Waiting: func() []notify.Waiting { return api.VolumesWaiting(n.raft, n.controller, n.cfg.File.Node) },
		Logger:  n.cfg.Logger.Named("notify"),
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
	fresh := n.controller.Status().Fresh
	out := map[string]bool{}
	for _, m := range n.cfg.File.Members {
		if m.Name != n.cfg.File.Node {
			out[m.Name] = !fresh[m.Name]
		}
	}
	return out
}

// runs says what this leader knows of another run of had.
func (n *node) runs(other *hadv1.Instance) notify.Presence {
	if other.GetNode() == n.cfg.File.Node {
		return notify.Gone // it was an earlier run of this node
	}
	switch h := n.controller.Status().Peers[other.GetNode()]; {
	case h.Err != "":
		return notify.Gone
	case h.Health == nil:
		return notify.Unknown
	case proto.Equal(h.Health.GetInstance(), other):
		return notify.There
	}
	return notify.Gone
}
