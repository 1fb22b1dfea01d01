package daemon

import (
	"context"
	"net"

	"had/cluster"
	"had/internal/checkup"
	"had/internal/clock"
	"had/internal/failover"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// inspect looks whether this node could take over now.
func (n *node) inspect(ctx context.Context, req *hadv1.InspectRequest) *hadv1.InspectResponse {
	p, version, _ := n.inForce() // an unreadable one is among the findings
	resp := &hadv1.InspectResponse{
		PolicyVersion: version, Version: n.cfg.Version.GetVersion(), Folders: checkup.Folders(p),
		Owns: n.controller.Status().Holding.Phase == failover.PhaseServing,
	}
	if req.GetHooksOnly() {
		return resp
	}
	o := checkup.Options{Alive: req.GetAlive(), Tests: req.GetRunTests()}
	for _, m := range req.GetOwnerMacs() {
		if mac, err := net.ParseMAC(m); err == nil {
			o.Owner = append(o.Owner, mac)
		}
	}
	resp.Findings = checkup.Run(ctx, n.checkup(), o)
	return resp
}

// inForce is the policy with its version; one that can't be read has a version.
func (n *node) inForce() (*policy.Policy, uint64, error) {
	view, _ := n.raft.View()
	p, err := n.controller.PolicyInForce()
	return p, view.Policy.GetVersion(), err
}

func (n *node) checkup() checkup.Config {
	f := n.cfg.File
	c := checkup.Config{
		Node: f.Node, Witness: f.Self().Witness, DataDir: f.DataDir, Network: hostNetwork{n.local.addresses},
		Policy: n.inForce, Held: func() uint64 { return n.controller.Status().Holding.Epoch },
		Volumes: func(ctx context.Context, p *policy.Policy) ([]string, error) {
			return n.local.inspector.ask(ctx, inspection{Op: inspectCheck, Volumes: failover.StorageVolumes(p)})
		},
		Devices:    fenceLevels,
		Tests:      func(ctx context.Context) ([]hook.Result, error) { return n.controller.RunTests(ctx, nil) },
		Safeguards: func() (layers, missing []string) { return n.controller.Layers(), n.missing() },
		Drained:    n.controller.Drained, Checks: n.controller.Checks,
		Syncs: n.controller.Syncs, Tokens: n.controller.Tokens,
		Trouble: n.hostTrouble, Watchdog: n.watchdog.trouble, Slew: clock.Slew, MaxSlew: cluster.ClockRateError,
	}
	for _, name := range n.dataNodes() {
		if name != f.Node {
			c.Others = append(c.Others, name)
		}
	}
	return c
}

// missing is what the safeguards have to do without on this host.
func (n *node) missing() []string {
	out := n.safeguards.problems()
	if n.safeguards == nil {
		return out
	}
	if err := n.safeguards.guard.Alive(); err != nil {
		return append(out, "it has no guard: "+err.Error())
	}
	return append(out, n.safeguards.guard.Shortfalls()...)
}
