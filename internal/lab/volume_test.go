package lab

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mount mounts a volume as it is on its disk now: while somebody has a device open,
// its kernel keeps what it has read of it.
func (h *Host) mount(v Volume) error {
	return h.keeper.do(func() error {
		if err := os.MkdirAll(v.Path(), 0o755); err != nil {
			return err
		}
		if err := unix.IoctlSetInt(int(h.plug(v.Name).loop.Fd()), unix.BLKFLSBUF, 0); err != nil {
			return err
		}
		return unix.Mount(v.Device(), v.Path(), v.FSType, 0, "")
	})
}

func (h *Host) unmount(v Volume) error {
	return h.keeper.do(func() error { return unix.Unmount(v.Path(), 0) })
}

// write writes a file on a volume, and syncs it or not.
func (h *Host) write(v Volume, name string, sync bool) error {
	return h.keeper.do(func() error {
		f, err := os.Create(filepath.Join(v.Path(), name))
		if err != nil {
			return err
		}
		_, err = f.WriteString(name)
		if sync {
			err = errors.Join(err, f.Sync())
		}
		return errors.Join(err, f.Close())
	})
}

func (h *Host) read(v Volume, name string) (text string, err error) {
	err = h.keeper.do(func() error {
		b, err := os.ReadFile(filepath.Join(v.Path(), name))
		text = string(b)
		return err
	})
	return text, err
}

// turnsOf waits until the observer has seen so many turns begin, and end but for
// the last ones.
func turnsOf(t *testing.T, o *MountObserver, volume string, begun, open int) []MountTurn {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); ; time.Sleep(mountSampling) {
		turns, _, err := o.Turns(volume)
		must(t, err)
		left := 0
		for _, turn := range turns {
			if turn.To.IsZero() {
				left++
			}
		}
		if len(turns) == begun && left == open {
			return turns
		}
		if time.Now().After(deadline) {
			t.Fatalf("turns of %s: %v; want %d, %d of them going on", volume, turns, begun, open)
		}
	}
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			v := Volume{Name: "data", FSType: fstype}
			l := newLab(t, Config{Volumes: []Volume{v}, Array: true})
			alpha, beta := l.Host("alpha"), l.Host("beta")
			o := l.WatchMounts()
			t.Cleanup(o.Close)

			// What one host writes, the other reads, one after the other.
			must(t, alpha.mount(v))
			must(t, alpha.write(v, "first", false))
			turnsOf(t, o, v.Name, 1, 1)
			must(t, alpha.unmount(v))
			turnsOf(t, o, v.Name, 1, 0)
			must(t, beta.mount(v))
			if text, err := beta.read(v, "first"); text != "first" {
				t.Errorf("beta reads %q, %v", text, err)
			}
			if mounts, err := alpha.mountinfo(); err != nil || strings.Contains(mounts, v.Path()) {
				t.Errorf("alpha has it mounted, too: %v\n%s", err, mounts)
			}
			if found := MountOverlaps(turnsOf(t, o, v.Name, 2, 1)); len(found) != 0 {
				t.Errorf("overlaps: %v", found)
			}

			// A pulled plug: what was synced is there, what wasn't is not.
			must(t, beta.write(v, "synced", true))
			must(t, beta.write(v, "unsynced", false))
			must(t, beta.PowerOff(t.Context()))
			turnsOf(t, o, v.Name, 2, 0)
			must(t, alpha.mount(v))
			if text, err := alpha.read(v, "synced"); text != "synced" {
				t.Errorf("after the power cut, alpha reads %q, %v", text, err)
			}
			if text, _ := alpha.read(v, "unsynced"); text != "" {
				t.Errorf("after the power cut, alpha reads what was not synced: %q", text)
			}
			must(t, alpha.unmount(v))

			must(t, alpha.UnplugVolume(v.Name))
			if err := alpha.mount(v); !errors.Is(err, unix.ENOENT) {
				t.Errorf("mounted without a device: %v", err)
			}
			must(t, alpha.PlugVolume(v.Name))
			must(t, alpha.mount(v))

			// Who waits for a stalled array goes on after it.
			must(t, l.StallVolumes())
			written := make(chan error, 1)
			go func() { written <- alpha.write(v, "late", true) }()
			select {
			case err := <-written:
				t.Errorf("written to a stalled array: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			must(t, l.ResumeVolumes())
			must(t, <-written)
			must(t, alpha.unmount(v))
		})
	}
}

// The judge sees what must never be.
func TestMountObserverSeesTwo(t *testing.T) {
	t.Parallel()
	data, more := Volume{Name: "data", FSType: "ext4"}, Volume{Name: "more", FSType: "xfs"}
	l := newLab(t, Config{Volumes: []Volume{data, more}})
	o := l.WatchMounts()
	t.Cleanup(o.Close)
	alpha, beta := l.Host("alpha"), l.Host("beta")
	must(t, alpha.mount(data))
	must(t, beta.mount(data))
	turnsOf(t, o, data.Name, 2, 2)
	time.Sleep(10 * mountSampling)
	found := MountOverlaps(turnsOf(t, o, data.Name, 2, 2))
	if len(found) != 1 || found[0].Hosts != [2]string{"alpha", "beta"} {
		t.Errorf("overlaps: %v", found)
	}
	must(t, beta.unmount(data))

	// What was unmounted lazily is still written to.
	must(t, alpha.write(data, "open", true))
	var f *os.File
	must(t, alpha.keeper.do(func() (err error) {
		if f, err = os.Open(filepath.Join(data.Path(), "open")); err != nil {
			return err
		}
		return unix.Unmount(data.Path(), unix.MNT_DETACH)
	}))
	time.Sleep(10 * mountSampling)
	turnsOf(t, o, data.Name, 2, 1)
	must(t, f.Close())
	turnsOf(t, o, data.Name, 2, 0)

	// The kernel itself refuses a second xfs of the same UUID.
	must(t, alpha.mount(more))
	if err := beta.mount(more); !errors.Is(err, unix.EINVAL) {
		t.Errorf("xfs on two hosts of one kernel: %v", err)
	}
}

// A host that was switched off and on is another boot of the same host.
func TestPower(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	alpha, beta := l.Host("alpha"), l.Host("beta")
	boot := func(h *Host) string {
		text, err := h.Exec(t.Context(), "cat", bootID)
		must(t, err)
		return text
	}
	first := boot(alpha)
	p, err := alpha.Start(os.DevNull, "sleep", "1000")
	must(t, err)
	must(t, alpha.AddAddress(hostPrefix(l.VIPs()[0]), Forever))
	must(t, alpha.PowerOff(t.Context()))
	<-p.Done()
	expectReach(t, l.Client, alpha, false)
	if !alpha.Off() || alpha.StartDaemon() == nil {
		t.Error("a host without power runs")
	}
	must(t, l.Observer.Await(t.Context(), l.VIPs()[0]))
	must(t, alpha.PowerOn())
	expectReach(t, l.Client, alpha, true)
	second := boot(alpha)
	must(t, alpha.PowerOff(t.Context()))
	must(t, alpha.PowerOn())
	if third := boot(alpha); first == second || second == third || len(third) != len(first) || boot(beta) != first {
		t.Errorf("alpha's boots were %q, %q, %q", first, second, third)
	}
}

func TestPowerStrip(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	s, err := l.PowerStrip()
	must(t, err)
	if err := AskStrip(s.Socket(), "is-off", "alpha"); err == nil || err.Error() != "alpha is on" {
		t.Errorf("alpha is off, says the strip: %v", err)
	}
	if AskStrip(s.Socket(), "off", "nobody") == nil {
		t.Error("somebody who isn't there was switched off")
	}
	s.BreakDown(true)
	if AskStrip(s.Socket(), "off", "alpha") == nil || l.Host("alpha").Off() {
		t.Error("a strip that is out of order switched alpha off, or says so")
	}
	s.BreakDown(false)
	must(t, AskStrip(s.Socket(), "off", "alpha"))
	must(t, AskStrip(s.Socket(), "is-off", "alpha"))
	if cuts := s.Switched(); !l.Host("alpha").Off() || !slices.Equal(cuts, []string{"alpha"}) || s.Switched() != nil {
		t.Errorf("it has switched %v off", cuts)
	}
	must(t, s.Close())
	if AskStrip(s.Socket(), "is-off", "alpha") == nil {
		t.Error("a strip answers that was unplugged")
	}
}
