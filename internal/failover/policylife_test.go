package failover

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

var (
	beforeDB, dbOn, _ = strings.Cut(withVolumes, `volume "db"`)
	_, fenceOn, _     = strings.Cut(dbOn, "fence")

	// onlyWeb is withVolumes without its second volume.
	onlyWeb = beforeDB + "fence" + fenceOn
	// onlyDB is it without the first one, below which the second is mounted.
	onlyDB = `volume "db"` + dbOn
)

// Volumes come and go under an epoch that goes on: its addresses, its scripts and
// its other volumes don't notice.
func TestVolumesComeAndGoWhileItServes(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		epoch := r.controller.executor.held().Epoch
		r.policy("", onlyWeb)
		time.Sleep(time.Second)
		r.expect("mount web")
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.expect("mount db")
		r.policy("", onlyWeb)
		time.Sleep(time.Second)
		r.expect("unmount db")
		r.policy("", withVolumes) // it is still the epoch's
		time.Sleep(time.Second)
		r.expect("mount db")
		v, _ := r.log.View()
		c := v.Newest()
		if len(c.GetVolumes()) != 2 || c.GetEpoch() != epoch || len(c.GetTerms().GetFenceMethods()) != 2 || r.phase() != PhaseServing {
			t.Errorf("the claim is %v in phase %v, want epoch %d", c, r.phase(), epoch)
		}
		r.term()
		time.Sleep(10 * time.Second)
		if got := s.has(); len(got) != 0 {
			t.Errorf("left mounted: %v", got)
		}
	})
}

// What a running epoch can't become, a new one does, on the same node.
func TestVolumesThatNeedAnEpochOfTheirOwn(t *testing.T) {
	for name, c := range map[string]struct{ before, after, why string }{
		"another fence":      {onlyWeb, strings.Replace(withVolumes, `"confirm", `, "", 1), "an epoch keeps its own"},
		"a grace":            {"", "release_grace = \"5s\"\n" + onlyWeb, "an epoch keeps its own"},
		"other options":      {onlyWeb, strings.Replace(onlyWeb, `fstype = "ext4"`, `options = ["noatime"]`, 1), "volume web is or was mounted otherwise"},
		"one that hides":     {onlyDB, withVolumes, "would hide"},
		"one with one below": {withVolumes, onlyDB, "another volume is mounted below /srv/web"},
	} {
		t.Run(name, func(t *testing.T) {
			runVolumes(t, func(r *rig, s *shelf) {
				r.policy("", c.before)
				time.Sleep(time.Second)
				before := r.controller.executor.held().Epoch
				r.policy("", c.after)
				time.Sleep(5 * time.Second)
				if got := r.controller.executor.held().Epoch; got == before || r.phase() != PhaseServing {
					t.Errorf("it still serves epoch %d, phase %v; %s", got, r.phase(), r.took())
				}
				rel := reported(r, (*hadv1.Event).GetReleased)
				if len(rel) != 1 || !strings.Contains(rel[0].GetCause(), c.why) || rel[0].GetForced() {
					t.Errorf("released %v, want one in order because %q", rel, c.why)
				}
			})
		})
	}
}

// While a node's had is older the log takes no further volumes for an epoch: they get
// a new one, and all is taken on again.
func TestVolumesThatAnOlderHadWouldNotKnowOf(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("")
		time.Sleep(time.Second)
		before := r.controller.executor.held().Epoch
		r.log.mu.Lock()
		r.log.extends = &cluster.LevelError{Needs: 2, InForce: 1, What: "extend", Behind: []string{"beta runs had v1"}}
		r.log.mu.Unlock()
		r.policy("", onlyWeb)
		time.Sleep(5 * time.Second)
		if got := r.controller.executor.held().Epoch; got == before || r.phase() != PhaseServing || len(s.has()) != 1 {
			t.Errorf("it serves epoch %d with %v, phase %v; %s", got, s.has(), r.phase(), r.took())
		}
		rel := reported(r, (*hadv1.Event).GetReleased)
		if len(rel) != 1 || !strings.Contains(rel[0].GetCause(), "beta runs had v1") || rel[0].GetForced() {
			t.Errorf("released %v, want one in order because of beta's had", rel)
		}
	})
}

// A volume that is in use can't be taken from under what uses it: then all of it is
// released, scripts first.
func TestAVolumeInUseIsReleasedWithTheRest(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.took()
		s.mu.Lock()
		s.busy = errors.New("/srv/web/db is in use by postgres (PID 7)")
		s.mu.Unlock()
		r.policy("", onlyWeb)
		time.Sleep(7 * time.Second)
		s.mu.Lock()
		s.busy = nil
		s.mu.Unlock()
		time.Sleep(10 * time.Second)
		rel := reported(r, (*hadv1.Event).GetReleased)
		if len(rel) != 1 || !strings.Contains(rel[0].GetCause(), "in use by postgres (PID 7)") {
			t.Errorf("released: %v", rel)
		}
		if got := s.has(); len(got) != 1 || r.phase() != PhaseServing {
			t.Errorf("mounted are %v, phase %v; %s", got, r.phase(), r.took())
		}
	})
}

func (r *rig) tries(within time.Duration, wall time.Duration) uint64 {
	r.t.Helper()
	v, _ := r.log.View()
	r.must(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{
		ExpectedVersion: v.Policy.GetVersion(), Text: v.Policy.GetText() + "# on trial\n",
		ConfirmWithinNs: int64(within), ConfirmUntil: timestamppb.New(time.Now().Add(wall)),
	}}})
	return v.Policy.GetVersion() + 1
}

func (r *rig) version() uint64 {
	synctest.Wait()
	v, _ := r.log.View()
	return v.Policy.GetVersion()
}

// The first clock that is over undoes a policy that nobody confirms; who leads then
// does it, and a confirmation ends it.
func TestAPolicyThatNobodyConfirms(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		for name, wall := range map[string]time.Duration{"both clocks": time.Minute, "the wall clock is behind": time.Hour} {
			v := r.tries(time.Minute, wall)
			time.Sleep(time.Minute - time.Millisecond)
			if got := r.version(); got != v {
				t.Errorf("%s: version %d is in force before its time is over", name, got)
			}
			time.Sleep(2 * time.Millisecond)
			if got := r.version(); got != v+1 {
				t.Errorf("%s: version %d is in force", name, got)
			}
		}
		v := r.tries(time.Hour, time.Minute)
		time.Sleep(time.Minute + time.Millisecond)
		if got := r.version(); got != v+1 {
			t.Errorf("the wall clock is ahead: version %d is in force", got)
		}

		v = r.tries(time.Minute, time.Minute)
		r.log.follow("beta")
		time.Sleep(2 * time.Minute)
		if got := r.version(); got != v {
			t.Errorf("one that doesn't lead has undone it: version %d is in force", got)
		}
		r.log.lead()
		time.Sleep(2 * time.Second)
		if got := r.version(); got != v+1 {
			t.Errorf("the next leader has not undone it: version %d is in force", got)
		}

		v = r.tries(time.Minute, time.Minute)
		r.must(&hadv1.Command{Record: &hadv1.Command_PolicyConfirm{PolicyConfirm: &hadv1.PolicyConfirm{Version: v}}})
		time.Sleep(time.Hour)
		if got := r.version(); got != v {
			t.Errorf("it was undone although it was confirmed: version %d", got)
		}
	})
}

// Scripts that take their time keep no undo waiting.
func TestTheUndoWaitsForNoScript(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.mu.Lock()
		r.takes["PreAcq"] = 10 * time.Minute
		r.mu.Unlock()
		v, _ := r.log.View()
		r.must(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{
			ExpectedVersion: v.Policy.GetVersion(), Text: v.Policy.GetText() + "\nvip \"third\" {\n address = \"192.0.2.12\"\n}\n",
			ConfirmWithinNs: int64(10 * time.Second), ConfirmUntil: timestamppb.New(time.Now().Add(10 * time.Second)),
		}}})
		time.Sleep(10*time.Second + time.Millisecond)
		if got := r.version(); got != v.Policy.GetVersion()+2 {
			t.Errorf("version %d is in force", got)
		}
	})
}
