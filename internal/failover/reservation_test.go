package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"had/cluster"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

// reserver is a guard that reserves the shelf's disks.
type reserver struct {
	s    *shelf
	fail error
	did  []string
}

func (v *reserver) Reserve(_ context.Context, epoch, key uint64) error {
	view, _ := v.s.r.log.View()
	if has := v.s.has(); len(has) > 0 || len(view.VolumesBlockedBy(epoch)) > 0 {
		v.s.set(func(s *shelf) {
			s.wrong = append(s.wrong, fmt.Sprintf("reserved in epoch %d with %v mounted, open are %v", epoch, has, view.Open))
		})
	}
	v.s.r.diary.add("reserve with %#x", key)
	return v.fail
}

func (v *reserver) Evict(_ context.Context, volumes []storage.Volume, key uint64) error {
	v.did = append(v.did, fmt.Sprintf("%s %s with %#x", volumes[0].Name, volumes[0].Device, key))
	return v.fail
}

const withReservation = `
volume "web" {
  device = "UUID=1111-2222"
  path   = "/srv/web"
}
fence { methods = ["reservation", "confirm"] }
`

// The disks are reserved with the key that the log gave to the epoch, before
// anything is mounted; an owner that can't reserve them mounts nothing.
func TestDisksAreReservedBeforeAnythingIsMounted(t *testing.T) {
	for name, fail := range map[string]error{"reserved": nil, "refused": errors.New("reservation conflict")} {
		t.Run(name, func(t *testing.T) {
			runVolumes(t, func(r *rig, s *shelf) {
				x := r.controller.executor
				x.reservations, x.keyMark = &reserver{s: s, fail: fail}, cluster.ReservationMark("c")
				r.policy("", withReservation)
				time.Sleep(time.Second)
				v, _ := r.log.View()
				key := cluster.ReservationKey(x.keyMark, v.LastEpoch)
				took := r.took()
				if fail != nil {
					if len(s.has()) > 0 || slices.Contains(s.cleared(), true) {
						t.Errorf("mounted all the same: %s", took)
					}
					return
				}
				if got := v.Open[0].GetTerms().GetReservationKey(); got != key {
					t.Errorf("the claim has the key %#x, want %#x", got, key)
				}
				want := fmt.Sprintf("Test 192.0.2.10, Test 192.0.2.11, reserve with %#x, mount web, PreAcq", key)
				if !strings.HasPrefix(took, want) {
					t.Errorf("it took %s, want %s first", took, want)
				}
			})
		})
	}
}

func TestWhoHasNoGuardTakesNoDisks(t *testing.T) {
	held := []*hadv1.HeldVolume{{Name: "web", Device: "UUID=1", Path: "/srv/web"}}
	if err := (Config{}).evict()(t.Context(), held, 15); err == nil {
		t.Error("disks were taken by nobody")
	}
	v := &reserver{}
	if err := (Config{Reservations: v}).evict()(t.Context(), held, 15); err != nil || v.did[0] != "web UUID=1 with 0xf" {
		t.Errorf("%v: %v", v.did, err)
	}
}
