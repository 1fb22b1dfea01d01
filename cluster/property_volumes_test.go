package cluster

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

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

// extended checks that only the owner of an epoch that goes on has given it more.
func (m *model) extended(x *hadv1.Extend, term uint64, fatal func(string, ...any)) {
	m.t.Helper()
	e := m.open[x.GetEpoch()]
	if e == nil || e.handed || e.secured || m.move != nil || x.GetTerm() != term || !proto.Equal(x.GetInstance(), m.owner[x.GetEpoch()]) {
		fatal("more volumes; open is %+v", e)
	}
	if !e.volumes {
		m.grown++
	}
	e.volumes = true
}

// extend gives an open epoch a volume more.
func (g *generator) extend(l *log, m *model) *hadv1.Command {
	epoch := g.near(g.pick(m))
	in := m.owner[epoch]
	if in == nil || g.wrong() {
		in = g.instance(g.node())
	}
	terms := laterTerms()
	if c := l.state.View().Claim(epoch); len(c.GetVolumes()) > 0 && !g.wrong() {
		terms = c.GetTerms()
	}
	name := fmt.Sprintf("more%d", g.r.IntN(3))
	device := name
	if g.wrong() {
		device = "other"
	}
	return extendCmd(in, g.near(g.term), epoch, terms, &hadv1.HeldVolume{Name: name, Device: "LABEL=" + device, Path: "/srv/" + name})
}

// policy is another policy, now and then on trial, or the end of a trial.
func (g *generator) policy(l *log) *hadv1.Command {
	view := l.state.View()
	version := g.near(view.Policy.GetVersion())
	switch {
	case view.Trial != nil && g.r.IntN(3) == 0:
		return confirmCmd(version)
	case view.Trial != nil && !g.wrong():
		return undoCmd(version)
	case g.r.IntN(3) == 0:
		return trialCmd(version, fmt.Sprintf("policy %d", l.index), time.Minute)
	}
	return policyCmd(version, fmt.Sprintf("policy %d", l.index))
}
