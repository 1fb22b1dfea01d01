package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/clock"
	"had/storage"
	"had/vip"
)

// arms are a guard and a gate that write down what they are told.
type arms struct {
	diary  *diary
	over   bool  // the guard has ended the epoch
	asleep error // the guard doesn't answer
}

func (a *arms) Hold(_ context.Context, epoch uint64, addrs []vip.Address, _ []storage.Volume) error {
	if a.asleep != nil {
		return a.asleep
	}
	a.diary.add("guard holds %d: %d", epoch, len(addrs))
	return nil
}

func (a *arms) Drop(_ context.Context, epoch uint64) error {
	a.diary.add("guard drops %d", epoch)
	return a.asleep
}

func (a *arms) Alive() error { return a.asleep }

func (a *arms) Extend(uint64, clock.Instant) bool { return !a.over }

// filter is arms' gate.
type filter struct{ diary *diary }

func (f filter) Admit(epoch uint64, addrs []netip.Addr) error {
	f.diary.add("gate admits %d: %d", epoch, len(addrs))
	return nil
}

func (f filter) Extend(epoch uint64, _ clock.Instant) error {
	f.diary.add("gate opens %d", epoch)
	return nil
}

func (filter) Problem() error { return nil }

func (f filter) Shut(epoch uint64) { f.diary.add("gate shuts %d", epoch) }

func (f filter) Forget(epoch uint64, addrs []netip.Addr) error {
	f.diary.add("gate forgets %d: %d", epoch, len(addrs))
	return nil
}

func armedHolder() (*holder, *arms, *memoryKernel) {
	d := &diary{}
	a := &arms{diary: d}
	k := newMemoryKernel(d)
	now := func() clock.Instant { return clock.Instant(time.Hour) }
	return &holder{kernel: k, gate: filter{d}, guard: a, lease: new(cluster.Lease), now: now, pace: pace{lifetime: cluster.AddressLifetime}, logger: hclog.NewNullLogger()}, a, k
}

func TestAnAddressIsArmedFirstAndDisarmedLast(t *testing.T) {
	h, a, _ := armedHolder()
	h.lease.Grant(7, h.now(), time.Second)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1", "192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	if err := h.drop(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	h.settle(t.Context(), 7)
	want := []string{
		"guard holds 7: 2", "gate admits 7: 2", "gate opens 7", "set 2",
		"guard holds 7: 2", "gate admits 7: 2", "gate opens 7", "set 1", "gate forgets 7: 1", "guard holds 7: 1",
		"gate shuts 7", "remove 1", "gate forgets 7: 1", "guard drops 7",
	}
	if got := a.diary.all(); !slices.Equal(got, want) {
		t.Errorf("\n got %s\nwant %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

func TestWhatIsNotProvenGoneStaysGuarded(t *testing.T) {
	h, a, k := armedHolder()
	h.lease.Grant(7, h.now(), time.Second)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	k.failDrop = errors.New("the kernel doesn't answer")
	if err := h.drop(t.Context(), 7); err == nil {
		t.Fatal("the drop succeeded, want an error")
	}
	h.settle(t.Context(), 7)
	if got := a.diary.all(); slices.Contains(got, "gate forgets 7: 1") || slices.Contains(got, "guard drops 7") {
		t.Errorf("the guard or the gate let go of an address that may be up: %v", got)
	}
}

// hooked is a kernel whose Set does something more at its end.
type hooked struct {
	*memoryKernel
	also func()
}

func (k hooked) Set(ctx context.Context, want []vip.Address, deadline func() clock.Instant) (vip.Change, error) {
	c, err := k.memoryKernel.Set(ctx, want, deadline)
	k.also()
	return c, err
}

// An address that is gone must not stay behind the gate because the guard
// doesn't answer: nothing would ever open it again.
func TestTheGateForgetsWhatIsGoneThoughTheGuardIsAsleep(t *testing.T) {
	h, a, k := armedHolder()
	h.lease.Grant(7, h.now(), time.Second)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1", "192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	h.kernel = hooked{k, func() { a.asleep = errors.New("the guard doesn't answer") }}
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.2")); err == nil {
		t.Fatal("a change that the guard was not told of succeeded")
	}
	if got := a.diary.all(); !slices.Contains(got, "gate forgets 7: 1") {
		t.Errorf("the gate stays closed around an address that is gone: %v", got)
	}
}

// The kernel's network lock may be held by a driver for seconds. A lease that
// is renewed meanwhile must not end in the gate.
func TestARenewalDoesNotWaitForTheKernel(t *testing.T) {
	h, a, k := armedHolder()
	h.lease.Grant(7, h.now(), time.Second)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	in, out := make(chan struct{}), make(chan struct{})
	h.kernel = hooked{k, func() { close(in); <-out }}
	refreshed, renewed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := h.refresh(t.Context())
		refreshed <- err
	}()
	<-in
	before := len(a.diary.all())
	go func() { renewed <- h.extend(7) }()
	select {
	case err := <-renewed:
		if err != nil || !slices.Contains(a.diary.all()[before:], "gate opens 7") {
			t.Errorf("extend: %v; it did %v", err, a.diary.all()[before:])
		}
	case <-time.After(2 * time.Second):
		t.Error("the renewal waits for a kernel that doesn't answer")
	}
	close(out)
	if err := <-refreshed; err != nil {
		t.Error(err)
	}
}

func TestWithoutAGuardNothingIsRaised(t *testing.T) {
	h, a, k := armedHolder()
	a.asleep = errors.New("the guard doesn't answer")
	h.lease.Grant(7, h.now(), time.Second)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1")); err == nil || k.holds() != 0 {
		t.Errorf("error %v with %d addresses up, want an error and none", err, k.holds())
	}
}

// Schedule 3: the guard has ended the epoch of a paused daemon, whose renewal
// then commits.
func TestSchedule3ARenewalOfAnEpochTheGuardEnded(t *testing.T) {
	h, a, k := armedHolder()
	k0 := &keeper{lease: h.lease, holder: h, timing: cluster.TimingFor(time.Second), now: h.now, logger: hclog.NewNullLogger(), wake: func() {}}
	h.lease.Grant(7, h.now(), time.Second)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	a.over = true
	delete(k.present, netip.MustParseAddr("192.0.2.1")) // the guard did that
	before := len(a.diary.all())
	k0.grant(7, h.now())
	if _, err := h.refresh(t.Context()); !errors.Is(err, errLeaseOver) || k.holds() != 0 {
		t.Errorf("refresh: %v, %d addresses up; want none of an ended epoch", err, k.holds())
	}
	for _, line := range a.diary.all()[before:] {
		if strings.HasPrefix(line, fmt.Sprintf("gate opens %d", 7)) {
			t.Errorf("the gate was opened again: %s", line)
		}
	}
	if h.lease.Grant(7, h.now(), time.Second) {
		t.Error("the ended epoch was granted again")
	}
}

func TestAGuardThatDiedEndsNoLease(t *testing.T) {
	h, a, k := armedHolder()
	k0 := &keeper{lease: h.lease, holder: h, timing: cluster.TimingFor(time.Second), now: h.now, logger: hclog.NewNullLogger(), wake: func() {}}
	h.lease.Grant(7, h.now(), time.Second)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	a.over, a.asleep = true, errors.New("the guard has died")
	k0.grant(7, h.now().Add(time.Second))
	if _, err := h.refresh(t.Context()); err != nil || k.holds() != 1 || k0.whyLost(7) != "" {
		t.Errorf("refresh: %v, %d addresses up, lost because %q; want it to serve until it has moved", err, k.holds(), k0.whyLost(7))
	}
}
