package nettest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/clock"
	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// volumeSite is a cluster with two volumes, one of each file system, a service
// that writes to both, a power strip, and an observer of the kernels.
type volumeSite struct {
	*site
	volumes  []lab.Volume
	mounts   *lab.MountObserver
	strip    *lab.Strip
	notesDir string   // what the services on all hosts have noted as safe
	methods  []string // of the fence
	exe      string
	array    bool     // the volumes can be stalled
	witness  []string // who own nothing
}

func newVolumeSite(t *testing.T, cfg lab.Config, methods ...string) *volumeSite {
	t.Helper()
	cfg.Volumes = []lab.Volume{{Name: "data", FSType: "ext4"}, {Name: "more", FSType: "xfs"}}
	s := &volumeSite{volumes: cfg.Volumes, methods: methods, array: cfg.Array, witness: cfg.Witnesses, notesDir: filepath.Join(t.TempDir(), "noted")}
	must(t, os.Mkdir(s.notesDir, 0o700))
	var err error
	s.exe, err = os.Executable()
	must(t, err)
	s.site = newIdleSite(t, cfg)
	s.mounts = s.WatchMounts()
	t.Cleanup(s.mounts.Close)
	s.strip = plugIn(t, s.site)
	for _, v := range s.volumes {
		// The service has ended when its process is a zombie: nobody may wait for it.
		vars := strings.NewReplacer("EXE", s.exe, "FILE", filepath.Join(v.Path(), "stamps"), "NOTES", filepath.Join(s.notesDir, v.Name), "PID", filepath.Join(s.notesDir, v.Name))
		s.hooks.add(t, s.vips[0], "PostAcq50"+v.Name, vars.Replace(`'EXE' stamp 'FILE' 'NOTES'.$HAD_NODE </dev/null >/dev/null 2>&1 &
echo $! >'PID'-$HAD_NODE.pid`))
		s.hooks.add(t, s.vips[0], "PreRel50"+v.Name, vars.Replace(`if read pid <'PID'-$HAD_NODE.pid; then
  kill $pid 2>/dev/null
  while [ -s /proc/$pid/cmdline ]; do sleep 0.01; done
fi`))
	}
	s.apply(t, s.Servers()[0].Name, s.volumePolicy())
	s.allSettled(t)
	return s
}

func (s *volumeSite) volumePolicy() string {
	var b strings.Builder
	b.WriteString(s.policy(s.vips...))
	for _, v := range s.volumes {
		fmt.Fprintf(&b, "volume %q {\n  device = %q\n  path = %q\n}\n", v.Name, v.Device(), v.Path())
	}
	fmt.Fprintf(&b, "fence {\n  methods = [%s]\n", `"`+strings.Join(s.methods, `", "`)+`"`)
	if slices.Contains(s.methods, "command") {
		for _, host := range s.others(s.witness...) {
			b.WriteString(s.strip.Fence(s.exe, host))
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// scenario runs one fault, as site.scenario does, and judges the volumes, too.
func (s *volumeSite) scenario(t *testing.T, name string, fault func(t *testing.T, owner string)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		began := time.Now()
		s.mendAll(t)
		owner := s.allSettled(t)
		s.strip.Switched()
		since := time.Now()
		fault(t, owner)
		healed := time.Now()
		s.mendAll(t)
		s.judgeAll(t, since)
		t.Logf("%v to the fault, which took %v; %v to one owner", since.Sub(began), healed.Sub(since), time.Since(healed))
	})
}

// judgeAll judges addresses and volumes, once one owner has settled.
func (s *volumeSite) judgeAll(t *testing.T, since time.Time) {
	t.Helper()
	s.allSettled(t)
	s.judge(t, since)
	s.judgeVolumes(t)
}

// mendAll is mend with the power back on. A daemon that is stopped goes on only
// now, if its host is on.
func (s *volumeSite) mendAll(t *testing.T) {
	t.Helper()
	s.plugAllIn(t)
	for _, h := range s.Servers() {
		_, err := h.SignalGuard(syscall.SIGCONT)
		must(t, err)
	}
	s.mend(t)
}

// plugAllIn has all hosts on, with their disks.
func (s *volumeSite) plugAllIn(t *testing.T) {
	t.Helper()
	s.strip.BreakDown(false)
	if s.array {
		must(t, s.ResumeVolumes())
	}
	for _, h := range s.Servers() {
		must(t, h.PowerOn())
		for _, v := range s.volumes {
			must(t, h.PlugVolume(v.Name))
		}
	}
}

// allSettled returns the owner, once it is one for the addresses, and both
// volumes are mounted there and written.
func (s *volumeSite) allSettled(t *testing.T) string {
	t.Helper()
	since := clock.Now()
	return s.served(t, "all nodes, and the kernels, agree on one owner, which writes to its volumes", func() (string, error) {
		for _, h := range s.Servers() { // one may have been switched off meanwhile
			if h.Off() {
				must(t, h.PowerOn())
			}
			revive(t, h)
		}
		owner, err := s.agreed(t)
		if err == nil {
			err = s.mountedOn(owner)
		}
		if err == nil {
			err = s.hasWritten(t, owner, since)
		}
		return owner, err
	})
}

// mountedOn says why the volumes aren't mounted on one host alone; "": on none.
func (s *volumeSite) mountedOn(host string) error {
	for _, v := range s.volumes {
		turns, _, err := s.mounts.Turns(v.Name)
		if err != nil {
			return err
		}
		var on []string
		for _, turn := range turns {
			if turn.To.IsZero() {
				on = append(on, turn.Host)
			}
		}
		want := []string{host}
		if host == "" {
			want = nil
		}
		if !slices.Equal(on, want) {
			return fmt.Errorf("volume %s is on %v, want %v", v.Name, on, want)
		}
	}
	return nil
}

// mounted waits until the volumes are mounted on that host alone.
func (s *volumeSite) mounted(t *testing.T, host string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the volumes are mounted on %q alone", host), func() error { return s.mountedOn(host) })
}

// hasWritten says on which volume nothing that a host wrote has become safe since.
func (s *volumeSite) hasWritten(t *testing.T, host string, since clock.Instant) error {
	for _, v := range s.volumes {
		if !slices.ContainsFunc(s.notes(t, v.Name), func(r record) bool { return r.node == host && since.Before(r.at) }) {
			return fmt.Errorf("nothing that %s wrote to volume %s has become safe", host, v.Name)
		}
	}
	return nil
}

// volumesTaken returns the next owner, once it has the addresses and the volumes.
func (s *volumeSite) volumesTaken(t *testing.T, old string) string {
	t.Helper()
	s.takenOver(t, old)
	since := clock.Now()
	return s.served(t, "another than "+old+" has the volumes, and writes to them", func() (string, error) {
		owner, err := s.agreed(t, old)
		if err == nil {
			err = s.mountedOn(owner)
		}
		if err == nil {
			err = s.hasWritten(t, owner, since)
		}
		return owner, err
	})
}

// movedAway has the volumes moved, and returns the next owner once it writes to
// them.
func (s *volumeSite) movedAway(t *testing.T, owner string) string {
	t.Helper()
	s.addressesMovedAway(t, owner)
	return s.volumesTaken(t, owner)
}

// addressesMovedAway has everything moved, and returns who has the addresses then.
// On a busy machine a move may come to nothing: then it is asked for again.
func (s *volumeSite) addressesMovedAway(t *testing.T, owner string) string {
	t.Helper()
	for range 3 {
		s.moveTo(t, owner, s.others(owner)[0])
		ctx, cancel := context.WithTimeout(t.Context(), patience/3)
		_, err := s.Observer.AwaitHolder(ctx, s.vips[0], owner)
		cancel()
		if err == nil {
			return s.takenOver(t, owner)
		}
	}
	t.Fatalf("%s keeps the addresses, however often they are moved", owner)
	return ""
}

// atLeastOnce has something happen until it goes as it must, for which a busy
// machine may leave no time: it is given three chances.
func (s *volumeSite) atLeastOnce(t *testing.T, try func() error) {
	t.Helper()
	var errs []error
	for range 3 {
		err := try()
		if err == nil {
			return
		}
		errs = append(errs, err)
	}
	t.Error(errors.Join(errs...))
}

// judgeVolumes checks what must hold of the volumes after every fault.
func (s *volumeSite) judgeVolumes(t *testing.T) {
	t.Helper()
	for _, wrong := range s.wrong(t, time.Time{}) {
		t.Error(wrong)
	}
	if blind := s.blind(t); blind > 100*time.Millisecond {
		t.Logf("the observer of the mounts didn't look for %v", blind)
	}
}

// wrong says what is not as it must be with the volumes: at no time since then had two
// hosts one, nothing that was synced is lost, and nobody wrote out of turn.
func (s *volumeSite) wrong(t *testing.T, since time.Time) (wrong []string) {
	t.Helper()
	for _, v := range s.volumes {
		turns, _, err := s.mounts.Turns(v.Name)
		must(t, err)
		for _, o := range lab.MountOverlaps(turns) {
			if !o.To.Before(since) {
				wrong = append(wrong, fmt.Sprintf("two hosts had volume %s at once: %s", v.Name, o))
			}
		}
		for _, w := range judgeStamps(s.stamps(t, v)) {
			wrong = append(wrong, fmt.Sprintf("volume %s: %s", v.Name, w))
		}
	}
	return wrong
}

// blind is the longest time in which nobody looked at the mounts.
func (s *volumeSite) blind(t *testing.T) time.Duration {
	t.Helper()
	_, blind, err := s.mounts.Turns(s.volumes[0].Name)
	must(t, err)
	return blind
}

// stamps returns what is on a volume, and what had been noted as safe before that was
// read. A busy machine may cost its owner the lease meanwhile.
func (s *volumeSite) stamps(t *testing.T, v lab.Volume) (text string, notes []record) {
	t.Helper()
	for range 5 {
		owner := s.allSettled(t)
		notes = s.notes(t, v.Name)
		var err error
		if text, err = s.Host(owner).Exec(t.Context(), "cat", filepath.Join(v.Path(), "stamps")); err == nil {
			return text, notes
		}
		t.Logf("volume %s has left %s: %v", v.Name, owner, err)
	}
	t.Fatalf("the owner changed each time that the stamps of volume %s were to be read", v.Name)
	return "", nil
}

// judgeStamps compares what is on a volume with what had been noted as safe before
// it was read, and returns what is wrong.
func judgeStamps(text string, notes []record) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	there, torn := parseRecords(text)
	at := map[record]bool{}
	var newest record
	turns := 1
	for _, r := range there {
		if at[r] {
			say("%v is there twice", r)
		}
		if r.epoch < newest.epoch {
			say("%v was written after %v", r, newest)
		}
		if newest.epoch != 0 && r.epoch != newest.epoch {
			turns++
		}
		at[r], newest = true, r
	}
	if torn > turns {
		say("%d lines are no records, after %d turns", torn, turns)
	}
	notes = slices.Clone(notes)
	slices.SortFunc(notes, func(a, b record) int { return cmp.Compare(a.at, b.at) })
	var last record
	for _, n := range notes {
		if n.epoch < last.epoch {
			say("%v became safe after %v", n, last)
		}
		last = n
		r := n
		r.at, r.begun = 0, 0
		if !at[r] {
			say("%v was synced, and isn't there", n)
		}
	}
	return wrong
}

// lastReleased returns the newest release of a node's that the log has.
func (s *volumeSite) lastReleased(t *testing.T, node string) *hadv1.Released {
	t.Helper()
	return lastReleaseBy(s.fullHistory(t), node)
}
