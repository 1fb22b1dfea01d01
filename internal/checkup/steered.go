package checkup

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// steered is whether a person or a check keeps this node from owning.
func steered(r *report, c Config, p *policy.Policy) {
	if why := c.Drained(); why != "" {
		r.fail("drain", "hactl undrain "+c.Node, "%s", why)
	}
	owns, running := c.Held() != 0, c.Checks()
	for _, want := range p.Checks {
		name := "check " + want.Name
		i := slices.IndexFunc(running, func(s *hadv1.CheckStatus) bool { return s.GetName() == want.Name })
		switch {
		case i < 0 && want.On == policy.OnOwner:
			r.skip(name, "it runs on the owner alone")
		case i < 0 && want.On == policy.OnStandby:
			r.skip(name, "it runs beside the owner alone")
		case i < 0:
			r.fail(name, "wait a moment", "it doesn't run yet")
		default:
			result(r, name, running[i], owns)
		}
	}
}

// result is what a check says at present. A node that doesn't own has to pass it
// before it may; an owner begins with nothing that speaks against it.
func result(r *report, name string, s *hadv1.CheckStatus, owns bool) {
	mend := "mend what it looks at on this host: hactl history --follow shows its changes"
	said := ""
	if d := s.GetDetail(); d != "" {
		said = ": " + d
	}
	switch {
	case s.GetState() == hadv1.CheckStatus_STATE_PASSING:
		r.ok(name, "it passes%s", said)
	case s.GetState() == hadv1.CheckStatus_STATE_FAILING:
		r.fail(name, mend, "it failed %d times in a row%s", s.GetTimes(), said)
	case owns:
		r.warn(name, "", "it has not passed in this turn yet%s", said)
	default:
		r.fail(name, mend, "it has not passed yet%s", said)
	}
}

// syncs is how old this host's copies of the owner's data are.
func syncs(r *report, c Config, p *policy.Policy) {
	if len(p.Syncs) == 0 {
		return
	}
	all, trouble := c.Syncs(p)
	for _, s := range all {
		name := "sync " + s.GetName()
		if i := slices.IndexFunc(trouble, func(why string) bool { return strings.Contains(why+" ", name+" ") }); i >= 0 {
			r.fail(name, fmt.Sprintf("hactl sync run %s --node %s", s.GetName(), c.Node), "%s", trouble[i])
			trouble = slices.Delete(trouble, i, i+1)
			continue
		}
		age := "there is no copy yet"
		if s.GetCopied() {
			age = fmt.Sprintf("its copy is %s old", time.Duration(s.GetAgeMs()*float64(time.Millisecond)).Round(time.Second))
		}
		switch {
		case s.GetState() == hadv1.SyncStatus_STATE_OWNER:
			r.ok(name, "this node owns: it is what is copied from")
		case s.GetState() == hadv1.SyncStatus_STATE_HELD:
			r.warn(name, "hactl sync resume "+s.GetName()+", if the owner has the data to keep", "held, %s: %s", age, s.GetWhy())
		case s.GetFailures() > 0:
			r.warn(name, "hactl history has the output", "%s, and the latest %d runs failed: %s", age, s.GetFailures(), s.GetWhy())
		case !s.GetCopied():
			r.warn(name, fmt.Sprintf("hactl sync run %s --node %s", s.GetName(), c.Node), "%s", age)
		default:
			r.ok(name, "%s", age)
		}
	}
	for _, why := range trouble {
		r.fail("syncs", "", "%s", why)
	}
}

// tokens is whether clients could reconnect to this host.
func tokens(r *report, c Config, p *policy.Policy) {
	if len(p.Tokens) == 0 {
		return
	}
	all, trouble := c.Tokens(p)
	for _, why := range trouble {
		r.fail("tokens", "", "%s", why)
	}
	for _, t := range all.GetPlaces() {
		name := "token " + t.GetName()
		switch {
		case t.GetWrong() != "":
			r.warn(name, "", "%s", t.GetWrong())
		case t.GetVersion() != 0:
			r.ok(name, "version %d is in place", t.GetVersion())
		case t.GetShared() != "":
			r.ok(name, "its place is on %s", t.GetShared())
		case len(trouble) == 0:
			r.ok(name, "nothing keeps it from its place")
		}
	}
}
