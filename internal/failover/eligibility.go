package failover

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"had/cluster"
	"had/internal/level"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// presence is one look at where the policy's addresses are in this host's
// kernel.
type presence func() (map[netip.Addr]vip.Presence, error)

// lookOnce returns a presence that asks the kernel when it is first needed.
func (c *Controller) lookOnce(p *policy.Policy) presence {
	return sync.OnceValues(func() (map[netip.Addr]vip.Presence, error) {
		return c.cfg.Addresses.Presence(addressesOf(p))
	})
}

// blockers are the reasons why this node can't have the turn now.
func (c *Controller) blockers(view cluster.View, p *policy.Policy, h Holding, hooks error, at presence) (out reasons) {
	self := c.self.GetName()
	if c.self.GetWitness() {
		out.add(aboutRole, "", "%s is a witness and never owns", self)
	}
	if m := memberWith(view.Roster, c.self.GetNodeId()); m != nil && !cluster.Settled(m) {
		out.add(aboutRole, "", "%s is joining the cluster or leaving it (hactl node list)", self)
	}
	if c.cfg.HostTrouble != nil {
		out.each(aboutItself, "", c.cfg.HostTrouble())
	}
	if why := c.unguarded(); why != "" && !c.self.GetWitness() {
		out.add(aboutGuard, "journalctl -u had on "+self+" says why the guard ends", "%s", why)
	}
	if p == nil {
		out.add(aboutPolicy, "hactl policy apply FILE", "there is no policy yet")
		return out
	}
	if _, stuck := c.executor.reports(); stuck != "" {
		out.add(aboutScripts, "end that process on "+self+", or reboot the host", "%s", stuck)
	}
	if h.Phase == PhaseLeaving {
		out.add(aboutTurns, "wait for them; hactl history --follow shows their end", "its last release still runs hooks")
	}
	if why := c.executor.unproven(); why != "" {
		out.add(aboutVolumes, "", "%s", why)
	}
	if c.farewells.waits(c.self.GetNodeId()) {
		out.add(aboutTurns, "wait a moment", "what its guard said of the earlier run is on its way into the log")
	}
	if r := view.Nodes[self]; r != nil {
		retry := c.backoff.afterFailure(r.GetFailedIndex(), int(r.GetFailures()))
		if left := retry.Sub(c.cfg.Clock()); left > 0 {
			out.add(aboutTurns, "mend what failed (hactl history shows its output); hactl move --to "+self+" tries it at once",
				"its last turn failed (%s); the next try is in %s", r.GetFailedReason(), left.Round(time.Second))
		}
	}
	if d := view.Drained[self]; d != nil {
		out.add(aboutDrain, "hactl undrain "+self, "%s", drainedBy(d))
	}
	if h.Epoch == 0 && c.checks != nil {
		out.each(aboutCheck, "mend what it looks at on "+self+"; it may own as soon as it passes", unready(p, c.checkResults(), false))
	}
	c.addressTrouble(&out, p, h, at)
	out.each(aboutVolumes, "", c.volumeTrouble(p, h))
	if c.cfg.Mirror != nil && h.Epoch == 0 {
		out.each(aboutSync, "hactl sync run NAME --node "+self+" copies now; hactl status says why it doesn't by itself", c.cfg.Mirror.Trouble(p, view))
	}
	out.each(aboutToken, "", c.tokenTrouble(p))
	if hooks != nil {
		out.add(aboutScripts, "", "%v", hooks)
	}
	return out
}

func memberWith(r *hadv1.Roster, nodeID string) *hadv1.Member {
	for _, m := range r.GetMembers() {
		if m.GetNodeId() == nodeID {
			return m
		}
	}
	return nil
}

// addressTrouble says which of the policy's addresses this node could not hold,
// and why. It looks at each interface once, and at the kernel's addresses once:
// a policy may have a thousand.
func (c *Controller) addressTrouble(out *reasons, p *policy.Policy, h Holding, look presence) {
	self := c.self.GetName()
	at, presenceErr := map[netip.Addr]vip.Presence{}, error(nil)
	if h.Epoch == 0 {
		at, presenceErr = look()
	}
	linked := map[string]bool{}
	for i, a := range c.cfg.Network.Resolve(wanted(p, c.self.GetName())) {
		v := p.VIPs[i]
		if a.Err != nil {
			out.add(aboutAddress, "name the vip's interface on "+self+" in the policy, or give that host an address in its network", "vip %q: %v", v.Name, a.Err)
			continue
		}
		if _, looked := linked[a.Interface]; !looked {
			up, err := c.cfg.Network.Carrier(a.Interface)
			linked[a.Interface] = err == nil && up
		}
		if !linked[a.Interface] {
			out.add(aboutLink, "look at the cable and the switch; ip link on "+self+" shows what its kernel sees", "interface %s of %s has no link", a.Interface, a.Addr)
		}
		if h.Epoch != 0 {
			continue
		}
		switch at[v.Address] {
		case vip.Unknown:
			out.add(aboutAddress, "", "can't tell whether %s is on this host already: %v", a.Addr, presenceErr)
		case vip.Active:
			out.add(aboutAddress, "", "%s is on this host although the log gives it to nobody here: remove it from this host's own network settings, or wait until an earlier run's address has expired", a.Addr)
		case vip.Inactive:
		}
	}
}

// volumeTrouble says which of the policy's volumes this node could not mount,
// and why.
func (c *Controller) volumeTrouble(p *policy.Policy, h Holding) []string {
	switch {
	case len(p.Volumes) == 0:
		return nil
	case c.cfg.Volumes == nil:
		return []string{"this host has no guard that could mount the policy's volumes"}
	case h.Epoch != 0 || c.cfg.CheckVolumes == nil:
		return nil
	}
	return c.cfg.CheckVolumes(p)
}

func addressesOf(p *policy.Policy) []netip.Addr {
	addrs := make([]netip.Addr, len(p.VIPs))
	for i, v := range p.VIPs {
		addrs[i] = v.Address
	}
	return addrs
}

// hookFolders looks at the policy's hook folders: every script is read, so it
// is done once for an answer.
func (c *Controller) hookFolders(p *policy.Policy) (HookFolders, error) {
	if p == nil || p.Hooks.Dir == "" {
		return HookFolders{}, nil
	}
	return c.cfg.CheckHook(p)
}

// Health says how this node is, for the leader and for status.
func (c *Controller) Health() *hadv1.HealthResponse {
	view, _ := c.cfg.Log.View()
	p, err := c.parsed.of(view.Policy)
	h := &hadv1.HealthResponse{
		Instance: c.cfg.Instance, Version: c.cfg.Version, RecordLevel: level.Known, AppliedIndex: view.Applied,
		PendingReports: uint32(c.cfg.Journal.PendingCount()), //nolint:gosec // never that many
		Layers:         c.Layers(),
	}
	if err != nil {
		var why reasons
		why.add(aboutPolicy, "upgrade had on "+c.self.GetName(), "%v", err)
		h.Blockers, h.Reasons = why, why.texts()
		return h
	}
	holding := c.executor.held()
	folders, hooks := c.hookFolders(p)
	at := c.lookOnce(p)
	why := c.blockers(view, p, holding, hooks, at)
	if c.isStopping() {
		why.add(aboutItself, "systemctl start had on "+c.self.GetName()+", when it may own again", "it is stopping")
	}
	h.Blockers, h.Reasons, h.HooksDigest = why, why.texts(), folders.Digest
	results := c.checkResults()
	h.Checks = checkStatus(results)
	if holding.Phase == PhaseServing {
		for _, r := range failing(results) {
			h.Problems = append(h.Problems, r.String())
		}
	}
	h.PolicyVersion, h.Eligible = view.Policy.GetVersion(), len(h.Reasons) == 0
	if p != nil {
		holds, problems := c.inKernel(p, at)
		h.Holds, h.Problems = holds, append(h.Problems, problems...)
		c.mirrorHealth(p, h)
		if holding.Failed != "" {
			h.Problems = append(h.Problems, fmt.Sprintf("it serves although a script failed: %s (hactl history has its output)", holding.Failed))
		}
		c.tokenHealth(h, p)
		h.Problems = append(h.Problems, otherTerms(view.Claim(holding.Epoch), p)...)
		if hooks == nil { // otherwise it is among the reasons
			h.Problems = append(h.Problems, folders.Warnings...)
		}
	}
	return h
}

// otherTerms says what of a policy doesn't count for an epoch that was opened
// before it: what a successor may rely on is fixed then.
func otherTerms(c *hadv1.Claim, p *policy.Policy) (out []string) {
	if c == nil {
		return nil
	}
	var methods []string
	for _, m := range p.Fence.Methods {
		methods = append(methods, string(m))
	}
	if t := c.GetTerms(); len(c.GetVolumes()) > 0 && !slices.Equal(t.GetFenceMethods(), methods) {
		out = append(out, fmt.Sprintf("epoch %d was opened with the fence methods %s; the policy's count from the next one on: hactl move", c.GetEpoch(), strings.Join(t.GetFenceMethods(), ", ")))
	}
	if had := time.Duration(c.GetTerms().GetReleaseGraceNs()); had != p.ReleaseGrace {
		out = append(out, fmt.Sprintf("epoch %d was opened with a release_grace of %s; the policy's counts from the next one on: hactl move", c.GetEpoch(), had))
	}
	return out
}

// Layers names what would end a lease of this node without had; none for a
// witness.
func (c *Controller) Layers() []string {
	if c.self.GetWitness() {
		return nil
	}
	return c.holder.layers()
}

// inKernel asks the kernel, not had's memory, which of the policy's addresses
// are on this host.
func (c *Controller) inKernel(p *policy.Policy, look presence) (holds, problems []string) {
	at, err := look()
	for _, v := range p.VIPs {
		switch at[v.Address] {
		case vip.Unknown:
			problems = append(problems, fmt.Sprintf("can't tell whether %s is on this host: %v", v.Address, err))
		case vip.Active:
			holds = append(holds, v.Address.String())
		case vip.Inactive:
		}
	}
	return holds, problems
}

// Prepare says whether this node could take over now. It runs the Test
// scripts; known are the hardware addresses of the present owner.
func (c *Controller) Prepare(ctx context.Context, req *hadv1.PrepareRequest) *hadv1.PrepareResponse {
	view, _ := c.cfg.Log.View()
	p, err := c.parsed.of(view.Policy)
	if err != nil {
		return &hadv1.PrepareResponse{Reasons: []string{err.Error()}}
	}
	if c.isStopping() {
		return &hadv1.PrepareResponse{Reasons: []string{"it is stopping"}}
	}
	_, hooks := c.hookFolders(p)
	if why := c.blockers(withoutFailures(view), p, c.executor.held(), hooks, c.lookOnce(p)); len(why) > 0 {
		return &hadv1.PrepareResponse{Reasons: why.texts()}
	}
	if c.checks != nil && p != nil {
		if why := unready(p, c.checkResults(), true); len(why) > 0 {
			return &hadv1.PrepareResponse{Reasons: why}
		}
	}
	var known []net.HardwareAddr
	for _, m := range req.GetOwnerMacs() {
		if mac, err := net.ParseMAC(m); err == nil {
			known = append(known, mac)
		}
	}
	t, err := c.executor.newTurn(p, view.Policy.GetVersion(), view.LastOwner)
	if err == nil {
		err = cmp.Or(c.executor.test(ctx, t, req.GetEpoch(), "a move is being prepared", known))
	}
	if err != nil {
		return &hadv1.PrepareResponse{Reasons: []string{err.Error()}}
	}
	c.backoff.forgive() // the owner lets go in the belief that this node takes over at once
	return &hadv1.PrepareResponse{Ready: true}
}

// withoutFailures leaves out that earlier turns failed: a person who moves
// the addresses wants it tried again.
func withoutFailures(v cluster.View) cluster.View {
	v.Nodes = nil
	return v
}

// Interfaces says, by name, why this node could not carry addresses of p.
func (c *Controller) Interfaces(p *policy.Policy) map[string]string {
	out := map[string]string{}
	for i, r := range c.cfg.Network.Resolve(wanted(p, c.self.GetName())) {
		if r.Err != nil {
			out[p.VIPs[i].Name] = r.Err.Error()
		}
	}
	return out
}
