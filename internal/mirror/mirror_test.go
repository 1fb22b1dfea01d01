package mirror

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

const copies = "copy 192.0.2.10"

func TestASyncRunsOnSchedule(t *testing.T) {
	play(t, func(r *rig) {
		time.Sleep(25 * time.Minute)
		r.expect(
			// The first is soon, and is news; what follows as it should isn't.
			"pages begins at 30s: "+copies, "pages ended at 31s: exited", "reported at 31s: copied",
			"pages begins at 11m0s: "+copies, "pages ended at 11m1s: exited",
			"pages begins at 21m30s: "+copies, "pages ended at 21m31s: exited",
		)
		s := r.status()
		if s.GetState() != hadv1.SyncStatus_STATE_WAITING || !s.GetCopied() || s.GetAgeMs() != (25*time.Minute-21*time.Minute-30*time.Second).Seconds()*1000 || s.GetNextMs() != (7*time.Minute).Seconds()*1000 {
			t.Errorf("status: %v", s)
		}
	})
}

func TestARunLongerThanItsScheduleRunsOnce(t *testing.T) {
	longer := func(r *rig) { r.owns("alpha"); r.parse(strings.Replace(twoSyncs, `"5m"`, `"2h"`, 1)) }
	playWith(t, longer, func(r *rig) {
		r.with(func() { r.takes["pages"] = 25 * time.Minute })
		time.Sleep(30 * time.Minute)
		r.mu.Lock()
		defer r.mu.Unlock()
		slices.Sort(r.diary) // the next begins while the last is reported
		if want := []string{"pages begins at 25m30s: " + copies, "pages begins at 30s: " + copies, "pages ended at 25m30s: exited", "reported at 25m30s: copied"}; !slices.Equal(r.diary, want) {
			t.Errorf("got %q", r.diary)
		}
	})
}

func TestFailuresAreReportedWhenTheyAreNews(t *testing.T) {
	play(t, func(r *rig) {
		r.with(func() { r.fails["pages"] = hook.Result{Outcome: hook.Exited, ExitCode: 12} })
		time.Sleep(12 * time.Minute)
		r.expect("pages begins at 30s: "+copies, "pages ended at 31s: exited", "reported at 31s: failed", "pages begins at 11m0s: "+copies, "pages ended at 11m1s: exited")
		if s := r.status(); s.GetState() != hadv1.SyncStatus_STATE_FAILING || s.GetFailures() != 2 || s.GetWhy() != "it exited with 12" || s.GetCopied() {
			t.Errorf("status: %v", s)
		}
		if p := r.mirror.Problems(); len(p) != 1 || !strings.Contains(p[0], "sync pages fails (it exited with 12)") {
			t.Errorf("problems: %q", p)
		}
		r.with(func() { r.fails["pages"] = hook.Result{Outcome: hook.Exited, ExitCode: 23} })
		time.Sleep(10 * time.Minute)
		r.expect("pages begins at 21m30s: "+copies, "pages ended at 21m31s: exited", "reported at 21m31s: failed")
		r.with(func() { r.takes["pages"] = time.Hour })
		time.Sleep(16 * time.Minute)
		r.expect("pages begins at 32m0s: "+copies, "pages ended at 37m0s: timed out", "reported at 37m0s: timed_out")
		r.with(func() { delete(r.takes, "pages") })
		r.with(func() { delete(r.fails, "pages") })
		time.Sleep(10 * time.Minute)
		r.expect("pages begins at 42m30s: "+copies, "pages ended at 42m31s: exited", "reported at 42m31s: copied")
		if s := r.status(); s.GetState() != hadv1.SyncStatus_STATE_WAITING || s.GetFailures() != 0 || len(r.mirror.Problems()) != 0 {
			t.Errorf("status: %v", s)
		}
	})
}

// The owner leads: when it doesn't any more, who is copied from isn't known.
func TestARunEndsWhenTheOwnerIsInDoubt(t *testing.T) {
	for what, change := range map[string]func(r *rig){
		"no leader is known":        func(r *rig) { r.lead("") },
		"another leads":             func(r *rig) { r.lead("gamma") },
		"this node leads":           func(r *rig) { r.lead("beta") },
		"another owns":              func(r *rig) { r.owns("gamma") },
		"the owner, anew":           func(r *rig) { r.owns("alpha") },
		"the policy has it no more": func(r *rig) { r.parse(`vip "web" { address = "192.0.2.10" }`) },
		"the policy has another":    func(r *rig) { r.parse(strings.Replace(twoSyncs, "copy", "rsync", 1)) },
	} {
		t.Run(what, func(t *testing.T) {
			play(t, func(r *rig) {
				r.with(func() { r.takes["pages"] = 4 * time.Minute })
				time.Sleep(time.Minute)
				r.expect("pages begins at 30s: " + copies)
				change(r)
				time.Sleep(time.Second) // a change without an election is seen at the next look
				synctest.Wait()
				r.mu.Lock()
				told := strings.Join(r.diary, ", ")
				r.mu.Unlock()
				if !strings.HasPrefix(told, "pages ended at 1m0s: canceled, reported at 1m0s: stopped") && !strings.HasPrefix(told, "pages ended at 1m1s: canceled, reported at 1m1s: stopped") {
					t.Errorf("it went on: %s", told)
				}
			})
		})
	}
}

// A copy that ends well is none if the owner changed while it was made.
func TestACopyIsOfOneOwner(t *testing.T) {
	play(t, func(r *rig) {
		r.with(func() { r.takes["pages"] = 30 * time.Second }) // until 1m0s
		time.Sleep(time.Minute)                                // the leader is lost in the same instant
		r.lead("")
		synctest.Wait()
		view, _ := r.View()
		if s := r.status(); s.GetCopied() != (view.SyncCopied("pages", "beta") != 0) {
			t.Errorf("status says %v, the log %v", s, view.Syncs)
		}
	})
}

func TestNothingIsCopiedWithoutAnOwner(t *testing.T) {
	for what, c := range map[string]struct {
		change func(r *rig)
		why    string
	}{
		"nobody has owned":    {func(*rig) {}, "nobody owns"},
		"this node owns":      {func(r *rig) { r.owns("beta") }, "beta owns: it is what is copied from"},
		"no leader":           {func(r *rig) { r.owns("alpha"); r.lead("") }, "no leader is known"},
		"another leads":       {func(r *rig) { r.owns("alpha"); r.lead("gamma") }, "the owner is changing"},
		"this node holds":     {func(r *rig) { r.owns("alpha"); r.holding = true }, "beta is taking over"},
		"a move is under way": {func(r *rig) { r.owns("alpha"); r.moves("gamma") }, "the owner is moving to gamma"},
	} {
		t.Run(what, func(t *testing.T) {
			playWith(t, c.change, func(r *rig) {
				time.Sleep(time.Hour)
				r.expect()
				r.refused(c.why)
			})
		})
	}
}

func (r *rig) moves(to string) {
	view, _ := r.View()
	r.apply(&hadv1.Command{Record: &hadv1.Command_MoveOrder{MoveOrder: &hadv1.MoveOrder{Operation: "op", FromEpoch: view.LastEpoch, Target: to}}})
}

// What the newest data are only a person can say, unless the new owner has them.
func TestASyncIsHeldAfterTheOwnerChanged(t *testing.T) {
	play(t, func(r *rig) {
		time.Sleep(time.Minute)
		r.expect("pages begins at 30s: "+copies, "pages ended at 31s: exited", "reported at 31s: copied")
		r.owns("gamma")
		time.Sleep(time.Hour)
		r.expect()
		if s := r.status(); s.GetState() != hadv1.SyncStatus_STATE_HELD || !strings.Contains(s.GetWhy(), "gamma took over from alpha") {
			t.Errorf("status: %v", s)
		}
		r.refused("hactl sync resume pages")

		view, _ := r.View()
		r.apply(&hadv1.Command{Record: &hadv1.Command_SyncResume{SyncResume: &hadv1.SyncResume{Name: "pages", Epoch: view.LastEpoch}}})
		time.Sleep(time.Minute)
		r.expect("pages begins at 1h1m31s: "+copies, "pages ended at 1h1m32s: exited", "reported at 1h1m32s: copied")

		// beta has a copy of gamma's turn, so alpha may copy from it.
		r.owns("beta")
		time.Sleep(2 * time.Second)
		if view, _ := r.View(); view.SyncHeld("pages") != "" {
			t.Errorf("held: %s", view.SyncHeld("pages"))
		}
		r.expect()

		// alpha hasn't, and says so once it owns; beta's mirror then rests.
		r.owns("alpha")
		time.Sleep(time.Hour)
		r.expect()
	})
}

func TestTheOwnerSaysThatASyncIsHeld(t *testing.T) {
	play(t, func(r *rig) {
		r.with(func() { r.fails["pages"] = hook.Result{Outcome: hook.Signaled, Signal: "SIGSEGV"} })
		time.Sleep(time.Minute - time.Second/2) // between two looks
		r.expect("pages begins at 30s: "+copies, "pages ended at 31s: signaled", "reported at 31s: failed")
		r.owns("beta")
		time.Sleep(time.Hour)
		r.expect("reported at 1m0s: held")
	})
}

func TestNothingRunsWhereItsNodeTakesOver(t *testing.T) {
	play(t, func(r *rig) {
		r.with(func() { r.takes["pages"] = 4 * time.Minute })
		time.Sleep(time.Minute)
		r.expect("pages begins at 30s: " + copies)
		resume, err := r.mirror.Cease(r.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.expect("pages ended at 1m0s: canceled", "reported at 1m0s: stopped")
		time.Sleep(time.Hour)
		r.expect()
		r.refused("beta is taking over")
		resume()
		time.Sleep(time.Minute)
		r.expect("pages begins at 1h1m1s: " + copies)
	})
}

// A disk that doesn't answer keeps no run from being ended.
func TestCeaseDoesNotWaitForADisk(t *testing.T) {
	play(t, func(r *rig) {
		disk := make(chan struct{})
		r.with(func() { r.disk = disk })
		defer close(disk)
		time.Sleep(5 * time.Minute) // a copy waits to be reported
		r.with(func() { r.takes["pages"] = 4 * time.Minute })
		time.Sleep(7 * time.Minute)
		before := time.Now()
		if _, err := r.mirror.Cease(r.t.Context()); err != nil || time.Since(before) > 0 {
			t.Errorf("it took %s: %v", time.Since(before), err)
		}
		running := 0
		r.with(func() { running = r.running["pages"] })
		if running != 0 {
			t.Error("it runs on")
		}
	})
}

func TestARunThatCannotBeEndedKeepsItsNodeFromOwning(t *testing.T) {
	play(t, func(r *rig) {
		r.with(func() { r.takes["pages"], r.stuck["pages"] = 4*time.Minute, true })
		time.Sleep(time.Minute)
		if _, err := r.mirror.Cease(r.t.Context()); err == nil || !strings.Contains(err.Error(), "can't be ended, and may still write") {
			t.Errorf("it was ended: %v", err)
		}
		view, _ := r.View()
		if why := r.mirror.Trouble(r.policy, view); len(why) == 0 || !strings.Contains(why[0], "can't be ended") {
			t.Errorf("trouble: %q", why)
		}
		r.refused("can't be ended")
		r.with(func() { r.stuck["pages"] = false })
		time.Sleep(2 * time.Second)
		if resume, err := r.mirror.Cease(r.t.Context()); err != nil {
			t.Error(err)
		} else {
			resume()
		}
	})
}

func TestWhatAnEarlierRunLeftIsEndedFirst(t *testing.T) {
	playWith(t, func(r *rig) { r.owns("alpha"); r.left = []string{"pages", "gone-from-the-policy"} }, func(r *rig) {
		r.expect("pages is ended at 0s", "gone-from-the-policy is ended at 0s")
		if resume, err := r.mirror.Cease(r.t.Context()); err != nil {
			t.Error(err)
		} else {
			resume()
		}
	})
	playWith(t, func(r *rig) { r.owns("alpha"); r.left, r.stuck["pages"] = []string{"pages"}, true }, func(r *rig) {
		if _, err := r.mirror.Cease(r.t.Context()); err == nil {
			t.Error("it says that nothing is left")
		}
	})
}

func TestOldDataKeepANodeFromOwning(t *testing.T) {
	trouble := func(r *rig) string {
		view, _ := r.View()
		return strings.Join(r.mirror.Trouble(r.policy, view), "; ")
	}
	play(t, func(r *rig) {
		if why := trouble(r); why != "sync pages has not been completed here yet, and its max_age is 1h0m0s" {
			t.Error(why)
		}
		time.Sleep(time.Minute)
		if why := trouble(r); why != "" {
			t.Error(why)
		}
		r.lead("")
		time.Sleep(61 * time.Minute)
		if why := trouble(r); why != "its copy of sync pages is 1h1m30s old, and max_age is 1h0m0s" {
			t.Error(why)
		}
		// What was served last are the newest data there are, however old.
		r.owns("beta")
		time.Sleep(2 * time.Second)
		r.lead("")
		time.Sleep(5 * time.Hour)
		if why := trouble(r); why != "" {
			t.Error(why)
		}
		r.owns("alpha")
		if why := trouble(r); !strings.Contains(why, "is 5h0m") {
			t.Error(why)
		}
	})
	playWith(t, func(r *rig) {}, func(r *rig) {
		if why := trouble(r); why != "" {
			t.Errorf("before anybody has owned: %s", why)
		}
	})
}

// A restart knows how old the data are, and makes no copy before its time.
func TestARestartKnowsTheAges(t *testing.T) {
	playWith(t, func(r *rig) {
		r.owns("alpha")
		view, _ := r.View()
		r.copied("beta", view.LastEpoch)
		r.with(func() { r.ages["pages"] = time.Now().Add(-5 * time.Minute) })
	}, func(r *rig) {
		if s := r.status(); s.GetAgeMs() != (5*time.Minute).Seconds()*1000 {
			t.Errorf("status: %v", s)
		}
		time.Sleep(6 * time.Minute)
		r.expect("pages begins at 5m30s: "+copies, "pages ended at 5m31s: exited")
		var age time.Duration
		r.with(func() { age = time.Since(r.ages["pages"]) })
		if age != 30*time.Second {
			t.Errorf("saved is an age of %s", age)
		}
	})
}

func TestARunThatIsAskedFor(t *testing.T) {
	play(t, func(r *rig) {
		r.with(func() { r.takes["pages"] = time.Minute })
		result, err := r.mirror.Sync(r.t.Context(), "pages")
		if err != nil || result.GetOutcome() != hadv1.SyncResult_OUTCOME_COPIED || result.GetOwner() != "alpha" || result.GetDurationNs() != time.Minute.Nanoseconds() {
			t.Errorf("%v, %v", result, err)
		}
		r.expect("pages begins at 0s: "+copies, "pages ended at 1m0s: exited", "reported at 1m0s: copied")
		time.Sleep(10 * time.Minute) // the scheduled one is 10m30s after this one's beginning

		ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
		defer cancel()
		if _, err := r.mirror.Sync(ctx, "pages"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "which goes on") {
			t.Error(err)
		}
		result, err = r.mirror.Sync(r.t.Context(), "pages")
		if err != nil || result.GetOutcome() != hadv1.SyncResult_OUTCOME_COPIED {
			t.Errorf("%v, %v", result, err)
		}
		r.expect("pages begins at 10m30s: "+copies, "pages ended at 11m30s: exited")
		if _, err := r.mirror.Sync(r.t.Context(), "mail"); err == nil || !strings.Contains(err.Error(), `no sync called "mail"`) {
			t.Error(err)
		}
	})
}

func TestStoppingEndsWhatRuns(t *testing.T) {
	play(t, func(r *rig) {
		r.with(func() { r.takes["pages"] = 4 * time.Minute })
		time.Sleep(time.Minute)
		r.stop()
		r.expect("pages begins at 30s: "+copies, "pages ended at 1m0s: canceled", "reported at 1m0s: stopped")
		r.refused("had is starting or stopping")
	})
}
