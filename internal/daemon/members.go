package daemon

import (
	"context"
	"time"

	"had/internal/peer"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Disagreements says how had.hcl differs from who belongs to the cluster, as this
// host's data folder has it; nothing where there is none to be read.
func Disagreements(f *policy.NodeFile) []string {
	id, err := peer.ReadIdentity(f.DataDir, f.Cluster, f.Node, peerMembers(f))
	if err != nil {
		return nil // had run says it
	}
	return id.Disagreements()
}

// recordsOf returns members as the log has them.
func recordsOf(members []peer.BornMember) (out []*hadv1.Member) {
	for _, m := range members {
		is := &hadv1.Member{Name: m.Name, Address: m.Address, Witness: m.Witness, NodeId: m.NodeID}
		if m.Joining {
			is.Standing = hadv1.Member_STANDING_JOINING
		}
		out = append(out, is)
	}
	return out
}

// rosterOf returns the members as the data folder has them.
func rosterOf(id *peer.Identity) *hadv1.Roster {
	r, ok := id.Roster()
	if !ok {
		return nil
	}
	return &hadv1.Roster{Index: r.Index, Members: recordsOf(r.Members)}
}

// keepRoster returns what records the members in the data folder.
func keepRoster(id *peer.Identity) func(*hadv1.Roster) error {
	return func(r *hadv1.Roster) error {
		var members []peer.BornMember
		for _, m := range r.GetMembers() {
			members = append(members, peer.BornMember{
				Member: peer.Member{Name: m.GetName(), Address: m.GetAddress(), Witness: m.GetWitness()},
				NodeID: m.GetNodeId(), Joining: m.GetStanding() == hadv1.Member_STANDING_JOINING,
			})
		}
		return id.Follow(r.GetIndex(), members)
	}
}

// followMembers tells the guard whom it is to tell, whenever the members have changed,
// until ctx ends.
func (n *node) followMembers(ctx context.Context) error {
	known, _ := n.local.identity.Roster()
	told := known.Index // a guard that is started reads it
	for {
		view, changed := n.raft.View()
		var again <-chan time.Time // nil: nothing is left to tell
		if kept, _ := n.local.identity.Roster(); kept.Index > told {
			if err := n.safeguards.enrol(ctx, n.local.identity); err != nil {
				n.cfg.Logger.Warn("the guard was not told of a change of the members; it will be again", "error", err)
				again = time.After(tellAgain)
			} else {
				told = kept.Index
			}
		} else if kept.Index < view.Roster.GetIndex() {
			again = time.After(time.Second) // it is being recorded
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

// members are all nodes of the cluster.
func (n *node) members() []*hadv1.Member { return n.raft.Roster().GetMembers() }

// dataNodes are the nodes that may own.
func (n *node) dataNodes() (names []string) {
	for _, m := range n.members() {
		if !m.GetWitness() {
			names = append(names, m.GetName())
		}
	}
	return names
}
