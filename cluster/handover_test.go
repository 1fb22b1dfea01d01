package cluster

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// handedLog is a log in which alpha's epoch has been handed over to beta, by
// operation "op", in term 2.
func handedLog(t *testing.T) (l *log, from, to uint64) {
	l = bornLog(t)
	from = l.must(1, acquireCmd(instance("alpha", 1), 1))
	l.must(1, moveCmd("op", from, "beta"))
	return l, from, l.must(2, handedCmd(instance("beta", 1), 2, from))
}

func handedCmd(to *hadv1.Instance, term, from uint64) *hadv1.Command {
	cmd := acquireCmd(to, term, &hadv1.Evidence{Epoch: from, Kind: hadv1.Evidence_KIND_HANDED_OVER})
	cmd.GetAcquire().MoveOperation = "op"
	return cmd
}

func waitedCmd(term uint64, ev *hadv1.Evidence) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Waited{Waited: &hadv1.Waited{Term: term, Evidence: ev}}}
}

func farewellCmd(of *hadv1.Instance, epoch uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Farewell{Farewell: &hadv1.Farewell{
		NodeId: of.GetNodeId(), At: timestamppb.New(time.Unix(7, 0)),
		Released: &hadv1.Released{Epoch: epoch, Reporter: of, Kind: hadv1.Evidence_KIND_RELEASED, Forced: true},
	}}}
}

func TestAHandedOverEpochStaysOpenAndIsNotRenewed(t *testing.T) {
	l, from, to := handedLog(t)
	if got := l.open(); !slices.Equal(got, []uint64{from, to}) {
		t.Fatalf("open epochs %v, want both %d and %d: the old owner still serves", got, from, to)
	}
	l.refused(2, renewCmd(instance("alpha", 1), 2, from))
	l.must(2, renewCmd(instance("beta", 1), 2, to))
	l.must(2, deliverCmd(released("alpha", 1, from)))
	if got := l.open(); !slices.Equal(got, []uint64{to}) {
		t.Fatalf("open epochs %v after alpha's release, want %d", got, to)
	}
}

func TestASuccessorAccountsForBothEpochsOfAHandover(t *testing.T) {
	l, from, to := handedLog(t)
	l.must(2, renewCmd(instance("beta", 1), 2, to))
	renewed := l.index
	alpha := instance("alpha", 1)
	l.refused(3, acquireCmd(alpha, 3, waited(to, renewed)))
	l.refused(3, acquireCmd(instance("alpha", 2), 3, waited(from, from)))
	l.refused(3, acquireCmd(instance("alpha", 2), 3, waited(from, from), waited(to, to)))
	last := l.must(3, acquireCmd(instance("alpha", 2), 3, waited(from, from), waited(to, renewed)))
	if got := l.open(); !slices.Equal(got, []uint64{last}) {
		t.Fatalf("open epochs %v, want %d", got, last)
	}
}

func TestOnlyAWillingOwnerIsHandedOver(t *testing.T) {
	for name, prepare := range map[string]func(l *log) *hadv1.Command{
		"no move": func(l *log) *hadv1.Command {
			from := l.must(1, acquireCmd(instance("alpha", 1), 1))
			return handedCmd(instance("beta", 1), 2, from)
		},
		"a move that has ended": func(l *log) *hadv1.Command {
			from := l.must(1, acquireCmd(instance("alpha", 1), 1))
			l.must(1, moveCmd("op", from, "beta"))
			l.must(1, moveEndCmd("op"))
			return handedCmd(instance("beta", 1), 2, from)
		},
		"another run of the owner's node": func(l *log) *hadv1.Command {
			from := l.must(1, acquireCmd(instance("alpha", 1), 1))
			l.must(1, moveCmd("op", from, "beta"))
			return handedCmd(instance("alpha", 2), 2, from)
		},
		"twice": func(l *log) *hadv1.Command {
			from := l.must(1, acquireCmd(instance("alpha", 1), 1))
			l.must(1, moveCmd("op", from, "beta"))
			l.must(2, handedCmd(instance("beta", 1), 2, from))
			return handedCmd(instance("beta", 2), 3, from)
		},
		"and waited for at once": func(l *log) *hadv1.Command {
			from := l.must(1, acquireCmd(instance("alpha", 1), 1))
			l.must(1, moveCmd("op", from, "beta"))
			cmd := handedCmd(instance("beta", 1), 2, from)
			cmd.GetAcquire().Evidence = append(cmd.GetAcquire().GetEvidence(), waited(from, from-1))
			return cmd
		},
		"an earlier epoch is open": func(l *log) *hadv1.Command {
			from := l.must(1, acquireCmd(instance("alpha", 1), 1))
			l.must(1, moveCmd("op", from, "beta"))
			to := l.must(2, handedCmd(instance("beta", 1), 2, from))
			l.must(2, moveCmd("op2", to, "alpha"))
			cmd := handedCmd(instance("alpha", 2), 3, to)
			cmd.GetAcquire().MoveOperation = "op2"
			return cmd
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := bornLog(t)
			cmd := prepare(l)
			l.refused(cmd.GetAcquire().GetTerm(), cmd)
		})
	}
}

func TestWaitedClosesAHandedOverEpochOnly(t *testing.T) {
	l, from, to := handedLog(t)
	l.refused(1, waitedCmd(2, waited(from, from)))
	l.refused(2, waitedCmd(2, waited(from, from+1)))
	l.refused(2, waitedCmd(2, waited(to, to)))
	l.refused(2, waitedCmd(2, &hadv1.Evidence{Epoch: from, Kind: hadv1.Evidence_KIND_RELEASED, LeaseIndex: from}))
	at := l.must(2, waitedCmd(2, waited(from, from)))
	if got := l.open(); !slices.Equal(got, []uint64{to}) {
		t.Fatalf("open epochs %v, want %d", got, to)
	}
	if events, _ := l.state.History(at - 1); len(events) != 1 || events[0].GetClosed().GetEpoch() != from {
		t.Errorf("the history says %v", events)
	}
	l.refused(2, waitedCmd(2, waited(from, from)))
}

func TestAFarewellClosesItsOwnRunsEpochOnce(t *testing.T) {
	l := bornLog(t)
	alpha := instance("alpha", 1)
	epoch := l.must(1, acquireCmd(alpha, 1))

	l.refused(2, farewellCmd(instance("alpha", 2), epoch))
	l.refused(2, farewellCmd(instance("beta", 1), epoch))
	stranger := farewellCmd(alpha, epoch)
	stranger.GetFarewell().NodeId = "id-beta"
	l.refused(2, stranger)
	rebooted := farewellCmd(alpha, epoch)
	rebooted.GetFarewell().Released.Kind = hadv1.Evidence_KIND_REBOOTED
	l.refused(2, rebooted)

	l.must(2, farewellCmd(alpha, epoch))
	l.must(2, farewellCmd(alpha, epoch)) // two nodes heard it
	if got := l.open(); len(got) != 0 {
		t.Fatalf("open epochs %v after the farewell", got)
	}
	events, _ := l.state.History(epoch)
	if len(events) != 1 || events[0].GetReleased().GetEpoch() != epoch || events[0].GetAt().GetSeconds() != 7 {
		t.Errorf("the history says %v, want one release at second 7", events)
	}
	l.must(2, acquireCmd(instance("beta", 1), 2))
}

// Schedule 2: the guard's word comes after its node has been succeeded.
func TestSchedule2ALateFarewellClosesNothingNewer(t *testing.T) {
	l := bornLog(t)
	first := l.must(1, acquireCmd(instance("alpha", 1), 1))
	second := l.must(2, acquireCmd(instance("alpha", 2), 2, waited(first, first)))
	l.must(2, farewellCmd(instance("alpha", 1), first))
	if got := l.open(); !slices.Equal(got, []uint64{second}) {
		t.Fatalf("open epochs %v after the late farewell, want %d", got, second)
	}
	l.refused(3, acquireCmd(instance("beta", 1), 3))
}
