package cluster

import (
	"time"

	"github.com/hashicorp/raft"
)

// What a leader does beside raft, and when a witness may become one.

// witnessPatience is how long a witness lets the data nodes stand for
// election before it does so itself. It still does in the end, for it may
// alone have a committed entry.
func (n *Node) witnessPatience() time.Duration {
	return max(3*time.Second, 6*n.cfg.Timing.Election)
}

// inOffice reports whether this node leads in a term.
func (n *Node) inOffice(term uint64) bool {
	r := n.contact.Load()
	return r != nil && r.State() == raft.Leader && r.CurrentTerm() == term
}

// beat has a leader send a heartbeat to a follower, as raft's are, and waits for
// the answer. (raft sends some when it is asked whether it leads, but may never
// answer that: raft#498.)
func (n *Node) beat(id raft.ServerID) {
	term, to := n.raft.CurrentTerm(), n.addressOf(id)
	if !n.inOffice(term) || n.logs.stuck(n.cfg.Timing.Detect/2) {
		return
	}
	self := n.cfg.Instance
	header := raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(self.GetNodeId()),
		Addr: n.transport.EncodePeer(raft.ServerID(self.GetNodeId()), raft.ServerAddress(self.GetNode())),
	}
	// send notes what comes of it, and that is all there is to do: an answer of a
	// later term is raft's to hear.
	_ = n.transport.send(id, to, &raft.AppendEntriesRequest{RPCHeader: header, Term: term}, new(raft.AppendEntriesResponse))
}

func (n *Node) mayStand() bool {
	if !n.witness {
		return true
	}
	last := n.started
	if r := n.contact.Load(); r != nil && r.LastContact().After(last) {
		last = r.LastContact()
	}
	return time.Since(last) > n.witnessPatience()
}
