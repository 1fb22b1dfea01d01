package nettest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"had/internal/lab"
)

// TestVolumesInTrouble is about volumes that can't be mounted, written or let go.
func TestVolumesInTrouble(t *testing.T) {
	t.Parallel()
	s := newVolumeSite(t, lab.Config{Array: true, Detect: volumeDetect}, "command", "confirm")
	data := s.volumes[0]

	s.scenario(t, "full", func(t *testing.T, owner string) {
		for _, v := range s.volumes {
			must(t, s.Host(owner).FillVolume(v.Name))
		}
		now := s.addressesMovedAway(t, owner)
		s.mounted(t, now)
		for _, v := range s.volumes {
			must(t, s.Host(now).EmptyVolume(v.Name))
		}
		s.allSettled(t)
		s.nobodySwitchedOff(t)
	})

	s.scenario(t, "failing", func(t *testing.T, owner string) {
		s.endServices(t, owner) // a sync under way might be told of success
		for _, v := range s.volumes {
			must(t, s.Host(owner).BreakVolume(v.Name))
		}
		s.movedAway(t, owner)
		s.nobodySwitchedOff(t)
	})

	s.scenario(t, "failing, and a check notices", func(t *testing.T, owner string) {
		s.apply(t, owner, s.volumePolicy()+fmt.Sprintf(`
check "volume" "disk" {
  volume       = %q
  interval     = "200ms"
  failures     = 2
  start_period = "0s"
}
`, data.Name))
		s.endServices(t, owner)
		must(t, s.Host(owner).BreakVolume(data.Name))
		next := s.volumesTaken(t, owner)
		eventually(t, "the history says which check it was", func() error {
			for _, e := range s.fullHistory(t) {
				if e.GetNode() == next && strings.Contains(e.GetAcquired().GetCause(), "check disk failed 2 times: volume "+data.Name) {
					return nil
				}
			}
			return errors.New("it doesn't")
		})
		s.nobodySwitchedOff(t)
		s.apply(t, next, s.volumePolicy())
	})

	s.scenario(t, "missing on one host", func(t *testing.T, owner string) {
		without := s.others(owner)[0]
		must(t, s.Host(without).UnplugVolume(data.Name))
		s.moveFails(t, owner, without, data.Device())
		if now := s.allSettled(t); now == without {
			t.Errorf("%s owns without the device", now)
		}
		s.saysWhyNot(t, without, data.Device())
		s.nobodySwitchedOff(t)
	})

	s.scenario(t, "missing wherever it could be mounted next", func(t *testing.T, owner string) {
		for _, other := range s.others(owner) {
			must(t, s.Host(other).UnplugVolume(data.Name))
		}
		s.kill(t, owner)
		s.saysOf(t, data.Device(), s.others(owner)...)
		s.mounted(t, "")
		s.vacant(t)
		must(t, s.Host(s.others(owner)[0]).PlugVolume(data.Name))
		s.volumesTaken(t, owner)
		s.nobodySwitchedOff(t)
	})

	s.scenario(t, "used by somebody else", func(t *testing.T, _ string) {
		s.atLeastOnce(t, func() error { // on a busy machine it may lose its lease as well
			owner := s.allSettled(t)
			s.strip.Switched()
			for _, v := range s.volumes {
				s.occupy(t, owner, v)
			}
			s.movedAway(t, owner)
			r := s.lastReleased(t, owner)
			if cuts := s.strip.Switched(); len(cuts) > 0 {
				return fmt.Errorf("%v were switched off", cuts)
			}
			if !r.GetForced() || !strings.Contains(fmt.Sprint(r.GetSteps()), "sleep") {
				return fmt.Errorf("the release is %v", r)
			}
			return nil
		})
	})

	s.scenario(t, "used by somebody else when had dies", func(t *testing.T, owner string) {
		for _, v := range s.volumes {
			s.occupy(t, owner, v)
		}
		s.kill(t, owner)
		s.volumesTaken(t, owner)
	})

	s.scenario(t, "a mount hangs", func(t *testing.T, owner string) {
		must(t, s.Host(owner).PowerOff(t.Context())) // so that there is a journal to replay
		must(t, s.StallVolumes())
		s.saysOf(t, "mounting "+data.Name, s.others(owner)...)
		must(t, s.ResumeVolumes())
		s.volumesTaken(t, owner)
	})

	s.scenario(t, "a mount hangs, and had dies", func(t *testing.T, owner string) {
		must(t, s.Host(owner).PowerOff(t.Context()))
		must(t, s.StallVolumes())
		next := s.holderOfTurn(t, owner)
		s.saysOf(t, "mounting "+data.Name, next)
		s.strip.BreakDown(true)
		must(t, s.Host(owner).PowerOn())
		must(t, s.Host(owner).StartDaemon())
		s.kill(t, next)
		s.waits(t, next)
		must(t, s.ResumeVolumes())
		s.volumesTaken(t, next) // its guard has seen to that
	})

	s.scenario(t, "the array stalls, and had dies", func(t *testing.T, owner string) {
		s.strip.BreakDown(true)
		must(t, s.StallVolumes())
		s.kill(t, owner)
		s.waits(t, owner)
		s.mounted(t, owner)
		must(t, s.ResumeVolumes())
		s.volumesTaken(t, owner)
	})

	s.areClean(t)
}

// holderOfTurn returns who has taken the turn of an owner that is gone, though it
// may not serve yet.
func (s *volumeSite) holderOfTurn(t *testing.T, gone string) (next string) {
	t.Helper()
	eventually(t, "another has the turn of "+gone, func() error {
		st, err := s.status(t, s.others(gone)[0])
		if err != nil {
			return err
		}
		if next = st.GetOwnership().GetOwner(); next == "" || next == gone {
			return describe(st)
		}
		return nil
	})
	return next
}

// endServices kills the services that write to the volumes.
func (s *volumeSite) endServices(t *testing.T, host string) {
	t.Helper()
	for _, v := range s.volumes {
		text, err := os.ReadFile(filepath.Join(s.notesDir, v.Name+"-"+host+".pid"))
		must(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		eventually(t, "the service has ended", func() error {
			if words, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(words) > 0 {
				return fmt.Errorf("%q runs", words)
			}
			return nil
		})
	}
}

// occupy has a process of nobody's keep a volume from being unmounted.
func (s *volumeSite) occupy(t *testing.T, host string, v lab.Volume) {
	t.Helper()
	p, err := s.Host(host).Start(s.Host(host).Log(), "sh", "-c", "cd "+v.Path()+" && exec sleep 3600")
	must(t, err)
	eventually(t, "a process is in "+v.Path(), func() error {
		dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.Pid()))
		if err == nil && dir != v.Path() {
			err = fmt.Errorf("it is in %s", dir)
		}
		return err
	})
}

// saysWhyNot waits until status says of a node that it can't own, because of
// something with these words.
func (s *volumeSite) saysWhyNot(t *testing.T, node, why string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s can't own: %s", node, why), func() error {
		n, err := s.nodeStatus(t, s.others(node)[0], node)
		if err == nil && (n.GetEligible() || !strings.Contains(strings.Join(n.GetReasons(), "\n"), why)) {
			err = fmt.Errorf("eligible: %t; %q", n.GetEligible(), n.GetReasons())
		}
		return err
	})
}

// saysOf waits until the status of one of the nodes explains what goes on with
// these words, while all of them answer.
func (s *volumeSite) saysOf(t *testing.T, what string, nodes ...string) {
	t.Helper()
	eventually(t, "status says: "+what, func() error {
		var last error
		for _, node := range nodes {
			st, err := s.status(t, node)
			if err != nil {
				return err
			}
			if strings.Contains(st.GetOwnership().GetWhy(), what) {
				return nil
			}
			last = describe(st)
		}
		return last
	})
}
