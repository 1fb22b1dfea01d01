package failover

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// Whatever fails, and in whichever order: what is reported released isn't
// mounted, what is mounted is in the journal, and when all is well again so is
// the owner.
func TestNoOrderOfFailuresBreaksVolumes(t *testing.T) {
	for seed := range uint64(8) {
		runVolumes(t, func(r *rig, s *shelf) {
			play := rand.New(rand.NewPCG(seed, 4))
			chance := func(p float64) bool { return play.Float64() < p }
			broken := errors.New("the disk is broken")
			grace := ""
			if chance(0.5) {
				grace = "release_grace = \"2s\"\n"
			}
			r.policy("", grace+withVolumes)
			for range 40 {
				s.set(func(s *shelf) {
					s.failMount, s.busy, s.failSecure = nil, nil, nil
					if chance(0.2) {
						s.failMount = map[string]error{"db": broken}
					}
					if chance(0.2) {
						s.busy = broken
					}
					if chance(0.2) {
						s.failSecure = broken
					}
					s.hangMount = chance(0.1)
				})
				r.log.mute(chance(0.2))
				for _, stage := range []hook.Stage{hook.Test, hook.PreAcq, hook.PostAcq, hook.PreRel, hook.PostRel} {
					r.scripts(stage, time.Duration(play.IntN(1500))*time.Millisecond, chance(0.1))
				}
				switch play.IntN(8) {
				case 0, 1:
					r.log.follow("beta")
				case 2:
					r.log.follow("")
				case 3, 4, 5:
					r.log.lead()
				}
				if chance(0.1) {
					r.policy("", withVolumes[:len(withVolumes)-1]+"\n")
				}
				if chance(0.1) {
					r.journal.fill(broken)
				}
				for range play.IntN(400) {
					time.Sleep(5 * time.Millisecond)
					r.checkVolumes(s)
				}
				r.journal.fill(nil)
			}
			s.set(func(s *shelf) { s.failMount, s.busy, s.failSecure, s.hangMount = nil, nil, nil, false })
			r.log.mute(false)
			r.log.follow("")
			for _, stage := range []hook.Stage{hook.Test, hook.PreAcq, hook.PostAcq, hook.PreRel, hook.PostRel} {
				r.scripts(stage, 0, false)
			}
			r.policy("", withVolumes) // forgets whose turns failed
			for i := range 60 * 100 {
				if l := r.log.Leadership(); !l.Leading && i%100 == 0 {
					r.log.lead()
				}
				time.Sleep(10 * time.Millisecond)
				r.checkVolumes(s)
			}
			if r.phase() != PhaseServing || len(s.has()) != 2 {
				t.Errorf("seed %d: in the end phase %v with %v mounted: %s", seed, r.phase(), s.has(), r.controller.Why())
			}
		})
	}
}

// checkVolumes holds what is mounted against what is said.
func (r *rig) checkVolumes(s *shelf) {
	r.t.Helper()
	// What was said first: it must be true for as long as nothing is mounted anew.
	released := slices.Concat(r.journal.released(), releasedEpochs(r.releases()))
	epoch, mounted := s.state()
	if len(mounted) == 0 {
		return
	}
	if slices.Contains(released, epoch) {
		r.t.Errorf("epoch %d was reported released with %v mounted", epoch, mounted)
	}
	tenure, _ := r.journal.Tenure()
	if again, still := s.state(); (tenure == nil || tenure.Epoch != epoch) && again == epoch && len(still) > 0 {
		r.t.Errorf("%v of epoch %d is mounted and the journal has %v", still, epoch, tenure)
	}
}

func releasedEpochs(all []*hadv1.Released) (epochs []uint64) {
	for _, rel := range all {
		epochs = append(epochs, rel.GetEpoch())
	}
	return epochs
}

func (s *shelf) state() (epoch uint64, mounted []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch, slices.Clone(s.mounted)
}
