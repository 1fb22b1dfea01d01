package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"had/internal/clock"
	"had/internal/policy"
)

// stage is a runner in a bubble, whose checks are answered by a script.
type stage struct {
	*Runner
	mu      sync.Mutex
	fails   map[string]bool
	hangs   map[string]time.Duration // beyond its timeout
	looks   map[string]int
	changes []string
}

func (s *stage) probe(ctx context.Context, c policy.Check) (string, error) {
	s.mu.Lock()
	fails, hangs := s.fails[c.Name], s.hangs[c.Name]
	s.looks[c.Name]++
	s.mu.Unlock()
	if hangs > 0 {
		<-ctx.Done()
		time.Sleep(hangs)
		return "", ctx.Err()
	}
	if fails {
		return "", errors.New("HTTP 503")
	}
	return "HTTP 200", nil
}

func (s *stage) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// took returns the changes since the last call.
func (s *stage) took() string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.changes, ", ")
	s.changes = nil
	return all
}

func (s *stage) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks[name]
}

func play(t *testing.T, f func(t *testing.T, s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{fails: map[string]bool{}, hangs: map[string]time.Duration{}, looks: map[string]int{}}
		s.Runner = New(Config{
			Probe: s.probe, Clock: func() clock.Instant { return clock.Instant(time.Since(time.Unix(0, 0))) },
			Changed: func(c Change) {
				s.set(func() { s.changes = append(s.changes, fmt.Sprintf("%s %s in %d", c.Check.Name, c.State, c.Epoch)) })
			},
		})
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		f(t, s)
		end()
		<-done
	})
}

func checks(on ...policy.CheckOn) (all []policy.Check) {
	for _, o := range on {
		all = append(all, policy.Check{
			Kind: policy.CheckHTTP, Name: string(o), On: o, Interval: time.Second, Timeout: time.Second / 2,
			Failures: 3, Successes: 2, StartPeriod: 5 * time.Second,
		})
	}
	return all
}

func TestWhereChecksRun(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		three := checks(policy.OnOwner, policy.OnStandby, policy.OnAll)
		s.Watch(three, 0)
		time.Sleep(3 * time.Second)
		if got := s.took(); got != "standby passing in 0, all passing in 0" && got != "all passing in 0, standby passing in 0" {
			t.Errorf("beside an owner: %s", got)
		}
		s.Watch(three, 7)
		time.Sleep(3 * time.Second)
		if got := s.took(); got != "owner passing in 7" || s.count("standby") != 4 {
			t.Errorf("as owner: %s, %d looks for a standby", got, s.count("standby"))
		}
		s.set(func() { s.fails["owner"], s.fails["all"] = true, true })
		time.Sleep(3 * time.Second)
		if got := s.took(); got != "owner failing in 7, all failing in 7" && got != "all failing in 7, owner failing in 7" {
			t.Errorf("failing: %s", got)
		}
		s.Watch(three, 0)
		if r := s.Results(); len(r) != 2 || r[0].Check.Name != "standby" || r[1].State != Failing {
			t.Errorf("beside an owner again: %v", r)
		}
		s.Watch(nil, 0)
		n := s.count("all")
		time.Sleep(time.Minute)
		if s.count("all") != n || len(s.Results()) != 0 {
			t.Error("a check of no policy ran on")
		}
	})
}

// What a look began to say about a turn that is over doesn't count: the release
// scripts stop the service on purpose.
func TestNothingCountsAfterTheTurn(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		owner := checks(policy.OnOwner)
		owner[0].Failures = 1
		s.Watch(owner, 7)
		time.Sleep(time.Second / 10)
		s.took()
		s.set(func() { s.hangs["owner"] = time.Millisecond })
		time.Sleep(time.Second) // a look is under way
		s.Watch(owner, 0)
		time.Sleep(time.Minute)
		if got := s.took(); got != "" {
			t.Errorf("after the turn: %s", got)
		}
	})
}

func TestAHangIsAFailure(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		all := checks(policy.OnAll)
		s.Watch(all, 0)
		time.Sleep(time.Second / 10)
		s.took()
		s.set(func() { s.hangs["all"] = time.Millisecond })
		time.Sleep(4 * time.Second)
		if got := s.took(); got != "all failing in 0" || s.Results()[0].Detail != "no answer within 500ms" {
			t.Errorf("%s, %v", got, s.Results())
		}
		// It can't even be ended: it counts, and no second one is begun beside it.
		s.set(func() { s.hangs["all"] = 20 * time.Second })
		time.Sleep(2 * time.Second)
		n := s.count("all")
		time.Sleep(15 * time.Second)
		if s.count("all") != n || s.Results()[0].Detail != errHangs.Error() {
			t.Errorf("%d looks beside a stuck one, %v", s.count("all")-n, s.Results())
		}
		s.set(func() { s.hangs["all"] = 0 })
		time.Sleep(time.Minute)
		if got := s.took(); got != "all passing in 0" {
			t.Errorf("afterwards: %s", got)
		}
	})
}

func TestAnotherPolicyKeepsWhatIsTheSame(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.Watch(checks(policy.OnAll, policy.OnStandby), 0)
		time.Sleep(time.Second / 10)
		s.took()
		again := checks(policy.OnStandby, policy.OnAll)
		again[1].Interval = 2 * time.Second
		s.Watch(again, 0)
		time.Sleep(time.Second / 10)
		if got := s.took(); got != "all passing in 0" || s.count("standby") != 1 {
			t.Errorf("%s, %d looks", got, s.count("standby"))
		}
	})
}

func TestLinksAreLookedAtWhenTheKernelSaysSo(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		l := checks(policy.OnAll)
		l[0].Kind, l[0].Interval = policy.CheckLink, time.Hour
		s.Watch(l, 0)
		time.Sleep(time.Second)
		s.KernelChanged()
		synctest.Wait()
		if s.count("all") != 2 {
			t.Errorf("%d looks", s.count("all"))
		}
	})
}
