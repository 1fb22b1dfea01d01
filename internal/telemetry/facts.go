package telemetry

import (
	"slices"
	"time"

	"had/cluster"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
)

// Facts are what a node knows of itself and of the cluster at one moment. What it
// doesn't know is zero, or nil.
type Facts struct {
	// NotYet is why the node takes no part in the cluster so far, a sentence: then
	// the other fields are zero.
	NotYet string

	Members       []*hadv1.Member
	Witness       bool // of this node
	Leadership    cluster.Leadership
	View          cluster.View
	Figures       cluster.Figures
	Confirmed     time.Duration // since a quorum accepted this leader's latest command; below 0: none did
	Serving       bool
	Lease         time.Duration // what is left of this node's
	Health        *hadv1.HealthResponse
	Problems      int
	Unable        string          // why the node can't do its part in the log; empty: it can
	Answers       map[string]bool // the other members, and whether they answer this leader
	Notify        []*hadv1.NotifyStatus
	Waiting       int // epochs whose volumes wait
	Guard, Gate   bool
	Watchdog      bool // armed
	Certificates  []peer.Certificate
	Data, Free    int64 // bytes
	StorageFailed bool  // Data and Free could not be read
}

// unready is why a node doesn't take part in a quorum, a sentence; empty: it does.
func (f Facts) unready() string {
	l := f.Leadership
	switch {
	case f.NotYet != "":
		return f.NotYet
	case f.Unable != "":
		return f.Unable
	case l.Leading && !l.Ready:
		return "this node has been elected and has not heard from a quorum yet"
	case !l.Leading && l.Leader == "":
		return "no leader is known: an election is under way, or no majority of the nodes can reach each other"
	}
	return ""
}

// fill puts the state on a page.
func (f Facts) fill(p *page, now time.Time) {
	p.is("had_ready", f.unready() == "")
	if f.NotYet != "" {
		return
	}
	f.members(p)
	p.set("had_problems", float64(f.Problems))
	p.set("had_term", float64(f.Leadership.Term))
	p.set("had_epoch", float64(f.View.LastEpoch))
	p.is("had_serving", f.Serving && f.Lease > 0)
	p.seconds("had_lease_remaining_seconds", f.Lease)
	if f.Leadership.Leading {
		if f.Confirmed >= 0 {
			p.seconds("had_quorum_confirmed_age_seconds", f.Confirmed)
		}
		p.set("had_volumes_waiting", float64(f.Waiting))
	} else if !f.Figures.Contact.IsZero() {
		p.seconds("had_leader_contact_age_seconds", max(0, now.Sub(f.Figures.Contact)))
	}
	p.is("had_frozen", f.View.Frozen != nil)
	p.is("had_held", f.View.Held != nil)
	p.set("had_policy_version", float64(f.View.Policy.GetVersion()))
	if !f.Witness {
		p.is("had_guard_up", f.Guard)
		p.is("had_gate_up", f.Gate)
		p.is("had_watchdog_armed", f.Watchdog)
	}
	p.histogram("had_commit_seconds", f.Figures.Commits)
	p.set("had_log_last_index", float64(f.Figures.LastIndex))
	p.set("had_log_commit_index", float64(f.Figures.CommitIndex))
	p.set("had_log_applied_index", float64(f.View.Applied))
	if !f.StorageFailed {
		p.set("had_data_bytes", float64(f.Data))
		p.set("had_data_free_bytes", float64(f.Free))
	}
	for _, st := range f.Notify {
		p.set("had_notifications_waiting", float64(st.GetWaiting()), st.GetChannel())
		p.set("had_notification_failed_tries", float64(st.GetAttempts()), st.GetChannel())
	}
	for _, t := range f.View.Tokens {
		p.set("had_token_version", float64(t.GetCurrent().GetVersion()), t.GetName())
	}
	f.health(p)
	f.certificates(p)
}

func (f Facts) members(p *page) {
	owner := ""
	if c := f.View.Newest(); c.GetProgress() == hadv1.Progress_OUTCOME_SERVING {
		owner = c.GetInstance().GetNode()
	}
	for _, m := range f.Members {
		name := m.GetName()
		p.is("had_leader", name == f.Leadership.Leader, name)
		if !m.GetWitness() {
			p.is("had_owner", name == owner, name)
			p.is("had_drained", f.View.Drained[name] != nil, name)
		}
	}
	for name, answers := range sorted(f.Answers) {
		p.is("had_member_answers", answers, name)
	}
}

// health is what this node also tells the leader.
func (f Facts) health(p *page) {
	h := f.Health
	p.is("had_eligible", h.GetEligible())
	p.set("had_policy_in_force_version", float64(h.GetPolicyVersion()))
	p.set("had_reports_pending", float64(h.GetPendingReports()))
	for _, c := range h.GetChecks() {
		if c.GetState() != hadv1.CheckStatus_STATE_UNSPECIFIED {
			p.is("had_check_passing", c.GetState() == hadv1.CheckStatus_STATE_PASSING, c.GetName(), c.GetKind())
		}
	}
	for _, s := range h.GetSyncs() {
		if s.GetCopied() {
			p.set("had_sync_age_seconds", s.GetAgeMs()/1000, s.GetName())
		}
		p.set("had_sync_failures", float64(s.GetFailures()), s.GetName())
		p.is("had_sync_held", s.GetState() == hadv1.SyncStatus_STATE_HELD, s.GetName())
	}
	for _, t := range h.GetTokens().GetPlaces() {
		p.set("had_token_in_place_version", float64(t.GetVersion()), t.GetName())
		p.is("had_token_amiss", t.GetWrong() != "", t.GetName())
	}
}

func (f Facts) certificates(p *page) {
	for _, kind := range []string{"node", "ca"} {
		of := slices.DeleteFunc(slices.Clone(f.Certificates), func(c peer.Certificate) bool { return c.CA != (kind == "ca") })
		if len(of) > 0 {
			first := slices.MinFunc(of, func(a, b peer.Certificate) int { return a.Expires.Compare(b.Expires) })
			p.unix("had_certificate_expiry_timestamp_seconds", first.Expires, kind)
		}
	}
}
