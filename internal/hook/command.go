package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Command is a program that a policy names, with its arguments. It is run as a
// script is: only if root alone can change it, in a session of its own, with an
// environment of its own, its output bounded, and ended with all of its session
// when its time is up.
type Command struct {
	Name    string   // in results and errors: `sync "pages"`
	Line    []string // an absolute path or a name in root's PATH, and its arguments
	Env     []string // beside PATH, HOME and LANG, as "NAME=value"
	Mark    string   // in the environment of all its processes, for KillOrphan
	Timeout time.Duration
	Group   *os.File // the control group it starts in; nil: had's own
}

// Commands runs commands. Its methods may be called concurrently.
type Commands struct{ runner Runner }

// NewCommands returns a runner of commands.
func NewCommands() *Commands {
	return &Commands{Runner{
		config:    Config{OutputLimit: defaultOutputLimit, Logger: hclog.NewNullLogger(), Recorder: nobody{}},
		hugePages: hugePages{forgone: forgone()},
	}}
}

// Close is Runner's.
func (c *Commands) Close() { c.runner.Close() }

// Run runs a command to its end. What it did is in the result; the error is
// ErrStillRunning.
func (c *Commands) Run(ctx context.Context, cmd Command) (Result, error) {
	result := Result{Script: cmd.Name, Started: time.Now()}
	s := program{
		Script: Script{Name: cmd.Name}, args: cmd.Line[1:], group: cmd.Group, timeout: cmd.Timeout,
		env: append(plainEnvironment(), append(cmd.Env, runVariable+"="+cmd.Mark)...),
	}
	deadline := result.Started.Add(cmd.Timeout)
	vetCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var err error
	if s.Path, err = lookPath(cmd.Line[0]); err == nil {
		s.file, err = vet(vetCtx, s.Path)
	}
	result.Digest = s.file.digest
	switch {
	case ctx.Err() != nil:
		result.Outcome, result.Err = Canceled, "not started: "+context.Cause(ctx).Error()
		err = nil
	case err != nil:
		result.Outcome, result.Err = Refused, "not run: "+err.Error()
		err = nil
	default:
		err = c.runner.execute(ctx, s, deadline, &result)
	}
	result.Duration = time.Since(result.Started)
	if l := result.Left; l != nil {
		l.running, l.result = Running{Script: cmd.Name, ID: cmd.Mark}, result
		l.result.Left = nil
	}
	return result, err
}

// lookPath finds a program as a shell of root's would.
func lookPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no program %q in %s: install it, or write its path", name, searchPath)
}

// nobody records nothing: who runs a command knows what it runs.
type nobody struct{}

func (nobody) Started(context.Context, Running) error          { return nil }
func (nobody) Finished(context.Context, Running, Result) error { return nil }

// KillMarked ends every process with a command's mark, and all others of their
// sessions. See KillOrphan.
func KillMarked(ctx context.Context, name, mark string) error {
	if mark == "" {
		return errors.New("kill the processes of a command: it has no mark")
	}
	_, err := KillOrphan(ctx, Running{ID: mark, Script: name})
	return err
}
