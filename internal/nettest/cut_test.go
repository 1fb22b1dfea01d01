package nettest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

func TestNetworkIsCutAndHealed(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{})

	s.scenario(t, "the owner's link is down", func(t *testing.T, owner string) {
		must(t, s.LinkDown(owner))
		s.takenOver(t, owner)
	})

	s.scenario(t, "the owner is cut off from everybody", func(t *testing.T, owner string) {
		cut := time.Now()
		must(t, s.Isolate(owner))
		s.takenOver(t, owner)
		// Its forced release runs hooks while it can tell nobody; the next
		// owner may be quicker than they are.
		want := s.scriptsFor("PreRel10", "PostRel10")
		s.waitsToReport(t, owner, 1+len(want))
		healed := time.Now()
		must(t, s.Heal())
		s.settled(t)
		late := deliveredLate(s.fullHistory(t), owner, cut, healed)
		if !slices.Equal(late, want) {
			t.Errorf("of the cut-off owner's hooks the log got %v, want %v", late, want)
		}
	})

	s.scenario(t, "the servers are cut from each other and the client sees them all", func(t *testing.T, _ string) {
		must(t, s.SplitServers())
		s.vacant(t)
		for _, h := range s.Servers() {
			eventually(t, h.Name+" says that it doesn't know who owns", func() error {
				st, err := s.status(t, h.Name)
				if err == nil && st.GetOwnership().GetState() != hadv1.Ownership_STATE_UNKNOWN {
					err = describe(st)
				}
				return err
			})
		}
	})

	s.scenario(t, "the other servers don't hear the owner", func(t *testing.T, owner string) {
		for _, other := range s.others(owner) {
			must(t, s.Cut(owner, other))
		}
		s.takenOver(t, owner)
	})

	s.scenario(t, "the owner doesn't hear the other servers", func(t *testing.T, owner string) {
		for _, other := range s.others(owner) {
			must(t, s.Cut(other, owner))
		}
		s.takenOver(t, owner)
	})
}

// waitsToReport waits until a node that is cut off has so many reports in its
// journal.
func (s *site) waitsToReport(t *testing.T, node string, count int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %d reports that the log lacks", node, count), func() error {
		st, err := s.status(t, node)
		if err != nil {
			return err
		}
		for _, n := range st.GetNodes() {
			if n.GetName() == node && int(n.GetPendingReports()) < count {
				return fmt.Errorf("it has %d", n.GetPendingReports())
			}
		}
		return nil
	})
}

// scriptsFor returns the runs of these scripts for every address, as
// deliveredLate names them.
func (s *site) scriptsFor(scripts ...string) []string {
	var runs []string
	for _, script := range scripts {
		for _, vip := range s.vips {
			runs = append(runs, script+" "+vip.String())
		}
	}
	slices.Sort(runs)
	return runs
}

// deliveredLate returns which of a node's forced hooks ran between cut and
// healed and were put on record after it, in byte order.
func deliveredLate(events []*hadv1.Event, node string, cut, healed time.Time) []string {
	var runs []string
	for _, e := range events {
		started := e.GetHook().GetStarted().AsTime()
		if e.GetNode() == node && e.GetHook().GetForced() && started.After(cut) && started.Before(healed) &&
			e.GetAt().AsTime().Before(healed) && e.GetRecordedAt().AsTime().After(healed) {
			runs = append(runs, e.GetHook().GetScript()+" "+e.GetHook().GetVip())
		}
	}
	slices.Sort(runs)
	return runs
}
