package cluster

import (
	"slices"
	"time"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

const (
	// ClockRateError is ρ: how much the rates of two hosts' CLOCK_BOOTTIME
	// may differ. Crystals stay within 1e-4, and the kernel's own NTP slew
	// within 5e-4 (adjtimex(2)). A time daemon that sets the tick can exceed
	// it: chrony slews by up to 8 % unless maxslewrate in chrony.conf says
	// less.
	ClockRateError = 1e-3

	// KernelExpirySlack is how long past its valid_lft an address may stay
	// in the kernel: its timers look about once a second and are rounded
	// (addrconf_verify and check_lifetime in the Linux sources).
	KernelExpirySlack = 1500 * time.Millisecond

	// AddressLifetime is the valid_lft an owner gives its addresses.
	AddressLifetime = 2 * time.Second
)

// What ends a lease without had's help, by the names an Acquire records.
const (
	LayerLifetime = "lifetime" // the kernel's own expiry of the address
	LayerGuard    = "guard"    // a process beside had that removes the address
	LayerGate     = "gate"     // a packet filter with the lease's end in it
)

// Timing is everything that follows from `detect`, the one knob.
type Timing struct {
	Detect          time.Duration // a silent leader is suspected after this
	Heartbeat       time.Duration // raft HeartbeatTimeout: a follower's own timer, behind the detector
	Election        time.Duration // raft ElectionTimeout
	LeaderLease     time.Duration // raft LeaderLeaseTimeout: only how soon a cut-off leader steps down
	Commit          time.Duration // raft CommitTimeout: how long a leader with nothing to add waits before it tells what is committed
	TTL             time.Duration // of a lease
	Renew           time.Duration // between renewals
	Margin          time.Duration // a forced release starts this long before the lease ends; with volumes, half of it earlier
	AddressLifetime time.Duration
}

// TimingFor derives the timing from detect. raft's own timer runs half a
// detect behind the detector, so that it hasn't begun a pre-vote of its own,
// which nothing can hurry, when the detector is sure. A leader steps down
// once its lease has certainly ended, and no sooner: with detect/2, every stall
// of a leader by 100 ms at detect 200 ms cost an election that nobody wanted.
// Renewals are as far apart as leaves time for a second one, and so close that
// at a usual detect they spare the heartbeats (quietFor).
func TimingFor(detect time.Duration) Timing {
	ttl := 3 * detect / 2
	margin := max(20*time.Millisecond, ttl/20)
	return Timing{
		Detect:          detect,
		Heartbeat:       ttl,
		Election:        ttl,
		LeaderLease:     ttl,
		Commit:          7 * detect / 10,
		TTL:             ttl,
		Renew:           min(2*detect/3, (ttl-margin)/2),
		Margin:          margin,
		AddressLifetime: AddressLifetime,
	}
}

// HandOver is how long an owner that serves on may be without renewals while it
// hands leadership on: its lease outlives one that fails.
func (t Timing) HandOver() time.Duration { return (t.TTL - t.Margin - t.Renew) * 2 / 3 }

// Terms are what an Acquire with this timing and these layers promises its
// successors.
func (t Timing) Terms(layers ...string) *hadv1.Terms {
	return &hadv1.Terms{
		TtlNs:             int64(t.TTL),
		AddressLifetimeNs: int64(t.AddressLifetime),
		Layers:            layers,
	}
}

// TakeoverWait is how long after the last lease entry a successor must wait
// when the owner is silent: the lease, the grace in which its owner may stop
// services, and the error of two clocks over that time. Where no gate was armed,
// the longest that the kernel keeps an address which nobody renews comes on top.
// The guard shortens nothing: it is a process, and may be stopped like any other.
func TakeoverWait(terms *hadv1.Terms) time.Duration {
	d := heldFor(terms)
	if !slices.Contains(terms.GetLayers(), LayerGate) {
		d += time.Duration(terms.GetAddressLifetimeNs()) + KernelExpirySlack
	}
	return bySlowClock(d)
}

// LeaseOverAt is the first instant at which the lease of a claim, and its grace,
// are over by the owner's clock, if no further lease entry arrives. Something of
// it may be there for longer: see TakeoverAt. lastLease is as there.
func LeaseOverAt(lastLease clock.Instant, c *hadv1.Claim) clock.Instant {
	return lastLease.Add(bySlowClock(heldFor(c.GetTerms())))
}

// heldFor is how long after t0 of a lease entry its owner may hold anything, by
// its own clock.
func heldFor(terms *hadv1.Terms) time.Duration {
	return time.Duration(terms.GetTtlNs() + terms.GetReleaseGraceNs())
}

// bySlowClock is how long this clock must run until d has passed on another.
func bySlowClock(d time.Duration) time.Duration {
	return d + time.Duration(float64(d)*ClockRateError) + 1
}

// VolumeWait is how long after the last lease entry the passing of time is
// evidence of a kind about volumes; false for a kind that doesn't rest on it.
//
// KIND_LEASE: the owner's guard makes the volumes safe by the end of what the
// lease and the grace allow. Nothing is left if it did so, and what was on its
// way to the disks has arrived within the margin. Whether it did, nobody has
// seen.
//
// KIND_WATCHDOG: the guard feeds the watchdog only while the lease lives or the
// volumes are proven safe. It looks at the clock, then feeds; stopped between
// the two, it feeds late, but once, for it looks again before the next. That
// late feed can't come later than one timeout after the one before it, since the
// watchdog would have fired, and that one wasn't late. So the last feed comes
// before lease's end + timeout, and the host is reset by lease's end + twice
// the timeout. Counting it once would let a host that was stopped at that
// instruction write for up to a timeout beside its successor.
func VolumeWait(terms *hadv1.Terms, kind hadv1.Secured_Kind) (wait time.Duration, ok bool) {
	d := heldFor(terms) + time.Duration(terms.GetVolumeMarginNs())
	switch kind {
	case hadv1.Secured_KIND_LEASE:
		return bySlowClock(d), true
	case hadv1.Secured_KIND_WATCHDOG:
		return bySlowClock(d + 2*time.Duration(terms.GetWatchdogTimeoutNs())), true
	case hadv1.Secured_KIND_UNSPECIFIED, hadv1.Secured_KIND_GUARD, hadv1.Secured_KIND_FENCED, hadv1.Secured_KIND_RESERVED, hadv1.Secured_KIND_CONFIRMED:
	}
	return 0, false
}

// SecuredAt is the first instant at which time is evidence of a kind about the
// volumes of a claim, if no further lease entry arrives; false when the claim's
// terms don't let it count. lastLease is as for TakeoverAt.
func SecuredAt(lastLease clock.Instant, c *hadv1.Claim, kind hadv1.Secured_Kind) (at clock.Instant, ok bool) {
	wait, ok := VolumeWait(c.GetTerms(), kind)
	if !ok || notAgreed(c.GetTerms(), kind) != "" {
		return 0, false
	}
	return lastLease.Add(wait), true
}

// TakeoverAt is the first instant at which every open claim is certainly
// over, if no further lease entry arrives. lastLease is this node's `s`: the
// latest of its start, its last append of a lease entry, and its last
// snapshot restore.
func TakeoverAt(lastLease clock.Instant, open []*hadv1.Claim) clock.Instant {
	at := lastLease
	for _, c := range open {
		at = max(at, lastLease.Add(TakeoverWait(c.GetTerms())))
	}
	return at
}
