package evidence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// A silent owner is left alone until its lease and the grace are over, and half a
// second more; then it is switched off, and the log has it.
func TestASilentOwnerIsSwitchedOffAfterItsLease(t *testing.T) {
	play(t, terms("agent", "confirm"), func(s *scene) {
		time.Sleep(over() + patience - 10*time.Millisecond)
		if got := s.tried(); len(got) != 0 {
			t.Fatalf("tried %v", got)
		}
		time.Sleep(20 * time.Millisecond)
		if got := s.tried(); len(got) != 1 || got[0] != "agent alpha 2.25s" {
			t.Errorf("tried %v", got)
		}
		r := s.secured()
		if r.GetKind() != hadv1.Secured_KIND_FENCED || r.GetBy() != "beta" || r.GetDetail() != "fence_x ip=10.0.9.11" || r.GetLeaseIndex() != 3 || s.tellings() != "agent+" {
			t.Errorf("the log has %v, told %s", r, s.tellings())
		}
		time.Sleep(time.Hour)
		if got := s.tried(); len(got) != 1 {
			t.Errorf("tried again: %v", got)
		}
		synctest.Wait() // also for what it still writes
		if log := s.log.String(); strings.Contains(log, "not in the log") || !strings.Contains(log, "safe from its owner") {
			t.Errorf("its log says:\n%s", log)
		}
	})
}

// From a host that answers nobody nothing is on its way, neither its owner's word nor
// its guard's.
func TestAHostThatAnswersNobodyIsSwitchedOffSooner(t *testing.T) {
	play(t, terms("agent", "confirm"), func(s *scene) {
		s.mu.Lock()
		s.silent = true
		s.mu.Unlock()
		time.Sleep(over() + looks*look - 10*time.Millisecond)
		if got := s.tried(); len(got) != 0 {
			t.Fatalf("tried %v", got)
		}
		time.Sleep(20 * time.Millisecond)
		if got := s.tried(); len(got) != 1 || got[0] != "agent alpha 1.85s" {
			t.Errorf("tried %v", got)
		}
	})
	play(t, terms("agent", "confirm"), func(s *scene) {
		s.mu.Lock()
		s.silent = true
		s.mu.Unlock()
		time.Sleep(over() + look - 10*time.Millisecond)
		s.mu.Lock()
		s.silent = false // a packet was lost
		s.mu.Unlock()
		time.Sleep(patience - look)
		if got := s.tried(); len(got) != 0 {
			t.Errorf("tried %v", got)
		}
	})
}

// A leader that gets no CPU can't know whether a host answers, and leaves its owner the
// time that one has whose host does.
func TestAStarvedLeaderTakesNobodyForCutOff(t *testing.T) {
	const late = look + lookLate + 1 // what a look takes it
	for _, c := range []struct{ starved, first, last time.Duration }{
		{late, late + looks*look, late + looks*look}, // and then hears nothing
		{time.Minute, patience, patience + late},
	} {
		play(t, terms("agent", "confirm"), func(s *scene) {
			s.set(func() { s.silent, s.starved = true, true })
			time.AfterFunc(over()+c.starved-1, func() { s.set(func() { s.starved = false }) })
			time.Sleep(over() + c.first - 10*time.Millisecond)
			if got := s.tried(); len(got) != 0 {
				t.Fatalf("tried %v", got)
			}
			time.Sleep(c.last - c.first + 20*time.Millisecond)
			if got := s.tried(); len(got) != 1 {
				t.Errorf("tried %v", got)
			}
		})
	}
}

// Where nobody led when the lease ended, nobody could take the owner's word: it is
// waited for when somebody does.
func TestAWordIsWaitedForByALateLeader(t *testing.T) {
	play(t, terms("agent", "confirm"), func(s *scene) {
		s.lead(cluster.Leadership{Term: 2, Standing: true})
		time.Sleep(time.Minute)
		s.lead(cluster.Leadership{Leading: true, Ready: true, Term: 3, Leader: "beta"})
		time.Sleep(patience - 10*time.Millisecond)
		if got := s.tried(); len(got) != 0 {
			t.Fatalf("tried %v", got)
		}
		time.Sleep(20 * time.Millisecond)
		if got := s.tried(); len(got) != 1 {
			t.Errorf("tried %v", got)
		}
	})
}

// A leader that doesn't know yet that the others follow somebody else, perhaps the
// owner again, touches nobody.
func TestNobodyIsTouchedByALeaderWhomNobodyFollows(t *testing.T) {
	with := terms("agent", "reservation", "confirm")
	with.ReservationKey = cluster.ReservationMark("c")
	play(t, with, func(s *scene) {
		s.set(func() { s.alone = true })
		time.Sleep(time.Minute)
		if got := s.tried(); len(got) != 0 {
			t.Fatalf("tried %v", got)
		}
		s.set(func() { s.alone = false })
		time.Sleep(confirmPause)
		if got := s.tried(); len(got) != 1 || s.secured().GetKind() != hadv1.Secured_KIND_FENCED {
			t.Errorf("tried %v, the log has %v", got, s.secured())
		}
	})
}

// A watchdog that was armed when the epoch was opened has fired once its time has
// passed; one that wasn't counts for nothing.
func TestAWatchdogsTimePasses(t *testing.T) {
	with := terms("watchdog", "confirm")
	with.WatchdogTimeoutNs = int64(5 * time.Second)
	play(t, with, func(s *scene) {
		wait, _ := cluster.VolumeWait(with, hadv1.Secured_KIND_WATCHDOG)
		time.Sleep(wait - 10*time.Millisecond)
		if r := s.secured(); r != nil {
			t.Fatalf("too early: %v", r)
		}
		if got := s.seeker.Tries()[3].Text; !strings.HasPrefix(got, "watchdog: waiting until the watchdog of alpha has certainly fired") {
			t.Errorf("it says %q", got)
		}
		time.Sleep(20 * time.Millisecond)
		if r := s.secured(); r.GetKind() != hadv1.Secured_KIND_WATCHDOG || r.GetWaitedNs() < int64(wait) {
			t.Errorf("the log has %v", r)
		}
	})
	play(t, terms("watchdog", "confirm"), func(s *scene) {
		time.Sleep(time.Hour)
		if r := s.secured(); r != nil {
			t.Errorf("the log has %v", r)
		}
	})
}

// The disks of an epoch that was opened with a key are taken from its owner, with
// the seeker's; one without was never alone on them.
func TestTheDisksAreTakenFromASilentOwner(t *testing.T) {
	with := terms("reservation", "confirm")
	with.ReservationKey = cluster.ReservationMark("c")
	key := fmt.Sprintf("LABEL=web with %#x", cluster.ReservationKey(with.GetReservationKey(), 3)|1)
	play(t, with, func(s *scene) {
		s.mu.Lock()
		s.evict = errors.New("take the disk /dev/sdb: reservation conflict")
		s.mu.Unlock()
		time.Sleep(over() + patience + time.Second)
		if got := s.seeker.Tries()[3]; !got.Failed || !strings.Contains(got.Text, "reservation: failed 1s ago: take the disk /dev/sdb") || s.secured() != nil {
			t.Errorf("it says %+v, the log has %v", got, s.secured())
		}
		s.mu.Lock()
		s.evict = nil
		s.mu.Unlock()
		time.Sleep(firstPause)
		if got := s.tried(); len(got) != 2 || got[0] != key+" 2.25s" || s.tellings() != "reservation- reservation+" {
			t.Errorf("tried %v, told of %s", got, s.tellings())
		}
		if r := s.secured(); r.GetKind() != hadv1.Secured_KIND_RESERVED || r.GetBy() != "beta" || !strings.HasPrefix(r.GetDetail(), "web (LABEL=web) with key 0x6861") || r.GetLeaseIndex() != 3 {
			t.Errorf("the log has %v", r)
		}
	})
	play(t, terms("reservation", "confirm"), func(s *scene) {
		time.Sleep(time.Hour)
		if got := s.tried(); len(got) != 0 || s.secured() != nil {
			t.Errorf("tried %v, the log has %v", got, s.secured())
		}
	})
}

// What the owner says itself comes first, and ends a try under way.
func TestAWordOfTheOwnerEndsTheSearch(t *testing.T) {
	released := &hadv1.Command{Record: &hadv1.Command_Deliver{Deliver: &hadv1.Deliver{Reports: []*hadv1.Report{{
		NodeId: "id-alpha", Node: "alpha", Stream: "s", Seq: 1,
		Body: &hadv1.Report_Released{Released: &hadv1.Released{Epoch: 3, Reporter: instance("alpha"), Kind: hadv1.Evidence_KIND_RELEASED}},
	}}}}}
	play(t, terms("agent"), func(s *scene) {
		time.Sleep(over())
		s.must(released)
		time.Sleep(time.Hour)
		if got := s.tried(); len(got) != 0 {
			t.Errorf("tried %v", got)
		}
	})
	play(t, terms("agent"), func(s *scene) {
		cut := make(chan struct{})
		s.offIs(func(ctx context.Context, _ policy.Method) error { <-ctx.Done(); close(cut); return nil })
		time.Sleep(over() + time.Second)
		if got := s.seeker.Tries()[3].Text; got != "agent: switching alpha off" {
			t.Errorf("it says %q", got)
		}
		s.must(released)
		<-cut
		synctest.Wait()
		if s.tellings() != "" {
			t.Errorf("told of %s", s.tellings())
		}
	})
}

// The methods come in the policy's order, over and over, and each failure is
// told; but not for ever.
func TestMethodsAreTriedInOrderAgainAndAgain(t *testing.T) {
	play(t, terms("command", "agent", "confirm"), func(s *scene) {
		s.offIs(func(context.Context, policy.Method) error { return errors.New("no route to host") })
		time.Sleep(over() + 20*time.Second)
		if got := s.tried(); len(got) < 6 || !slices.Equal(got[:4], []string{"command alpha 2.25s", "agent alpha 2.25s", "command alpha 7.25s", "agent alpha 7.25s"}) {
			t.Errorf("tried %v", got)
		}
		want := "command: failed 5s ago (try 3): no route to host; agent: failed 5s ago (try 3): no route to host; the next try is in 16s"
		if got := s.seeker.Tries()[3].Text; got != want {
			t.Errorf("it says %q\nwant    %q", got, want)
		}
		time.Sleep(24 * time.Hour)
		if n := len(strings.Fields(s.tellings())); n < 10 || n > 30 {
			t.Errorf("a day of failures has %d lines of history", n)
		}
		s.offIs(func(_ context.Context, m policy.Method) error {
			if m == policy.MethodAgent {
				return nil
			}
			return errors.New("still not")
		})
		time.Sleep(2 * maxPause)
		if r := s.secured(); r.GetKind() != hadv1.Secured_KIND_FENCED || !strings.HasSuffix(s.tellings(), "agent+") {
			t.Errorf("the log has %v, told ... %s", r, s.tellings())
		}
	})
}

// Time counts where the terms say so, after what could prove more has failed,
// and not an instant too early.
func TestTheLeaseCountsLastAndExactly(t *testing.T) {
	play(t, terms("agent", "lease"), func(s *scene) {
		s.offIs(func(context.Context, policy.Method) error { return errors.New("no") })
		wait, _ := cluster.VolumeWait(terms("lease"), hadv1.Secured_KIND_LEASE)
		time.Sleep(wait - time.Millisecond)
		if r := s.secured(); r != nil {
			t.Fatalf("the log has %v", r)
		}
		if got := s.seeker.Tries()[3].Text; !strings.Contains(got, "agent: failed 3s ago: no; lease: waiting for the margin after the lease of alpha") {
			t.Errorf("it says %q", got)
		}
		time.Sleep(2 * time.Millisecond)
		if r := s.secured(); r.GetKind() != hadv1.Secured_KIND_LEASE || time.Duration(r.GetWaitedNs()) != wait {
			t.Errorf("the log has %v, want %v waited", r, wait)
		}
	})
	play(t, terms("agent", "confirm"), func(s *scene) { // time counts for nothing
		s.offIs(func(context.Context, policy.Method) error { return errors.New("no") })
		time.Sleep(time.Hour)
		if r := s.secured(); r != nil {
			t.Errorf("the log has %v", r)
		}
	})
}

// An owner that renews while it is being switched off lives: what was found out
// is about the past, and the log refuses it.
func TestASignOfLifeVoidsATry(t *testing.T) {
	play(t, terms("agent"), func(s *scene) {
		first := true
		s.offIs(func(context.Context, policy.Method) error {
			if first {
				first = false
				s.must(&hadv1.Command{Proposer: "alpha", Record: &hadv1.Command_LeaseRenew{LeaseRenew: &hadv1.LeaseRenew{Term: 2, Epoch: 3, Instance: instance("alpha")}}})
			}
			return nil
		})
		time.Sleep(over() + time.Second)
		if r := s.secured(); r != nil {
			t.Fatalf("the log has %v", r)
		}
		if got := s.seeker.Tries()[3].Text; !strings.Contains(got, "the log didn't take it") {
			t.Errorf("it says %q", got)
		}
		time.Sleep(time.Minute)
		if r := s.secured(); r.GetKind() != hadv1.Secured_KIND_FENCED || len(s.tried()) != 2 {
			t.Errorf("the log has %v after %v", r, s.tried())
		}
	})
}

// Only a leader seeks, and never against itself; a signal without a new term
// interrupts nothing.
func TestOnlyALeaderSeeksAndNeverAgainstItself(t *testing.T) {
	play(t, terms("agent"), func(s *scene) {
		s.lead(cluster.Leadership{Term: 3, Leader: "gamma"})
		time.Sleep(time.Minute)
		s.lead(cluster.Leadership{Leading: true, Term: 4, Leader: "beta"}) // before its barrier
		time.Sleep(time.Minute)
		if got := s.tried(); len(got) != 0 {
			t.Fatalf("tried %v", got)
		}
		interrupted := false
		s.offIs(func(ctx context.Context, _ policy.Method) error {
			select {
			case <-ctx.Done():
				interrupted = true
			case <-time.After(10 * time.Second):
			}
			return nil
		})
		l := cluster.Leadership{Leading: true, Ready: true, Term: 4, Leader: "beta"}
		s.lead(l)
		time.Sleep(time.Second)
		s.lead(l)
		time.Sleep(10 * time.Second)
		if len(s.tried()) != 1 || interrupted || s.secured() == nil {
			t.Errorf("tried %v, interrupted %v, the log has %v", s.tried(), interrupted, s.secured())
		}
	})
	play(t, terms("agent"), func(s *scene) {
		v, _ := s.View()
		own := New(Config{Self: &hadv1.Member{Name: "alpha", NodeId: "id-alpha"}})
		if !s.seeker.concerns(v.Claim(3)) || own.concerns(v.Claim(3)) {
			t.Error("want alpha's epoch to concern beta, and not alpha's next run")
		}
	})
}
