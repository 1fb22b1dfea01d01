package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"had/cluster"
	"had/internal/hook"
	"had/internal/journal"
	hadv1 "had/proto/had/v1"
)

// withVolumes is the part of a policy that has two volumes, and a fence.
const withVolumes = `
volume "web" {
  device = "LABEL=web"
  path   = "/srv/web"
  fstype = "ext4"
}
volume "db" {
  device = "LABEL=db"
  path   = "/srv/web/db"
}
fence {
  methods = ["confirm", "lease"]
  margin  = "3s"
}
`

// shelf is what a guard mounts on alpha. Each mount must be allowed: by the log,
// and by what the journal knows should this run die.
type shelf struct {
	r *rig

	mu         sync.Mutex
	mounted    []string
	epoch      uint64 // of mounted
	failMount  map[string]error
	hangMount  bool
	busy       error // of every Unmount
	failSecure error
	clearMMP   []bool          // of every Mount
	flushed    []string        // "web db, before PreRel"
	watchdog   []time.Duration // each look finds the next, the last ones the last
	wrong      []string
}

func (s *shelf) cleared() []bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.clearMMP)
}

func (s *shelf) Mount(ctx context.Context, epoch uint64, name string, clearMMP bool) error {
	view, _ := s.r.log.View()
	tenure, _ := s.r.journal.Tenure()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clearMMP = append(s.clearMMP, clearMMP)
	if s.hangMount {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return ctx.Err()
	}
	named := func(v *hadv1.HeldVolume) bool { return v.GetName() == name }
	known := tenure != nil && tenure.Epoch == epoch && slices.ContainsFunc(tenure.Volumes, named)
	if !slices.ContainsFunc(view.Claim(epoch).GetVolumes(), named) || len(view.VolumesBlockedBy(epoch)) > 0 || !known {
		s.wrong = append(s.wrong, fmt.Sprintf("mount of %s in epoch %d: open %v, tenure %v", name, epoch, view.Open, tenure))
	}
	if err := s.failMount[name]; err != nil {
		return err
	}
	s.r.diary.add("mount %s", name)
	s.mounted, s.epoch = append(s.mounted, name), epoch
	return nil
}

func (s *shelf) Unmount(ctx context.Context, _ uint64, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if busy := s.busy; busy != nil {
		s.mu.Unlock()
		defer s.mu.Lock()
		select { // it waits for a while, then looks who it is
		case <-time.After(2 * time.Second):
			return busy
		case <-ctx.Done():
			return fmt.Errorf("it doesn't answer: %w", ctx.Err())
		}
	}
	if i := slices.Index(s.mounted, name); i >= 0 {
		s.r.diary.add("unmount %s", name)
		s.mounted = slices.Delete(s.mounted, i, i+1)
	}
	return nil
}

func (s *shelf) Secure(context.Context, uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failSecure != nil {
		return s.failSecure
	}
	s.r.diary.add("secure")
	s.mounted = nil
	return nil
}

func (s *shelf) has() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mounted)
}

func (s *shelf) set(change func(s *shelf)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// runVolumes is run on a host that carries volumes.
func runVolumes(t *testing.T, play func(r *rig, s *shelf)) {
	t.Helper()
	run(t, func(r *rig) {
		play(r, r.shelf)
		r.shelf.mu.Lock()
		defer r.shelf.mu.Unlock()
		for _, w := range r.shelf.wrong {
			t.Error(w)
		}
	})
}

var (
	mounting = []string{"Test 192.0.2.10", "Test 192.0.2.11", "mount web", "mount db"}
	ownAll   = join(mounting, own[2:])
	unmounts = []string{"PreRel 192.0.2.11", "PreRel 192.0.2.10", "unmount db", "unmount web", "-192.0.2.10", "-192.0.2.11"}
	securing = []string{"-192.0.2.10", "-192.0.2.11", "secure"}
)

func TestVolumesAreMountedBeforeAllAndUnmountedInReverse(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.expect(ownAll...)
		v, _ := r.log.View()
		c := v.Open[0]
		if len(c.GetVolumes()) != 2 || c.GetVolumes()[1].GetPath() != "/srv/web/db" || !slices.Equal(c.GetTerms().GetFenceMethods(), []string{"confirm", "lease"}) ||
			time.Duration(c.GetTerms().GetVolumeMarginNs()) != 3*time.Second {
			t.Errorf("the claim is %v", c)
		}
		if got := r.env(hook.PreAcq).Volumes; got["web"] != "/srv/web" || got["db"] != "/srv/web/db" {
			t.Errorf("PreAcq was told of %v", got)
		}
		if !slices.Equal(s.clearMMP, []bool{true, true}) {
			t.Errorf("clearMMP %v: nobody is in doubt", s.clearMMP)
		}
		r.term()
		time.Sleep(time.Second)
		r.expect(join(unmounts, []string{"transfer to beta"}, after)...)
		rel := r.releases()
		if len(rel) != 1 || rel[0].GetForced() || !slices.Contains(stepNames(rel[0].GetSteps()), "unmount_db") {
			t.Errorf("releases %v", rel)
		}
	})
}

func stepNames(all []*hadv1.Step) (names []string) {
	for _, s := range all {
		names = append(names, s.GetName())
	}
	return names
}

// A move with volumes is a release, then the other's turn: nothing of two epochs
// is mounted at a time.
func TestAMoveReleasesVolumesFirst(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.took()
		if _, err := r.controller.Move(t.Context(), &hadv1.MoveRequest{Operation: "op", Target: "beta"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.expect(join([]string{"Test 192.0.2.10", "Test 192.0.2.11"}, unmounts, []string{"transfer to beta"}, after)...)
		if rel := r.releases(); len(rel) != 1 || rel[0].GetForced() || rel[0].GetCause() != "moved to beta" {
			t.Errorf("releases %v", rel)
		}
		if !slices.Equal(s.flushed, []string{"web db, before PreRel"}) {
			t.Errorf("what was written is brought to the disks: %v", s.flushed)
		}
	})
}

// When the lease ends the addresses go first, then the volumes by force, and the
// hooks are told afterwards.
func TestALeaseThatEndsSecuresVolumes(t *testing.T) {
	runVolumes(t, func(r *rig, _ *shelf) {
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.took()
		r.log.mute(true)
		r.log.follow("")
		time.Sleep(2 * time.Second)
		r.expect(join(securing, forced)...)
	})
}

// What can't be mounted ends the turn, and what was mounted goes again.
func TestAFailedMountIsUndone(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		s.failMount = map[string]error{"db": errors.New("this host has no such device")}
		r.policy("", withVolumes)
		time.Sleep(300 * time.Millisecond)
		r.expect(join(mounting[:3], unmounts[:2], []string{"unmount web", "transfer to beta"}, after)...)
		p := reported(r, func(e *hadv1.Event) *hadv1.Progress { return e.GetProgress() })
		if len(p) != 1 || p[0].GetOutcome() != hadv1.Progress_OUTCOME_FAILED || !strings.Contains(p[0].GetReason(), "mount db (LABEL=db) on /srv/web/db: this host has no such device") ||
			!slices.Contains(stepNames(p[0].GetSteps()), "mount_db") {
			t.Errorf("progress %v", p)
		}
		if v, _ := r.log.View(); len(v.Open) != 0 {
			t.Errorf("open: %v", v.Open)
		}
	})
}

// A mount that the kernel never answers ends with its time, not with the daemon.
func TestAMountThatHangsEnds(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		s.hangMount = true
		r.policy("", withVolumes)
		time.Sleep(mountLimit / 2)
		if why := r.controller.Why(); why != "mounting web (LABEL=web) on /srv/web" {
			t.Errorf("status says %q", why)
		}
		time.Sleep(mountLimit)
		if v, _ := r.log.View(); len(v.Open) != 0 || !strings.HasPrefix(r.outcomes(), "FAILED") {
			t.Errorf("open %v, outcomes %q", v.Open, r.outcomes())
		}
	})
}

// What keeps a volume busy gets some time; then it is ended by force.
func TestABusyVolumeIsForced(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.took()
		s.set(func(s *shelf) { s.busy = errors.New("bash (812) has its working directory there") })
		if _, err := r.controller.Move(t.Context(), &hadv1.MoveRequest{Operation: "op", Target: "beta"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(busyLimit / 2)
		if why := r.controller.Why(); why != "unmounting /srv/web/db: bash (812) has its working directory there" {
			t.Errorf("status says %q", why)
		}
		time.Sleep(busyLimit)
		r.expect(join([]string{"Test 192.0.2.10", "Test 192.0.2.11"}, unmounts[:2], securing, []string{"transfer to beta"}, forced)...)
		rel := r.releases()
		if len(rel) != 1 || !rel[0].GetForced() || !strings.Contains(fmt.Sprint(rel[0].GetSteps()), "bash (812)") {
			t.Errorf("releases %v", rel)
		}
	})
}

// A release that isn't proven isn't reported, however often it takes.
func TestWhatIsNotSecuredIsNotReported(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.took()
		s.set(func(s *shelf) { s.failSecure = errors.New("/srv/web is still mounted") })
		r.log.follow("beta")
		time.Sleep(10 * time.Second)
		r.expect("-192.0.2.10", "-192.0.2.11")
		if len(r.releases()) != 0 || r.journal.tenure == nil {
			t.Errorf("reported %v with tenure %v", r.releases(), r.journal.tenure)
		}
		if why := r.controller.Why(); !strings.Contains(why, "it isn't proven that the volumes are unmounted: /srv/web is still mounted") {
			t.Errorf("status says %q", why)
		}
		s.set(func(s *shelf) { s.failSecure = nil })
		time.Sleep(time.Second)
		r.expect(join([]string{"secure"}, forced)...)
		rel := r.releases()
		if len(rel) != 1 || !rel[0].GetForced() || rel[0].GetCause() != "beta leads now" || len(rel[0].GetSteps()) > longestTimeline+2 {
			t.Errorf("releases %v: want one with the first cause", rel)
		}
	})
}

// Other volumes need another epoch; the same ones stay mounted.
func TestANewPolicyRemountsOnlyWhatChanged(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.took()
		r.policy("  timeout = \"7s\"\n", withVolumes)
		time.Sleep(time.Second)
		r.expect()
		r.policy("", strings.Replace(withVolumes, `fstype = "ext4"`, `options = ["noatime"]`, 1))
		time.Sleep(time.Second)
		r.expect(join(unmounts, after, ownAll)...)
		if got := s.has(); len(got) != 2 {
			t.Errorf("mounted: %v", got)
		}
	})
}

// Somebody has said that this node is off. It isn't, but the log has taken it.
func TestAnOwnerWhoseVolumesAreGivenAwayLetsGo(t *testing.T) {
	in := owner()
	in.View.Open[0].Secured = &hadv1.Secured{Kind: hadv1.Secured_KIND_CONFIRMED, By: "root on beta"}
	p := Decide(in)
	if got := text(p); got != "force, finish" || !strings.Contains(p.Steps[0].Cause, "root on beta has confirmed that this node is off") {
		t.Errorf("%s: %v", got, p)
	}
}

// betaMounted has beta own an epoch with the policy's volumes, and fall silent.
func (r *rig) betaMounted() *hadv1.Claim {
	r.t.Helper()
	r.log.follow("beta")
	r.policy("", withVolumes)
	v, _ := r.log.View()
	l := r.log.Leadership()
	terms := r.controller.cfg.Timing.Terms(cluster.LayerGate)
	terms.FenceMethods, terms.VolumeMarginNs = []string{cluster.MethodAgent, cluster.MethodCommand, cluster.MethodLease}, int64(3*time.Second)
	r.must(&hadv1.Command{Proposer: "beta", Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{
		Term: l.Term, Instance: named("beta"), Terms: terms, PolicyVersion: v.Policy.GetVersion(),
		Volumes: []*hadv1.HeldVolume{{Name: "web", Device: "LABEL=web", Path: "/srv/web"}},
	}}})
	v, _ = r.log.View()
	return v.Newest()
}

// A doubt keeps the file system's own protection in force, until it has looked.
func TestADoubtKeepsTheFileSystemLooking(t *testing.T) {
	for kind, sure := range map[hadv1.Secured_Kind]bool{hadv1.Secured_KIND_FENCED: true, hadv1.Secured_KIND_LEASE: false, hadv1.Secured_KIND_CONFIRMED: false} {
		runVolumes(t, func(r *rig, s *shelf) {
			c := r.betaMounted()
			r.log.lead()
			time.Sleep(time.Second)
			if got := s.has(); len(got) != 0 || !strings.Contains(r.controller.Why(), "beta may still write web (LABEL=web)") {
				t.Errorf("mounted %v while status says %q", got, r.controller.Why())
			}
			r.must(&hadv1.Command{Proposer: "alpha", Record: &hadv1.Command_Secured{Secured: &hadv1.Secured{
				Term: r.log.Leadership().Term, Epoch: c.GetEpoch(), Instance: c.GetInstance(), Kind: kind, By: "root",
				LeaseIndex: c.GetLastLeaseIndex(), WaitedNs: int64(time.Minute),
			}}})
			time.Sleep(3 * time.Second)
			if got := s.cleared(); !slices.Equal(got, []bool{sure, sure}) {
				t.Errorf("%s: clearMMP %v, want %v", kind, got, sure)
			}
			if v, _ := r.log.View(); len(v.Open) != 1 || v.Doubted != 0 {
				t.Errorf("%s: open %v, doubted %d after all was mounted", kind, v.Open, v.Doubted)
			}
		})
	}
}

// The whole way from a silent owner of volumes: its lease, switching it off, the
// turn.
func TestASilentOwnerOfVolumesIsSucceeded(t *testing.T) {
	runVolumes(t, func(r *rig, _ *shelf) {
		r.dead = errors.New("the board doesn't answer")
		r.betaMounted()
		r.log.lead()
		time.Sleep(2 * time.Second)
		r.expect()
		if why := r.controller.Why(); !strings.HasPrefix(why, "beta may still write web (LABEL=web): no fence has confirmed that it is off, its lease and the margin are not over; if you have seen that it is off: hactl fence confirm beta (agent: failed 1s ago: the board doesn't answer; command: ") {
			t.Errorf("status says %q", why)
		}
		time.Sleep(4 * time.Second)
		r.expect(ownAll...)
		v, _ := r.log.View()
		tries := reported(r, func(e *hadv1.Event) *hadv1.FenceTry { return e.GetFenceTry() })
		if len(tries) != 2 || tries[0].GetMethod() != "agent" || tries[0].GetNode() != "beta" || tries[0].GetError() == "" || len(v.Open) != 1 {
			t.Errorf("tries %v, open %v", tries, v.Open)
		}
	})
	runVolumes(t, func(r *rig, _ *shelf) {
		r.betaMounted()
		r.log.lead()
		time.Sleep(1300 * time.Millisecond)
		r.expect(join([]string{"agent switches beta off"}, ownAll)...)
	})
}

// had died between its Acquire and its note: the next run, which finds no note,
// says that nothing of the epoch was ever there, once.
func TestAnEarlierRunThatNeverHeld(t *testing.T) {
	for _, boot := range []string{"boot", "an earlier boot"} {
		runVolumes(t, func(r *rig, _ *shelf) {
			r.log.follow("")
			r.policy("", withVolumes)
			v, _ := r.log.View()
			terms := r.controller.cfg.Timing.Terms()
			terms.FenceMethods = []string{cluster.MethodConfirm}
			r.must(&hadv1.Command{Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{
				Term: r.log.Leadership().Term, Instance: &hadv1.Instance{Node: "alpha", NodeId: "id", BootId: boot, Nonce: "0"},
				Terms: terms, PolicyVersion: v.Policy.GetVersion(), Volumes: []*hadv1.HeldVolume{{Name: "web", Device: "LABEL=web", Path: "/srv/web"}},
			}}})
			r.log.lead()
			time.Sleep(time.Second)
			if rel := r.releases(); len(rel) != 1 || rel[0].GetCause() != "had ended before it took anything of the epoch on" || r.phase() != PhaseServing {
				t.Errorf("releases %v, phase %v: %s", rel, r.phase(), r.controller.Why())
			}
		})
	}
}

// As long as the note is there, the earlier run may have mounted.
func TestAnEarlierRunThatMayHaveHeld(t *testing.T) {
	runVolumes(t, func(r *rig, _ *shelf) {
		r.journal.tenure = &journal.Tenure{Epoch: 3, Instance: &hadv1.Instance{Node: "alpha", NodeId: "id", BootId: "boot", Nonce: "0"}}
		c := mountedBy("alpha", 3)
		c.Instance.NodeId, c.Instance.Nonce = "id", "0"
		if got := r.controller.neverHeld(cluster.View{Open: []*hadv1.Claim{c}}); got != nil {
			t.Errorf("%v counts as never held", got)
		}
		r.journal.tenure = nil
		if got := r.controller.neverHeld(cluster.View{Open: []*hadv1.Claim{c}}); got != c {
			t.Errorf("got %v", got)
		}
	})
}
