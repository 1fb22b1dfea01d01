package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/clock"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// rig is one node, alpha, with its controller in a bubble. Its log is a real
// cluster.State that accepts commands while alpha leads; everything else is
// faked, and what is done to it is written down in order.
type rig struct {
	t          *testing.T
	log        *steeredLog
	journal    *memoryJournal
	kernel     *tracedKernel
	network    *oneLink
	beta       *betaIsWell
	controller *Controller
	diary      *diary
	shelf      *shelf // its volumes
	read       int    // lines of the diary

	mu    sync.Mutex
	takes map[hook.Stage]time.Duration
	fails map[hook.Stage]bool
	dead  error                   // of switching beta off; nil: it works
	ill   map[string]error        // what the checks find, by name
	envs  map[hook.Stage]hook.Env // of the latest script of each stage

	term func() // SIGTERM
	hard func()
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t}
	self := &hadv1.Instance{Node: "alpha", NodeId: "id", BootId: "boot", Nonce: "1"}
	members := []*hadv1.Member{{Name: "alpha", NodeId: "id"}, {Name: "beta", NodeId: "id-beta"}, {Name: "gamma", NodeId: "id-gamma", Witness: true}}
	d := &diary{}
	r.diary, r.takes, r.fails = d, map[hook.Stage]time.Duration{}, map[hook.Stage]bool{}
	r.envs, r.shelf, r.ill = map[hook.Stage]hook.Env{}, &shelf{r: r}, map[string]error{}
	r.log = &steeredLog{diary: d, state: cluster.NewState(), changed: make(chan struct{}), leads: make(chan struct{})}
	r.log.leadership = cluster.Leadership{Leading: true, Ready: true, Term: 1, Leader: "alpha"}
	r.journal = &memoryJournal{diary: &diary{}, changed: make(chan struct{})}
	r.kernel = &tracedKernel{diary: d, up: map[netip.Addr]bool{}}
	r.network = &oneLink{}
	r.beta = &betaIsWell{log: r.log, diary: d}
	r.controller = New(Config{
		Cluster: "office", Instance: self, Members: members, Timing: cluster.TimingFor(500 * time.Millisecond),
		Log: r.log, Journal: r.journal, Addresses: r.kernel, Network: r.network,
		Hooks:     func(string, time.Duration) (Hooks, error) { return r, nil },
		CheckHook: func(*policy.Policy) (HookFolders, error) { return HookFolders{}, nil },
		Peers:     r.beta, Clock: bubbleClock, Logger: hclog.NewNullLogger(), Volumes: r.shelf, Flush: r.shelf.flush, Watchdog: r.shelf.armed, Off: r.off,
		Probe: r.probe,
	})
	r.must(&hadv1.Command{Record: &hadv1.Command_Birth{Birth: &hadv1.Birth{Cluster: "office", Members: members}}})
	return r
}

// bubbleClock reads the bubble's time.
func bubbleClock() clock.Instant {
	return clock.Instant(time.Hour).Add(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
}

// run runs the controller in virtual time until play returns. When play
// begins, alpha leads and knows that beta is well; there is no policy yet.
func run(t *testing.T, play func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx, term := context.WithCancel(context.Background())
		hard, kill := context.WithCancel(context.Background())
		r.term, r.hard = term, kill
		done := make(chan error, 1)
		go func() { done <- r.controller.Run(ctx, hard) }()
		time.Sleep(time.Second)
		play(r)
		kill()
		term()
		<-done
	})
}

// policy applies a policy of two addresses, and what else its hooks and the top
// of it are to say.
func (r *rig) policy(hooks string, top ...string) {
	r.t.Helper()
	v, _ := r.log.View()
	text := "vip \"web\" {\n address = \"192.0.2.10\"\n}\nvip \"mail\" {\n address = \"192.0.2.11\"\n}\nhooks {\n dir = \"/hooks\"\n" + hooks + "}\n" + strings.Join(top, "\n")
	r.must(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{ExpectedVersion: v.Policy.GetVersion(), Text: text}}})
}

func (r *rig) must(cmd *hadv1.Command) {
	r.t.Helper()
	if _, err := r.log.commit(cmd); err != nil {
		r.t.Fatal(err)
	}
}

// took returns what was done since the last call, joined by commas. Renewals
// of what is up already are left out.
func (r *rig) took() string {
	synctest.Wait()
	lines := r.diary.all()
	s := strings.Join(lines[r.read:], ", ")
	r.read = len(lines)
	return s
}

func (r *rig) expect(want ...string) {
	r.t.Helper()
	if got := r.took(); got != strings.Join(want, ", ") {
		r.t.Errorf("\n got %s\nwant %s", got, strings.Join(want, ", "))
	}
}

func (r *rig) phase() Phase { return r.controller.executor.held().Phase }

// reported returns the reports in the log of the kind that pick chooses.
func reported[T any](r *rig, pick func(e *hadv1.Event) *T) []*T {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	events, _ := r.log.state.History(0)
	var out []*T
	for _, e := range events {
		if b := pick(e); b != nil {
			out = append(out, b)
		}
	}
	return out
}

func (r *rig) releases() []*hadv1.Released {
	return reported(r, func(e *hadv1.Event) *hadv1.Released { return e.GetReleased() })
}

func (r *rig) outcomes() string {
	var s []string
	for _, p := range reported(r, func(e *hadv1.Event) *hadv1.Progress { return e.GetProgress() }) {
		s = append(s, strings.TrimPrefix(p.GetOutcome().String(), "OUTCOME_"))
	}
	return strings.Join(s, " ")
}

// steeredLog is a log of one node: what is proposed is applied at once.
type steeredLog struct {
	diary *diary

	mu         sync.Mutex
	state      *cluster.State
	index      uint64
	leadership cluster.Leadership
	changed    chan struct{}
	leads      chan struct{}
	silent     bool  // proposals get no answer and aren't committed
	extends    error // of an Extend that is proposed
	lastLease  clock.Instant
	gone       []string // what LeaderGone was told
}

func (l *steeredLog) commit(cmd *hadv1.Command) (cluster.Verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	cmd = proto.CloneOf(cmd)
	cmd.At = timestamppb.Now()
	v := l.state.Apply(cluster.Entry{Index: l.index, Term: l.leadership.Term}, cmd)
	close(l.changed)
	l.changed = make(chan struct{})
	if cmd.GetAcquire() != nil || cmd.GetLeaseRenew() != nil {
		l.lastLease = bubbleClock()
	}
	if v.Refused != "" {
		return v, &cluster.RefusedError{Reason: v.Refused, Index: v.Index}
	}
	return v, nil
}

func (l *steeredLog) Propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error) {
	l.mu.Lock()
	leading, silent, leads, extends := l.leadership.Leading, l.silent, l.leads, l.extends
	l.mu.Unlock()
	switch {
	case !leading:
		return cluster.Verdict{}, cluster.ErrNotLeader
	case cmd.GetExtend() != nil && extends != nil:
		return cluster.Verdict{}, extends
	case silent:
		select {
		case <-ctx.Done():
		case <-leads: // whoever leads next decides what becomes of it
		}
		return cluster.Verdict{}, fmt.Errorf("%w: %w", cluster.ErrOutcomeUnknown, ctx.Err())
	}
	return l.commit(cmd)
}

func (l *steeredLog) Transfer(_ context.Context, to string) error {
	l.diary.add("transfer to %s", to)
	l.follow(to)
	return nil
}

// follow makes alpha a follower of a leader; "" is none.
func (l *steeredLog) follow(leader string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leadership = cluster.Leadership{Term: l.leadership.Term + 1, Leader: leader}
	close(l.leads)
	l.leads = make(chan struct{})
}

// stand makes alpha a candidate.
func (l *steeredLog) stand() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leadership = cluster.Leadership{Standing: true, Term: l.leadership.Term + 1}
	close(l.leads)
	l.leads = make(chan struct{})
}

// lead makes alpha the leader again.
func (l *steeredLog) lead() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leadership = cluster.Leadership{Leading: true, Ready: true, Term: l.leadership.Term + 1, Leader: "alpha"}
	close(l.leads)
	l.leads = make(chan struct{})
}

// mute makes proposals get no answer.
func (l *steeredLog) mute(silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = silent
}

func (l *steeredLog) Leadership() cluster.Leadership {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leadership
}

func (l *steeredLog) LeadershipChanged() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leads
}

func (l *steeredLog) View() (cluster.View, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.View(), l.changed
}

func (l *steeredLog) LastLease() clock.Instant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastLease
}

func (l *steeredLog) Confirm(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silent || !l.leadership.Leading {
		return cluster.ErrNotLeader
	}
	return nil
}

// tracedKernel never waits, for it is called with a mutex held.
type tracedKernel struct {
	diary *diary

	mu    sync.Mutex
	up    map[netip.Addr]bool
	stuck error // Remove fails with it
}

func (k *tracedKernel) Set(ctx context.Context, want []vip.Address, deadline func() clock.Instant) (vip.Change, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return vip.Change{}, ctx.Err()
	case !bubbleClock().Before(deadline()):
		return vip.Change{}, vip.ErrDeadline
	}
	var change vip.Change
	for a := range k.up {
		if !slices.ContainsFunc(want, func(w vip.Address) bool { return w.Addr == a }) {
			delete(k.up, a)
			k.diary.add("-%s", a)
		}
	}
	for _, w := range want {
		if !k.up[w.Addr] {
			k.up[w.Addr] = true
			k.diary.add("+%s", w.Addr)
			change.Added = append(change.Added, w)
		}
	}
	return change, nil
}

func (k *tracedKernel) Remove(_ context.Context, gone []vip.Address) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stuck != nil {
		return k.stuck
	}
	for _, g := range gone {
		if k.up[g.Addr] {
			delete(k.up, g.Addr)
			k.diary.add("-%s", g.Addr)
		}
	}
	return nil
}

func (k *tracedKernel) Presence(addrs []netip.Addr) (map[netip.Addr]vip.Presence, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := map[netip.Addr]vip.Presence{}
	for _, a := range addrs {
		at[a] = vip.Inactive
		if k.up[a] {
			at[a] = vip.Active
		}
	}
	return at, nil
}

func (k *tracedKernel) Announce(context.Context, []vip.Address) error { return nil }

func (k *tracedKernel) holds() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.up)
}

func (k *tracedKernel) jam(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stuck = err
}

// betaIsWell has one other data node, which is well and takes reports.
type betaIsWell struct {
	log   *steeredLog
	diary *diary

	mu      sync.Mutex
	letsGo  bool  // it answers a HandOver with yes
	ill     bool  // it isn't eligible
	unready error // of Prepare
	slow    bool  // its Test scripts hang
}

func (p *betaIsWell) Health(_ context.Context, node string) (*hadv1.HealthResponse, error) {
	v, _ := p.log.View()
	return &hadv1.HealthResponse{Instance: &hadv1.Instance{Node: node}, Eligible: node == "beta" && !p.ailing(), AppliedIndex: v.Applied}, nil
}

func (p *betaIsWell) Prepare(ctx context.Context, _ string, _ *hadv1.PrepareRequest) (*hadv1.PrepareResponse, error) {
	p.mu.Lock()
	slow := p.slow
	p.mu.Unlock()
	if slow {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return &hadv1.PrepareResponse{Ready: p.unready == nil}, p.unready
}

func (p *betaIsWell) HandOver(_ context.Context, _ string, req *hadv1.HandOverRequest) (*hadv1.HandOverResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.letsGo {
		return nil, errors.New("beta doesn't answer")
	}
	p.diary.add("beta lets go of %d", req.GetFromEpoch())
	return &hadv1.HandOverResponse{Released: true}, nil
}

// lets says whether beta answers a HandOver, and what it says to a Prepare.
func (p *betaIsWell) lets(letsGo bool, unready error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.letsGo, p.unready = letsGo, unready
}

func (p *betaIsWell) Propose(_ context.Context, _ string, cmd *hadv1.Command) (*hadv1.ProposeResponse, error) {
	v, err := p.log.commit(cmd)
	return &hadv1.ProposeResponse{Index: v.Index, Refused: v.Refused}, err
}

// Stage implements Hooks.
func (r *rig) Stage(ctx context.Context, run hook.Run) ([]hook.Result, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	forced := ""
	if run.Env.Forced {
		forced = " forced"
	}
	r.diary.add("%s %s%s", run.Stage, run.VIP, forced)
	r.mu.Lock()
	took, fails := r.takes[run.Stage], r.fails[run.Stage]
	r.envs[run.Stage] = run.Env
	r.mu.Unlock()
	result := hook.Result{Stage: run.Stage, Script: string(run.Stage), VIP: run.VIP.String(), Outcome: hook.Exited}
	select {
	case <-time.After(took):
	case <-ctx.Done():
		result.Outcome = hook.Canceled
	}
	if fails {
		result.ExitCode = 1
	}
	return []hook.Result{result}, nil
}

// off switches beta off.
func (r *rig) off(_ context.Context, _ policy.Fence, m policy.Method, node string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead != nil {
		return "", r.dead
	}
	r.diary.add("%s switches %s off", m, node)
	return "fence_x", nil
}

// env is what the latest script of a stage was told.
func (r *rig) env(stage hook.Stage) hook.Env {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.envs[stage]
}

// scripts says how the scripts of a stage behave from now on.
func (r *rig) scripts(stage hook.Stage, take time.Duration, fail bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takes[stage], r.fails[stage] = take, fail
}

func (l *steeredLog) LeaderGone(node string, certain bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = append(l.gone, fmt.Sprintf("%s %v", node, certain))
}
