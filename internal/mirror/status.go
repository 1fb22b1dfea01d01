package mirror

import (
	"fmt"
	"time"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Trouble says why this node should not own with the data it has, or can't: whole
// sentences.
func (m *Mirror) Trouble(p *policy.Policy, view cluster.View) (out []string) {
	if len(p.Syncs) == 0 {
		return nil
	}
	if why := m.left(); why != "" {
		out = append(out, why)
	}
	self := m.cfg.Self.GetName()
	if view.LastOwner == "" || view.LastOwner == self {
		return out // its data are the newest there are
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, y := range p.Syncs {
		at, copied := m.fresh[y.Name]
		switch age := since(at); {
		case y.MaxAge == 0:
		case !copied:
			out = append(out, fmt.Sprintf("sync %s has not been completed here yet, and its max_age is %s", y.Name, y.MaxAge))
		case age > y.MaxAge:
			out = append(out, fmt.Sprintf("its copy of sync %s is %s old, and max_age is %s", y.Name, age.Round(time.Second), y.MaxAge))
		}
	}
	return out
}

// since is how long ago a time was, by a clock that may have been set back.
func since(at time.Time) time.Duration { return max(0, time.Since(at)) }

// Status is how each sync of the policy is on this node, in its order.
func (m *Mirror) Status(p *policy.Policy) (out []*hadv1.SyncStatus) {
	if p == nil || len(p.Syncs) == 0 || m.cfg.Self.GetWitness() {
		return nil
	}
	view, _ := m.cfg.Log.View()
	src, why := m.source(view)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, y := range p.Syncs {
		s := &hadv1.SyncStatus{Name: y.Name, MaxAgeMs: ms(y.MaxAge), State: hadv1.SyncStatus_STATE_WAITING, Why: why}
		if at, copied := m.fresh[y.Name]; copied {
			s.Copied, s.AgeMs = true, ms(since(at))
		}
		j := m.jobs[y.Name]
		held := view.SyncHeld(y.Name)
		switch {
		case src.owner == m.cfg.Self.GetName():
			s.State = hadv1.SyncStatus_STATE_OWNER
		case j == nil:
		case j.run != nil:
			s.State, s.RunningMs = hadv1.SyncStatus_STATE_RUNNING, ms(since(j.run.began))
		case held != "":
			s.State, s.Why = hadv1.SyncStatus_STATE_HELD, held
		case j.failures > 0:
			s.State, s.Why = hadv1.SyncStatus_STATE_FAILING, j.why
		}
		if j != nil {
			s.Failures = uint32(j.failures) //nolint:gosec // counted by hand
			if s.State == hadv1.SyncStatus_STATE_WAITING || s.State == hadv1.SyncStatus_STATE_FAILING {
				s.NextMs = max(0, ms(time.Until(j.due)))
			}
		}
		out = append(out, s)
	}
	return out
}

// Problems are what status should warn of on this node.
func (m *Mirror) Problems() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name, j := range m.jobs {
		if j.failures > 0 && j.run == nil {
			out = append(out, fmt.Sprintf("sync %s fails (%s): hactl history has its output", name, j.why))
		}
	}
	if m.desk.lost != "" && len(m.jobs) > 0 {
		out = append(out, "how old its copies are is not known after a restart: "+m.desk.lost)
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
