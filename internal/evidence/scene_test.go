package evidence

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/clock"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

func now() clock.Instant {
	return clock.Instant(time.Hour).Add(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
}

// scene is beta, which leads after alpha, the owner of a volume, fell silent. Its
// log is a real cluster.State.
type scene struct {
	t      *testing.T
	seeker *Seeker
	stop   func()

	mu      sync.Mutex
	state   *cluster.State
	index   uint64
	leader  cluster.Leadership
	changed chan struct{}
	leads   chan struct{}
	lease   clock.Instant
	silent  bool // alpha's host answers nobody
	starved bool // beta gets no CPU for longer than it asks that host
	alone   bool // no majority follows beta
	off     func(ctx context.Context, m policy.Method) error
	evict   error
	did     []string // "agent 1.2s": what was tried, and when after the last lease entry
	told    []*hadv1.FenceTry
	log     strings.Builder // the seeker's
}

const ttl = 750 * time.Millisecond

func terms(methods ...string) *hadv1.Terms {
	return &hadv1.Terms{
		TtlNs: int64(ttl), AddressLifetimeNs: int64(2 * time.Second), Layers: []string{cluster.LayerGate},
		FenceMethods: methods, VolumeMarginNs: int64(3 * time.Second), ReleaseGraceNs: int64(time.Second),
	}
}

func instance(node string) *hadv1.Instance {
	return &hadv1.Instance{Node: node, NodeId: "id-" + node, BootId: "boot", Nonce: "1"}
}

// play runs scene with alpha's epoch, 3, opened under these terms.
func play(t *testing.T, t3 *hadv1.Terms, do func(s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{t: t, state: cluster.NewState(), changed: make(chan struct{}), leads: make(chan struct{})}
		s.leader = cluster.Leadership{Term: 1, Leader: "alpha"}
		s.must(&hadv1.Command{Record: &hadv1.Command_Birth{Birth: &hadv1.Birth{Members: []*hadv1.Member{
			{Name: "alpha", NodeId: "id-alpha"}, {Name: "beta", NodeId: "id-beta"},
		}}}})
		s.must(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{Text: "x"}}})
		s.must(&hadv1.Command{Proposer: "alpha", Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{
			Term: 1, Instance: instance("alpha"), Terms: t3, PolicyVersion: 1,
			Volumes: []*hadv1.HeldVolume{{Name: "web", Device: "LABEL=web", Path: "/srv/web"}},
		}}})
		s.off = func(context.Context, policy.Method) error { return nil }
		s.seeker = New(Config{
			Self: &hadv1.Member{Name: "beta", NodeId: "id-beta"}, Log: s, Clock: now, Logger: hclog.New(&hclog.LoggerOptions{Output: &s.log}), Changed: func() {},
			Policy: func() (*policy.Policy, error) { return &policy.Policy{}, nil },
			Off: func(ctx context.Context, _ policy.Fence, m policy.Method, node string) (string, error) {
				s.note("%s %s", m, node)
				s.mu.Lock()
				off := s.off
				s.mu.Unlock()
				return "fence_x ip=10.0.9.11", off(ctx, m)
			},
			Evict: func(_ context.Context, volumes []*hadv1.HeldVolume, key uint64) error {
				s.note("%s with %#x", volumes[0].GetDevice(), key)
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.evict
			},
			Answers: func(context.Context, string) bool {
				s.mu.Lock()
				silent, starved := s.silent, s.starved
				s.mu.Unlock()
				if starved {
					time.Sleep(look + lookLate + 1)
				}
				return !silent && !starved
			},
			Report: func(_ context.Context, try *hadv1.FenceTry) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.told = append(s.told, try)
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		s.stop = cancel
		ended := make(chan error, 1)
		go func() { ended <- s.seeker.Run(ctx) }()
		s.lead(cluster.Leadership{Leading: true, Ready: true, Term: 2, Leader: "beta"})
		do(s)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if left := s.seeker.Tries(); len(left) != 0 {
			t.Errorf("after its end the seeker still says %v", left)
		}
	})
}

func (s *scene) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.did = append(s.did, fmt.Sprintf(format, args...)+" "+now().Sub(s.lease).Round(10*time.Millisecond).String())
}

func (s *scene) must(cmd *hadv1.Command) {
	s.t.Helper()
	if _, err := s.Propose(s.t.Context(), cmd); err != nil {
		s.t.Fatal(err)
	}
}

// Propose answers a moment after the state has changed, as a log does.
func (s *scene) Propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error) {
	v, err := s.apply(cmd)
	if cmd.GetSecured() == nil {
		return v, err
	}
	timer := time.NewTimer(time.Microsecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return v, err
	case <-ctx.Done():
		return cluster.Verdict{}, context.Cause(ctx)
	}
}

func (s *scene) apply(cmd *hadv1.Command) (cluster.Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cmd.GetProposer() == "" {
		cmd.Proposer = "beta"
	}
	s.index++
	v := s.state.Apply(cluster.Entry{Index: s.index, Term: s.leader.Term}, cmd)
	if cmd.GetAcquire() != nil || cmd.GetLeaseRenew() != nil {
		s.lease = now()
	}
	close(s.changed)
	s.changed = make(chan struct{})
	if v.Refused != "" {
		return v, &cluster.RefusedError{Reason: v.Refused, Index: v.Index}
	}
	return v, nil
}

func (s *scene) lead(l cluster.Leadership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = l
	close(s.leads)
	s.leads = make(chan struct{})
}

func (s *scene) Leadership() cluster.Leadership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader
}

func (s *scene) LeadershipChanged() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leads
}

func (s *scene) View() (cluster.View, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.View(), s.changed
}

func (s *scene) LastLease() clock.Instant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// Confirm asks the others, which takes a moment.
func (s *scene) Confirm(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alone || !s.leader.Leading {
		return cluster.ErrNotLeader
	}
	return ctx.Err()
}

func (s *scene) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// offIs says how switching off goes from now on.
func (s *scene) offIs(off func(ctx context.Context, m policy.Method) error) {
	s.set(func() { s.off = off })
}

// secured returns the evidence that the log has, nil when there is none.
func (s *scene) secured() *hadv1.Secured {
	v, _ := s.View()
	return v.Claim(3).GetSecured()
}

func (s *scene) tried() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.did)
}

// tellings are the tries in the history: the method, and + or - for its end.
func (s *scene) tellings() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, t := range s.told {
		end := "+"
		if t.GetError() != "" {
			end = "-"
		}
		out = append(out, t.GetMethod()+end)
	}
	return strings.Join(out, " ")
}

// over is when the lease and the grace of an epoch by terms are over.
func over() time.Duration { return cluster.LeaseOverAt(0, &hadv1.Claim{Terms: terms()}).Sub(0) }
