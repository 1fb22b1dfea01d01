package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"had/internal/lab"
)

const (
	// partVolumes is the part of a run that measures owners of volumes.
	partVolumes = "volumes"
	// volumeSubject is the subject it is measured for: keepalived has no volumes.
	volumeSubject = "had-500"
	// dirtyMB is how much is written, and not synced, before a fault.
	dirtyMB = 150
)

func fileSystems() []string { return []string{"ext4", "xfs"} }

// volumeCase is what is measured so often.
type volumeCase struct {
	fault  fault
	fstype string
	dirty  bool // written to, and not synced
}

// volumeCases returns all, in the order in which they are measured and shown.
func volumeCases() (cases []volumeCase) {
	for _, f := range volumeFaults() {
		for _, dirty := range []bool{false, true} {
			for _, fstype := range fileSystems() {
				cases = append(cases, volumeCase{f, fstype, dirty})
			}
		}
	}
	return cases
}

func (k volumeCase) load() string {
	if k.dirty {
		return fmt.Sprintf("%d MB", dirtyMB)
	}
	return "idle"
}

func (k volumeCase) String() string {
	return fmt.Sprintf("%s, %s, %s", k.fault.title, k.fstype, k.load())
}

// volumeFaults returns how an owner of a volume ends, in the order in which it is
// measured and shown.
func volumeFaults() []fault {
	power := fault{
		key: "power", title: "power lost",
		strike: func(ctx context.Context, _ *site, owner *lab.Host) (func() error, error) {
			return owner.PowerOn, owner.PowerOff(ctx)
		},
	}
	return []fault{faultOf("move"), faultOf("stop"), faultOf("crash"), faultOf("pause"), faultOf("isolated"), power}
}

// forced reports whether a fault has the owner's guard end the volume, nobody else
// being there to do it.
func forced(key string) bool { return key == "crash" || key == "pause" }

// newVolumeSite returns a cluster that owns a volume, and whose fence is a power
// strip that answers at once.
func (r *runner) newVolumeSite(ctx context.Context, s Subject, fstype string) (*site, error) {
	v := lab.Volume{Name: "data", FSType: fstype}
	cfg := lab.Config{VIPs: lab.DefaultVIPs(), Volumes: []lab.Volume{v}}
	return r.newSiteIn(ctx, s, cfg, func(c *site) (err error) {
		if c.strip, err = c.lab.PowerStrip(); err != nil {
			return err
		}
		var b strings.Builder
		fmt.Fprintf(&b, "volume %q {\n  device = %q\n  path   = %q\n}\nfence {\n  methods = [\"command\"]\n", v.Name, v.Device(), v.Path())
		for _, h := range c.lab.Servers() {
			b.WriteString(c.strip.Fence(r.cfg.Self, h.Name))
		}
		b.WriteString("}\n")
		c.volume, c.product.(*had).more = &v, b.String()
		return nil
	})
}

// errTwoMounted is no result to go on after.
var errTwoMounted = errors.New("two hosts had a volume at once")

// maxFailed is how many trials of a file system may come to nothing.
const maxFailed = 5

// volumes measures owners of volumes; the file systems take turns. What goes wrong
// is noted and tried again; where too much does, the other file system goes on
// alone.
func (r *runner) volumes(ctx context.Context) (err error) {
	i := slices.IndexFunc(r.subjects, func(s Subject) bool { return s.Key == volumeSubject })
	total := r.volumesLeft()
	if i < 0 || total == 0 {
		return nil
	}
	if err := neededForVolumes(); err != nil {
		return r.note(ctx, partVolumes, partVolumes, err)
	}
	sites := map[string]*site{} // by file system
	defer func() {
		for _, c := range sites {
			err = closing(err, c)
		}
	}()
	for _, fstype := range fileSystems() {
		r.say("start   %s with a volume of %s", r.subjects[i].Title, fstype)
		c, err := r.newVolumeSite(ctx, r.subjects[i], fstype)
		if err != nil {
			return err
		}
		sites[fstype] = c
	}
	failed := map[string]int{}
	for n := range r.takeovers() {
		for _, k := range volumeCases() {
			for failed[k.fstype] <= maxFailed && len(r.report.volumeTrials(k)) <= n {
				t, err := sites[k.fstype].volumeTrial(ctx, k)
				if errors.Is(err, errTwoMounted) {
					return err
				}
				if err != nil {
					failed[k.fstype]++
					if err := r.note(ctx, partVolumes, k.String(), err); err != nil {
						return err
					}
					continue
				}
				r.report.Volumes = append(r.report.Volumes, t)
				r.say("%3d/%d  %-9s %-5s %-7s no answer for %.1f ms, mounted after %.1f ms, forced release %.1f ms",
					total-r.volumesLeft(), total, k.fault.key, k.fstype, k.load(), t.longest(), t.Mounted, t.Forced)
				if err := r.save(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// neededForVolumes says what isn't installed.
func neededForVolumes() error {
	for _, fstype := range fileSystems() {
		if _, err := exec.LookPath("mkfs." + fstype); err != nil {
			return fmt.Errorf("make a volume of %s: %w (apt-get install e2fsprogs xfsprogs)", fstype, err)
		}
	}
	return nil
}

// volumesLeft returns how many trials of volumes are to be made.
func (r *runner) volumesLeft() (n int) {
	for _, k := range volumeCases() {
		n += max(0, r.takeovers()-len(r.report.volumeTrials(k)))
	}
	return n
}

// volumeTrial is trial for an owner of a volume, whose kernel is watched, too.
func (c *site) volumeTrial(ctx context.Context, k volumeCase) (VolumeTrial, error) {
	f := k.fault
	if k.dirty {
		f.prepare = func(ctx context.Context, c *site, owner *lab.Host) error { return c.dirty(ctx, owner) }
	}
	mounts := c.lab.WatchMounts()
	defer mounts.Close()
	t, err := c.trial(ctx, f)
	v := VolumeTrial{Trial: t, FSType: k.fstype, Dirty: k.dirty}
	if err == nil && t.Rebuilt != "" {
		err = errors.New(t.Rebuilt)
	}
	if err != nil {
		return v, err
	}
	turns, _, err := mounts.Turns(c.volume.Name)
	if err != nil {
		return v, err
	}
	if both := lab.MountOverlaps(turns); len(both) > 0 {
		return v, fmt.Errorf("%w: %v", errTwoMounted, both)
	}
	v.Mounted = ms(mountedAfter(turns, t.Successor, t.struck))
	if v.Mounted == 0 {
		return v, fmt.Errorf("nobody took over, or %q answered and had not mounted the volume", t.Successor)
	}
	if !forced(f.key) {
		return v, nil
	}
	addresses, err := c.lab.Observer.History(ctx, c.vips[0])
	if err != nil {
		return v, err
	}
	proven, err := c.product.(*had).proven(ctx, t.Owner, t.struck)
	if err == nil {
		v.Forced = ms(forcedRelease(addresses, proven, t.Owner, t.struck))
	}
	return v, err
}

// dirty writes to the owner's volume, and syncs nothing.
func (c *site) dirty(ctx context.Context, owner *lab.Host) error {
	_, err := owner.Exec(ctx, "dd", "if=/dev/zero", "of="+c.volume.Path()+"/dirty", "bs=1M", fmt.Sprintf("count=%d", dirtyMB), "conv=notrunc", "status=none")
	return err
}

// mountedAfter returns how long after the fault a host's kernel had the volume; 0:
// never.
func mountedAfter(turns []lab.MountTurn, host string, struck time.Time) time.Duration {
	for _, turn := range turns {
		if turn.Host == host && turn.First.After(struck) {
			return turn.First.Sub(struck)
		}
	}
	return 0
}

// forcedRelease is the time from the end of the owner's address, with which a
// forced release begins, to the proof that its volume is free; 0: one of them didn't
// come.
func forcedRelease(addresses lab.History, proven time.Time, owner string, struck time.Time) time.Duration {
	for _, t := range addresses.Transitions {
		if !t.Held && t.Host == owner && t.At.After(struck) && !proven.IsZero() {
			return max(0, proven.Sub(t.At))
		}
	}
	return 0
}

// volumeTrials returns those of a case.
func (r *Report) volumeTrials(k volumeCase) []VolumeTrial {
	return slices.DeleteFunc(slices.Clone(r.Volumes), func(t VolumeTrial) bool {
		return t.Fault != k.fault.key || t.FSType != k.fstype || t.Dirty != k.dirty
	})
}

func volumeSection(r *Report) string {
	var rows [][]string
	for _, k := range volumeCases() {
		trials := r.volumeTrials(k)
		if len(trials) == 0 {
			continue
		}
		release := ""
		if forced(k.fault.key) {
			release = three(Summarize(collect(trials, func(t VolumeTrial) float64 { return t.Forced })))
		}
		plain := make([]Trial, len(trials))
		for i, t := range trials {
			plain[i] = t.Trial
		}
		rows = append(rows, []string{
			k.fault.title, k.load(), k.fstype, trialCount(plain),
			three(Summarize(collect(trials, VolumeTrial.longest))),
			three(Summarize(collect(trials, func(t VolumeTrial) float64 { return t.Mounted }))),
			release,
		})
	}
	return fmt.Sprintf(`## Volumes

An owner that has a file system mounted, on a disk that all servers see; had at
detect 500 ms, without hooks, times in ms as median / p95 / max. **No answer** is
what the client sees: the address comes to the next owner once the volume is mounted
there. **Mounted** is when its kernel has it, after the fault. **Forced release** is
what the guard needs when nobody else is left to end it, from the end of the address,
with which it begins, until it has seen that the volume is free, and says so. A run in which two kernels have the volume at once ends
with that as its error.

*%d MB*: so much was written before the fault and not synced. *Power lost*: the
owner's plug is pulled, with what its kernel hadn't written, and the fence, a power
strip, is asked and answers at once; a real one takes its time on top. The same fence
ends the isolated owner.

`, dirtyMB) + table(3, []string{"", "written", "", "trials", "no answer", "mounted", "forced release"}, rows)
}
