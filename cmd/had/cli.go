package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"had/internal/policy"
)

// Exit codes, the same as hactl's where they overlap.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong arguments, or a file that is refused
)

// usageError is for what the user can put right by asking otherwise.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run is main without the process: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return exitDone
	}
	if !errors.Is(err, errRefused) {
		fmt.Fprintf(stderr, "had: %s\n", strings.TrimSuffix(err.Error(), "\n"))
	}
	if _, ok := errors.AsType[usageError](err); ok || strings.HasPrefix(err.Error(), "unknown command") {
		return exitUsage
	}
	if i, ok := errors.AsType[interruption](err); ok {
		return i.ExitCode()
	}
	return exitFailed
}

// newRoot returns the command with all that are below it.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "had",
		Short: "The high-availability daemon: one of a few servers owns the virtual addresses, never two",
		Long: `had runs on each of two to seven servers. They agree in a replicated log on who
owns the virtual addresses; when the owner fails, another takes over, and no
two ever hold an address at the same time. Operators talk to it with hactl.`,
		Version:       buildVersion().GetVersion(),
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q; see had --help", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(runCommand(), validateCommand(), releaseCommand(), recoverCommand(), devCommand(), guardCommand(), mounterCommand(), inspectCommand(), versionCommand())
	return root
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q; see had --help", args[0])}
	}
	return nil
}

// untilSignal returns a context that ends at the first SIGTERM or SIGINT, and
// one that ends at the second.
func untilSignal(parent context.Context) (first, second context.Context, stop func()) {
	first, cancelFirst := context.WithCancel(parent)
	second, cancelSecond := context.WithCancel(context.WithoutCancel(parent))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if signal.Ignored(syscall.SIGHUP) {
		// Under nohup(1). A signal that is ignored stays ignored in the hook
		// scripts and what they start; one that is handled doesn't (signal(7)).
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for _, cancel := range []func(){cancelFirst, cancelSecond} {
			select {
			case <-signals:
				cancel()
			case <-done:
				return
			}
		}
	}()
	return first, second, func() {
		signal.Stop(signals)
		close(done)
		<-finished
		cancelFirst()
		cancelSecond()
	}
}

const defaultConfig = "/etc/had/had.hcl"

// parseNodeFile reads had.hcl as the given node's, or as this host's; the
// file is nil when the diagnostics have errors.
func parseNodeFile(path, node string) (*policy.NodeFile, policy.Diagnostics, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("read the node file: %w (write one, or name it with --config)", err)}
	}
	if node == "" {
		if node, err = os.Hostname(); err != nil {
			return nil, nil, fmt.Errorf("ask for the host name: %w", err)
		}
	}
	f, diags := policy.ParseNode(path, src, node)
	return f, diags, nil
}

// readNodeFile is parseNodeFile for commands that need the file: what is
// wrong with it goes to stderr.
func readNodeFile(path string, stderr io.Writer) (*policy.NodeFile, error) {
	f, diags, err := parseNodeFile(path, "")
	if err != nil {
		return nil, err
	}
	fmt.Fprint(stderr, diags)
	if f == nil {
		return nil, usageError{fmt.Errorf("%s is refused", path)}
	}
	return f, nil
}
