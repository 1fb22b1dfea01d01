package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// rig is the mirror of beta in a bubble: alpha owns, gamma is another that may.
// Its log is a real cluster.State.
type rig struct {
	t       *testing.T
	mirror  *Mirror
	stop    func()
	ended   chan struct{}
	stopped bool

	mu      sync.Mutex
	state   *cluster.State
	index   uint64
	term    uint64
	seqs    map[string]uint64
	leader  string
	leads   chan struct{}
	policy  *policy.Policy
	holding bool
	diary   []string
	takes   map[string]time.Duration // by sync: how long a run takes; 0: a second
	fails   map[string]hook.Result
	stuck   map[string]bool // syncs that can't be ended
	left    []string        // of an earlier run of had
	running map[string]int
	ages    map[string]time.Time
	disk    chan struct{} // not nil: a disk that doesn't answer until it is closed
}

const twoSyncs = `vip "web" { address = "192.0.2.10" }
sync "pages" {
  command = ["copy", "${vip.web.address}"]
  every   = "10m"
  timeout = "5m"
  max_age = "1h"
}`

// play plays a script in virtual time with a mirror that has just started. Time begins at
// 0:00; alpha owns.
func play(t *testing.T, script func(r *rig)) { t.Helper(); playWith(t, nil, script) }

func playWith(t *testing.T, prepare, script func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{
			t: t, state: cluster.NewState(), seqs: map[string]uint64{}, leads: make(chan struct{}), ended: make(chan struct{}),
			takes: map[string]time.Duration{}, fails: map[string]hook.Result{}, stuck: map[string]bool{}, running: map[string]int{}, ages: map[string]time.Time{},
		}
		members := []*hadv1.Member{{Name: "alpha", NodeId: "id-alpha"}, {Name: "beta", NodeId: "id-beta"}, {Name: "gamma", NodeId: "id-gamma"}}
		r.apply(&hadv1.Command{Record: &hadv1.Command_Birth{Birth: &hadv1.Birth{Cluster: "office", Members: members}}})
		r.apply(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{Text: twoSyncs}}})
		r.parse(twoSyncs)
		if prepare != nil {
			prepare(r)
		} else {
			r.owns("alpha")
		}
		r.mirror = New(Config{
			Cluster: "office", Self: members[1], Log: r, Policy: func() (*policy.Policy, error) { r.mu.Lock(); defer r.mu.Unlock(); return r.policy, nil },
			Holding: func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.holding }, Report: r.report, Commands: r, Memory: r,
			Jitter: func(most time.Duration) time.Duration { return most / 2 }, Logger: hclog.NewNullLogger(),
		})
		ctx, cancel := context.WithCancel(t.Context())
		r.stop = func() {
			if !r.stopped {
				r.stopped = true
				cancel()
				<-r.ended
			}
		}
		go func() { defer close(r.ended); _ = r.mirror.Run(ctx) }()
		synctest.Wait()
		script(r)
		r.stop()
	})
}

func (r *rig) parse(text string) {
	r.t.Helper()
	p, diags := policy.ParsePolicy("policy.hcl", []byte(text))
	if err := diags.Err(); err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.policy = p
}

func (r *rig) apply(cmd *hadv1.Command) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index++
	if v := r.state.Apply(cluster.Entry{Index: r.index, Term: r.term}, proto.CloneOf(cmd)); v.Refused != "" {
		r.t.Fatalf("entry %d: %s", r.index, v.Refused)
	}
}

func (r *rig) deliver(node string, body func(*hadv1.Report)) {
	r.t.Helper()
	r.mu.Lock()
	r.seqs[node]++
	rep := &hadv1.Report{NodeId: "id-" + node, Node: node, Stream: "s", Seq: r.seqs[node]}
	r.mu.Unlock()
	body(rep)
	r.apply(&hadv1.Command{Record: &hadv1.Command_Deliver{Deliver: &hadv1.Deliver{Reports: []*hadv1.Report{rep}}}})
}

// leads makes a node the leader; "" is none.
func (r *rig) lead(node string) {
	r.mu.Lock()
	r.leader = node
	r.term++
	close(r.leads)
	r.leads = make(chan struct{})
	r.mu.Unlock()
}

// owns has a node take over and serve.
func (r *rig) owns(node string) {
	r.t.Helper()
	view, _ := r.View()
	if c := view.Newest(); c != nil {
		r.deliver(c.GetInstance().GetNode(), func(rep *hadv1.Report) {
			rep.Body = &hadv1.Report_Released{Released: &hadv1.Released{Epoch: c.GetEpoch(), Reporter: c.GetInstance(), Kind: hadv1.Evidence_KIND_RELEASED}}
		})
	}
	r.lead(node)
	r.apply(&hadv1.Command{Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{
		Term: r.term, Instance: &hadv1.Instance{Node: node, NodeId: "id-" + node, BootId: "boot"}, PolicyVersion: 1,
		Terms: &hadv1.Terms{TtlNs: 1e9, AddressLifetimeNs: 1e9},
	}}})
	view, _ = r.View()
	r.deliver(node, func(rep *hadv1.Report) {
		rep.Body = &hadv1.Report_Progress{Progress: &hadv1.Progress{Epoch: view.LastEpoch, Outcome: hadv1.Progress_OUTCOME_SERVING}}
	})
}

func (r *rig) Leadership() cluster.Leadership {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cluster.Leadership{Leading: r.leader == "beta", Ready: r.leader == "beta", Term: r.term, Leader: r.leader}
}

func (r *rig) LeadershipChanged() <-chan struct{} { r.mu.Lock(); defer r.mu.Unlock(); return r.leads }

func (r *rig) View() (cluster.View, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.View(), nil
}

func (r *rig) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.diary = append(r.diary, fmt.Sprintf(format, args...))
}

// with changes how the rig behaves, or reads what it has seen, while it works.
func (r *rig) with(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// elapsed is the bubble's time since its beginning, as "1h2m3s".
func elapsed() string {
	return time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Round(time.Second).String()
}

// Run implements Commands.
func (r *rig) Run(ctx context.Context, name string, cmd hook.Command) (hook.Result, error) {
	r.mu.Lock()
	r.running[name]++
	if r.running[name] > 1 {
		r.t.Errorf("%s runs twice at once", name)
	}
	takes, result := max(r.takes[name], time.Second), r.fails[name]
	r.mu.Unlock()
	r.note("%s begins at %s: %s", name, elapsed(), strings.Join(cmd.Line, " "))
	began := time.Now()
	timer := time.NewTimer(min(takes, cmd.Timeout))
	defer timer.Stop()
	result.Started = began
	select {
	case <-timer.C:
		if takes > cmd.Timeout {
			result.Outcome, result.Err = hook.TimedOut, "it ran for too long"
		} else if result.Outcome == 0 {
			result.Outcome = hook.Exited
		}
	case <-ctx.Done():
		result.Outcome, result.Err = hook.Canceled, context.Cause(ctx).Error()
	}
	result.Duration = time.Since(began)
	r.note("%s ended at %s: %s", name, elapsed(), result.Outcome)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[name]--
	if r.stuck[name] {
		return result, hook.ErrStillRunning
	}
	return result, nil
}

// End implements Commands.
func (r *rig) End(_ context.Context, name string) error {
	r.note("%s is ended at %s", name, elapsed())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stuck[name] {
		return hook.ErrStillRunning
	}
	return nil
}

// Left implements Commands.
func (r *rig) Left() ([]string, error) { return r.left, nil }

func (r *rig) awaitDisk() {
	var disk chan struct{}
	r.with(func() { disk = r.disk })
	if disk != nil {
		<-disk
	}
}

// Load and Save implement Memory.
func (r *rig) Load() (map[string]time.Time, error) { return maps.Clone(r.ages), nil }

func (r *rig) Save(ages map[string]time.Time) error {
	r.awaitDisk()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ages = ages
	return nil
}

// report delivers beta's reports at once.
func (r *rig) report(_ context.Context, s *hadv1.SyncResult) {
	r.awaitDisk()
	r.note("reported at %s: %s", elapsed(), strings.ToLower(strings.TrimPrefix(s.GetOutcome().String(), "OUTCOME_")))
	r.deliver("beta", func(rep *hadv1.Report) { rep.Body = &hadv1.Report_SyncResult{SyncResult: s} })
}

// copied is a whole copy of another node's.
func (r *rig) copied(node string, epoch uint64) {
	r.deliver(node, func(rep *hadv1.Report) {
		rep.Body = &hadv1.Report_SyncResult{SyncResult: &hadv1.SyncResult{Name: "pages", Epoch: epoch, Outcome: hadv1.SyncResult_OUTCOME_COPIED}}
	})
}

// expect compares what has happened since the last call.
func (r *rig) expect(want ...string) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	got := r.diary
	r.diary = nil
	r.mu.Unlock()
	if !slices.Equal(got, want) {
		r.t.Errorf("\n got %q\nwant %q", got, want)
	}
}

func (r *rig) status() *hadv1.SyncStatus {
	r.t.Helper()
	synctest.Wait()
	all := r.mirror.Status(r.policy)
	if len(all) != 1 || all[0].GetName() != "pages" {
		r.t.Fatalf("status: %v", all)
	}
	return all[0]
}

func (r *rig) refused(want string) {
	r.t.Helper()
	if _, err := r.mirror.Sync(r.t.Context(), "pages"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
		r.t.Errorf("asked to run now: %v, want %q", err, want)
	}
}
