package failover

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Mirror copies data to this node while another owns. mirror.Mirror is one.
type Mirror interface {
	// Cease ends every copying and lets none begin until resume is called. After a
	// nil error no process of one is left on this host.
	Cease(ctx context.Context) (resume func(), err error)
	// Trouble says why this node should not own with the data it has, or can't.
	Trouble(p *policy.Policy, view cluster.View) []string
	Status(p *policy.Policy) []*hadv1.SyncStatus
	Problems() []string
	// Sync runs one now and waits for its end. It is refused while there is nobody
	// to copy from, or a person has to say so first.
	Sync(ctx context.Context, name string) (*hadv1.SyncResult, error)
}

// cease ends what copies data to this node, before it opens an epoch: a copy that
// goes on would overwrite the data that its services are about to change.
func (x *executor) cease(ctx context.Context, t *turn) (resume func(), err error) {
	if x.mirror == nil {
		return func() {}, nil
	}
	err = t.timeline.Run("end_syncs", func() (err error) {
		resume, err = x.mirror.Cease(ctx)
		return err
	})
	if err != nil && ctx.Err() == nil {
		x.progress(ctx, &hadv1.Progress{Outcome: hadv1.Progress_OUTCOME_VETOED, Reason: err.Error(), Steps: t.timeline.List()})
	}
	return resume, err
}

// mirrorHealth adds what the syncs have to say.
func (c *Controller) mirrorHealth(p *policy.Policy, h *hadv1.HealthResponse) {
	if c.cfg.Mirror == nil {
		return
	}
	h.Syncs = c.cfg.Mirror.Status(p)
	h.Problems = append(h.Problems, c.cfg.Mirror.Problems()...)
}

// Holds reports whether this node holds an epoch, or something of one.
func (c *Controller) Holds() bool { return c.executor.held().Epoch != 0 }

// ReportSync writes down how a sync went.
func (c *Controller) ReportSync(ctx context.Context, r *hadv1.SyncResult) {
	rep := &hadv1.Report{At: timestamppb.Now(), Node: c.self.GetName(), Body: &hadv1.Report_SyncResult{SyncResult: r}}
	if _, err := c.cfg.Journal.Append(ctx, rep); err != nil {
		c.cfg.Logger.Error("a report was lost", "sync", r.GetName(), "error", err)
	}
}

// Sync runs a sync on this node now and waits for its end.
func (c *Controller) Sync(ctx context.Context, name string) (*hadv1.SyncResult, error) {
	if c.cfg.Mirror == nil {
		return nil, fmt.Errorf("%w: %s is a witness and copies nothing", ErrRefused, c.self.GetName())
	}
	return c.cfg.Mirror.Sync(ctx, name)
}
