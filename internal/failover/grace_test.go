package failover

import (
	"strings"
	"testing"
	"time"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

const withGrace = `release_grace = "10s"`

// An owner that loses its quorum stops its services in order within the grace:
// the addresses are there meanwhile, and nobody else takes them before.
func TestGraceLetsServicesStopInOrder(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("", withGrace)
		time.Sleep(time.Second)
		r.took()
		if v, _ := r.log.View(); time.Duration(v.Open[0].GetTerms().GetReleaseGraceNs()) != 10*time.Second {
			t.Errorf("the epoch's terms are %v", v.Open[0].GetTerms())
		}
		r.scripts(hook.PreRel, 3*time.Second, false)
		r.log.mute(true)
		r.log.follow("")
		time.Sleep(5 * time.Second)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10")
		if r.kernel.holds() != 2 {
			t.Errorf("%d addresses are up while PreRel stops what serves them", r.kernel.holds())
		}
		time.Sleep(3 * time.Second)
		r.expect(join([]string{"-192.0.2.10", "-192.0.2.11"}, after)...)
		r.log.mute(false)
		r.log.lead()
		time.Sleep(time.Second)
		if rel := r.releases(); len(rel) != 1 || rel[0].GetForced() {
			t.Errorf("releases %v, want one in order", rel)
		}
	})
}

// The grace ends, too: what has not stopped by then is stopped, and the hooks
// hear that it was by force.
func TestGraceEnds(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("  timeout = \"1m\"\n", withGrace)
		time.Sleep(time.Second)
		r.took()
		r.scripts(hook.PreRel, time.Minute, false)
		began := bubbleClock()
		r.log.mute(true)
		r.log.follow("")
		time.Sleep(5 * time.Second)
		r.scripts(hook.PreRel, 0, false) // the next ones
		for r.kernel.holds() > 0 {
			time.Sleep(time.Millisecond)
		}
		lease := r.controller.cfg.Timing.TTL
		if took := bubbleClock().Sub(began); took > lease+10*time.Second || took < 10*time.Second {
			t.Errorf("the addresses were there for %v after the last renewal, want at most the lease of %v and the grace of 10 s", took, lease)
		}
		time.Sleep(time.Second)
		r.expect(join([]string{"PreRel 192.0.2.11", "-192.0.2.10", "-192.0.2.11"}, forced)...)
	})
}

// A renewal that comes through in the grace changes nothing: services are being
// stopped, and the epoch is given up.
func TestARenewalInTheGraceComesTooLate(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("", withGrace)
		time.Sleep(time.Second)
		r.took()
		r.scripts(hook.PreRel, 2*time.Second, false)
		r.log.mute(true)
		time.Sleep(time.Second)
		if !r.controller.keeper.inGrace(r.controller.executor.held().Epoch) {
			t.Fatal("the lease has not ended")
		}
		r.log.mute(false)
		time.Sleep(5 * time.Second)
		want := strings.Join(join([]string{"PreRel 192.0.2.11", "PreRel 192.0.2.10", "-192.0.2.10", "-192.0.2.11"}, after), ", ")
		if got := r.took(); !strings.HasPrefix(got, want) {
			t.Errorf("it did %s, want first %s", got, want)
		}
		if rel := r.releases(); len(rel) != 1 || rel[0].GetForced() {
			t.Errorf("releases %v", rel)
		}
	})
}

// In the grace nothing new begins: no address is added, no script of an
// acquisition is started.
func TestTheGraceTakesNothingNew(t *testing.T) {
	run(t, func(r *rig) {
		r.scripts(hook.PreAcq, 2*time.Second, false)
		r.policy("", withGrace)
		time.Sleep(500 * time.Millisecond)
		r.log.mute(true)
		time.Sleep(4 * time.Second)
		if r.kernel.holds() != 0 {
			t.Error("an address was added after the lease")
		}
		r.expect("Test 192.0.2.10", "Test 192.0.2.11", "PreAcq 192.0.2.10", "PreRel 192.0.2.11", "PreRel 192.0.2.10", "PostRel 192.0.2.11", "PostRel 192.0.2.10")
	})
}

// Another node that leads waits for the grace as well, so that it may be used.
func TestGraceIsUsedWhenAnotherLeads(t *testing.T) {
	in := owner()
	in.Leadership.Leading, in.Leadership.Ready, in.Leadership.Leader = false, false, "beta"
	if got := text(Decide(in)); got != "force, finish" {
		t.Errorf("without a grace: %s", got)
	}
	in.View.Open[0].Terms.ReleaseGraceNs = int64(10 * time.Second)
	for name, c := range map[string]struct {
		change func(*Inputs)
		want   string
	}{
		"the lease lasts":         {func(*Inputs) {}, "release, finish"},
		"the lease has ended":     {func(in *Inputs) { in.Now = in.LeaseUntil }, "release, finish"},
		"the grace has ended":     {func(in *Inputs) { in.Now = in.LeaseUntil.Add(10 * time.Second) }, "force, finish"},
		"closed in the log":       {func(in *Inputs) { in.View.Open = nil }, "force, finish"},
		"renewed after its lease": {func(in *Inputs) { in.InGrace = true }, "release, finish"},
	} {
		in := in
		in.View.Open = []*hadv1.Claim{in.View.Open[0]}
		c.change(&in)
		if got := text(Decide(in)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
