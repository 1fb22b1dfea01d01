package failover

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/clock"
	"had/vip"
)

// slowKernel takes its time, by a clock of its own, to set addresses.
type slowKernel struct {
	Addresses
	now  clock.Instant
	took time.Duration
	sets []clock.Instant // when each began
}

func (k *slowKernel) Set(context.Context, []vip.Address, func() clock.Instant) (vip.Change, error) {
	k.sets = append(k.sets, k.now)
	k.now = k.now.Add(k.took)
	return vip.Change{}, nil
}

// A kernel that takes long for the addresses is left alone in between, also when it
// says all the time that one is missing; and what can be kept up is.
func TestRefreshesOfVeryManyAddressesAreSpaced(t *testing.T) {
	for _, tc := range []struct {
		took, apart time.Duration // from the end of one to the beginning of the next, nudged
	}{
		{time.Millisecond, 2 * time.Millisecond},
		{300 * time.Millisecond, 600 * time.Millisecond},
		{900 * time.Millisecond, 850 * time.Millisecond},
		{1500 * time.Millisecond, 250 * time.Millisecond},
		{4400 * time.Millisecond, time.Second},
	} {
		timing := cluster.TimingFor(200 * time.Millisecond)
		kernel := &slowKernel{now: clock.Instant(time.Hour), took: tc.took}
		now := func() clock.Instant { return kernel.now }
		lease := new(cluster.Lease)
		h := &holder{kernel: kernel, mounts: new(mounts), lease: lease, now: now, pace: pace{lifetime: timing.AddressLifetime}}
		k := &keeper{lease: lease, holder: h, timing: timing, now: now, logger: hclog.NewNullLogger(), epoch: 7}
		held := addresses("2001:db8::1")
		h.epoch, h.noted = 7, held
		h.held.Store(&held)
		var due clock.Instant
		for range 4 {
			lease.Grant(7, kernel.now, time.Hour)
			k.look(t.Context(), &due)
			due = 0 // a nudge
			kernel.now = kernel.now.Add(k.look(t.Context(), &due))
		}
		if len(kernel.sets) < 3 {
			t.Fatalf("%s: set at %v", tc.took, kernel.sets)
		}
		for i := range len(kernel.sets) - 1 {
			if got := kernel.sets[i+1].Sub(kernel.sets[i].Add(tc.took)); got < tc.apart || got > tc.apart+k.early() {
				t.Errorf("%s: %s apart, expected %s", tc.took, got, tc.apart)
			}
		}
		if every := tc.took + k.holder.pace.rest(k.refreshEvery()); tc.took < 1750*time.Millisecond && every+k.early() >= timing.AddressLifetime {
			t.Errorf("%s: refreshed every %s", tc.took, every)
		}
	}
}

// Why an owner looks at its links, for longer than its lease, is no reason to give
// up a lease that is renewed meanwhile.
func TestALeaseIsRenewedWhileTheLinkIsLookedAt(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		r.network.takes(2 * time.Second)
		for range 5 {
			r.controller.KernelChanged()
			time.Sleep(time.Second)
		}
		r.network.takes(0)
		time.Sleep(5 * time.Second)
		r.expect()
		if rel := r.releases(); len(rel) != 0 {
			t.Errorf("released: %v", rel)
		}
	})
}
