package nettest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// wards are the hosts whose web server answers with 503.
type wards struct {
	mu  sync.Mutex
	ill map[string]bool
}

func (w *wards) web(h *lab.Host) http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		w.mu.Lock()
		ill := w.ill[h.Name]
		w.mu.Unlock()
		if ill {
			out.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(out, h.Name)
	})
}

// fall makes exactly these hosts ill.
func (w *wards) fall(hosts ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ill = map[string]bool{}
	for _, h := range hosts {
		w.ill[h] = true
	}
}

// checked is a site's policy with a check of the web server.
func (s *site) checked(on string) string {
	return s.policy(s.vips...) + fmt.Sprintf(`
check "http" "site" {
  url          = "http://127.0.0.1/"
  on           = %q
  interval     = "200ms"
  timeout      = "500ms"
  failures     = 3
  start_period = "0s"
}
limits { max_failovers = 20 }
`, on)
}

// since returns the events of a history after a log index.
func (s *site) eventsSince(t *testing.T, index uint64) (out []*hadv1.Event) {
	t.Helper()
	for _, e := range s.fullHistory(t) {
		if e.GetIndex() > index {
			out = append(out, e)
		}
	}
	return out
}

// now returns the index of the newest event.
func (s *site) now(t *testing.T) uint64 {
	t.Helper()
	all := s.fullHistory(t)
	return all[len(all)-1].GetIndex()
}

// stays fails if anybody acquires within a time.
func (s *site) stays(t *testing.T, owner string, d time.Duration) {
	t.Helper()
	before := s.epoch(t)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
	if now := s.epoch(t); now != before {
		t.Errorf("epoch %d of %s has become epoch %d", before, owner, now)
	}
}

// sick waits until status says that a check fails on a node.
func (s *site) sick(t *testing.T, node string) {
	t.Helper()
	eventually(t, "check site fails on "+node, func() error {
		n, err := s.nodeStatus(t, node, node)
		if err != nil {
			return err
		}
		for _, c := range n.GetChecks() {
			if c.GetState() == hadv1.CheckStatus_STATE_FAILING && c.GetDetail() == "HTTP 503" {
				return nil
			}
		}
		return fmt.Errorf("its checks: %v", n.GetChecks())
	})
}

func TestChecksSteer(t *testing.T) {
	t.Parallel()
	w := &wards{}
	s := newSite(t, lab.Config{Detect: steady, Web: w.web})

	s.scenario(t, "the owner's web server breaks", func(t *testing.T, owner string) {
		s.apply(t, owner, s.checked("owner"))
		before := s.now(t)
		w.fall(owner)
		next := s.takenOver(t, owner)
		want := fmt.Sprintf("%s: check site failed 3 times: HTTP 503", owner)
		fails, caused := 0, false
		for _, e := range s.eventsSince(t, before) {
			if c := e.GetCheckChanged(); c.GetFailing() && e.GetNode() == owner && c.GetDetail() == "HTTP 503" {
				fails++
			}
			if a := e.GetAcquired(); a != nil && e.GetNode() == next {
				caused = caused || a.GetCause() == want
			}
		}
		if fails != 1 || !caused {
			t.Errorf("the history says %d times that the check fails; an acquisition because %q: %t", fails, want, caused)
		}
		w.fall()
	})

	s.scenario(t, "every web server breaks", func(t *testing.T, owner string) {
		s.apply(t, owner, s.checked("all"))
		for _, h := range s.Servers() {
			s.mayOwn(t, h.Name, true)
		}
		w.fall("alpha", "beta", "gamma")
		for _, h := range s.Servers() {
			s.sick(t, h.Name)
		}
		s.stays(t, owner, time.Second)
		if _, err := s.move(t, owner, s.others(owner)[0]); err == nil || !strings.Contains(err.Error(), "check site failed 3 times: HTTP 503") {
			t.Errorf("a move to a node whose check fails was answered with: %v", err)
		}
		w.fall()
		for _, node := range s.others(owner) {
			s.mayOwn(t, node, true)
		}
	})

	s.scenario(t, "a freeze keeps what a check would move", func(t *testing.T, owner string) {
		s.apply(t, owner, s.checked("owner"))
		must(t, s.ask(t, s.others(owner)[0], func(ctx context.Context, ha hadv1.HAClient) error {
			_, err := ha.Freeze(ctx, &hadv1.FreezeRequest{ForNs: int64(time.Hour), By: "the test"})
			return err
		}))
		w.fall(owner)
		s.sick(t, owner)
		s.stays(t, owner, time.Second)
		must(t, s.ask(t, owner, func(ctx context.Context, ha hadv1.HAClient) error {
			_, err := ha.Unfreeze(ctx, &hadv1.UnfreezeRequest{By: "the test"})
			return err
		}))
		s.takenOver(t, owner)
		w.fall()
	})

	s.scenario(t, "a drained node owns nothing", func(t *testing.T, owner string) {
		must(t, s.ask(t, s.others(owner)[0], func(ctx context.Context, ha hadv1.HAClient) error {
			r, err := ha.Drain(ctx, &hadv1.DrainRequest{Node: owner, By: "the test"})
			if err == nil && !r.GetOwns() {
				err = fmt.Errorf("it says that %s owns nothing", owner)
			}
			return err
		}))
		s.takenOver(t, owner)
		s.mayOwn(t, owner, false)
		must(t, s.ask(t, owner, func(ctx context.Context, ha hadv1.HAClient) error {
			_, err := ha.Undrain(ctx, &hadv1.UndrainRequest{Node: owner, By: "the test"})
			return err
		}))
		s.mayOwn(t, owner, true)
	})
}
