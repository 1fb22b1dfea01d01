package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/evidence"
	"had/internal/policy"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

// How long a volume's calls may take before they count as failed. The guard
// answers for what the kernel keeps.
const (
	mountLimit  = time.Minute      // ext4's own protection takes 45 s to look
	preenLimit  = 10 * time.Minute // fsck -p before it
	busyLimit   = 5 * time.Second  // something that still has a file open may be about to end
	busyPause   = 250 * time.Millisecond
	flushAtMost = 10 * time.Second // what is served meanwhile goes on
	secureLimit = 15 * time.Second
)

// errStillMounted is for volumes of which it isn't proven that nothing of this
// host can write to them.
var errStillMounted = errors.New("it isn't proven that the volumes are unmounted")

// mountAll mounts volumes of epoch in their order, once nobody else can write to
// one. ctx ends with the lease.
func (x *executor) mountAll(ctx context.Context, epoch uint64, t *turn, volumes []storage.Volume) error {
	if len(volumes) == 0 {
		return nil
	}
	defer x.doing("")
	if err := t.timeline.Run("volumes_free", func() error { return x.volumesFree(ctx, epoch) }); err != nil {
		return err
	}
	if err := x.reserve(ctx, epoch, t); err != nil {
		return err
	}
	view, _ := x.log.View()
	for _, v := range volumes {
		if err := t.timeline.Run("mount_"+v.Name, func() error { return x.mount(ctx, epoch, v, view.Doubted == 0) }); err != nil {
			return fmt.Errorf("mount %s (%s) on %s: %w", v.Name, v.Device, v.Path, err)
		}
	}
	return nil
}

// volumesFree returns once no other epoch with volumes is open.
func (x *executor) volumesFree(ctx context.Context, epoch uint64) error {
	for {
		view, changed := x.log.View()
		if view.Claim(epoch) == nil {
			return errLeaseOver // its own claim isn't there: nothing it sees says who else has one
		}
		blocked := view.VolumesBlockedBy(epoch)
		if len(blocked) == 0 {
			return nil
		}
		c := blocked[0]
		why := cluster.WhyNotSecured(c)
		if why == "" {
			why = "its lease has still to be waited out"
		}
		x.doing(fmt.Sprintf("nothing is mounted before epoch %d of %s is closed: %s", c.GetEpoch(), c.GetInstance().GetNode(), why))
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until epoch %d of %s is closed: %w", c.GetEpoch(), c.GetInstance().GetNode(), context.Cause(ctx))
		case <-changed:
		}
	}
}

func (x *executor) mount(ctx context.Context, epoch uint64, v storage.Volume, clearMMP bool) error {
	limit := mountLimit
	if v.Preen {
		limit += preenLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if !x.keeper.holds(epoch) {
		return errLeaseOver
	}
	x.doing(fmt.Sprintf("mounting %s (%s) on %s", v.Name, v.Device, v.Path))
	return x.mounts.mount(ctx, epoch, v, clearMMP)
}

// flushAhead has what was written brought to the disks while clients are still
// served: what is left then is done quickly once they aren't.
func (x *executor) flushAhead(ctx context.Context, epoch uint64, t *steps.Timeline) {
	volumes := x.mounts.left(epoch)
	if x.flush == nil || len(volumes) == 0 || !x.keeper.holds(epoch) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushAtMost)
	defer cancel()
	if err := t.Run("flush_volumes", func() error { return x.flush(ctx, volumes) }); err != nil {
		x.logger.Warn("what was written is not on the disks before the services stop; that comes when they have", "epoch", epoch, "error", err)
	}
}

// unmountAll ends the services that the scripts of epoch left running, and
// unmounts its volumes in order, the last one first. After an error some may be
// mounted.
func (x *executor) unmountAll(ctx context.Context, epoch uint64, t *steps.Timeline) error {
	volumes := x.mounts.left(epoch)
	if len(volumes) == 0 {
		return nil
	}
	defer x.doing("")
	if x.services != nil {
		var ended []string
		err := t.Run("end_services", func() (err error) {
			if ended, err = x.services.End(ctx, epoch); err == nil && len(ended) > 0 {
				// A complaint and no failure: they have ended.
				err = fmt.Errorf("PreRel had left running, and it was ended: %s", strings.Join(ended, ", "))
				x.logger.Warn("a service was ended so that its volume can be unmounted", "epoch", epoch, "what", ended)
			}
			return err
		})
		if err != nil && len(ended) == 0 {
			return err
		}
	}
	for _, v := range slices.Backward(volumes) {
		if err := t.Run("unmount_"+v.Name, func() error { return x.unmount(ctx, epoch, v) }); err != nil {
			return fmt.Errorf("unmount %s: %w", v.Path, err)
		}
	}
	return nil
}

// unmount tries for a while: what still uses the volume may be about to end.
func (x *executor) unmount(ctx context.Context, epoch uint64, v storage.Volume) error {
	ctx, cancel := context.WithTimeout(ctx, busyLimit)
	defer cancel()
	var busy error // the latest that says what is in the way
	for {
		err := x.mounts.unmount(ctx, epoch, v.Name)
		if err == nil {
			return nil
		}
		if busy != nil && ctx.Err() != nil {
			return busy // that the time is up says less
		}
		busy = err
		x.doing(fmt.Sprintf("unmounting %s: %v", v.Path, err))
		timer := time.NewTimer(busyPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// secure makes what may be mounted of epoch safe by force. It is tried again as
// often as it fails; until then nothing is reported, and the others need other
// evidence.
func (x *executor) secure(ctx context.Context, epoch uint64, t *steps.Timeline) error {
	if len(x.mounts.left(epoch)) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, secureLimit)
	defer cancel()
	if err := t.Run("secure_volumes", func() error { return x.mounts.secure(ctx, epoch) }); err != nil {
		why := fmt.Sprintf("%v: %v; trying again", errStillMounted, err)
		x.doubt(epoch, why)
		x.doing(why)
		return fmt.Errorf("%w: %w", errStillMounted, err)
	}
	x.doubt(epoch, "")
	x.doing("")
	return nil
}

// doubt notes why the volumes of an epoch that is given up are not proven
// unmounted; empty: they are.
func (x *executor) doubt(epoch uint64, why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.giving.epoch == epoch {
		x.giving.unproven = steps.Printable(why)
	}
}

// unproven is what doubt was last told of the held epoch.
func (x *executor) unproven() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.holding.Epoch == 0 || x.giving.epoch != x.holding.Epoch {
		return ""
	}
	return x.giving.unproven
}

// doing says what a step is busy with, for status.
func (x *executor) doing(what string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.busy = steps.Printable(what)
}

// busyWith is what doing was last told.
func (x *executor) busyWith() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.busy
}

// neverHeld returns the open claim with volumes of an earlier run of had on this
// node that died right after it was accepted: its record in the journal, which
// comes before all else, is missing. Nobody else could tell.
func (c *Controller) neverHeld(view cluster.View) *hadv1.Claim {
	i := slices.IndexFunc(view.Open, func(o *hadv1.Claim) bool {
		return len(o.GetVolumes()) > 0 && o.GetInstance().GetNodeId() == c.self.GetNodeId() && !proto.Equal(o.GetInstance(), c.cfg.Instance)
	})
	// What this node, or its guard, has to say of it may be on its way.
	if i < 0 || c.cfg.Journal.PendingCount() > 0 || c.farewells.waits(c.self.GetNodeId()) {
		return nil
	}
	if t, err := c.cfg.Journal.Tenure(); err != nil || t != nil {
		return nil
	}
	return view.Open[i]
}

// switchOff is Off, or what stands in for it where there is none.
func (c Config) switchOff() evidence.Off {
	if c.Off != nil {
		return c.Off
	}
	return func(_ context.Context, _ policy.Fence, _ policy.Method, node string) (string, error) {
		return "", fmt.Errorf("this had has no means to switch %s off", node)
	}
}
