package failover

import (
	"context"
	"slices"
	"sync"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

// mounts are the volumes of the held epoch.
//
// Invariant: a volume is noted from before the guard is asked to mount it until it
// is proven that nothing of this host can write to it.
type mounts struct {
	guard Volumes // nil: this host carries none

	mu    sync.Mutex
	epoch uint64
	all   []storage.Volume // that may be mounted for epoch, in the order of mounting
	noted []storage.Volume // of those, in the same order
}

// admit begins an epoch with these volumes, none of which is mounted yet.
func (m *mounts) admit(epoch uint64, volumes []storage.Volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch, m.all, m.noted = epoch, slices.Clone(volumes), nil
}

// extend adds volumes to those that may be mounted for epoch.
func (m *mounts) extend(epoch uint64, more []storage.Volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch == epoch {
		m.all = append(slices.Clone(m.all), without(more, m.all)...)
	}
}

// of returns all that may be mounted for epoch, in the order of mounting.
func (m *mounts) of(epoch uint64) []storage.Volume {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch != epoch {
		return nil
	}
	return m.all
}

// left returns what may be mounted of epoch, or of an earlier one, in the order of
// mounting.
func (m *mounts) left(epoch uint64) []storage.Volume {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch > epoch {
		return nil
	}
	return slices.Clone(m.noted)
}

// mount mounts one volume. After an error it may be mounted, or become so.
func (m *mounts) mount(ctx context.Context, epoch uint64, v storage.Volume, clearMMP bool) error {
	m.mu.Lock()
	if m.epoch != epoch {
		m.mu.Unlock()
		return errLeaseOver
	}
	m.noted = append(m.noted, v)
	m.mu.Unlock()
	return m.guard.Mount(ctx, epoch, v.Name, clearMMP)
}

// unmount unmounts one volume in order.
func (m *mounts) unmount(ctx context.Context, epoch uint64, name string) error {
	if err := m.guard.Unmount(ctx, epoch, name); err != nil {
		return err
	}
	m.gone(epoch, func(v storage.Volume) bool { return v.Name == name })
	return nil
}

// secure makes all volumes of epoch safe by force.
func (m *mounts) secure(ctx context.Context, epoch uint64) error {
	if err := m.guard.Secure(ctx, epoch); err != nil {
		return err
	}
	m.gone(epoch, func(storage.Volume) bool { return true })
	return nil
}

func (m *mounts) gone(epoch uint64, which func(storage.Volume) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch == epoch {
		m.noted = slices.DeleteFunc(m.noted, which)
	}
}

// StorageVolumes are a policy's volumes as storage takes them.
func StorageVolumes(p *policy.Policy) []storage.Volume {
	var out []storage.Volume
	for _, v := range p.Volumes {
		out = append(out, StorageVolume(v))
	}
	return out
}

// StorageVolume is a policy's volume as storage takes it.
func StorageVolume(v policy.Volume) storage.Volume {
	return storage.Volume{
		Name: v.Name, Device: v.Device, Path: v.Path, FSType: v.FSType, Options: v.Options, Preen: v.Fsck == policy.FsckPreen,
	}
}

// asStorage are volumes of the log or the journal, as storage takes them.
func asStorage(held []*hadv1.HeldVolume) []storage.Volume {
	out := make([]storage.Volume, len(held))
	for i, v := range held {
		out[i] = storage.Volume{Name: v.GetName(), Device: v.GetDevice(), Path: v.GetPath(), FSType: v.GetFstype()}
	}
	return out
}

// heldVolumes are volumes as the log and the journal name them.
func heldVolumes(volumes []storage.Volume) []*hadv1.HeldVolume {
	var out []*hadv1.HeldVolume
	for _, v := range volumes {
		out = append(out, &hadv1.HeldVolume{Name: v.Name, Device: v.Device, Path: v.Path, Fstype: v.FSType})
	}
	return out
}

// sameVolumes reports whether two lists mount the same in the same order.
func sameVolumes(a, b []storage.Volume) bool {
	return slices.EqualFunc(a, b, func(a, b storage.Volume) bool {
		options := slices.Equal(a.Options, b.Options)
		return a.Name == b.Name && a.Device == b.Device && a.Path == b.Path && a.FSType == b.FSType && options
	})
}

// mountPoints are what scripts are told.
func mountPoints(volumes []storage.Volume) map[string]string {
	out := map[string]string{}
	for _, v := range volumes {
		out[v.Name] = v.Path
	}
	return out
}
