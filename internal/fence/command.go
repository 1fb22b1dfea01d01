package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"had/internal/program"
)

// Command is the operator's own way to switch a host off. Both are run as they
// are, without a shell; they begin with an absolute path, of a file that only
// root can change.
type Command struct {
	Command []string      // switches the host off
	Verify  []string      // exit code 0 says: the host is off; any other: it isn't, or isn't known to be
	Timeout time.Duration // for one run of either; 0 means a minute
}

// String returns the command line that switches off.
func (c Command) String() string { return strings.Join(c.Command, " ") }

// Off runs the command.
func (c Command) Off(ctx context.Context) error { return c.run(ctx, "switch off", c.Command) }

// IsOff runs the verification.
func (c Command) IsOff(ctx context.Context) error {
	return c.run(ctx, "ask "+strings.Join(c.Verify, " ")+" whether it is off", c.Verify)
}

// Check looks whether both programs are there.
func (c Command) Check(context.Context) error {
	var problems []error
	for _, argv := range [][]string{c.Command, c.Verify} {
		if len(argv) == 0 {
			problems = append(problems, errNoCommand)
		} else if _, err := program.Find(argv[0], ""); err != nil {
			problems = append(problems, err)
		}
	}
	return c.fail("check it", program.Result{}, errors.Join(problems...))
}

var errNoCommand = errors.New("there is no command")

func (c Command) run(ctx context.Context, doing string, argv []string) error {
	if len(argv) == 0 {
		return c.fail(doing, program.Result{}, errNoCommand)
	}
	r, err := program.Program{Argv: argv, Env: []string{"PYTHONWARNINGS=ignore"}, Timeout: c.Timeout}.Run(ctx)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("exit code %d", r.Code)
	}
	return c.fail(doing, r, err)
}

func (c Command) fail(doing string, r program.Result, err error) error {
	if err == nil {
		return nil
	}
	return &DeviceError{Device: c.String(), Doing: doing, Said: r.Said, Err: err}
}
