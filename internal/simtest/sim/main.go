// Command sim runs the simulation of internal/simtest in many processes, in
// each of which nothing is left to chance: a seed that failed fails again in
// the same way, message by message (see DESIGN.md there).
//
//	go run ./internal/simtest/sim -hours 6        # 360 seeds, each a minute of faults
//	go run ./internal/simtest/sim -seed 17        # one again, with all that happens in it
//
// It is to be run in the module's root: make sim does.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	hours := flags.Float64("hours", 1, "hours of faults to simulate, in virtual time")
	from := flags.Uint64("from", 1, "the first seed")
	seed := flags.Uint64("seed", 0, "run this seed alone, and keep all that happens in it")
	test := flags.String("test", randomFaults, "with -seed: the test of internal/simtest to run, a regular expression")
	dir := flags.String("dir", "bin/sim", "where to keep what failed, and to build")
	parallel := flags.Int("parallel", runtime.NumCPU(), "processes at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r, err := build(ctx, *dir, out)
	if err != nil {
		return err
	}
	defer r.close()
	if *seed != 0 {
		return r.replay(ctx, world{test: *test, seed: *seed})
	}
	kept, err := os.ReadFile(filepath.Join("internal", "simtest", "testdata", "seeds"))
	if err != nil {
		return fmt.Errorf("read the seeds that once failed: %w", err)
	}
	worlds := []world{
		{test: "TestBrokenClustersAreFoundOut", seed: 1, twice: true},
		{test: "TestBrokenVolumesAreFoundOut", seed: 1, twice: true},
		{test: "TestSchedule1.*", seed: 1, twice: true}, // only here is a process stopped in a kernel call
	}
	for line := range strings.Lines(string(kept)) {
		line, _, _ = strings.Cut(line, "#")
		for field := range strings.FieldsSeq(line) {
			s, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				return fmt.Errorf("read the seeds that once failed: %w", err)
			}
			worlds = append(worlds, world{test: randomFaults, seed: s})
		}
	}
	for i := range uint64(*hours * worldsPerHour) {
		worlds = append(worlds, world{test: randomFaults, seed: *from + i, twice: i%twiceEvery == 0})
	}
	return r.all(ctx, worlds, *parallel)
}

const (
	// worldsPerHour: each seed endures a minute of faults (chaos in
	// internal/simtest), and some seconds before and after it, which don't count.
	worldsPerHour = 60
	// twiceEvery so many seeds one is run twice, to see that it replays exactly.
	twiceEvery = 50
)

// build makes the test binary of internal/simtest over the patched runtime.
// The first time, Go compiles its whole library for that.
func build(ctx context.Context, keep string, out io.Writer) (_ *runner, err error) {
	if keep, err = filepath.Abs(keep); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(keep, 0o755); err != nil {
		return nil, fmt.Errorf("make a place to build in: %w", err)
	}
	// A place of its own, for two may run at the same time. The underscore keeps
	// it out of ./...
	work, err := os.MkdirTemp(keep, "_run-")
	if err != nil {
		return nil, fmt.Errorf("make a place to build in: %w", err)
	}
	r := &runner{keepIn: keep, work: work, out: out}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	root, err := goroot(ctx)
	if err != nil {
		return nil, err
	}
	list, err := overlay(root, work)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-overlay", list, "-o", filepath.Join(work, "sim.test"), "had/internal/simtest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the simulation: %w\n%s", err, output)
	}
	return r, nil
}

// goroot returns where the Go that builds keeps its sources.
func goroot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for its root: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
