package cluster

import (
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

// Layer names what ends a lease in the kernel without had's help.
const LayerLifetime = "lifetime"

// Timing is everything that follows from `detect`, the one knob.
type Timing struct {
	Detect          time.Duration // a silent leader is suspected after this
	Heartbeat       time.Duration // raft HeartbeatTimeout
	Election        time.Duration // raft ElectionTimeout
	LeaderLease     time.Duration // raft LeaderLeaseTimeout: only how soon a cut-off leader steps down
	Commit          time.Duration // raft CommitTimeout
	TTL             time.Duration // of a lease
	Renew           time.Duration // between renewals
	Margin          time.Duration // a forced release starts this long before the lease ends
	AddressLifetime time.Duration
}

// TimingFor derives the timing from detect.
func TimingFor(detect time.Duration) Timing {
	ttl := 2 * detect
	return Timing{
		Detect:          detect,
		Heartbeat:       detect,
		Election:        detect,
		LeaderLease:     detect / 2,
		Commit:          min(50*time.Millisecond, detect/10),
		TTL:             ttl,
		Renew:           ttl / 4,
		Margin:          max(20*time.Millisecond, ttl/20),
		AddressLifetime: AddressLifetime,
	}
}

// Terms are what an Acquire with this timing promises its successors.
func (t Timing) Terms() *hadv1.Terms {
	return &hadv1.Terms{
		TtlNs:             int64(t.TTL),
		AddressLifetimeNs: int64(t.AddressLifetime),
		Layers:            []string{LayerLifetime},
	}
}

// TakeoverWait is how long after the last lease entry a successor must wait
// when the owner is silent: the lease, the longest the kernel keeps an
// address that nobody renews, and the error of two clocks over that time.
func TakeoverWait(terms *hadv1.Terms) time.Duration {
	d := time.Duration(terms.GetTtlNs()) + time.Duration(terms.GetAddressLifetimeNs()) + KernelExpirySlack
	return d + time.Duration(float64(d)*ClockRateError) + 1
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
