package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// How a policy lets a cluster find out that a silent node no longer writes, by
// the names that Terms record.
const (
	MethodAgent       = "agent"       // a fence agent switches the host off
	MethodCommand     = "command"     // so does a command of the admin's
	MethodWatchdog    = "watchdog"    // the host's own watchdog does
	MethodReservation = "reservation" // the disks refuse its writes
	MethodConfirm     = "confirm"     // an operator has seen that it is off
	MethodLease       = "lease"       // time has passed; best effort
)

// volumesWrong says why an Acquire may not promise its volumes. Each is known
// by its device whatever becomes of the policy.
func volumesWrong(a *hadv1.Acquire, epoch uint64) string {
	names, devices, paths := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, v := range a.GetVolumes() {
		switch {
		case v.GetName() == "" || v.GetDevice() == "" || v.GetPath() == "":
			return refuse("volume %q on device %q at %q lacks a name, a device or a path", v.GetName(), v.GetDevice(), v.GetPath())
		case names[v.GetName()] || devices[v.GetDevice()] || paths[v.GetPath()]:
			return refuse("volume %q (%s at %s) is named twice, or its device or path is", v.GetName(), v.GetDevice(), v.GetPath())
		}
		names[v.GetName()], devices[v.GetDevice()], paths[v.GetPath()] = true, true, true
	}
	if len(a.GetVolumes()) > 0 && len(a.GetTerms().GetFenceMethods()) == 0 {
		return refuse("it has volumes and no fence method: nobody could find out that they are safe")
	}
	return markWrong(a.GetTerms().GetReservationKey(), epoch)
}

// applySecured takes evidence that the volumes of an open epoch are safe from
// its owner. What it names must be what is open now: the epoch, the instance,
// and but for a guard's word the last lease entry. A later entry is a sign of
// life that came after the evidence began to be gathered, whatever the evidence
// says. From then on the epoch can't be renewed, so it stays true.
func (s *State) applySecured(e Entry, cmd *hadv1.Command, r *hadv1.Secured) string {
	c := findClaim(s.open, r.GetEpoch())
	switch {
	case c == nil:
		return refuse("epoch %d is closed", r.GetEpoch())
	case !proto.Equal(c.GetInstance(), r.GetInstance()):
		return refuse("epoch %d belongs to another run of had on %s", r.GetEpoch(), c.GetInstance().GetNode())
	case len(c.GetVolumes()) == 0:
		return refuse("epoch %d has no volumes to secure", r.GetEpoch())
	}
	if why := evidenceUnfit(e, cmd, c, r); why != "" {
		return why
	}
	if c.GetSecured() != nil {
		return "" // another node has passed it on, or another method came first
	}
	c = proto.CloneOf(c)
	c.Secured = r
	s.replaceClaim(c)
	s.record(e, cmd, &hadv1.Event{
		Node: c.GetInstance().GetNode(), Epoch: r.GetEpoch(), At: r.GetAt(), Body: &hadv1.Event_Secured{Secured: r},
	})
	return ""
}

// evidenceUnfit says why a Secured proves nothing about the claim it names.
func evidenceUnfit(e Entry, cmd *hadv1.Command, c *hadv1.Claim, r *hadv1.Secured) string {
	node, kind := c.GetInstance().GetNode(), r.GetKind()
	if kind == hadv1.Secured_KIND_GUARD {
		return ""
	}
	if why := notAgreed(c.GetTerms(), kind); why != "" {
		return refuse("epoch %d of %s can't be secured by %s: %s", c.GetEpoch(), node, kind, why)
	}
	switch {
	case cmd.GetProposer() == node:
		return refuse("%s has proposed this itself, so it runs: only its own look, or its guard's, tells that epoch %d is over", node, c.GetEpoch())
	case r.GetLeaseIndex() != c.GetLastLeaseIndex():
		return refuse("the lease of epoch %d was renewed at entry %d; the evidence is about entry %d", c.GetEpoch(), c.GetLastLeaseIndex(), r.GetLeaseIndex())
	case kind == hadv1.Secured_KIND_CONFIRMED && r.GetBy() == "":
		return refuse("it doesn't say who has seen that %s is off", node)
	}
	least, onTime := VolumeWait(c.GetTerms(), kind)
	switch {
	case onTime && r.GetTerm() != e.Term:
		return refuse("it was proposed in term %d and logged in term %d", r.GetTerm(), e.Term)
	case onTime && r.GetWaitedNs() < int64(least):
		return refuse("%v have passed since the last lease of epoch %d; its terms demand %v", time.Duration(r.GetWaitedNs()), c.GetEpoch(), least)
	}
	return ""
}

// notAgreed says why the terms of an epoch don't let a kind of evidence count;
// empty: they do. An operator's word always does, as the last resort.
func notAgreed(t *hadv1.Terms, kind hadv1.Secured_Kind) string {
	has := func(method string) bool { return slices.Contains(t.GetFenceMethods(), method) }
	var ok bool
	switch kind {
	case hadv1.Secured_KIND_GUARD, hadv1.Secured_KIND_CONFIRMED:
		ok = true
	case hadv1.Secured_KIND_FENCED:
		ok = has(MethodAgent) || has(MethodCommand)
	case hadv1.Secured_KIND_WATCHDOG:
		ok = has(MethodWatchdog) && t.GetWatchdogTimeoutNs() > 0
	case hadv1.Secured_KIND_RESERVED:
		ok = has(MethodReservation) && t.GetReservationKey() != 0
	case hadv1.Secured_KIND_LEASE:
		ok = has(MethodLease)
	case hadv1.Secured_KIND_UNSPECIFIED:
		return "that is no kind of evidence"
	default:
		return "this version of had doesn't know the kind"
	}
	if !ok {
		return fmt.Sprintf("it was opened with the fence methods %s, and armed accordingly", strings.Join(t.GetFenceMethods(), ", "))
	}
	return ""
}

// VolumesBlockedBy returns the other open claims that have volumes. While there
// is one, the owner of epoch may mount nothing: neither the same volume nor, since
// one device has many names, another. When there is none, whatever earlier claims
// were about is safe for good. One that is secured blocks as well until its lease
// has been waited out, too: a confirmation may be a mistake and its owner at work,
// and where the disks refuse writes it may not have unmounted yet.
func (v View) VolumesBlockedBy(epoch uint64) []*hadv1.Claim {
	var blocking []*hadv1.Claim
	for _, c := range v.Open {
		if c.GetEpoch() != epoch && len(c.GetVolumes()) > 0 {
			blocking = append(blocking, c)
		}
	}
	return blocking
}

// isDoubtful reports whether a kind of evidence about volumes rests on neither a
// look nor a device: the file system's own protection against a second host is
// then worth its time.
func isDoubtful(kind hadv1.Secured_Kind) bool {
	return kind == hadv1.Secured_KIND_LEASE || kind == hadv1.Secured_KIND_CONFIRMED
}

// mounted notes that the owner of a claim has mounted its volumes: a file system
// that protects itself has seen no other host.
func (s *State) mounted(c *hadv1.Claim) {
	if len(c.GetVolumes()) > 0 && c.GetEpoch() > s.doubted {
		s.doubted = 0
	}
}

// atRisk reports whether a claim's owner may still write to a volume.
func atRisk(c *hadv1.Claim) bool { return len(c.GetVolumes()) > 0 && c.GetSecured() == nil }

// WhyNotSecured says who may still write to which volumes of a claim, which
// evidence is missing, and the command with which a person supplies it; empty
// when the claim has no volumes or they are safe.
func WhyNotSecured(c *hadv1.Claim) string {
	if !atRisk(c) {
		return ""
	}
	var volumes []string
	for _, v := range c.GetVolumes() {
		volumes = append(volumes, fmt.Sprintf("%s (%s)", v.GetName(), v.GetDevice()))
	}
	node := c.GetInstance().GetNode()
	return fmt.Sprintf("%s may still write %s: %s; if you have seen that it is off: hactl fence confirm %s",
		node, strings.Join(volumes, ", "), strings.Join(missing(c.GetTerms()), ", "), node)
}

// missing lists what the methods of an epoch have not brought, each once and in
// the policy's order.
func missing(t *hadv1.Terms) []string {
	var all []string
	for _, method := range t.GetFenceMethods() {
		text := ""
		switch {
		case method == MethodAgent || method == MethodCommand:
			text = "no fence has confirmed that it is off"
		case method == MethodWatchdog && notAgreed(t, hadv1.Secured_KIND_WATCHDOG) == "":
			text = "its watchdog has not certainly fired"
		case method == MethodReservation && notAgreed(t, hadv1.Secured_KIND_RESERVED) == "":
			text = "its reservation of the disks has not been preempted"
		case method == MethodLease:
			text = "its lease and the margin are not over"
		}
		if text != "" && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	if len(all) == 0 {
		all = []string{"nobody has confirmed that it is off"}
	}
	return all
}
