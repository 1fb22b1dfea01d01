package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"had/internal/lab"
)

// Parts of a run besides the faults.
const (
	partScale = "scale"
	partIdle  = "idle"
)

// ResultsFile is the name of the file, in Config.Dir, that keeps the report.
const ResultsFile = "results.json"

// Config says what to measure and with what.
type Config struct {
	Had, Hactl string // our programs, absolute paths
	Keepalived string // the program; "": it isn't installed, and isn't measured
	// Self is this program, absolute: called with "power", it asks a power strip
	// (lab.AskStrip) for the fences of clusters with volumes.
	Self   string
	Dir    string // keeps the results
	Trials int    // a fault and subject, at least 1
	// Only are the parts to run, by key; empty: all.
	Only []string
	// Subjects are those to measure, by key; empty: all.
	Subjects []string
	// Resume goes on with the run whose results are in Dir, if it was of the
	// same programs and machine: what it has measured isn't measured again.
	Resume bool
	// Anew are parts to measure once more, by key, and to put in the place of what
	// the run whose results are in Dir has measured of them, with the programs of
	// today. It was of this machine, and the rest of it stays.
	Anew []string
	// Progress is told what happens, a line each.
	Progress io.Writer
}

// Parts returns the keys of everything that Config.Only may name.
func Parts() []string {
	keys := []string{partIdle}
	for _, f := range faults() {
		keys = append(keys, f.key)
	}
	return append(keys, partScale, partVolumes)
}

// SubjectKeys returns the keys that Config.Subjects may name.
func SubjectKeys() []string {
	var keys []string
	for _, s := range subjects() {
		keys = append(keys, s.Key)
	}
	return keys
}

// runner is one run.
type runner struct {
	cfg      Config
	subjects []Subject
	report   *Report
	site     *site // of the subject whose turn it is
	made     int   // trials
	toMake   int
	rebuilt  map[string]int
	start    time.Time

	mu sync.Mutex // for Progress
}

// Run measures, and keeps what it has in Config.Dir all the time, also when it
// ends early. Nothing of the clusters is left when it returns.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	r, err := newRunner(cfg)
	if err != nil {
		return nil, err
	}
	if r.report.Machine, err = r.describe(ctx); err != nil {
		return nil, err
	}
	complete := len(cfg.Only) == 0 && len(cfg.Subjects) == 0 && len(r.subjects) == len(subjects())
	switch {
	case len(cfg.Anew) > 0:
		if complete, err = r.anew(); err != nil {
			return nil, err
		}
	case cfg.Resume:
		if err := r.resume(); err != nil {
			return nil, err
		}
	}
	r.announce()
	if err := errors.Join(r.all(ctx), r.save()); err != nil {
		return r.report, err
	}
	r.report.Complete = complete
	return r.report, r.save()
}

func newRunner(cfg Config) (*runner, error) {
	if cfg.Trials < 1 {
		return nil, fmt.Errorf("measure %d trials a fault: at least 1", cfg.Trials)
	}
	if len(cfg.Anew) > 0 && (cfg.Resume || len(cfg.Only) > 0 || len(cfg.Subjects) > 0) {
		return nil, errors.New("measure parts anew: that is all of them and of every subject; leave out resume, only and subjects")
	}
	for _, part := range slices.Concat(cfg.Only, cfg.Anew) {
		if !slices.Contains(Parts(), part) {
			return nil, fmt.Errorf("measure %q: there are %s", part, strings.Join(Parts(), ", "))
		}
	}
	r := &runner{cfg: cfg, rebuilt: map[string]int{}, start: time.Now()}
	for _, key := range cfg.Subjects {
		if !slices.Contains(SubjectKeys(), key) {
			return nil, fmt.Errorf("measure %q: there are %s", key, strings.Join(SubjectKeys(), ", "))
		}
	}
	for _, s := range subjects() {
		chosen := len(cfg.Subjects) == 0 || slices.Contains(cfg.Subjects, s.Key)
		if chosen && (s.Group == ours || cfg.Keepalived != "") {
			r.subjects = append(r.subjects, s)
		}
	}
	if len(r.subjects) == 0 {
		return nil, errors.New("measure keepalived: it isn't installed (apt-get install keepalived)")
	}
	r.report = &Report{Trials: cfg.Trials, Subjects: r.subjects}
	return r, nil
}

func (r *runner) wants(part string) bool {
	only := slices.Concat(r.cfg.Only, r.cfg.Anew)
	return len(only) == 0 || slices.Contains(only, part)
}

// faults returns the faults of this run.
func (r *runner) faults() []fault {
	return slices.DeleteFunc(faults(), func(f fault) bool { return !r.wants(f.key) })
}

func faultOf(key string) fault {
	all := faults()
	return all[slices.IndexFunc(all, func(f fault) bool { return f.key == key })]
}

// resume takes over what an earlier run has measured.
func (r *runner) resume() error {
	old, err := ReadReport(filepath.Join(r.cfg.Dir, ResultsFile))
	if err != nil {
		return err
	}
	same := old.Machine
	same.Load = r.report.Machine.Load
	if same != r.report.Machine || old.Trials != r.report.Trials {
		return fmt.Errorf("go on with the run in %s: it was one of %d trials with %+v, and this is one of %d with %+v; run the same programs, or begin anew",
			r.cfg.Dir, old.Trials, same, r.report.Trials, r.report.Machine)
	}
	r.keep(old)
	return nil
}

func (r *runner) keep(old *Report) {
	r.report.Machine, r.report.Later = old.Machine, old.Later
	r.report.Faults, r.report.Scale, r.report.Steady, r.report.Idle = old.Faults, old.Scale, old.Steady, old.Idle
	r.report.Volumes = old.Volumes
}

// anew takes over what an earlier run has measured, but for the parts that are to be
// measured once more, and reports whether that run was complete.
func (r *runner) anew() (complete bool, err error) {
	old, err := ReadReport(filepath.Join(r.cfg.Dir, ResultsFile))
	if err != nil {
		return false, err
	}
	now := r.report.Machine
	same := old.Machine
	same.Load, same.Had = now.Load, now.Had
	if same != now || old.Trials != r.report.Trials {
		return false, fmt.Errorf("measure parts of the run in %s anew: it was one of %d trials with %+v, and this is one of %d with %+v; begin a whole run",
			r.cfg.Dir, old.Trials, old.Machine, r.report.Trials, now)
	}
	r.keep(old)
	if r.report.Later == nil {
		r.report.Later = map[string]string{}
	}
	r.report.Missing = slices.DeleteFunc(old.Missing, func(m Missing) bool { return slices.Contains(r.cfg.Anew, m.Part) })
	for _, part := range r.cfg.Anew {
		delete(r.report.Later, part)
		if now.Had != old.Machine.Had {
			r.report.Later[part] = now.Had
		}
		switch part {
		case partIdle:
			r.report.Idle = nil
		case partScale:
			r.report.Scale, r.report.Steady = nil, nil
		case partVolumes:
			r.report.Volumes = nil
		default:
			r.report.Faults = slices.DeleteFunc(r.report.Faults, func(t Trial) bool { return t.Fault == part })
		}
	}
	return old.Complete, nil
}

// measured returns how often a fault has been measured for a subject.
func (r *runner) measured(subject, fault string) (n int) {
	for _, t := range r.report.Faults {
		if t.Subject == subject && t.Fault == fault {
			n++
		}
	}
	return n
}

// idled reports whether what idling costs has been measured for a subject.
func (r *runner) idled(subject string) bool {
	return slices.ContainsFunc(r.report.Idle, func(c Cost) bool { return c.Subject == subject })
}

// all runs the parts one after another.
func (r *runner) all(ctx context.Context) error {
	if err := r.turns(ctx); err != nil {
		return err
	}
	if r.wants(partScale) {
		if err := r.scale(ctx); err != nil {
			return err
		}
	}
	if r.wants(partVolumes) {
		return r.volumes(ctx)
	}
	return nil
}

// perTurn is how many trials of each fault a subject makes in its turn.
const perTurn = 5

// turns gives every subject its turns.
func (r *runner) turns(ctx context.Context) error {
	for upTo := 0; upTo < r.cfg.Trials; {
		upTo = min(upTo+perTurn, r.cfg.Trials)
		for _, s := range r.subjects {
			if err := r.turn(ctx, s, upTo); err != nil {
				return err
			}
		}
	}
	return nil
}

// turn measures one subject, whose cluster is the only one meanwhile, until each
// fault has so many trials.
func (r *runner) turn(ctx context.Context, s Subject, upTo int) (err error) {
	lacks := func(f fault) bool { return r.measured(s.Key, f.key) < upTo }
	idle := r.wants(partIdle) && !r.idled(s.Key)
	if !idle && !slices.ContainsFunc(r.faults(), lacks) {
		return nil
	}
	r.say("start   %s", s.Title)
	if r.site, err = r.newSite(ctx, s, lab.DefaultVIPs()); err != nil {
		return err
	}
	defer func() { err = closing(err, r.site) }()
	if idle {
		if err := r.idle(ctx, r.site); err != nil {
			if err := r.note(ctx, partIdle, partIdle, err); err != nil {
				return err
			}
		}
	}
	for _, f := range r.faults() {
		for lacks(f) {
			t, err := r.try(ctx, f)
			if err != nil {
				return err
			}
			r.tell(s, t)
		}
	}
	return nil
}

// trials returns how many there are to make.
func (r *runner) trials() (n int) {
	for _, f := range r.faults() {
		for _, s := range r.subjects {
			n += max(0, r.cfg.Trials-r.measured(s.Key, f.key))
		}
	}
	return n
}

// maxRebuilt is how often the cluster of a subject may have to be made anew.
const maxRebuilt = 5

// try makes a trial. A cluster that isn't well after it, or in which the trial
// could not be made, is made anew.
func (r *runner) try(ctx context.Context, f fault) (Trial, error) {
	for {
		c := r.site
		t, failed := c.trial(ctx, f)
		if ctx.Err() != nil {
			return t, context.Cause(ctx)
		}
		if failed == nil {
			r.report.Faults = append(r.report.Faults, t)
			if err := r.save(); err != nil || t.Rebuilt == "" {
				return t, err
			}
			failed = errors.New(t.Rebuilt)
		}
		r.say("%-9s  %s: making its cluster anew: %v", f.key, c.subject.Title, failed)
		r.rebuilt[c.subject.Key]++
		if r.rebuilt[c.subject.Key] > maxRebuilt {
			return t, fmt.Errorf("measure %s: its cluster had to be made anew more than %d times: %w", c.subject.Title, maxRebuilt, failed)
		}
		anew, err := r.newSite(ctx, c.subject, c.vips)
		if err != nil {
			return t, errors.Join(err, failed)
		}
		r.site = anew
		if err := c.close(); err != nil {
			return t, err
		}
		if t.Rebuilt != "" {
			return t, nil
		}
	}
}

// closing closes the lab of a site and adds what went wrong to err.
func closing(err error, c *site) error { return errors.Join(err, c.close()) }

// save keeps what has been measured so far.
func (r *runner) save() error { return r.report.Write(filepath.Join(r.cfg.Dir, ResultsFile)) }

// note keeps in the report that something could not be measured. Its error is
// why the run ended meanwhile.
func (r *runner) note(ctx context.Context, part, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.report.Missing = append(r.report.Missing, Missing{part, fmt.Sprintf("%s: %v", what, err)})
	r.say("%-9s  NOT MEASURED: %v", what, err)
	return r.save()
}

// say tells the reader a line.
func (r *runner) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.cfg.Progress, "%s  %s\n", clock(time.Since(r.start)), fmt.Sprintf(format, args...))
}

// clock writes a time as minutes and seconds.
func clock(d time.Duration) string {
	return fmt.Sprintf("%3d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// announce says what is about to happen.
func (r *runner) announce() {
	var titles []string
	for _, s := range r.subjects {
		titles = append(titles, s.Title)
	}
	r.say("subjects: %s", strings.Join(titles, "; "))
	if r.cfg.Keepalived == "" {
		r.say("keepalived isn't installed and isn't measured (apt-get install keepalived)")
	}
	r.toMake = r.trials()
	r.say("%d faults, %d trials to make, some 5 s each; Ctrl-C ends it and keeps what is measured", len(r.faults()), r.toMake)
}

// tell tells a trial.
func (r *runner) tell(s Subject, t Trial) {
	r.made++
	note := ""
	if t.Successor == "" {
		note = ", nobody took over"
	}
	if t.Stalled {
		note += ", the client stalled"
	}
	r.say("%3d/%d  %-9s %-34s no answer for %.1f ms (v6 %.1f), two answered for %.1f ms, %.1f ms after it was mended%s",
		r.made, r.toMake, t.Fault, s.Title, t.V4.Gap, t.V6.Gap, max(t.V4.Both, t.V6.Both), max(t.V4.HealGap, t.V6.HealGap), note)
}
