package hook

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/hashicorp/go-hclog"
)

// A script that overstays is ended within Timeout + termGrace + killWait,
// which is Timeout + 2 s.
const (
	termGrace = 1500 * time.Millisecond // from SIGTERM to SIGKILL
	killWait  = 500 * time.Millisecond  // for the kernel to carry SIGKILL out
)

// recordTimeout bounds what a disk that doesn't answer may cost each script.
const recordTimeout = 2 * time.Second

// defaultOutputLimit is enough for an error message and its surroundings, and
// small enough for the replicated log.
const defaultOutputLimit = 4096

// ErrStillRunning means that a script, or something it started, did not end
// on SIGKILL: it may still act, so this node can't be said to hold nothing.
var ErrStillRunning = errors.New("hook is still running")

// Recorder makes runs durable, so that a daemon that died knows what it was
// doing.
type Recorder interface {
	// Started is called before the script is forked.
	Started(context.Context, Running) error
	// Finished is called for every run that Started was called for, and for
	// every script that was refused before it came to that. For one that is
	// still running (ErrStillRunning) it is called when that is gone.
	Finished(context.Context, Running, Result) error
}

// Config is how scripts are run.
type Config struct {
	Dir         string        // the hooks directory, absolute
	Timeout     time.Duration // for each script, not for the stage
	OutputLimit int           // bytes kept of each script's output; 0: 4096
	Logger      hclog.Logger  // nil: none
	Recorder    Recorder

	// Group opens the control group (cgroups(7), version 2) in which a script of
	// this run starts, and with it all that it ever starts; the runner closes it.
	// After an error the script isn't run. nil, here or from it: had's own group.
	Group func(Run) (*os.File, error)
}

// Runner runs stages. Its methods may be called concurrently.
type Runner struct {
	config    Config
	drains    drains
	hugePages hugePages
}

// NewRunner checks the configuration.
func NewRunner(c Config) (*Runner, error) {
	switch {
	case !filepath.IsAbs(c.Dir):
		return nil, fmt.Errorf("set up hooks: the directory %q is not an absolute path", c.Dir)
	case c.Timeout <= 0:
		return nil, fmt.Errorf("set up hooks: the timeout %s is not positive", c.Timeout)
	case c.OutputLimit < 0:
		return nil, fmt.Errorf("set up hooks: the output limit %d is negative", c.OutputLimit)
	case c.Recorder == nil:
		return nil, errors.New("set up hooks: no recorder for their results")
	}
	if c.OutputLimit == 0 {
		c.OutputLimit = defaultOutputLimit
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	return &Runner{config: c, hugePages: hugePages{forgone: forgone()}}, nil
}

// Close stops reading from services that scripts left running with their own
// output: such a service is ended by SIGPIPE when it prints again. Call it
// after the last Stage has returned.
func (r *Runner) Close() { r.drains.close() }

// Stage runs all scripts of one stage for one address, one after another in
// byte order of their names. Test and PreAcq end with the first script that
// fails; the others go on. What a script did is in the results; the error is
// about what the runner could not do: read the folder, record a run, end a
// script (ErrStillRunning), or start the rest because ctx had ended.
func (r *Runner) Stage(ctx context.Context, run Run) ([]Result, error) {
	folder, err := Scan(r.config.Dir, run.VIP)
	if err != nil {
		return nil, err
	}
	if run.Stage == Test || run.Stage == PreRel { // once for each direction
		for _, w := range folder.Warnings {
			r.config.Logger.Warn(w)
		}
	}
	var results []Result
	var errs []error
	for _, s := range folder.Of(run.Stage) {
		if ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("run %s and what follows it for %s: %w", s.Name, run.VIP, context.Cause(ctx)))
			break
		}
		result, err := r.script(ctx, run, s)
		results = append(results, result)
		errs = append(errs, err)
		if result.OK() {
			r.config.Logger.Info("hook " + result.String())
		} else {
			r.config.Logger.Warn("hook "+result.String(), "output", string(result.OutputTail))
			if run.Stage.stopsAtFailure() {
				break
			}
		}
	}
	err = errors.Join(errs...)
	if err != nil {
		r.config.Logger.Error("run hooks", "stage", run.Stage, "vip", run.VIP, "error", err)
	}
	return results, err
}

// script vets, records, runs and records again.
func (r *Runner) script(ctx context.Context, run Run, s Script) (Result, error) {
	running := Running{
		ID:      rand.Text(),
		Stage:   run.Stage,
		Event:   run.Event,
		Script:  s.Name,
		VIP:     run.VIP,
		Node:    run.Env.Node,
		Epoch:   run.Env.Epoch,
		Forced:  run.Env.Forced,
		Started: time.Now(),
	}
	group, groupErr := r.group(run)
	if group != nil {
		defer group.Close()
	}
	running.Grouped = group != nil
	result := Result{
		Stage:   run.Stage,
		Script:  s.Name,
		VIP:     run.VIP.String(),
		Started: running.Started,
		Forced:  run.Env.Forced,
	}
	deadline := running.Started.Add(r.config.Timeout)
	vetCtx, cancel := context.WithDeadline(ctx, deadline)
	file, err := vet(vetCtx, s.Path)
	cancel()
	running.Digest, result.Digest = file.digest, file.digest
	err = errors.Join(err, groupErr)

	var errs []error
	switch {
	case err == nil:
		errs = append(errs, r.record(ctx, func(ctx context.Context) error { return r.config.Recorder.Started(ctx, running) }))
		if why := run.allowed(); why != nil {
			result.Outcome, result.Err = Canceled, "not started: "+why.Error()
			break
		}
		errs = append(errs, r.execute(ctx, program{s, file, run.arguments(), run.environ(running.ID), group, r.config.Timeout}, deadline, &result))
	case ctx.Err() != nil:
		result.Outcome, result.Err = Canceled, "not started: "+context.Cause(ctx).Error()
	case errors.Is(err, context.DeadlineExceeded):
		result.Outcome, result.Err = TimedOut, fmt.Sprintf("not started: the file could not be read within %s", r.config.Timeout)
	default:
		result.Outcome, result.Err = Refused, "not run: "+err.Error()
	}
	result.Duration = time.Since(result.Started)
	err = errors.Join(errs...)
	if l := result.Left; l != nil { // stays recorded as running, which is the truth
		l.running, l.result = running, result
		l.result.Left = nil
		return result, err
	}
	return result, errors.Join(err, r.record(ctx, func(ctx context.Context) error { return r.config.Recorder.Finished(ctx, running, result) }))
}

// record calls the recorder, also when the run itself was canceled. A run is
// not given up because it can't be recorded: a release must go on when the
// disk is full.
func (r *Runner) record(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if err := call(ctx); err != nil {
		return fmt.Errorf("record a hook's run: %w", err)
	}
	return nil
}

// arguments returns $1 and what follows it.
func (r Run) arguments() []string { return []string{string(r.Event), r.VIP.String()} }

// group opens the control group of a run; nil: had's own.
func (r *Runner) group(run Run) (*os.File, error) {
	if r.config.Group == nil {
		return nil, nil
	}
	return r.config.Group(run)
}

// program is a script as it is to be started.
type program struct {
	Script
	file      vetted
	args, env []string
	group     *os.File // nil: had's own
	timeout   time.Duration
}

// execute starts the script, sees it to its end and fills in the result.
func (r *Runner) execute(ctx context.Context, s program, deadline time.Time, result *Result) error {
	runtime.LockOSThread() // see start
	defer runtime.UnlockOSThread()

	out, theirs, err := newOutput(r.config.OutputLimit)
	if err != nil {
		result.Outcome, result.Err = Refused, "not run: "+err.Error()
		return err
	}
	var p *process
	err = r.hugePages.lend(func() (err error) {
		p, err = start(s, theirs)
		return err
	})
	theirs.Close()
	go out.collect() // joined by out.stop in collectOutput
	if err != nil {
		result.Outcome, result.Err = Refused, "not run: "+startHint(err, s)
		return r.collectOutput(out, result)
	}
	exited, err := r.await(ctx, p, deadline, s.timeout, result)
	if !exited {
		result.Left = &Leftover{runner: r, process: p}
		return errors.Join(fmt.Errorf("end %s: %w", result.what(), ErrStillRunning), err, r.collectOutput(out, result))
	}
	if err != nil {
		// The script is gone, but not all that it started.
		result.Left = &Leftover{runner: r, process: p, reaped: true}
		err = fmt.Errorf("end what %s started: %w: %w", result.what(), ErrStillRunning, err)
	}
	status, reapErr := p.reap()
	switch {
	case reapErr != nil:
		result.Outcome, result.Err = Unknown, reapErr.Error()
	case status.Signaled():
		result.Signal = signalName(status.Signal())
		if result.Outcome == 0 {
			result.Outcome = Signaled
		}
	default:
		result.ExitCode = status.ExitStatus()
		if result.Outcome == 0 {
			result.Outcome = Exited
		}
	}
	return errors.Join(err, reapErr, r.collectOutput(out, result))
}

// await waits for the script's exit and ends it, and all of its session, when
// its time is up or ctx ends. It sets the outcome only if it had to. An error
// next to exited means that part of the session is left.
func (r *Runner) await(ctx context.Context, p *process, deadline time.Time, timeout time.Duration, result *Result) (exited bool, err error) {
	exited, err = p.wait(ctx, time.Until(deadline))
	if exited {
		return true, nil
	}
	switch {
	case err != nil:
		result.Outcome, result.Err = Unknown, "it was killed because it could not be watched: "+err.Error()
	case ctx.Err() != nil:
		result.Outcome, result.Err = Canceled, "it was killed with all that it had started: "+context.Cause(ctx).Error()
	default:
		result.Outcome, result.Err = TimedOut, fmt.Sprintf("it ran for longer than %s and was killed with all that it had started", timeout)
		p.terminate()
		_, err = p.wait(ctx, termGrace)
	}
	until := time.Now().Add(killWait)
	err = errors.Join(err, p.kill(until))
	exited, waitErr := p.wait(context.WithoutCancel(ctx), time.Until(until))
	return exited, errors.Join(err, waitErr)
}

// collectOutput puts what the script printed into the result. Processes that
// the script left behind keep the pipe.
func (r *Runner) collectOutput(out *output, result *Result) error {
	held, err := out.stop()
	result.OutputTail = out.tail.last(r.config.OutputLimit)
	result.OutputBytes = out.tail.total
	if held {
		r.drains.take(out.r)
		return err
	}
	out.r.Close()
	return err
}
