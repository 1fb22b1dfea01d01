package failover

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// betaMounts makes beta the owner of an epoch with a volume.
func (r *rig) betaMounts() *hadv1.Claim {
	r.t.Helper()
	r.log.follow("beta")
	r.policy("")
	v, _ := r.log.View()
	terms := cluster.TimingFor(500 * time.Millisecond).Terms()
	terms.FenceMethods = []string{cluster.MethodConfirm}
	r.must(&hadv1.Command{Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{
		Term: r.log.Leadership().Term, Instance: &hadv1.Instance{Node: "beta", NodeId: "id-beta", BootId: "boot", Nonce: "b"},
		Terms: terms, PolicyVersion: v.Policy.GetVersion(), Volumes: []*hadv1.HeldVolume{{Name: "web", Device: "UUID=2b22", Path: "/srv/web"}},
	}}})
	v, _ = r.log.View()
	return v.Newest()
}

// What a guard says of its living daemon's volumes reaches the log once, whether
// this node leads or not, and so does what it says at the daemon's death.
func TestAGuardsWordIsPassedOn(t *testing.T) {
	for name, turn := range map[string]func(r *rig){
		"through the leader": func(*rig) {},
		"by the leader":      func(r *rig) { r.log.lead() },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(r *rig) {
				c := r.betaMounts()
				turn(r)
				for range 2 {
					r.controller.TakeSecured(&hadv1.Secured{Epoch: c.GetEpoch(), Instance: c.GetInstance(), Kind: hadv1.Secured_KIND_GUARD})
					synctest.Wait()
				}
				r.controller.TakeFarewell(&hadv1.Farewell{NodeId: "id-beta", Released: &hadv1.Released{
					Epoch: c.GetEpoch(), Reporter: c.GetInstance(), Kind: hadv1.Evidence_KIND_RELEASED, Forced: true,
				}})
				time.Sleep(courtesy)
				synctest.Wait()
				secured := reported(r, func(e *hadv1.Event) *hadv1.Secured { return e.GetSecured() })
				farewells := reported(r, func(e *hadv1.Event) *hadv1.Released { return e.GetReleased() })
				if len(secured) != 1 || len(farewells) != 1 {
					t.Errorf("the history has %d words about volumes and %d farewells, want one of each", len(secured), len(farewells))
				}
				if w := r.controller.farewells.first(); w != nil {
					t.Errorf("epoch %d still waits", w.epoch)
				}
			})
		})
	}
}

// A word about the run that the open epoch belongs to is certain; an earlier
// run's, or one that comes a second time, must not cost a leader its office.
func TestAWordIsCertainAboutTheRunThatOwns(t *testing.T) {
	run(t, func(r *rig) {
		c := r.betaMounts()
		earlier := proto.CloneOf(c.GetInstance())
		earlier.Nonce = "earlier"
		for _, run := range []*hadv1.Instance{earlier, c.GetInstance(), c.GetInstance()} {
			r.controller.TakeFarewell(&hadv1.Farewell{NodeId: "id-beta", Released: &hadv1.Released{
				Epoch: c.GetEpoch(), Reporter: run, Kind: hadv1.Evidence_KIND_RELEASED, Forced: true,
			}})
			time.Sleep(courtesy)
			synctest.Wait()
		}
		if want := []string{"beta false", "beta true", "beta false"}; !slices.Equal(r.log.gone, want) {
			t.Errorf("told %q, want %q", r.log.gone, want)
		}
	})
}

// What this node's earlier run has kept of its guard's words is told, and forgotten
// once the log has it, or will never take it.
func TestAKeptWordIsTold(t *testing.T) {
	run(t, func(r *rig) {
		c := r.betaMounts()
		forgotten := 0
		forget := func() error { forgotten++; return nil }
		f := r.controller.farewells
		f.addSecured(&hadv1.Secured{Epoch: c.GetEpoch(), Instance: c.GetInstance(), Kind: hadv1.Secured_KIND_GUARD}, forget)
		synctest.Wait()
		if v, _ := r.log.View(); v.Claim(c.GetEpoch()).GetSecured() == nil || forgotten != 1 {
			t.Errorf("the log has %v; forgotten %d times", v.Claim(c.GetEpoch()), forgotten)
		}
		f.addSecured(&hadv1.Secured{Epoch: 1, Instance: c.GetInstance(), Kind: hadv1.Secured_KIND_GUARD}, forget)
		synctest.Wait()
		if forgotten != 2 {
			t.Error("what the log doesn't take is kept")
		}
	})
}

// After the farewell the log has no use for what was said before it.
func TestAFarewellIsPassedOnLast(t *testing.T) {
	f := &farewells{changed: make(chan struct{}, 1)}
	of := &hadv1.Instance{Node: "beta", NodeId: "id-beta"}
	f.add(&hadv1.Farewell{NodeId: "id-beta", Released: &hadv1.Released{Epoch: 7, Reporter: of}}, nil)
	f.addSecured(&hadv1.Secured{Epoch: 7, Instance: of}, nil)
	f.addSecured(&hadv1.Secured{Epoch: 7, Instance: of}, nil)
	first := f.first()
	f.done(first)
	if second := f.first(); first.secured == nil || second.farewell == nil {
		t.Errorf("passed on are %v, then %v", first.command(), second.command())
	}
}

// A node waits with its turn until its own guard's farewell is in the log. What
// is said of volumes delays nobody.
func TestOnlyAFarewellDelaysItsOwnNode(t *testing.T) {
	f := &farewells{changed: make(chan struct{}, 1)}
	own := &hadv1.Instance{Node: "alpha", NodeId: "id"}
	f.addSecured(&hadv1.Secured{Epoch: 7, Instance: own}, nil)
	if f.waits("id") {
		t.Error("a word about volumes is taken for a farewell")
	}
	f.add(&hadv1.Farewell{NodeId: "id", Released: &hadv1.Released{Epoch: 7, Reporter: own}}, nil)
	if !f.waits("id") || f.waits("id-beta") {
		t.Error("the farewell isn't waited for, or another node's is")
	}
}
