package storage

import "context"

// Check looks whether a volume could be mounted on this host, and changes
// nothing: its device is there, and only one; it is fit for two hosts and holds
// a file system that this kernel knows; nothing has it mounted; neither fstab
// nor systemd would mount it by itself; and its mount point can be used.
//
// before are the volumes that are mounted before it. The error is ErrAbsent,
// ErrAmbiguous, ErrUnfit, ErrInUse or ErrMountedByOthers where it is one of
// these, and says what to do.
func Check(ctx context.Context, v Volume, before []Volume) error {
	return thisHost().check(ctx, v, before)
}

func (h host) check(ctx context.Context, v Volume, before []Volume) error {
	if err := v.check(); err != nil {
		return err
	}
	all, err := allMounts()
	if err != nil {
		return v.errorf("%w", err)
	}
	if v.Network() {
		return h.checkNetwork(v, before, all)
	}
	d, err := h.resolve(ctx, v)
	if err != nil {
		return err
	}
	if err := h.fit(ctx, v, d); err != nil {
		return err
	}
	if err := h.mountedBySystem(v, &d); err != nil {
		return err
	}
	if ms := of(all, d.dev); len(ms) > 0 {
		return v.errorf("%w: %s is mounted on %s%s: umount it there", ErrInUse, d.path, ms[0].Mountpoint, ms[0].where(all))
	}
	for _, u := range h.holders(d.dev) {
		return v.errorf("%w: %s is in use by %s", ErrInUse, d.path, u.What)
	}
	return checkPlace(v, before, own(all))
}

func (h host) checkNetwork(v Volume, before []Volume, all []mount) error {
	if !known(v.FSType) {
		return v.errorf("%w: this kernel doesn't know %s: install what brings it, and look with modprobe %[2]s", ErrUnfit, v.FSType)
	}
	if _, err := look("mount." + v.FSType); err != nil {
		return v.errorf("%w", err)
	}
	if err := h.mountedBySystem(v, nil); err != nil {
		return err
	}
	for _, m := range all {
		if sameSource(m.Source, v.Device) {
			return v.errorf("%w: %s is mounted on %s%s: umount it there", ErrInUse, v.Device, m.Mountpoint, m.where(all))
		}
	}
	return checkPlace(v, before, own(all))
}
