package failover

import (
	"context"

	hadv1 "had/proto/had/v1"
)

// Pass has a command committed through whoever leads, in one try of at most two
// seconds. Errors: those of cluster.Node.Propose, and that no leader is known.
func (c *Controller) Pass(ctx context.Context, cmd *hadv1.Command) error {
	return carry(ctx, c.cfg.Log, c.cfg.Peers, cmd)
}
