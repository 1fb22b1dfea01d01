package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

func twoVolumes() []storage.Volume {
	return []storage.Volume{
		{Name: "data", Device: "UUID=1", Path: "/srv/data", FSType: "ext4"},
		{Name: "logs", Device: "UUID=2", Path: "/srv/data/logs", FSType: "xfs"},
	}
}

type (
	testVolumes  host
	testServices host
)

// call is one that may hang until it is killed.
func (v *testVolumes) call(ctx context.Context, what string, f func()) error {
	v.turns.Add(1)
	if v.unkilled {
		return errors.New("a mounter is stuck in the kernel")
	}
	v.deeds = append(v.deeds, what)
	if v.hangs[what] {
		<-ctx.Done()
		if v.late {
			f()
		}
		return context.Cause(ctx)
	}
	f()
	return nil
}

func (v *testVolumes) Reserve(ctx context.Context, vs []storage.Volume, key uint64) error {
	return v.call(ctx, "reserve", func() { v.take(vs, key) })
}

func (v *testVolumes) Evict(ctx context.Context, vs []storage.Volume, key uint64) error {
	return v.call(ctx, "evict", func() { v.take(vs, key) })
}

// take may only be asked for while nothing is mounted.
func (v *testVolumes) take(vs []storage.Volume, key uint64) {
	(*host)(v).unmounted("the disks are taken")
	v.reserved = fmt.Sprintf("%d with %#x", len(vs), key)
}

func (v *testVolumes) Mount(ctx context.Context, vol storage.Volume, _ bool) error {
	return v.call(ctx, "mount", func() { v.mounted = append(v.mounted, vol.Name) })
}

func (v *testVolumes) Unmount(ctx context.Context, vol storage.Volume) error {
	return v.call(ctx, "unmount", func() {
		v.mounted = slices.DeleteFunc(v.mounted, func(name string) bool { return name == vol.Name })
	})
}

func (v *testVolumes) Secure(ctx context.Context, vs []storage.Volume) error {
	if v.busyDisk != nil {
		return v.busyDisk
	}
	for e, is := range v.services {
		if is {
			v.t.Errorf("the volumes are shut down while services of epoch %d write", e)
		}
	}
	return v.call(ctx, "secure", func() {
		for _, gone := range vs {
			v.mounted = slices.DeleteFunc(v.mounted, func(name string) bool { return name == gone.Name })
		}
	})
}

func (v *testVolumes) Abandon(context.Context, []storage.Volume) error { return nil }

func (v *testVolumes) Rest() { v.rests++ }

func (s *testServices) Open(uint64) error { return nil }

func (s *testServices) End(_ context.Context, epoch uint64) error {
	s.turns.Add(1)
	s.deeds = append(s.deeds, "services ended")
	s.services[epoch] = false
	return nil
}

// holdVolumes is what had does when it takes on an epoch with volumes, and
// mounts those that are named.
func (h *host) holdVolumes(epoch uint64, mount ...string) {
	h.t.Helper()
	if !h.client.Extend(epoch, h.now().Add(testTTL)) {
		h.t.Fatalf("epoch %d can't be extended", epoch)
	}
	if err := h.client.Hold(h.t.Context(), epoch, vips(), twoVolumes()); err != nil {
		h.t.Fatal(err)
	}
	for _, name := range mount {
		if err := h.client.Mount(h.t.Context(), epoch, name, false); err != nil {
			h.t.Fatal(err)
		}
	}
}

// securedFor checks of which epochs the others were told that their volumes are
// safe, and that it was kept.
func (h *host) securedFor(epochs ...uint64) {
	h.t.Helper()
	var got []uint64
	for _, s := range h.secured {
		got = append(got, s.GetEpoch())
		if s.GetKind() != hadv1.Secured_KIND_GUARD || s.GetInstance().GetNonce() != testNonce || s.GetBy() != "alpha" || s.GetAt() == nil {
			h.t.Errorf("the others were told %v", s)
		}
	}
	if !slices.Equal(got, epochs) || len(h.keptSecured) != len(got) {
		h.t.Errorf("the others were told that %v are safe, and %d are kept; want %v", got, len(h.keptSecured), epochs)
	}
}

func (h *host) refused(what string, err error, why string) {
	h.t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) {
		h.t.Errorf("%s: %v; want it refused: %s", what, err, why)
	}
}

func TestVolumesAreMountedAndGivenBackInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.holdVolumes(7, "data", "logs")
		h.refused("drop", h.client.Drop(t.Context(), 7), "not proven unmounted: [data logs]")
		for _, name := range []string{"logs", "data"} {
			if err := h.client.Unmount(t.Context(), 7, name); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(h.client.Unmount(t.Context(), 7, "data"), h.client.Drop(t.Context(), 7)); err != nil {
			t.Error(err)
		}
		h.unmounted("it was dropped")
		if h.rests != 1 || !slices.Equal(h.deeds, []string{"mount", "mount", "unmount", "unmount"}) {
			t.Errorf("%v, and rested %d times", h.deeds, h.rests)
		}
		h.sleep(time.Hour)
		h.die()
		h.sleep(0)
		h.farewells()
		h.securedFor()
		h.ended(nil)
	})
}

func TestRequestsForVolumesThatAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.refused("mount without an epoch", h.client.Mount(t.Context(), 7, "data", false), "isn't held")
		h.holdVolumes(7)
		h.refused("mount for another epoch", h.client.Mount(t.Context(), 8, "data", false), "isn't held")
		h.refused("mount of another volume", h.client.Mount(t.Context(), 7, "more", false), "no volume")
		h.refused("other volumes", h.client.Hold(t.Context(), 7, vips(), twoVolumes()[:1]), "others when it was held first")
		if err := h.client.Hold(t.Context(), 7, vips(), twoVolumes()); err != nil {
			t.Error(err)
		}
		if err := h.client.Secure(t.Context(), 7); err != nil {
			t.Error(err)
		}
		h.refused("mount after secure", h.client.Mount(t.Context(), 7, "data", false), "being given up")
		h.sleep(testTTL)
		h.refused("mount after the lease's end", h.client.Mount(t.Context(), 7, "data", false), "is over")
	})
}

// An epoch may get volumes while it is held, and then ends like one that had them
// from the start; what it has it can't lose.
func TestAnEpochGetsMoreVolumes(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.hold(7)
		h.refused("mount of what it doesn't have yet", h.client.Mount(t.Context(), 7, "data", false), "no volumes")
		for _, volumes := range [][]storage.Volume{twoVolumes()[:1], twoVolumes()} {
			if err := h.client.Hold(t.Context(), 7, vips(), volumes); err != nil {
				t.Fatal(err)
			}
			if err := h.client.Mount(t.Context(), 7, volumes[len(volumes)-1].Name, false); err != nil {
				t.Fatal(err)
			}
		}
		h.refused("another order", h.client.Hold(t.Context(), 7, vips(), []storage.Volume{twoVolumes()[1], twoVolumes()[0]}), "others when it was held first")
		h.refused("none any more", h.client.Hold(t.Context(), 7, vips(), nil), "others when it was held first")
		h.sleep(testTTL)
		h.unmounted("its lease has ended")
		third := append(twoVolumes(), storage.Volume{Name: "third", Device: "LABEL=third", Path: "/srv/third"})
		h.refused("more after its end", h.client.Hold(t.Context(), 7, vips(), third), "")
	})
}

// While a mount hangs, the guard goes on: renewals count, addresses go in time,
// and had is answered about other things.
func TestMountThatHangsHoldsNobody(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.hangs["mount"] = true
		h.holdVolumes(7)
		h.add()
		mounted := make(chan error, 1)
		go func() { mounted <- h.client.Mount(t.Context(), 7, "data", false) }()
		h.sleep(0)
		h.refused("another mount", h.client.Mount(t.Context(), 7, "logs", false), "mount of volume data is under way")
		h.refused("drop", h.client.Drop(t.Context(), 7), "mount of volume data is under way")
		if err := h.client.Script(t.Context(), hook.Running{ID: "R1"}); err != nil {
			t.Error(err)
		}
		h.sleep(time.Minute)
		if len(h.kernel) > 0 {
			t.Errorf("the lease is over, and the kernel has %v", h.kernel)
		}
		h.refused("the mount", <-mounted, "cancel")
		h.securedFor(7)
	})
}

func TestSecureEndsAMountThatHangs(t *testing.T) {
	for _, late := range []bool{false, true} {
		bubble(t, func(t *testing.T, h *host) {
			h.hangs["mount"], h.late = true, late
			h.holdVolumes(7)
			mounted := make(chan error, 1)
			go func() { mounted <- h.client.Mount(t.Context(), 7, "data", false) }()
			h.sleep(0)
			if err := h.client.Secure(t.Context(), 7); err != nil {
				t.Error(err)
			}
			h.unmounted("it is secured")
			h.refused("the mount", <-mounted, "cancel")
			if err := h.client.Drop(t.Context(), 7); err != nil {
				t.Error(err)
			}
		})
	}
}

// Schedule 1 of docs/protocol.md for volumes: whatever had was about to do, after
// the end of its lease the guard mounts nothing, and says so once it is proven.
func TestHadThatMissesItsDeadlineLosesItsVolumes(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.holdVolumes(7, "data", "logs")
		h.services[7] = true
		h.sleep(testTTL - 2*testLead - 1)
		if len(h.mounted) != 2 {
			t.Fatalf("before its time the guard left %v", h.mounted)
		}
		h.sleep(1)
		h.unmounted("the margin before the lease's end has begun")
		if want := []string{"mount", "mount", "services ended", "secure"}; !slices.Equal(h.deeds, want) {
			t.Errorf("%v, want %v", h.deeds, want)
		}
		h.securedFor(7)
		h.sleep(time.Hour)
		h.securedFor(7) // once
		if err := h.client.Drop(t.Context(), 7); err != nil {
			t.Error(err)
		}
		h.farewells()
		h.hold(8)
		h.die()
		h.sleep(0)
		h.farewells(8)
		h.ended(nil)
	})
}

// A had that wakes after its guard has ended its volumes drops the epoch at once, and
// may be stopped again before anybody has its report: the guard's word stands until
// the others have it.
func TestTheWordOnVolumesOutlivesTheEpoch(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration // to reach the others
		then  func(h *host)
		heard int
	}{
		"had goes on":                {300 * time.Millisecond, func(h *host) { h.sleep(h.slow) }, 1},
		"had dies":                   {300 * time.Millisecond, func(h *host) { h.die(); h.sleep(h.slow); h.ended(nil) }, 1},
		"had dies, nobody is there":  {time.Hour, func(h *host) { h.die(); h.sleep(tellPatience); h.ended(nil) }, 0},
		"nobody is there for longer": {time.Hour, func(h *host) { h.sleep(tellOn); h.die(); h.sleep(0); h.ended(nil) }, 0},
		"the log has had's report":   {300 * time.Millisecond, func(h *host) { h.hold(8); h.sleep(h.slow) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.slow = c.takes
				h.holdVolumes(7, "data")
				h.sleep(testTTL)
				h.unmounted("its lease has ended")
				if err := h.client.Drop(t.Context(), 7); err != nil {
					t.Error(err)
				}
				c.then(h)
				if len(h.secured) != c.heard {
					t.Errorf("the others have heard %v", h.secured)
				}
				h.farewells()
			})
		})
	}
}

// A had that gives its volumes up by force can't renew: it is cut off, or its disk is
// stuck, and then nobody may ever have its report.
func TestVolumesThatHadEndsByForceAreTold(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.holdVolumes(7, "data")
		if err := errors.Join(h.client.Unmount(t.Context(), 7, "data"), h.client.Drop(t.Context(), 7)); err != nil {
			t.Error(err)
		}
		h.sleep(0)
		h.securedFor()
		h.holdVolumes(8, "data")
		if err := h.client.Secure(t.Context(), 8); err != nil {
			t.Error(err)
		}
		h.sleep(0)
		h.securedFor() // had may have more to do for it
		if err := h.client.Drop(t.Context(), 8); err != nil {
			t.Error(err)
		}
		h.sleep(0)
		h.securedFor(8)
		h.die()
		h.sleep(0)
		h.farewells()
		h.ended(nil)
	})
}

func TestNothingIsSaidOfVolumesWithoutProof(t *testing.T) {
	for name, c := range map[string]struct{ break_, mend func(h *host) }{
		"a volume stays": {
			func(h *host) { h.busyDisk = errors.New("it is busy") },
			func(h *host) { h.busyDisk = nil },
		},
		"the unmount hangs": {
			func(h *host) { h.hangs["secure"] = true },
			func(h *host) { h.hangs["secure"] = false },
		},
		"a mounter can't be killed": {
			func(h *host) { h.unkilled = true },
			func(h *host) { h.unkilled = false },
		},
	} {
		for _, dies := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, had dies: %v", name, dies), func(t *testing.T) {
				bubble(t, func(t *testing.T, h *host) {
					h.holdVolumes(7, "data")
					h.add()
					c.break_(h)
					h.sleep(testTTL)
					if dies {
						h.die()
					}
					h.sleep(time.Minute)
					h.securedFor()
					h.farewells()
					if len(h.kernel) > 0 {
						t.Errorf("the addresses stay because of a volume: %v", h.kernel)
					}
					c.mend(h)
					h.sleep(secureEvery + securePatience)
					if dies {
						h.farewells(7)
						h.ended(nil)
						return
					}
					h.securedFor(7)
					h.die()
					h.sleep(0)
					h.farewells(7)
				})
			})
		}
	}
}

func TestVolumesGoBeforeTheFarewell(t *testing.T) {
	for _, grouped := range []bool{false, true} {
		bubble(t, func(t *testing.T, h *host) {
			h.holdVolumes(7, "data", "logs")
			h.add()
			h.services[7] = true
			h.lives["R1"] = !grouped
			if grouped {
				delete(h.lives, "R1") // it dies with the group
			}
			if err := h.client.Script(t.Context(), hook.Running{ID: "R1", Epoch: 7, Grouped: grouped}); err != nil {
				t.Fatal(err)
			}
			h.die()
			h.sleep(0)
			h.farewells(7)
			h.ended(nil)
			var names []string
			for _, s := range h.told[0].GetReleased().GetSteps() {
				names = append(names, s.GetName())
			}
			want := []string{"addresses_down", "services_killed", "volumes_secured", "addresses_down"}
			if !grouped {
				want = []string{"addresses_down", "services_killed", "scripts_killed", "volumes_secured", "addresses_down", "scripts_killed", "addresses_down"}
			}
			if !slices.Equal(names, want) {
				t.Errorf("steps %v, want %v", names, want)
			}
		})
	}
}

// had dies while a mount hangs: the addresses don't wait for it.
func TestHadDiesDuringAMount(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.hangs["mount"], h.late = true, true
		h.holdVolumes(7)
		h.add()
		go func() { _ = h.client.Mount(t.Context(), 7, "data", false) }()
		h.sleep(0)
		h.die()
		h.sleep(0)
		h.farewells(7)
		h.ended(nil)
	})
}

// An epoch whose guard has died goes to the next one with what it may have
// mounted.
func TestAdoptedVolumesAreTakenForMounted(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.mounted = []string{"data"} // the earlier guard's
		r := Request{Op: OpHold, Epoch: 7, Until: h.now().Add(testTTL), Addresses: vips(), Volumes: twoVolumes(), Adopted: true, Mounted: []string{"data"}}
		if err := h.ask(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		h.refused("drop", h.ask(t.Context(), Request{Op: OpDrop, Epoch: 7}), "not proven unmounted: [data]")
		synctest.Wait()
		h.die()
		h.sleep(0)
		h.farewells(7)
	})
}
