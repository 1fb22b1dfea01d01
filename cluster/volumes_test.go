package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// volumeTerms are those of an epoch with everything armed that the methods
// need; without methods, with all of them.
func volumeTerms(methods ...string) *hadv1.Terms {
	if len(methods) == 0 {
		methods = []string{MethodAgent, MethodWatchdog, MethodReservation, MethodConfirm, MethodLease}
	}
	t := terms(time.Second)
	t.FenceMethods, t.WatchdogTimeoutNs, t.ReservationKey = methods, int64(5*time.Second), ReservationMark("the cluster's ID")
	t.ReleaseGraceNs, t.VolumeMarginNs = int64(2*time.Second), int64(3*time.Second)
	return t
}

// mountsCmd is an Acquire of an epoch with a volume.
func mountsCmd(in *hadv1.Instance, term uint64, evidence ...*hadv1.Evidence) *hadv1.Command {
	cmd := acquireCmd(in, term, evidence...)
	a := cmd.GetAcquire()
	a.Terms = volumeTerms()
	a.Volumes = []*hadv1.HeldVolume{{Name: "web", Device: "UUID=2b22", Path: "/srv/web", Fstype: "ext4"}}
	return cmd
}

// secured is evidence of a kind that fits an epoch and its last lease entry. Its
// term is that of the entry, if it is to be accepted.
func secured(kind hadv1.Secured_Kind, of *hadv1.Instance, term, epoch, lease uint64) *hadv1.Secured {
	return &hadv1.Secured{
		Term: term, Epoch: epoch, Instance: of, Kind: kind, By: "beta", LeaseIndex: lease,
		WaitedNs: int64(time.Minute), At: timestamppb.New(time.Unix(7, 0)),
	}
}

func securedCmd(proposer string, r *hadv1.Secured) *hadv1.Command {
	return &hadv1.Command{Proposer: proposer, Record: &hadv1.Command_Secured{Secured: r}}
}

var securedKinds = []hadv1.Secured_Kind{
	hadv1.Secured_KIND_GUARD, hadv1.Secured_KIND_FENCED, hadv1.Secured_KIND_WATCHDOG,
	hadv1.Secured_KIND_RESERVED, hadv1.Secured_KIND_CONFIRMED, hadv1.Secured_KIND_LEASE,
}

// mountedLog is a log in which alpha owns an epoch with a volume, opened and
// renewed in term 1.
func mountedLog(t *testing.T) (l *log, epoch, lease uint64) {
	l = bornLog(t)
	epoch = l.must(1, mountsCmd(instance("alpha", 1), 1))
	return l, epoch, l.must(1, renewCmd(instance("alpha", 1), 1, epoch))
}

func TestAnAcquireMustMakeSenseOfItsVolumes(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(a *hadv1.Acquire)
		why    string
	}{
		{"no fence method", func(a *hadv1.Acquire) { a.Terms.FenceMethods = nil }, "no fence method"},
		{"no name", func(a *hadv1.Acquire) { a.Volumes[0].Name = "" }, "lacks a name"},
		{"no device", func(a *hadv1.Acquire) { a.Volumes[0].Device = "" }, "lacks a name, a device"},
		{"no path", func(a *hadv1.Acquire) { a.Volumes[0].Path = "" }, "lacks a name, a device or a path"},
		{"one device twice", func(a *hadv1.Acquire) { a.Volumes[1].Device = "UUID=2b22" }, `volume "mail" (UUID=2b22`},
		{"one path twice", func(a *hadv1.Acquire) { a.Volumes[1].Path = "/srv/web" }, "named twice"},
		{"one name twice", func(a *hadv1.Acquire) { a.Volumes[1].Name = "web" }, "named twice"},
		{"a grace of a day", func(a *hadv1.Acquire) { a.Terms.ReleaseGraceNs = int64(24 * time.Hour) }, "a release grace of 24h"},
		{"a margin below zero", func(a *hadv1.Acquire) { a.Terms.VolumeMarginNs = -1 }, "a margin of -1ns"},
		{"a watchdog of an hour", func(a *hadv1.Acquire) { a.Terms.WatchdogTimeoutNs = int64(time.Hour) }, "a watchdog of 1h"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := bornLog(t)
			cmd := mountsCmd(instance("alpha", 1), 1)
			a := cmd.GetAcquire()
			a.Volumes = append(a.Volumes, &hadv1.HeldVolume{Name: "mail", Device: "UUID=77aa", Path: "/srv/mail"})
			l.must(1, proto.CloneOf(cmd))
			l = bornLog(t)
			c.change(a)
			if why := l.refused(1, cmd); !strings.Contains(why, c.why) {
				t.Errorf("refused with %q, want %q in it", why, c.why)
			}
		})
	}
}

func TestTimeAloneClosesNoVolume(t *testing.T) {
	l, epoch, lease := mountedLog(t)
	why := l.refused(2, mountsCmd(instance("beta", 1), 2, waited(epoch, lease)))
	for _, want := range []string{"epoch 3 is still open", "alpha may still write web (UUID=2b22)", "hactl fence confirm alpha"} {
		if !strings.Contains(why, want) {
			t.Errorf("refused with %q, want %q in it", why, want)
		}
	}
	l.refused(2, acquireCmd(instance("beta", 1), 2, waited(epoch, lease))) // nor for addresses alone
	l.refused(2, mountsCmd(instance("alpha", 2), 2, waited(epoch, lease)))
}

func TestEachKindOfEvidenceSecures(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	for _, kind := range securedKinds {
		t.Run(kind.String(), func(t *testing.T) {
			l, epoch, lease := mountedLog(t)
			at := l.must(2, securedCmd("beta", secured(kind, alpha, 2, epoch, lease)))
			if c := l.state.View().Claim(epoch); c.GetSecured().GetKind() != kind || WhyNotSecured(c) != "" {
				t.Fatalf("the claim is %v, and lacks: %s", c, WhyNotSecured(c))
			}

			// Neither its owner nor anybody else undoes it.
			l.refused(3, renewCmd(alpha, 3, epoch))
			before := encodeAt(t, l.state, 0)
			for _, again := range securedKinds {
				l.must(3, securedCmd("beta", secured(again, alpha, 3, epoch, lease)))
			}
			if string(before) != string(encodeAt(t, l.state, 0)) {
				t.Error("evidence that came twice changed the state")
			}
			events, _ := l.state.History(lease)
			if len(events) != 1 || events[0].GetIndex() != at || events[0].GetSecured().GetKind() != kind || events[0].GetNode() != "alpha" ||
				events[0].GetEpoch() != epoch || events[0].GetAt().GetSeconds() != 7 {
				t.Errorf("the history says %v", events)
			}

			// The addresses have still to be waited for.
			l.refused(3, mountsCmd(beta, 3))
			l.refused(3, mountsCmd(beta, 3, waited(epoch, lease-1)))
			next := l.must(3, mountsCmd(beta, 3, waited(epoch, lease)))
			if got := l.open(); !slices.Equal(got, []uint64{next}) {
				t.Errorf("open epochs %v, want %d", got, next)
			}
		})
	}
}

// TestUnfitEvidenceIsRefused lists what is wrong in one respect. Each case
// starts with alpha owning epoch 3 in term 1, renewed at entry 4.
func TestUnfitEvidenceIsRefused(t *testing.T) {
	const fenced, watchdog, lease = hadv1.Secured_KIND_FENCED, hadv1.Secured_KIND_WATCHDOG, hadv1.Secured_KIND_LEASE
	const guarded, reserved, confirmed = hadv1.Secured_KIND_GUARD, hadv1.Secured_KIND_RESERVED, hadv1.Secured_KIND_CONFIRMED
	stranger := instance("alpha", 1)
	stranger.NodeId = "id-of-new-hardware"
	least := func(kind hadv1.Secured_Kind) int64 {
		wait, _ := VolumeWait(volumeTerms(), kind)
		return int64(wait)
	}
	type change = func(r *hadv1.Secured)
	cases := []struct {
		name   string
		kinds  []hadv1.Secured_Kind
		terms  func(t *hadv1.Terms)
		change change
		why    string
	}{
		{"an epoch that never was", securedKinds, nil, func(r *hadv1.Secured) { r.Epoch = 9 }, "epoch 9 is closed"},
		{"an earlier epoch", securedKinds, nil, func(r *hadv1.Secured) { r.Epoch = 2 }, "epoch 2 is closed"},
		{"another run of had", securedKinds, nil, func(r *hadv1.Secured) { r.Instance = instance("alpha", 2) }, "another run of had on alpha"},
		{"another node", securedKinds, nil, func(r *hadv1.Secured) { r.Instance = instance("beta", 1) }, "another run of had on alpha"},
		{"new hardware of the same name", securedKinds, nil, func(r *hadv1.Secured) { r.Instance = stranger }, "another run of had on alpha"},
		{"nobody", securedKinds, nil, func(r *hadv1.Secured) { r.Instance = nil }, "another run of had on alpha"},
		{"no kind", []hadv1.Secured_Kind{hadv1.Secured_KIND_UNSPECIFIED}, nil, nil, "no kind of evidence"},
		{"a kind of a newer version", []hadv1.Secured_Kind{77}, nil, nil, "doesn't know the kind"},
		{"a kind that came with a later policy", []hadv1.Secured_Kind{fenced, watchdog, reserved, lease}, func(t *hadv1.Terms) { t.FenceMethods = []string{MethodConfirm} }, nil, "opened with the fence methods confirm"},
		{"a watchdog that wasn't armed", []hadv1.Secured_Kind{watchdog}, func(t *hadv1.Terms) { t.WatchdogTimeoutNs = 0 }, nil, "armed accordingly"},
		{"disks that weren't reserved", []hadv1.Secured_Kind{reserved}, func(t *hadv1.Terms) { t.ReservationKey = 0 }, nil, "armed accordingly"},
		{"an older lease", []hadv1.Secured_Kind{fenced, watchdog, reserved, confirmed, lease}, nil, func(r *hadv1.Secured) { r.LeaseIndex = 3 }, "renewed at entry 4; the evidence is about entry 3"},
		{"a lease to come", []hadv1.Secured_Kind{fenced, watchdog, reserved, confirmed, lease}, nil, func(r *hadv1.Secured) { r.LeaseIndex = 5 }, "about entry 5"},
		{"a wait of another term", []hadv1.Secured_Kind{watchdog, lease}, nil, func(r *hadv1.Secured) { r.Term = 1 }, "proposed in term 1 and logged in term 2"},
		{"a lease that wasn't waited out", []hadv1.Secured_Kind{lease}, nil, func(r *hadv1.Secured) { r.WaitedNs = least(lease) - 1 }, "its terms demand 6.006"},
		{"a watchdog that wasn't waited for", []hadv1.Secured_Kind{watchdog}, nil, func(r *hadv1.Secured) { r.WaitedNs = least(watchdog) - 1 }, "its terms demand 16.016"},
		{"a confirmation by nobody", []hadv1.Secured_Kind{confirmed}, nil, func(r *hadv1.Secured) { r.By = "" }, "who has seen that alpha is off"},
	}
	for _, c := range cases {
		for _, kind := range c.kinds {
			t.Run(c.name+" "+kind.String(), func(t *testing.T) {
				l := bornLog(t)
				cmd := mountsCmd(instance("alpha", 1), 1)
				if c.terms != nil {
					c.terms(cmd.GetAcquire().GetTerms())
				}
				epoch := l.must(1, cmd)
				r := secured(kind, instance("alpha", 1), 2, epoch, l.must(1, renewCmd(instance("alpha", 1), 1, epoch)))
				if c.change != nil {
					c.change(r)
				}
				if why := l.refused(2, securedCmd("beta", r)); !strings.Contains(why, c.why) {
					t.Errorf("refused with %q, want %q in it", why, c.why)
				}
			})
		}
	}
	for kind, wait := range map[hadv1.Secured_Kind]int64{lease: least(lease), watchdog: least(watchdog)} {
		l, epoch, last := mountedLog(t)
		r := secured(kind, instance("alpha", 1), 2, epoch, last)
		r.WaitedNs = wait
		l.must(2, securedCmd("beta", r))
	}
	t.Run("from the node that is said to be off", func(t *testing.T) {
		for _, kind := range securedKinds {
			l, epoch, last := mountedLog(t)
			cmd := securedCmd("alpha", secured(kind, instance("alpha", 1), 1, epoch, last))
			if kind == guarded { // its daemon may lead and have woken up: the guard's word stands
				l.must(1, cmd)
				continue
			}
			if why := l.refused(1, cmd); !strings.Contains(why, "alpha has proposed this itself, so it runs") {
				t.Errorf("refused with %q", why)
			}
		}
	})
	t.Run("about an epoch without volumes", func(t *testing.T) {
		for _, kind := range securedKinds {
			l := bornLog(t)
			cmd := acquireCmd(instance("alpha", 1), 1)
			cmd.GetAcquire().Terms = volumeTerms()
			epoch := l.must(1, cmd)
			if why := l.refused(2, securedCmd("beta", secured(kind, instance("alpha", 1), 2, epoch, epoch))); !strings.Contains(why, "no volumes") {
				t.Errorf("refused with %q", why)
			}
		}
	})
}

// A node that was fenced, and comes back, closes its epoch as any other. The
// history shows both.
func TestAReleaseAfterTheEvidenceClosesAsEver(t *testing.T) {
	alpha := instance("alpha", 1)
	rebooted := released("alpha", 1, 3)
	rebooted.GetReleased().Kind, rebooted.GetReleased().Reporter.BootId = hadv1.Evidence_KIND_REBOOTED, "a later boot"
	for name, cmd := range map[string]*hadv1.Command{
		"released": deliverCmd(released("alpha", 1, 3)), "rebooted": deliverCmd(rebooted), "its guard's farewell": farewellCmd(alpha, 3),
	} {
		t.Run(name, func(t *testing.T) {
			l, epoch, lease := mountedLog(t)
			l.must(2, securedCmd("beta", secured(hadv1.Secured_KIND_FENCED, alpha, 2, epoch, lease)))
			l.must(2, cmd)
			if len(l.open()) != 0 {
				t.Errorf("open epochs %v", l.open())
			}
			events, _ := l.state.History(lease)
			if len(events) != 2 || events[0].GetSecured() == nil || events[1].GetReleased() == nil {
				t.Errorf("the history says %v", events)
			}
			l.refused(2, securedCmd("beta", secured(hadv1.Secured_KIND_FENCED, alpha, 2, epoch, lease)))
			l.must(2, mountsCmd(instance("beta", 1), 2))
		})
	}
}

func TestAClaimKeepsItsVolumes(t *testing.T) {
	l, epoch, lease := mountedLog(t)
	check := func(when string) {
		t.Helper()
		for _, s := range []*State{l.state, restored(t, l.state)} {
			c := s.View().Claim(epoch)
			if len(c.GetVolumes()) != 1 || c.GetVolumes()[0].GetDevice() != "UUID=2b22" || !slices.Contains(c.GetTerms().GetFenceMethods(), MethodAgent) {
				t.Fatalf("after %s the claim is %v", when, c)
			}
		}
	}
	l.must(1, policyCmd(1, `vip "web" { address = "192.0.2.10" }`))
	check("a policy without the volume")
	serving := progress("alpha", 1, epoch, hadv1.Progress_OUTCOME_SERVING)
	serving.GetProgress().PolicyVersion = 2
	l.must(1, deliverCmd(serving))
	check("the owner's word that it serves that policy")

	addressesOnly := acquireCmd(instance("beta", 1), 2, waited(epoch, lease))
	addressesOnly.GetAcquire().PolicyVersion = 2
	l.refused(2, addressesOnly)
	l.must(2, securedCmd("beta", secured(hadv1.Secured_KIND_FENCED, instance("alpha", 1), 2, epoch, lease)))
	check("the evidence")
	late := progress("alpha", 2, epoch, hadv1.Progress_OUTCOME_SERVING)
	l.must(2, deliverCmd(late))
	check("a late report")
	if l.state.View().Claim(epoch).GetSecured() == nil {
		t.Error("a report took the evidence back")
	}
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	claim := func(change func(t *hadv1.Terms)) *hadv1.Claim {
		l := bornLog(t)
		cmd := mountsCmd(instance("alpha", 1), 1)
		cmd.GetAcquire().Volumes = append(cmd.GetAcquire().GetVolumes(), &hadv1.HeldVolume{Name: "mail", Device: "nas:/mail", Path: "/srv/mail"})
		change(cmd.GetAcquire().GetTerms())
		epoch := l.must(1, cmd)
		return l.state.View().Claim(epoch)
	}
	const begin, end = "alpha may still write web (UUID=2b22), mail (nas:/mail): ", "; if you have seen that it is off: hactl fence confirm alpha"
	for _, c := range []struct {
		methods []string
		want    string
	}{
		{[]string{MethodConfirm}, "nobody has confirmed that it is off"},
		{[]string{MethodAgent, MethodCommand, MethodConfirm}, "no fence has confirmed that it is off"},
		{[]string{MethodWatchdog, MethodAgent}, "its watchdog has not certainly fired, no fence has confirmed that it is off"},
		{[]string{MethodReservation}, "its reservation of the disks has not been preempted"},
		{[]string{MethodLease}, "its lease and the margin are not over"},
		{[]string{"of a newer version"}, "nobody has confirmed that it is off"},
	} {
		got := WhyNotSecured(claim(func(t *hadv1.Terms) { t.FenceMethods = c.methods }))
		if got != begin+c.want+end {
			t.Errorf("%v: %q, want %q", c.methods, got, begin+c.want+end)
		}
	}
	unarmed := claim(func(t *hadv1.Terms) {
		t.FenceMethods, t.WatchdogTimeoutNs, t.ReservationKey = []string{MethodWatchdog, MethodReservation}, 0, 0
	})
	if got := WhyNotSecured(unarmed); got != begin+"nobody has confirmed that it is off"+end {
		t.Errorf("what was never armed is waited for: %q", got)
	}
}
