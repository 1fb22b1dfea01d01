package cluster

import (
	"testing"

	hadv1 "had/proto/had/v1"
)

// What nobody saw stays in doubt until a later owner has mounted: whoever comes
// in between and gives the turn back has learned nothing.
func TestDoubtLastsUntilSomebodyMounts(t *testing.T) {
	for _, kind := range securedKinds {
		t.Run(kind.String(), func(t *testing.T) {
			alpha, beta := instance("alpha", 1), instance("beta", 1)
			l, epoch, lease := mountedLog(t)
			l.must(2, securedCmd("beta", secured(kind, alpha, 2, epoch, lease)))
			if d := l.state.View().Doubted; d != 0 {
				t.Errorf("epoch %d is doubted while it is open: it may still be released", d)
			}
			next := l.must(2, mountsCmd(beta, 2, waited(epoch, lease)))
			want := uint64(0)
			if kind == hadv1.Secured_KIND_LEASE || kind == hadv1.Secured_KIND_CONFIRMED {
				want = epoch
			}
			if d := l.state.View().Doubted; d != want {
				t.Fatalf("doubted is %d, want %d", d, want)
			}
			l.must(2, deliverCmd(progress("beta", 1, next, hadv1.Progress_OUTCOME_FAILED), released("beta", 2, next)))
			restored, err := DecodeState(encode(t, l.state))
			if err != nil || restored.View().Doubted != want {
				t.Errorf("after a failed turn and a snapshot doubted is %d (%v), want %d", restored.View().Doubted, err, want)
			}
			last := l.must(2, mountsCmd(instance("beta", 1), 2))
			l.must(2, deliverCmd(progress("beta", 3, last, hadv1.Progress_OUTCOME_SERVING)))
			if d := l.state.View().Doubted; d != 0 {
				t.Errorf("epoch %d is doubted although its successor has mounted", d)
			}
		})
	}
}

// A release says more than what stood in for it.
func TestAReleaseLeavesNoDoubt(t *testing.T) {
	l, epoch, lease := mountedLog(t)
	l.must(2, securedCmd("beta", secured(hadv1.Secured_KIND_LEASE, instance("alpha", 1), 2, epoch, lease)))
	l.must(2, deliverCmd(released("alpha", 1, epoch)))
	l.must(2, mountsCmd(instance("beta", 1), 2))
	if d := l.state.View().Doubted; d != 0 {
		t.Errorf("epoch %d is doubted although its owner released it", d)
	}
}

// A try is history and evidence of nothing.
func TestATryToFenceIsOnlyTold(t *testing.T) {
	l, epoch, _ := mountedLog(t)
	r := report("beta", 1)
	r.Body = &hadv1.Report_FenceTry{FenceTry: &hadv1.FenceTry{Epoch: epoch, Node: "alpha", Method: MethodAgent}}
	at := l.must(2, deliverCmd(r))
	events, _ := l.state.History(at - 1)
	if len(events) != 1 || events[0].GetFenceTry().GetMethod() != MethodAgent || events[0].GetEpoch() != epoch || events[0].GetNode() != "beta" {
		t.Errorf("the history says %v", events)
	}
	if WhyNotSecured(l.state.View().Claim(epoch)) == "" {
		t.Error("a try has secured the epoch")
	}
}
