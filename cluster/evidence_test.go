package cluster

import (
	"slices"
	"testing"

	hadv1 "had/proto/had/v1"
)

// A report closes an epoch only when its kind fits who says it: a host that
// looked must not have booted since, and one that booted must have.
func TestOnlyFittingEvidenceClosesAnEpoch(t *testing.T) {
	for _, c := range []struct {
		name     string
		kind     hadv1.Evidence_Kind
		rebooted bool
		closes   bool
	}{
		{"looked, in the same boot", hadv1.Evidence_KIND_RELEASED, false, true},
		{"booted since", hadv1.Evidence_KIND_REBOOTED, true, true},
		{"says rebooted within the same boot", hadv1.Evidence_KIND_REBOOTED, false, false},
		{"says released from another boot", hadv1.Evidence_KIND_RELEASED, true, false},
		{"waited: only a successor can say so", hadv1.Evidence_KIND_WAITED, false, false},
		{"says nothing", hadv1.Evidence_KIND_UNSPECIFIED, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := bornLog(t)
			epoch := l.must(1, acquireCmd(instance("alpha", 1), 1))
			r := released("alpha", 1, epoch)
			r.GetReleased().Kind = c.kind
			if c.rebooted {
				r.GetReleased().Reporter.BootId = "a later boot"
			}
			l.must(1, deliverCmd(r))
			if open := slices.Contains(l.open(), epoch); open == c.closes {
				t.Errorf("epoch %d open: %v, want %v", epoch, open, !c.closes)
			}
		})
	}
}

// The answer to a move may get lost, and the asker ask again after the move
// has ended: that must not move the addresses a second time.
func TestAMoveThatHasEndedIsNotOrderedAgain(t *testing.T) {
	l := bornLog(t)
	first := l.must(1, acquireCmd(instance("alpha", 1), 1))
	l.must(1, moveCmd("op-1", first, "beta"))
	l.must(1, deliverCmd(released("alpha", 1, first)))
	taken := acquireCmd(instance("beta", 1), 2)
	taken.GetAcquire().MoveOperation = "op-1"
	second := l.must(2, taken)
	l.refused(2, moveCmd("op-1", second, "alpha"))
	if v := l.state.View(); v.Move != nil || v.LastMove.GetOrder().GetOperation() != "op-1" {
		t.Errorf("move %v, last move %v", v.Move, v.LastMove)
	}
	l.must(2, moveCmd("op-2", second, "alpha"))
}
