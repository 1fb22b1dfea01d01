package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

const randomFaults = "TestRandomFaults"

// world is a test of internal/simtest with a seed: what a process runs.
type world struct {
	test  string
	seed  uint64
	twice bool // run it twice, and expect the same trace
}

func (w world) String() string { return fmt.Sprintf("%s with seed %d", w.test, w.seed) }

// command is what replays a world.
func (w world) command() string {
	if w.test == randomFaults {
		return fmt.Sprintf("make sim SEED=%d", w.seed)
	}
	return fmt.Sprintf("make sim SEED=%d TEST='%s'", w.seed, w.test)
}

// outcome is how a world ended.
type outcome struct {
	failed bool
	output []byte // what the test said
	trace  []byte // every message, reading of a clock, change of a kernel and line of a log
}

// limit is how long a world may take on this machine; they take some tenths
// of a second each.
const limit = 5 * time.Minute

// runner runs worlds in processes that differ in nothing but their seed.
type runner struct {
	work   string // its own: the binary, and a folder for each worker
	keepIn string
	out    io.Writer

	mu       sync.Mutex
	done     int
	failures []error
}

// close removes what only the runner needed.
func (r *runner) close() { _ = os.RemoveAll(r.work) } // what stays is in nobody's way

// live runs a world once. The environment and the arguments have the same
// length for every seed and on every machine, and the same every time for a
// seed: they lie on the heap, and where everything else lies follows from them.
func (r *runner) live(ctx context.Context, w world, worker int) (outcome, error) {
	dir := filepath.Join(r.work, fmt.Sprintf("worker-%03d", worker))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return outcome{}, fmt.Errorf("make a place to run in: %w", err)
	}
	trace := filepath.Join(dir, "trace")
	if err := os.RemoveAll(trace); err != nil {
		return outcome{}, fmt.Errorf("forget the last trace: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	seed := fmt.Sprintf("0x%016x", w.seed)
	cmd := exec.CommandContext(ctx, "../sim.test",
		"-test.run=^"+w.test+"$", "-test.parallel=1", "-test.timeout=0", "-sim.seed="+seed, "-sim.trace=trace")
	cmd.Dir = dir
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1", seedVariable + "=" + seed}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // Go then shows where everybody is
	cmd.WaitDelay = 10 * time.Second
	output, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return outcome{}, fmt.Errorf("run %v: %w", w, err)
	}
	o := outcome{failed: err != nil, output: output}
	if o.trace, err = os.ReadFile(trace); err != nil && !o.failed {
		return outcome{}, fmt.Errorf("read the trace of %v: %w", w, err)
	}
	return o, nil
}

// again runs a world another time, and returns an error unless it goes as
// before.
func (r *runner) again(ctx context.Context, w world, worker int, before outcome) error {
	o, err := r.live(ctx, w, worker)
	if err != nil {
		return err
	}
	if !bytes.Equal(o.trace, before.trace) {
		return fmt.Errorf("%v doesn't replay exactly: its traces differ after %s", w, lastCommonLine(o.trace, before.trace))
	}
	return nil
}

func lastCommonLine(a, b []byte) string {
	from, i := 0, 0
	for ; i < min(len(a), len(b)) && a[i] == b[i]; i++ {
		if a[i] == '\n' {
			from = i + 1
		}
	}
	return fmt.Sprintf("byte %d, in the line that begins with %q", i, a[from:i])
}

// replay runs a world twice, tells what the test says and keeps the trace.
func (r *runner) replay(ctx context.Context, w world) error {
	o, err := r.live(ctx, w, 0)
	if err != nil {
		return err
	}
	trace, err := r.keep(w, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "%s\nall that happened: %s\n", o.output, trace)
	if err := r.again(ctx, w, 0, o); err != nil {
		return err
	}
	fmt.Fprintln(r.out, "a second run went exactly the same way")
	if o.failed {
		return fmt.Errorf("%v fails", w)
	}
	return nil
}

// keep writes a world's output and trace down and returns where the trace is.
func (r *runner) keep(w world, o outcome) (string, error) {
	name := filepath.Join(r.keepIn, fmt.Sprintf("%s-%d", strings.Map(plain, w.test), w.seed))
	err := errors.Join(
		os.WriteFile(name+".output", o.output, 0o644),
		os.WriteFile(name+".trace", o.trace, 0o644),
	)
	if err != nil {
		return "", fmt.Errorf("keep the trace of %v: %w", w, err)
	}
	return name + ".trace", nil
}

// plain keeps what is harmless in a file name.
func plain(r rune) rune {
	if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
		return r
	}
	return '-'
}

// enough failures end a run.
const enough = 10

// all runs worlds side by side and tells how it goes.
func (r *runner) all(ctx context.Context, worlds []world, parallel int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	next := make(chan world)
	var workers sync.WaitGroup
	for i := range parallel {
		workers.Go(func() {
			for w := range next {
				if failed := r.one(ctx, w, i); failed >= enough {
					cancel()
				}
			}
		})
	}
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
feed:
	for i := 0; i < len(worlds); {
		select {
		case next <- worlds[i]:
			i++
		case <-tick.C:
			r.tell(len(worlds), began)
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	r.tell(len(worlds), began)
	if len(r.failures) == 0 {
		return context.Cause(ctx)
	}
	return errors.Join(r.failures...)
}

// one runs a world, twice where asked for or when it fails, and returns how
// many have failed by now.
func (r *runner) one(ctx context.Context, w world, worker int) int {
	o, err := r.live(ctx, w, worker)
	if err == nil && (w.twice || o.failed) {
		err = r.again(ctx, w, worker, o)
	}
	if err == nil && o.failed {
		if _, err = r.keep(w, o); err == nil {
			err = fmt.Errorf("%v fails; see all of it with: %s", w, w.command())
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	if err != nil && ctx.Err() == nil {
		r.failures = append(r.failures, err)
		fmt.Fprintf(r.out, "sim: %v\n%s\n", err, firstLines(o.output, 12))
	}
	return len(r.failures)
}

func firstLines(text []byte, n int) []byte {
	for i, b := range text {
		if b == '\n' {
			if n--; n == 0 {
				return text[:i]
			}
		}
	}
	return text
}

func (r *runner) tell(of int, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "sim: %d of %d clusters, %.1f virtual hours in %v, %d failed\n",
		r.done, of, float64(r.done)/worldsPerHour, time.Since(began).Round(time.Second), len(r.failures))
}
