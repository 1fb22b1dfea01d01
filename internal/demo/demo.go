// Package demo is the first thing a newcomer runs: a whole cluster on this
// machine (internal/lab) with a policy, a hook folder and a small web service
// behind the virtual addresses. [Run] plays three failovers on it and shows
// what a client, the kernel and the log saw of each; [Play] leaves it running
// for whoever wants to break it by hand.
//
// What is shown is measured: the operator's commands are hactl itself, and the
// judgement comes from the lab's observer and client, which know nothing of
// had.
package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// Config says what runs and where it is shown.
type Config struct {
	Had, Hactl string        // the two programs, absolute paths
	Dir        string        // keeps everything the cluster writes; "": a temporary directory, removed at the end
	Detect     time.Duration // see had.hcl; 0: the lab's default
	Out        io.Writer
	Color      bool
	Width      int      // columns of the terminal; 0: lines are never folded
	In         *os.File // commands of Play, a line each; nil: none
	Prompt     bool     // Play: In is a person
}

// Run builds the cluster, plays the acts, sums up and cleans up. An error says
// what went wrong: a time in which two hosts had an address, or a step that
// didn't end in time. Nothing is left when it returns.
func Run(ctx context.Context, cfg Config) (err error) {
	n := newNarrator(cfg)
	c, err := newCluster(cfg, n)
	if err != nil {
		return err
	}
	defer func() { err = c.end(ctx, err) }()
	n.title("A cluster on this machine")
	n.para("Three servers and a client, each in a network namespace of its own, on one network. Nothing outside of them is touched. The servers run had; the client asks for the virtual addresses once a millisecond, and an observer listens to the kernel of each server.")
	n.blank()
	if err := c.start(ctx); err != nil {
		return err
	}
	if err := c.introduce(ctx); err != nil {
		return err
	}
	var results []result
	for i, act := range script() {
		n.title(fmt.Sprintf("Act %d of %d: %s", i+1, len(script()), act.title))
		r, err := c.perform(ctx, act)
		if err != nil {
			return fmt.Errorf("act %d, %s: %w", i+1, act.title, err)
		}
		results = append(results, r)
	}
	n.title("Summary")
	return c.summarize(ctx, results)
}
