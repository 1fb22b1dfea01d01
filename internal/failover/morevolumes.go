package failover

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

// volumeChange is what another policy does to the volumes of an epoch that is
// served.
type volumeChange struct {
	come, gone []storage.Volume // in the order of mounting
}

// errRemount says that the policy's volumes need an epoch of their own after all.
var errRemount = errors.New("the policy's volumes need an epoch of their own")

// changeVolumes says how an epoch that has some volumes gets others while it is
// served; why: it can't, and they need an epoch of their own. known are all that
// the epoch ever had, terms what its Acquire would say now.
func changeVolumes(c *hadv1.Claim, known, have, want []storage.Volume, terms *hadv1.Terms) (ch volumeChange, why string) {
	if sameVolumes(have, want) {
		return volumeChange{}, ""
	}
	ch = volumeChange{come: without(want, have), gone: without(have, want)}
	kept, first := without(have, ch.gone), without(want, ch.come)
	if !sameVolumes(kept, first) {
		return ch, "they are mounted in another order"
	}
	for _, v := range ch.come {
		i := slices.IndexFunc(known, func(k storage.Volume) bool {
			return k.Name == v.Name || k.Device == v.Device || k.Path == v.Path
		})
		switch {
		case i >= 0 && !sameVolume(known[i], v):
			return ch, fmt.Sprintf("volume %s is or was mounted otherwise", known[i].Name)
		case coversAny(v.Path, kept):
			return ch, fmt.Sprintf("%s would hide what is mounted below it", v.Path)
		}
	}
	for _, v := range ch.gone {
		if coversAny(v.Path, kept) {
			return ch, fmt.Sprintf("another volume is mounted below %s", v.Path)
		}
	}
	if len(ch.come) == 0 {
		return ch, ""
	}
	had := c.GetTerms()
	if len(c.GetVolumes()) == 0 {
		// Nobody has relied on what is about volumes yet.
		had = proto.CloneOf(had)
		had.FenceMethods, had.VolumeMarginNs, had.WatchdogTimeoutNs = terms.GetFenceMethods(), terms.GetVolumeMarginNs(), terms.GetWatchdogTimeoutNs()
	}
	switch {
	case had.GetReservationKey() != 0 || terms.GetReservationKey() != 0:
		return ch, "their disks are reserved together"
	case !slices.Equal(had.GetFenceMethods(), terms.GetFenceMethods()) || had.GetVolumeMarginNs() != terms.GetVolumeMarginNs() ||
		had.GetWatchdogTimeoutNs() != terms.GetWatchdogTimeoutNs() || had.GetReleaseGraceNs() != terms.GetReleaseGraceNs():
		return ch, "the fence or the grace is another now, and an epoch keeps its own"
	}
	return ch, ""
}

func sameVolume(a, b storage.Volume) bool {
	return sameVolumes([]storage.Volume{a}, []storage.Volume{b})
}

// without returns the volumes of a that are not in b.
func without(a, b []storage.Volume) []storage.Volume {
	return slices.DeleteFunc(slices.Clone(a), func(v storage.Volume) bool {
		return slices.ContainsFunc(b, func(w storage.Volume) bool { return sameVolume(v, w) })
	})
}

// coversAny reports whether one of the volumes is mounted below a folder.
func coversAny(dir string, volumes []storage.Volume) bool {
	return slices.ContainsFunc(volumes, func(v storage.Volume) bool {
		return strings.HasPrefix(path.Clean(v.Path), path.Clean(dir)+"/")
	})
}

// volumeChange is changeVolumes for the epoch that is held, by another policy.
func (x *executor) volumeChange(c *hadv1.Claim, p *policy.Policy, version uint64) (volumeChange, string) {
	x.mu.Lock()
	have, refused := x.owned.volumes, x.refused
	x.mu.Unlock()
	terms := x.terms(p, StorageVolumes(p))
	ch, why := changeVolumes(c, x.mounts.of(c.GetEpoch()), have, StorageVolumes(p), terms)
	if why == "" && refused.version == version && refused.epoch == c.GetEpoch() {
		why = refused.why
	}
	return ch, why
}

// refusedChange is a change of an epoch's volumes that did not come about.
type refusedChange struct {
	epoch, version uint64 // the policy's
	why            string
}

// refuse notes that the volumes of a policy need an epoch of their own, and why.
func (x *executor) refuse(epoch, version uint64, err error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refused = refusedChange{epoch, version, err.Error()}
	return fmt.Errorf("%w: %w", errRemount, err)
}

// terms are those of an epoch by a policy.
func (x *executor) terms(p *policy.Policy, volumes []storage.Volume) *hadv1.Terms {
	terms := x.timing.Terms(x.holder.layers()...)
	terms.ReleaseGraceNs = int64(p.ReleaseGrace)
	if len(volumes) == 0 {
		return terms
	}
	terms.VolumeMarginNs = int64(p.Fence.Margin)
	for _, m := range p.Fence.Methods {
		terms.FenceMethods = append(terms.FenceMethods, string(m))
	}
	terms.WatchdogTimeoutNs, terms.ReservationKey = int64(x.armed(p)), x.reservationMark(p)
	return terms
}

// extend has the log name further volumes of the epoch, before one is touched: its
// successors then ask for evidence about them. After an error nothing has changed.
func (x *executor) extend(ctx context.Context, in Inputs, step Step, t *turn, come []storage.Volume) error {
	c := in.View.Claim(step.Epoch)
	if len(come) == 0 {
		return nil
	}
	if all := cluster.AllVolumes(c.GetVolumes(), heldVolumes(come)); len(all) > len(c.GetVolumes()) {
		terms := proto.CloneOf(c.GetTerms())
		if len(c.GetVolumes()) == 0 {
			now := x.terms(t.policy, t.volumes)
			terms.FenceMethods, terms.VolumeMarginNs, terms.WatchdogTimeoutNs = now.GetFenceMethods(), now.GetVolumeMarginNs(), now.GetWatchdogTimeoutNs()
		}
		err := t.timeline.Run("extend_epoch", func() error {
			_, err := x.log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Extend{Extend: &hadv1.Extend{
				Term: in.Leadership.Term, Epoch: step.Epoch, Instance: x.instance, Volumes: heldVolumes(come), Terms: terms,
			}}})
			return err
		})
		switch {
		case errors.Is(err, cluster.ErrNotLeader), errors.Is(err, cluster.ErrOutcomeUnknown):
			return fmt.Errorf("name further volumes of epoch %d: %w", step.Epoch, err)
		case err != nil: // asking again would change nothing
			return x.refuse(step.Epoch, t.version, err)
		}
	}
	x.mounts.extend(step.Epoch, come)
	return nil
}

// goneLimit is how long a volume that a policy has given up may stay in use: all
// that takes its place waits for it, and a service that uses it doesn't end by
// itself. Who it is takes the guard some time to say.
const goneLimit = 3 * time.Second

// unmountGone unmounts volumes that a policy has given up. One that is in use needs
// more than that: everything is then released in order, and taken on again.
func (x *executor) unmountGone(ctx context.Context, epoch uint64, t *turn, gone []storage.Volume) error {
	ctx, cancel := context.WithTimeout(ctx, goneLimit)
	defer cancel()
	defer x.doing("")
	for _, v := range slices.Backward(gone) {
		if err := t.timeline.Run("unmount_"+v.Name, func() error { return x.unmount(ctx, epoch, v) }); err != nil {
			return x.refuse(epoch, t.version, fmt.Errorf("unmount %s: %w", v.Path, err))
		}
	}
	return nil
}

// mountMore mounts volumes that a policy has brought.
func (x *executor) mountMore(ctx context.Context, epoch uint64, t *turn, come []storage.Volume) error {
	if len(come) == 0 {
		return nil
	}
	view, _ := x.log.View()
	if armed := x.armed(t.policy); int64(armed) != view.Claim(epoch).GetTerms().GetWatchdogTimeoutNs() {
		return fmt.Errorf("the epoch promises another watchdog than that of %s: the guard was replaced", armed)
	}
	return x.mountAll(ctx, epoch, t, come)
}
