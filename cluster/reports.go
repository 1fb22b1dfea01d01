package cluster

import (
	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// applyDeliver takes what a node's journal reports. Reports of one stream are
// applied in order and exactly once: a seq seen before is skipped, so that a
// delivery whose answer was lost can be sent again; a gap refuses the whole
// command, because applying what follows would lose what is missing.
func (s *State) applyDeliver(e Entry, cmd *hadv1.Command, d *hadv1.Deliver) string {
	seen := map[streamKey]uint64{}
	for _, r := range d.GetReports() {
		m := s.member(r.GetNodeId())
		if m == nil || m.GetName() != r.GetNode() {
			return refuse("%s with ID %s is not a member: its reports count for nothing", r.GetNode(), r.GetNodeId())
		}
		key := streamKey{r.GetNodeId(), r.GetStream()}
		last, ok := seen[key]
		if !ok {
			last = s.delivered[key]
		}
		if r.GetSeq() > last+1 {
			return refuse("report %d of %s came after report %d: those between are missing", r.GetSeq(), r.GetNode(), last)
		}
		seen[key] = max(last, r.GetSeq())
	}
	var events []*hadv1.Event
	for _, r := range d.GetReports() {
		key := streamKey{r.GetNodeId(), r.GetStream()}
		if r.GetSeq() <= s.delivered[key] {
			continue
		}
		s.delivered[key] = r.GetSeq()
		events = append(events, s.applyReport(e, r)...)
	}
	s.record(e, cmd, events...)
	return ""
}

func (s *State) applyReport(e Entry, r *hadv1.Report) []*hadv1.Event {
	ev := &hadv1.Event{Node: r.GetNode(), At: r.GetAt()}
	switch b := r.GetBody().(type) {
	case *hadv1.Report_HookResult:
		ev.Epoch, ev.Body = b.HookResult.GetEpoch(), &hadv1.Event_Hook{Hook: b.HookResult}
	case *hadv1.Report_Progress:
		ev.Epoch, ev.Body = b.Progress.GetEpoch(), &hadv1.Event_Progress{Progress: b.Progress}
		s.applyProgress(e, r, b.Progress)
	case *hadv1.Report_Released:
		ev.Epoch, ev.Body = b.Released.GetEpoch(), &hadv1.Event_Released{Released: b.Released}
		s.applyReleased(r, b.Released)
	case *hadv1.Report_FenceTry:
		ev.Epoch, ev.Body = b.FenceTry.GetEpoch(), &hadv1.Event_FenceTry{FenceTry: b.FenceTry}
	case *hadv1.Report_Notice:
		ev.Epoch, ev.Body = b.Notice.GetEpoch(), &hadv1.Event_Notice{Notice: b.Notice}
	case *hadv1.Report_SyncResult:
		ev.Epoch, ev.Body = b.SyncResult.GetEpoch(), &hadv1.Event_Sync{Sync: b.SyncResult}
		s.applySyncResult(r.GetNode(), b.SyncResult)
	case *hadv1.Report_CheckChange:
		ev.Epoch, ev.Body = b.CheckChange.GetEpoch(), &hadv1.Event_CheckChanged{CheckChanged: b.CheckChange}
		s.applyCheckChange(e, r, b.CheckChange)
	default:
		// A report of a newer version: its place in the stream counts, its
		// content is for nodes that know it.
		return nil
	}
	return []*hadv1.Event{ev}
}

func (s *State) applyProgress(e Entry, r *hadv1.Report, p *hadv1.Progress) {
	switch p.GetOutcome() {
	case hadv1.Progress_OUTCOME_SERVING:
		delete(s.nodes, r.GetNode())
	case hadv1.Progress_OUTCOME_FAILED, hadv1.Progress_OUTCOME_VETOED:
		s.nodes[r.GetNode()] = &hadv1.NodeRecord{
			Name: r.GetNode(), Failures: s.nodes[r.GetNode()].GetFailures() + 1,
			FailedIndex: e.Index, FailedReason: p.GetReason(),
		}
	case hadv1.Progress_OUTCOME_UNSPECIFIED:
	}
	c := findClaim(s.open, p.GetEpoch())
	if c == nil || c.GetInstance().GetNodeId() != r.GetNodeId() {
		return
	}
	if why := scriptFailed(p); why != "" && p.GetOutcome() == hadv1.Progress_OUTCOME_FAILED {
		s.countFailover(&hadv1.Failover{Index: e.Index, At: r.GetAt(), Node: r.GetNode(), Cause: why})
	}
	c = proto.CloneOf(c)
	c.Progress = p.GetOutcome()
	if p.GetOutcome() == hadv1.Progress_OUTCOME_SERVING {
		c.ServingAt, c.Addresses, c.PolicyVersion, c.Tokens = r.GetAt(), p.GetAddresses(), p.GetPolicyVersion(), p.GetTokens()
		s.mounted(c)
	}
	s.replaceClaim(c)
}

// proves reports whether a release report is evidence about a claim: it comes
// from the claim's own node, and says either that this node looked, or that it
// has booted since.
func proves(r *hadv1.Report, rel *hadv1.Released, c *hadv1.Claim) bool {
	owner, reporter := c.GetInstance(), rel.GetReporter()
	if owner.GetNodeId() != r.GetNodeId() || reporter.GetNodeId() != r.GetNodeId() {
		return false
	}
	switch rel.GetKind() {
	case hadv1.Evidence_KIND_RELEASED:
		return owner.GetBootId() == reporter.GetBootId()
	case hadv1.Evidence_KIND_REBOOTED:
		return owner.GetBootId() != reporter.GetBootId()
	case hadv1.Evidence_KIND_UNSPECIFIED, hadv1.Evidence_KIND_WAITED, hadv1.Evidence_KIND_HANDED_OVER:
	}
	return false
}

// applyReleased closes the epoch the report is about, if it is still open and
// the reporter's own. A report that comes after the epoch was closed is kept
// in the history and changes nothing: it names its epoch, so it can't be
// taken for evidence about a later one.
func (s *State) applyReleased(r *hadv1.Report, rel *hadv1.Released) {
	c := findClaim(s.open, rel.GetEpoch())
	if c == nil || !proves(r, rel, c) {
		return
	}
	s.closeClaim(rel.GetEpoch())
}
