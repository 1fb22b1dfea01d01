package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// The schedules of schedules_test.go for an owner with volumes.

// Schedule 2: what is said about an earlier run comes late, and the same node
// owns again.
func TestSchedule2LateEvidenceSecuresNothingNewer(t *testing.T) {
	first, second := instance("alpha", 1), instance("alpha", 2)
	for _, kind := range securedKinds {
		t.Run(kind.String(), func(t *testing.T) {
			l, epoch, lease := mountedLog(t)
			l.must(1, deliverCmd(released("alpha", 1, epoch)))
			next := l.must(2, mountsCmd(second, 2))
			l.refused(3, securedCmd("beta", secured(kind, first, 3, epoch, lease)))
			l.refused(3, securedCmd("beta", secured(kind, first, 3, next, next)))
			l.must(3, deliverCmd(released("alpha", 2, epoch)))
			l.must(3, farewellCmd(first, epoch))
			if got := l.open(); !slices.Equal(got, []uint64{next}) || l.state.View().Claim(next).GetSecured() != nil {
				t.Fatalf("open epochs %v, the newest secured by %v", got, l.state.View().Claim(next).GetSecured())
			}
			l.refused(3, mountsCmd(instance("beta", 1), 3, waited(next, next)))
		})
	}
}

// Schedule 3: the guard has made the volumes safe and said so; had wakes up.
func TestSchedule3ARenewalAfterTheEvidenceIsRefused(t *testing.T) {
	for _, kind := range securedKinds {
		l, epoch, lease := mountedLog(t)
		l.must(2, securedCmd("beta", secured(kind, instance("alpha", 1), 2, epoch, lease)))
		l.refused(3, renewCmd(instance("alpha", 1), 3, epoch)) // it leads again
		l.refused(3, mountsCmd(instance("alpha", 1), 3, waited(epoch, lease)))
	}
}

// Schedule 4: the successor's own file has shorter times and other methods.
func TestSchedule4EvidenceObeysTheRecordedTerms(t *testing.T) {
	const lastLease = clock.Instant(time.Hour)
	l, epoch, _ := mountedLog(t)
	c := l.state.View().Claim(epoch)

	// lease 1 s, grace 2 s, margin 3 s, watchdog 5 s
	for kind, least := range map[hadv1.Secured_Kind]time.Duration{
		hadv1.Secured_KIND_LEASE: 6 * time.Second, hadv1.Secured_KIND_WATCHDOG: 16 * time.Second,
	} {
		at, ok := SecuredAt(lastLease, c, kind)
		if wait := at.Sub(lastLease); !ok || wait < least+least/1000 || wait > least+least/1000+time.Millisecond {
			t.Errorf("%v counts %v after the last lease (%v), want %v and a thousandth", kind, at.Sub(lastLease), ok, least)
		}
	}
	for _, kind := range securedKinds {
		wait, ok := VolumeWait(c.GetTerms(), kind)
		if onTime := kind == hadv1.Secured_KIND_LEASE || kind == hadv1.Secured_KIND_WATCHDOG; ok != onTime || wait > 0 != onTime {
			t.Errorf("VolumeWait(%v) = %v, %v", kind, wait, ok)
		}
	}
	c.Terms = volumeTerms(MethodConfirm)
	for _, kind := range securedKinds {
		if at, ok := SecuredAt(lastLease, c, kind); ok {
			t.Errorf("%v counts at %v by terms that don't know it", kind, at)
		}
	}

	short := terms(time.Second)
	if grace := TakeoverWait(volumeTerms()) - TakeoverWait(short); grace < 2*time.Second || grace > 2*time.Second+3*time.Millisecond {
		t.Errorf("a grace of 2 s makes the addresses' wait %v longer", grace)
	}
}

// Schedule 6: a leader is deposed between its wait and its record.
func TestSchedule6ADeposedLeadersEvidence(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	onTime := []hadv1.Secured_Kind{hadv1.Secured_KIND_LEASE, hadv1.Secured_KIND_WATCHDOG}

	t.Run("what it waited for is not passed on to its successor", func(t *testing.T) {
		for _, kind := range onTime {
			l, epoch, lease := mountedLog(t)
			l.refused(3, securedCmd("gamma", secured(kind, alpha, 2, epoch, lease)))
		}
	})
	t.Run("the owner leads once more in between, and renews", func(t *testing.T) {
		for _, kind := range securedKinds {
			if kind == hadv1.Secured_KIND_GUARD {
				continue // it names no lease: the guard has ended them all
			}
			l, epoch, lease := mountedLog(t)
			r := secured(kind, alpha, 4, epoch, lease) // made in term 2
			last := l.must(3, renewCmd(alpha, 3, epoch))
			if why := l.refused(4, securedCmd("beta", r)); !strings.Contains(why, "renewed at entry 5") {
				t.Errorf("refused with %q", why)
			}
			l.refused(4, mountsCmd(beta, 4, waited(epoch, last)))
		}
	})
	t.Run("the next leader may rest on what it has proven", func(t *testing.T) {
		l, epoch, lease := mountedLog(t)
		l.must(2, securedCmd("beta", secured(hadv1.Secured_KIND_LEASE, alpha, 2, epoch, lease)))
		l.refused(3, mountsCmd(beta, 2, waited(epoch, lease)))
		l.must(3, mountsCmd(instance("beta", 2), 3, waited(epoch, lease))) // the next leader's may rest on it
	})
}

// Schedule 7: a wiped node, or new hardware, speaks for the one whose name it
// has.
func TestSchedule7AStrangerSecuresNothing(t *testing.T) {
	l, epoch, lease := mountedLog(t)
	stranger := instance("alpha", 1)
	stranger.NodeId, stranger.BootId = "id-of-new-hardware", "a later boot"
	l.refused(2, securedCmd("beta", secured(hadv1.Secured_KIND_GUARD, stranger, 2, epoch, lease)))
	l.refused(2, farewellCmd(stranger, epoch))
	rebooted := released("alpha", 1, epoch)
	rebooted.GetReleased().Kind, rebooted.GetReleased().Reporter = hadv1.Evidence_KIND_REBOOTED, stranger
	l.must(2, deliverCmd(rebooted))
	l.refused(2, mountsCmd(instance("beta", 1), 2, waited(epoch, lease)))
}

// Schedule 8, as far as a snapshot goes: one that was taken before the evidence
// and one that was taken after it lead to the same answers, and neither has
// anything to say about an epoch that came later.
func TestSchedule8SnapshotsKeepWhatWasProven(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	l, epoch, lease := mountedLog(t)
	proof := securedCmd("beta", secured(hadv1.Secured_KIND_FENCED, alpha, 2, epoch, lease))
	old := restored(t, l.state)
	if WhyNotSecured(old.View().Claim(epoch)) == "" {
		t.Fatal("an old snapshot says that the volumes are safe")
	}
	l.must(2, proof)
	l.state = restored(t, l.state)
	if v := old.Apply(Entry{Index: l.index, Term: 2}, proof); v.Refused != "" || string(encode(t, old)) != string(encode(t, l.state)) {
		t.Fatalf("the old snapshot leads elsewhere: %+v", v)
	}
	next := l.must(2, mountsCmd(beta, 2, waited(epoch, lease)))
	l.state = restored(t, l.state)
	l.refused(3, mountsCmd(instance("alpha", 2), 3, waited(next, next)))
}

// Schedule 9: the volume is taken out of the policy and put in again.
func TestSchedule9APolicyClosesNoClaim(t *testing.T) {
	l, epoch, lease := mountedLog(t)
	for i, text := range []string{"without the volume", "with it"} {
		l.must(2, policyCmd(uint64(i)+1, text)) //nolint:gosec // 0 or 1
		for _, cmd := range []*hadv1.Command{
			mountsCmd(instance("beta", 1), 2, waited(epoch, lease)), acquireCmd(instance("beta", 1), 2, waited(epoch, lease)),
		} {
			cmd.GetAcquire().PolicyVersion = uint64(i) + 2 //nolint:gosec // 2 or 3
			if why := l.refused(2, cmd); !strings.Contains(why, "alpha may still write web") {
				t.Errorf("refused with %q", why)
			}
		}
	}
}

// Schedule 10: the proposer had given up; nothing was ever mounted.
func TestSchedule10AnAcquireThatNobodyNoticed(t *testing.T) {
	l := bornLog(t)
	epoch := l.must(1, mountsCmd(instance("alpha", 1), 1))
	l.must(1, deliverCmd(progress("alpha", 1, epoch, hadv1.Progress_OUTCOME_FAILED)))
	l.refused(2, mountsCmd(instance("beta", 1), 2, waited(epoch, epoch))) // who knows
	l.must(2, deliverCmd(released("alpha", 2, epoch)))
	l.must(2, mountsCmd(instance("beta", 1), 2))
}
