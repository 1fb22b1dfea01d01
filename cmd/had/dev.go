package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"had/internal/demo"
	"had/internal/policy"
)

func devCommand() *cobra.Command {
	var cfg demo.Config
	var show bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine, to watch or to play with",
		Long: `Run three servers and a client on this machine, each in a network namespace of
its own, with a virtual IPv4 and IPv6 address, a hook folder and a small web
service. It prints where everything is and the hactl lines to try, and goes on
until Ctrl-C. On standard input it takes commands that break things: help lists
them.

With --demo it plays three failovers instead, shows what they cost, and ends.

It needs root. Nothing outside its namespaces is touched, and nothing is left
when it ends, also by Ctrl-C or a failure (exit code 130 and 1).`,
		Example: "  had dev --demo\n  had dev\n  had dev --detect 200ms --dir /tmp/lab",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilInterrupted(context.Background())
			defer stop()
			if err := checkDetect(cfg.Detect); err != nil {
				return err
			}
			if err := host(&cfg, cmd.InOrStdin(), cmd.OutOrStdout()); err != nil {
				return err
			}
			if show {
				return demo.Run(ctx, cfg)
			}
			return demo.Play(ctx, cfg)
		},
	}
	cmd.Flags().BoolVar(&show, "demo", false, "play three failovers and end")
	cmd.Flags().StringVar(&cfg.Dir, "dir", "", "keep files and logs in this directory (default: a temporary one that is removed)")
	cmd.Flags().DurationVar(&cfg.Detect, "detect", 500*time.Millisecond, "how fast a silent server is noticed")
	return cmd
}

// checkDetect refuses what a node file would be refused for, before anything
// is built.
func checkDetect(detect time.Duration) error {
	text := fmt.Sprintf("cluster \"lab\" {\n  detect = %q\n  node \"alpha\" { address = \"127.0.0.1:7400\" }\n}\n", detect)
	_, diags := policy.ParseNode("--detect", []byte(text), "alpha")
	if err := diags.Err(); err != nil {
		return usageError{err}
	}
	return nil
}

// host fills in what this process and its terminal are.
func host(cfg *demo.Config, in io.Reader, out io.Writer) (err error) {
	if cfg.Had, err = os.Executable(); err != nil {
		return fmt.Errorf("find the program had: %w", err)
	}
	if cfg.Hactl, err = findHactl(cfg.Had); err != nil {
		return err
	}
	cfg.Out = out
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		cfg.Color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" // https://no-color.org
		if cfg.Width, _, err = term.GetSize(int(f.Fd())); err != nil {
			cfg.Width = 0
		}
	}
	if f, ok := in.(*os.File); ok {
		cfg.In = f
		cfg.Prompt = term.IsTerminal(int(f.Fd()))
	}
	return nil
}

// findHactl prefers the hactl that was built together with this had.
func findHactl(had string) (string, error) {
	beside := filepath.Join(filepath.Dir(had), "hactl")
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath("hactl")
	if err != nil {
		return "", fmt.Errorf("find hactl beside %s or in PATH: build both with make build", had)
	}
	return filepath.Abs(path)
}

// interruption is the signal that ended a command early.
type interruption struct{ signal syscall.Signal }

func (i interruption) Error() string { return "interrupted by a signal: " + i.signal.String() }

// ExitCode is a shell's for a command that a signal ended (128 + n, POSIX.1-2024
// XCU 2.8.2).
func (i interruption) ExitCode() int { return 128 + int(i.signal) }

// untilInterrupted returns a context that ends, with an interruption as its
// cause, at the first signal that asks this process to end. Later ones are
// ignored: cleaning up is what it is busy with. SIGPIPE is among them, so that
// a reader who leaves ends it as orderly as a Ctrl-C.
func untilInterrupted(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	done, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		select {
		case s := <-signals:
			cancel(interruption{s.(syscall.Signal)})
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		<-finished
		signal.Stop(signals)
		cancel(errors.New("the command has ended"))
	}
}
