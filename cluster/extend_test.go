package cluster

import (
	"strings"
	"testing"
	"time"

	hadv1 "had/proto/had/v1"
)

func extendCmd(in *hadv1.Instance, term, epoch uint64, t *hadv1.Terms, volumes ...*hadv1.HeldVolume) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Extend{Extend: &hadv1.Extend{
		Term: term, Epoch: epoch, Instance: in, Volumes: volumes, Terms: t,
	}}}
}

// laterTerms are those of an epoch of acquireCmd that gets volumes.
func laterTerms() *hadv1.Terms {
	t := terms(time.Second)
	t.FenceMethods, t.WatchdogTimeoutNs, t.VolumeMarginNs = []string{MethodAgent, MethodWatchdog, MethodLease}, int64(5*time.Second), int64(3*time.Second)
	return t
}

// A successor must know of a volume before its owner touches it, and by which
// evidence it is safe.
func TestAnEpochGetsVolumesWhileItIsOpen(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	web := &hadv1.HeldVolume{Name: "web", Device: "UUID=2b22", Path: "/srv/web"}
	db := &hadv1.HeldVolume{Name: "db", Device: "LABEL=db", Path: "/srv/db"}
	l := bornLog(t)
	epoch := l.must(5, acquireCmd(alpha, 5))
	if why := l.refused(5, extendCmd(alpha, 5, epoch, terms(time.Second), web)); !strings.Contains(why, "no fence method") {
		t.Error(why)
	}
	l.must(5, extendCmd(alpha, 5, epoch, laterTerms(), web))
	l.must(5, extendCmd(alpha, 5, epoch, laterTerms(), web)) // a retry
	l.must(5, extendCmd(alpha, 5, epoch, laterTerms(), db))
	c := l.state.View().Newest()
	if len(c.GetVolumes()) != 2 || len(c.GetTerms().GetFenceMethods()) == 0 || c.GetLastLeaseIndex() != epoch {
		t.Errorf("the claim is %v: want two volumes, a fence, and no longer lease", c)
	}
	if got := len(restored(t, l.state).View().Newest().GetVolumes()); got != 2 {
		t.Errorf("a snapshot has %d volumes", got)
	}
	// Time alone closes it no more.
	if why := l.refused(6, acquireCmd(beta, 6, waited(epoch, epoch))); !strings.Contains(why, "may still write web (UUID=2b22), db (LABEL=db)") {
		t.Error(why)
	}

	longer := laterTerms()
	longer.VolumeMarginNs++
	for name, r := range map[string]struct {
		cmd *hadv1.Command
		why string
	}{
		"another term":       {extendCmd(alpha, 4, epoch, laterTerms(), web), "proposed in term 4"},
		"another epoch":      {extendCmd(alpha, 5, epoch+1, laterTerms(), web), "is closed"},
		"another run":        {extendCmd(instance("alpha", 2), 5, epoch, laterTerms(), web), "another run of had"},
		"other terms":        {extendCmd(alpha, 5, epoch, longer, web), "other terms"},
		"no terms":           {extendCmd(alpha, 5, epoch, nil, web), "other terms"},
		"another device":     {extendCmd(alpha, 5, epoch, laterTerms(), &hadv1.HeldVolume{Name: "web", Device: "LABEL=x", Path: "/srv/x"}), "named twice"},
		"a device once more": {extendCmd(alpha, 5, epoch, laterTerms(), &hadv1.HeldVolume{Name: "x", Device: "LABEL=db", Path: "/srv/x"}), "named twice"},
	} {
		if why := l.refused(5, r.cmd); !strings.Contains(why, r.why) {
			t.Errorf("%s: %s", name, why)
		}
	}
	l.must(5, moveCmd("op", epoch, "beta"))
	if why := l.refused(5, extendCmd(alpha, 5, epoch, laterTerms(), web)); !strings.Contains(why, "a move to beta is under way") {
		t.Error(why)
	}
	l.must(5, moveEndCmd("op"))
	l.must(6, securedCmd("beta", secured(hadv1.Secured_KIND_FENCED, alpha, 6, epoch, epoch)))
	if why := l.refused(5, extendCmd(alpha, 5, epoch, laterTerms(), web)); !strings.Contains(why, "given to its successor") {
		t.Error(why)
	}
}

func TestWhatReservesItsDisksGetsNoMore(t *testing.T) {
	l := bornLog(t)
	cmd := mountsCmd(instance("alpha", 1), 5)
	cmd.GetAcquire().Terms.ReservationKey = ReservationMark("c-1")
	epoch := l.must(5, cmd)
	why := l.refused(5, extendCmd(instance("alpha", 1), 5, epoch, l.state.View().Newest().GetTerms(), &hadv1.HeldVolume{Name: "db", Device: "LABEL=db", Path: "/srv/db"}))
	if !strings.Contains(why, "reserved together") {
		t.Error(why)
	}
}
