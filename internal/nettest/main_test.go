package nettest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// hadBinary is the daemon under test, built once for all tests, as is hactl.
var hadBinary, hactlBinary string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if help := helpers()[os.Args[1]]; help != nil {
			os.Exit(help(os.Args[2:]))
		}
	}
	os.Exit(buildAndRun(m))
}

// helpers are the programs that scripts and policies of tests run: the test
// binary itself, by its first argument. They return their exit codes.
func helpers() map[string]func(args []string) int {
	return map[string]func(args []string) int{"stamp": stamp, "power": power, "board": board, "ledger": ledger, "mailroom": mailroom}
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "had-nettest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a folder for the daemon:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	hadBinary, hactlBinary = filepath.Join(dir, "had"), filepath.Join(dir, "hactl")
	if out, err := exec.Command("make", "-C", "../..", "build", "BIN="+dir).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the daemon and hactl: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
