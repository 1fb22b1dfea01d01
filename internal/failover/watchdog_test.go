package failover

import (
	"strings"
	"testing"
	"time"

	hadv1 "had/proto/had/v1"
)

// What the terms of an epoch promise of a watchdog is what is armed when it begins
// to mount; otherwise nothing is mounted.
func TestTheTermsPromiseTheWatchdogThatIsArmed(t *testing.T) {
	counts := strings.Replace(withVolumes, `["confirm", "lease"]`, `["watchdog", "confirm"]`, 1)
	for _, c := range []struct {
		policy string
		armed  []time.Duration
		want   time.Duration
		mounts bool
	}{
		{counts, []time.Duration{5 * time.Second}, 5 * time.Second, true},
		{withVolumes, []time.Duration{5 * time.Second}, 0, true},
		{counts, []time.Duration{5 * time.Second, 0}, 5 * time.Second, false}, // its guard has died
	} {
		runVolumes(t, func(r *rig, s *shelf) {
			s.watchdog = c.armed
			r.policy("", c.policy)
			time.Sleep(500 * time.Millisecond)
			v, _ := r.log.View()
			if c.mounts {
				if len(v.Open) != 1 || time.Duration(v.Open[0].GetTerms().GetWatchdogTimeoutNs()) != c.want {
					t.Errorf("open: %v", v.Open)
				}
			} else if p := reported(r, func(e *hadv1.Event) *hadv1.Progress { return e.GetProgress() }); len(p) == 0 || !strings.Contains(p[0].GetReason(), "the epoch was opened with a watchdog of 5s") {
				t.Errorf("progress: %v", p)
			}
			if got := s.has(); (len(got) > 0) != c.mounts {
				t.Errorf("mounted %v", got)
			}
		})
	}
}

func (s *shelf) armed() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watchdog) == 0 {
		return 0
	}
	found := s.watchdog[0]
	s.watchdog = s.watchdog[min(1, len(s.watchdog)-1):]
	return found
}
