package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hactl": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
			a := hostApp()
			a.socketDir = os.Getenv("SOCKETS")
			a.tlsDir = os.Getenv("WORK") + "/tls"
			a.configDir = os.Getenv("WORK") + "/etc"
			a.command = fakeCommand
			a.user = "operator"
			a.zone = time.UTC
			if file := os.Getenv("ADDRESSES"); file != "" {
				a.addresses = func(context.Context) ([]byte, error) { return os.ReadFile(file) }
			}
			code := run(ctx, os.Args[1:], a)
			stop()
			os.Exit(code)
		},
	})
}

// TestScripts is hactl's contract with those who call it from scripts: what
// goes to which stream, and the exit codes.
//
//	serve FILE         answers by the script in FILE, see fakeHA
//	exits CODE CMD…    runs a command that must end with this exit code
//	asked              puts the requests the fake was sent into the file asked
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SOCKETS", env.WorkDir+"/run")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each process otherwise
			env.Values[slotKey{}] = &fakeSlot{}
			return os.Mkdir(env.WorkDir+"/run", 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": cmdServe,
			"exits": cmdExits,
			"asked": cmdAsked,
		},
	})
}

// fakeCommand prints the file commands/NAME.
func fakeCommand(_ context.Context, name string, args ...string) ([]byte, error) {
	text, err := os.ReadFile(os.Getenv("WORK") + "/commands/" + name)
	if err != nil {
		return nil, fmt.Errorf("exec: %q: executable file not found in $PATH", name)
	}
	return fmt.Appendf(nil, "%s %q\n%s", name, args, text), nil
}

// slotKey finds the script's *fakeSlot.
type slotKey struct{}

// fakeSlot holds the fake that serve has started.
type fakeSlot struct{ fake *fakeHA }

func cmdServe(ts *testscript.TestScript, _ bool, args []string) {
	f := newFakeHA(ts.ReadFile(args[0]))
	stop, err := f.serve(ts.MkAbs("run/office.sock"))
	ts.Check(err)
	ts.Defer(stop)
	ts.Value(slotKey{}).(*fakeSlot).fake = f
}

func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("run %v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v exited with %d, want %d", args[1:], got, want)
	}
}

func cmdAsked(ts *testscript.TestScript, _ bool, _ []string) {
	text := ts.Value(slotKey{}).(*fakeSlot).fake.asked()
	ts.Check(os.WriteFile(ts.MkAbs("asked"), []byte(text), 0o600))
}
