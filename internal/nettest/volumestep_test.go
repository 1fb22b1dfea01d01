package nettest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
)

var volumeTrials = flag.Int("volumes.n", 0, "end an owner at each step of a move with volumes so often, in every way; 0: at half of the steps once")

// step is a moment of a move that can be seen from outside.
type step struct {
	name    string
	acquire bool // of the new owner's part
	there   func(t *testing.T) error
}

// moveSteps is how many there are.
const moveSteps = 12

// steps are those of a move from one host to another, in their order.
func (s *volumeSite) steps(t *testing.T, from, to string) []step {
	t.Helper()
	marks := s.hooks.mark(t)
	ran := func(host, script string) func(t *testing.T) error {
		return func(t *testing.T) error { return s.hooks.ranSince(t, marks, host, script) }
	}
	mounted := func(host, volume string, want bool) func(t *testing.T) error {
		return func(*testing.T) error { return s.hasVolume(host, volume, want) }
	}
	address := func(hosts ...string) func(t *testing.T) error {
		return func(t *testing.T) error {
			h, err := s.Observer.History(t.Context(), s.vips[0])
			if err == nil && !slices.Equal(h.Holders(), hosts) {
				err = fmt.Errorf("the address is on %v", h.Holders())
			}
			return err
		}
	}
	return []step{
		{"the move is ordered", false, func(*testing.T) error { return nil }},
		{"PreRel ran", false, ran(from, "PreRel10")},
		{"more is unmounted", false, mounted(from, "more", false)},
		{"data is unmounted", false, mounted(from, "data", false)},
		{"the address is gone", false, address()},
		{"PostRel ran", false, ran(from, "PostRel10")},
		{"the address is gone from the other", true, address()},
		{"data is mounted", true, mounted(to, "data", true)},
		{"more is mounted", true, mounted(to, "more", true)},
		{"PreAcq ran", true, ran(to, "PreAcq10")},
		{"the address is there", true, address(to)},
		{"PostAcq ran", true, ran(to, "PostAcq10")},
	}
}

// ways to end a host's part in the middle of something.
type way struct {
	name string
	end  func(s *volumeSite, t *testing.T, host string)
}

func ways() []way {
	return []way{
		{"had", func(s *volumeSite, t *testing.T, host string) { s.kill(t, host) }},
		{"guard", func(s *volumeSite, t *testing.T, host string) {
			_, err := s.Host(host).SignalGuard(syscall.SIGKILL)
			must(t, err)
		}},
		{"both", (*volumeSite).killBoth},
		{"power", func(s *volumeSite, t *testing.T, host string) { must(t, s.Host(host).PowerOff(t.Context())) }},
		{"stop", (*volumeSite).stopBoth},
		{"cut", func(s *volumeSite, t *testing.T, host string) { must(t, s.Isolate(host)) }},
	}
}

// TestOwnersEndAtEveryStep ends the old or the new owner at each step of a move.
func TestOwnersEndAtEveryStep(t *testing.T) {
	t.Parallel()
	if *volumeTrials == 0 {
		s := newVolumeSite(t, lab.Config{Detect: volumeDetect}, "command", "confirm")
		for i, at := range rand.Perm(moveSteps)[:moveSteps/2] {
			s.endAt(t, at, ways()[i%len(ways())], 0)
		}
		s.areClean(t)
		return
	}
	for round := range *volumeTrials {
		for _, w := range ways() {
			t.Run(fmt.Sprintf("%d %s", round, w.name), func(t *testing.T) {
				s := newVolumeSite(t, lab.Config{Detect: volumeDetect}, "command", "confirm")
				for i := range moveSteps {
					s.endAt(t, i, w, rand.N(20*time.Millisecond))
				}
				s.areClean(t)
			})
		}
	}
}

// endAt has the owner moved, ends it or its successor at the step, and judges what
// comes of it.
func (s *volumeSite) endAt(t *testing.T, i int, w way, after time.Duration) {
	t.Helper()
	t.Run(fmt.Sprintf("%d %s", i, w.name), func(t *testing.T) {
		s.mendAll(t)
		from := s.allSettled(t)
		to := s.others(from)[i%2]
		since := time.Now()
		steps := s.steps(t, from, to)
		s.moveTo(t, from, to)
		if err := promptly(t, steps[i]); err != nil { // such as by another election meanwhile
			t.Logf("the move came to something else before %q: %v", steps[i].name, err)
		}
		wait := time.NewTimer(after)
		defer wait.Stop()
		<-wait.C
		victim := from
		if steps[i].acquire {
			victim = to
		}
		w.end(s, t, victim)
		t.Logf("%s of %s ended %v after %q", w.name, victim, after, steps[i].name)
		if w.name == "guard" {
			s.linger(t)
		} else {
			s.volumesTaken(t, victim)
		}
		s.mendAll(t)
		s.judgeAll(t, since)
	})
}

// promptly waits for a step, which takes no second, without a pause between two
// looks worth a word.
func promptly(t *testing.T, st step) error {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		err := st.there(t)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// hasVolume says why a host's kernel has a volume, or not, other than wanted.
func (s *volumeSite) hasVolume(host, volume string, want bool) error {
	turns, _, err := s.mounts.Turns(volume)
	if err != nil {
		return err
	}
	has := slices.ContainsFunc(turns, func(m lab.MountTurn) bool { return m.Host == host && m.To.IsZero() })
	if has != want {
		return fmt.Errorf("%s has volume %s: %t", host, volume, has)
	}
	return nil
}

// mark is where the ledger ends now.
func (f *hookFolder) mark(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(f.ledger)
	must(t, err)
	return info.Size()
}

// ranSince says why a script didn't run on a host after a mark.
func (f *hookFolder) ranSince(t *testing.T, mark int64, host, script string) error {
	t.Helper()
	text, err := os.ReadFile(f.ledger)
	must(t, err)
	for line := range strings.Lines(string(text[mark:])) {
		if words := strings.Fields(line); len(words) > 2 && words[0] == host && words[2] == script {
			return nil
		}
	}
	return errors.New(script + " didn't run on " + host)
}
