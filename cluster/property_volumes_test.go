package cluster

import (
	"time"

	hadv1 "had/proto/had/v1"
)

// proves reports whether evidence may count for an epoch. That its owner can
// take a record into the log is a sign of life, and so is a later lease.
func (m *model) proves(r *hadv1.Secured, e *openEpoch, term uint64, proposer string) bool {
	switch r.GetKind() {
	case hadv1.Secured_KIND_GUARD:
		return true
	case hadv1.Secured_KIND_LEASE:
		if r.GetTerm() != term || time.Duration(r.GetWaitedNs()) < 6*time.Second {
			return false
		}
	case hadv1.Secured_KIND_WATCHDOG:
		if r.GetTerm() != term || time.Duration(r.GetWaitedNs()) < 16*time.Second {
			return false
		}
	case hadv1.Secured_KIND_FENCED, hadv1.Secured_KIND_RESERVED, hadv1.Secured_KIND_CONFIRMED:
	case hadv1.Secured_KIND_UNSPECIFIED:
		return false
	default:
		return false
	}
	return r.GetLeaseIndex() == e.lease && proposer != r.GetInstance().GetNode()
}

// mount has every owner mount as soon as the state lets it, and stay so until its
// epoch is closed, whatever evidence says meanwhile: it may be a mistake. At no
// entry may there be a second one.
func (m *model) mount(l *log, fatal func(string, ...any)) {
	m.t.Helper()
	for epoch := range m.mounting {
		if m.open[epoch] == nil {
			delete(m.mounting, epoch)
		}
	}
	view := l.state.View()
	for epoch, e := range m.open {
		if e.volumes && !m.mounting[epoch] && len(view.VolumesBlockedBy(epoch)) == 0 {
			m.mounting[epoch] = true
			m.mounts++
		}
	}
	if len(m.mounting) > 1 {
		fatal("two owners have mounted: those of %v", m.mounting)
	}
}

// evidence is about the volumes of an open epoch, mostly by another node.
func (g *generator) evidence(m *model) *hadv1.Command {
	epoch := g.pick(m)
	in := m.owner[epoch]
	if in == nil || g.wrong() {
		in = g.instance(g.node())
	}
	kind := hadv1.Secured_Kind(g.r.IntN(8)) //nolint:gosec // 0 to 7, of which 7 is none
	r := secured(kind, in, g.near(g.term), g.near(epoch), g.near(m.lease(epoch)))
	if g.wrong() {
		r.WaitedNs = g.r.Int64N(int64(20 * time.Second))
	}
	proposer := "gamma"
	if g.wrong() {
		proposer = g.node()
	}
	return securedCmd(proposer, r)
}
