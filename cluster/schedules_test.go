package cluster

import (
	"slices"
	"testing"
	"time"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// The schedules of docs/protocol.md, "Schedules that broke earlier drafts",
// as far as the replicated state decides them. The numbers are those of that
// list; 5 is in node_test.go.

func TestSchedule2LateReleasedClosesNothingNewer(t *testing.T) {
	l := bornLog(t)
	first := l.must(1, acquireCmd(instance("alpha", 1), 1))
	second := l.must(2, acquireCmd(instance("alpha", 2), 2, waited(first, first)))
	l.must(2, deliverCmd(released("alpha", 1, first))) // sent by the first run, late
	if got := l.open(); !slices.Equal(got, []uint64{second}) {
		t.Fatalf("open epochs %v after the late report, want %d", got, second)
	}
	l.refused(3, acquireCmd(instance("beta", 1), 3))
	events, _ := l.state.History(second)
	if len(events) != 1 || events[0].GetReleased().GetEpoch() != first {
		t.Errorf("the late report is not in the history: %v", events)
	}
}

func TestSchedule2NoOtherRunResumesAnEpoch(t *testing.T) {
	l := bornLog(t)
	epoch := l.must(1, acquireCmd(instance("alpha", 1), 1))
	l.refused(2, renewCmd(instance("alpha", 2), 2, epoch))
	rebooted := instance("alpha", 1)
	rebooted.BootId = "another boot"
	l.refused(2, renewCmd(rebooted, 2, epoch))
}

func TestSchedule3RenewalAfterReleaseIsRefused(t *testing.T) {
	l := bornLog(t)
	alpha := instance("alpha", 1)
	epoch := l.must(1, acquireCmd(alpha, 1))
	l.must(1, deliverCmd(released("alpha", 1, epoch)))
	l.refused(1, renewCmd(alpha, 1, epoch))

	// Nor does its own node take a late grant for the epoch up again.
	var lease Lease
	lease.Grant(epoch, 10, time.Second)
	lease.End(epoch)
	if lease.Grant(epoch, 20, time.Second) {
		t.Error("the lease was granted after its end")
	}
}

func TestSchedule4SuccessorObeysTheRecordedTerms(t *testing.T) {
	l := bornLog(t)
	slow := TimingFor(time.Second)
	fast := TimingFor(100 * time.Millisecond)
	cmd := acquireCmd(instance("alpha", 1), 1)
	cmd.GetAcquire().Terms = slow.Terms(LayerLifetime)
	l.must(1, cmd)

	const lastLease = clock.Instant(time.Hour)
	at := TakeoverAt(lastLease, l.state.View().Open)
	if least := lastLease.Add(slow.TTL + slow.AddressLifetime + KernelExpirySlack); at.Before(least) {
		t.Errorf("a successor may take over %v after the last lease, which runs for %v", at.Sub(lastLease), slow.TTL)
	}
	if TakeoverWait(fast.Terms(LayerLifetime)) >= TakeoverWait(slow.Terms(LayerLifetime)) {
		t.Error("the wait doesn't depend on the terms")
	}
}

func TestSchedule6ADeposedLeadersEntriesAreRefused(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)

	t.Run("its renewal in a later term", func(t *testing.T) {
		l := bornLog(t)
		epoch := l.must(1, acquireCmd(alpha, 1))
		l.refused(2, renewCmd(alpha, 1, epoch))
		l.must(2, acquireCmd(beta, 2, waited(epoch, epoch))) // what beta waited for still holds
	})
	t.Run("its Acquire in a later term", func(t *testing.T) {
		l := bornLog(t)
		l.refused(2, acquireCmd(alpha, 1))
	})
	t.Run("a renewal between the wait and the Acquire", func(t *testing.T) {
		l := bornLog(t)
		epoch := l.must(1, acquireCmd(alpha, 1))
		l.must(1, renewCmd(alpha, 1, epoch))
		l.refused(2, acquireCmd(beta, 2, waited(epoch, epoch)))
	})
}

func TestSchedule7AWipedNodeIsAStranger(t *testing.T) {
	l := bornLog(t)
	epoch := l.must(1, acquireCmd(instance("alpha", 1), 1))

	wiped := released("alpha", 1, epoch)
	wiped.NodeId = "id-of-new-hardware"
	wiped.GetReleased().Reporter.NodeId = "id-of-new-hardware"
	l.refused(2, deliverCmd(wiped))

	// Its ID may also be hidden in the reporter alone, or the reporter's
	// under another node's report.
	hidden := released("alpha", 1, epoch)
	hidden.GetReleased().Reporter.NodeId = "id-of-new-hardware"
	l.must(2, deliverCmd(hidden))
	posing := released("beta", 1, epoch)
	posing.GetReleased().Reporter = instance("alpha", 1)
	l.must(2, deliverCmd(posing))
	if got := l.open(); !slices.Equal(got, []uint64{epoch}) {
		t.Fatalf("open epochs %v: a stranger released alpha's epoch %d", got, epoch)
	}

	stranger := instance("alpha", 2)
	stranger.NodeId = "id-of-new-hardware"
	l.refused(2, acquireCmd(stranger, 2, waited(epoch, epoch)))
}

func TestSchedule10AcquireThatCommittedAfterItsProposerGaveUp(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	lost := func(t *testing.T) (*log, uint64) {
		l := bornLog(t)
		return l, l.must(1, acquireCmd(alpha, 1))
	}

	t.Run("others can't wish it away", func(t *testing.T) {
		l, epoch := lost(t)
		l.refused(2, acquireCmd(beta, 2))
		l.must(2, deliverCmd(released("beta", 1, epoch)))
		l.must(2, deliverCmd(progress("alpha", 1, epoch, hadv1.Progress_OUTCOME_FAILED)))
		l.refused(2, acquireCmd(beta, 2))
		l.refused(2, acquireCmd(alpha, 2)) // not even the proposer
		l.must(2, acquireCmd(beta, 2, waited(epoch, epoch)))
	})
	t.Run("its own node proves clean", func(t *testing.T) {
		l, epoch := lost(t)
		l.must(1, deliverCmd(released("alpha", 1, epoch)))
		l.must(1, acquireCmd(alpha, 1))
	})
	t.Run("a restarted had waits it out", func(t *testing.T) {
		l, epoch := lost(t)
		l.must(2, acquireCmd(instance("alpha", 2), 2, waited(epoch, epoch)))
	})
}
