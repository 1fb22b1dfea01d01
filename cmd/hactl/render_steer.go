package main

import (
	"fmt"
	"strings"
	"time"

	hadv1 "had/proto/had/v1"
)

// steering is the first thing a status says: why the owner won't change as
// usual.
func (p *page) steering(s *hadv1.StatusResponse) {
	if s.GetFrozen() != nil {
		p.entry("FROZEN   ", yellow, p.frozen(s.GetFrozen()))
	}
	if h := s.GetHeld(); h != nil {
		p.entry("HELD     ", yellow, h.GetHold().GetReason()+"; since "+p.stamp(h.GetAt(), toTheSecond)+", until hactl resume")
	}
}

func (v view) frozen(f *hadv1.Frozen) string {
	text := "until " + v.stamp(f.GetFreeze().GetUntil(), toTheSecond)
	return text + by(f.GetFreeze().GetBy()) + colon(f.GetFreeze().GetReason()) + "; no owner changes by itself, and a dead one is not succeeded"
}

func frozenText(s *hadv1.StatusResponse) string {
	if s.GetFrozen() == nil {
		return ""
	}
	return "frozen" + by(s.GetFrozen().GetFreeze().GetBy()) + colon(s.GetFrozen().GetFreeze().GetReason())
}

// steerRemarks are what keeps a status from being fine.
func steerRemarks(s *hadv1.StatusResponse) (remarks []string) {
	if text := frozenText(s); text != "" {
		remarks = append(remarks, text)
	}
	if h := s.GetHeld(); h != nil {
		remarks = append(remarks, "held: "+h.GetHold().GetReason())
	}
	return remarks
}

// checkCount is "3 checks pass" for a node's line; failing ones are reasons or
// problems and have lines of their own.
func checkCount(n *hadv1.NodeStatus) string {
	passing := 0
	for _, c := range n.GetChecks() {
		if c.GetState() == hadv1.CheckStatus_STATE_PASSING {
			passing++
		}
	}
	switch all := len(n.GetChecks()); {
	case all == 0:
		return ""
	case passing == all:
		return plural(all, "check passes", "checks pass")
	default:
		return fmt.Sprintf("%d of %s", passing, plural(all, "check passes", "checks pass"))
	}
}

func describeSteer(e *hadv1.Event) (string, style) {
	switch body := e.GetBody().(type) {
	case *hadv1.Event_Frozen:
		f := body.Frozen
		return fmt.Sprintf("FROZEN for %s%s%s", span(time.Duration(f.GetForNs())), by(f.GetBy()), colon(f.GetReason())), yellow
	case *hadv1.Event_Unfrozen:
		if body.Unfrozen.GetExpired() {
			return "the freeze is over: its time has passed", plain
		}
		return "the freeze was ended" + by(body.Unfrozen.GetBy()) + colon(body.Unfrozen.GetReason()), plain
	case *hadv1.Event_Drained:
		return "drained" + by(body.Drained.GetBy()) + colon(body.Drained.GetReason()), yellow
	case *hadv1.Event_Undrained:
		return "may own again: undrained" + by(body.Undrained.GetBy()) + colon(body.Undrained.GetReason()), plain
	case *hadv1.Event_Held:
		return "HELD until hactl resume" + colon(body.Held.GetReason()), red
	case *hadv1.Event_Resumed:
		return "checks change the owner again: resumed" + by(body.Resumed.GetBy()) + colon(body.Resumed.GetReason()), plain
	case *hadv1.Event_CheckChanged:
		return describeCheck(body.CheckChanged)
	}
	return "something this hactl doesn't know: had is newer (hactl version)", yellow
}

func describeCheck(c *hadv1.CheckChange) (string, style) {
	where := ""
	if c.GetEpoch() == 0 {
		where = " (beside the owner)"
	}
	if c.GetFailing() {
		return fmt.Sprintf("check %s FAILS%s, %s in a row%s", c.GetCheck(), where, plural(int(c.GetTimes()), "time", "times"), colon(c.GetDetail())), red
	}
	return strings.TrimSpace(fmt.Sprintf("check %s passes%s%s", c.GetCheck(), where, colon(c.GetDetail()))), plain
}
