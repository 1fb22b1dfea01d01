package checkup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"had/internal/fence"
	"had/internal/policy"
	"had/storage"
)

// volumes looks whether this host could mount the policy's volumes: device,
// file system, mount point, fstab, units, tools.
func volumes(ctx context.Context, r *report, c Config, p *policy.Policy) {
	if len(p.Volumes) == 0 {
		return
	}
	if epoch := c.Held(); epoch != 0 {
		mounted(r, p.Volumes, epoch)
		return
	}
	wrong, err := c.Volumes(ctx, p)
	if err != nil {
		r.fail("volumes", "", "%v", err)
		return
	}
	for _, v := range p.Volumes {
		name := "volume " + v.Name
		i := slices.IndexFunc(wrong, func(w string) bool { return strings.HasPrefix(w, name+":") })
		if i >= 0 {
			r.fail(name, "", "%s", strings.TrimSpace(strings.TrimPrefix(wrong[i], name+":")))
			wrong = slices.Delete(wrong, i, i+1)
			continue
		}
		fs := v.FSType
		if fs == "" {
			fs = "whatever is on it"
		}
		r.ok(name, "%s is there (%s), %s is free for it, and neither fstab nor systemd mounts it", v.Device, fs, v.Path)
	}
	for _, w := range wrong {
		r.fail("volumes", "", "%s", w)
	}
}

// mounted says whether the owner has its volumes.
func mounted(r *report, all []policy.Volume, epoch uint64) {
	mounts, err := storage.Mounts()
	if err != nil {
		r.fail("volumes", "", "%v", err)
		return
	}
	for _, v := range all {
		there := false
		for _, m := range mounts {
			there = there || m.Mountpoint == v.Path
		}
		if there {
			r.ok("volume "+v.Name, "mounted on %s, by epoch %d", v.Path, epoch)
		} else {
			r.fail("volume "+v.Name, "hactl history", "not mounted on %s, although this host has epoch %d", v.Path, epoch)
		}
	}
}

// fences asks every device that could switch another node off. To ask for the
// status switches nothing.
func fences(ctx context.Context, r *report, c Config, p *policy.Policy, alive []string) {
	if len(p.Volumes) == 0 {
		return
	}
	var parts []func(context.Context, *report)
	for _, m := range p.Fence.Methods {
		if m == policy.MethodWatchdog {
			watchdog(r, c, p)
		}
		for _, node := range c.Others {
			levels, err := c.Devices(p.Fence, m, node)
			if err != nil {
				continue // the policy was checked: another method has it
			}
			for _, d := range slices.Concat(levels...) {
				parts = append(parts, func(ctx context.Context, r *report) { device(ctx, r, d, node, slices.Contains(alive, node)) })
			}
		}
	}
	r.all = append(r.all, sideBySide(ctx, parts)...)
}

func watchdog(r *report, c Config, p *policy.Policy) {
	missing := c.Watchdog(p)
	for _, why := range missing {
		r.fail("watchdog", "", "%s", why)
	}
	if len(missing) == 0 {
		r.ok("watchdog", "armed: it would reset this host")
	}
}

// device asks one device about the node that it is to switch off.
func device(ctx context.Context, r *report, d fence.Device, node string, alive bool) {
	check := "fence " + node
	if err := d.Check(ctx); err != nil {
		r.fail(check, "", "%v", err)
		return
	}
	switch err := d.IsOff(ctx); {
	case errors.Is(err, fence.ErrOn):
		r.ok(check, "%s answers, and says that %s is on", d, node)
	case err == nil && alive:
		r.fail(check, "look which host this device really switches: it is the wrong one", "%s says that %s is off, and %[2]s answers", d, node)
	case err == nil:
		r.warn(check, "", "%s answers, and says that %s is off", d, node)
	case failedVerify(d):
		// The operator's own command says only whether the host is off.
		r.ok(check, "%s is installed; its verification doesn't say that %s is off", d, node)
	default:
		r.fail(check, "", "%v", err)
	}
}

func failedVerify(d fence.Device) bool {
	_, ok := d.(fence.Command)
	return ok
}

// Free space of the data folder. The log takes some MiB; a leader that can't
// write gives up.
const (
	littleSpace = 256 << 20
	noSpace     = 16 << 20
)

// host looks at what doesn't depend on the policy.
func host(r *report, c Config) {
	slew, err := c.Slew()
	switch {
	case err != nil:
		r.fail("clock", "", "%v", err)
	case slew > c.MaxSlew || slew < -c.MaxSlew:
		r.fail("clock", "wait until the time is right; with chrony set maxslewrate 500", "its time daemon makes it run %.1f %% off, and leases allow %.1f %%", 100*slew, 100*c.MaxSlew)
	default:
		r.ok("clock", "it runs %.2f %% off at the most, and leases allow %.1f %%", 100*max(slew, -slew), 100*c.MaxSlew)
	}
	space(r, c.DataDir)
	layers, missing := c.Safeguards()
	if len(layers) > 0 {
		r.ok("safeguards", "without had a lease here ends by: %s", strings.Join(layers, ", "))
	}
	for _, m := range missing {
		r.warn("safeguards", "", "%s", m)
	}
	for _, why := range c.Trouble() {
		r.fail("host", "", "%s", why)
	}
}

func space(r *report, dir string) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		r.fail("data folder", "", "look at the space on %s: %v", dir, err)
		return
	}
	free := s.Bavail * uint64(s.Bsize) //nolint:gosec // a block's size is positive
	text := fmt.Sprintf("%s has %d MiB free", dir, free>>20)
	switch {
	case free < noSpace:
		r.fail("data folder", "make room: a node that can't write its log can't own", "%s", text)
	case free < littleSpace, s.Files > 0 && s.Ffree < 100:
		r.warn("data folder", "make room", "%s, and %d files can be made", text, s.Ffree)
	default:
		r.ok("data folder", "%s", text)
	}
}
