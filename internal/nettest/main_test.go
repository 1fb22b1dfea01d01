package nettest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// hadBinary is the daemon under test, built once for all tests.
var hadBinary string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "had-nettest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a folder for the daemon:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	hadBinary = filepath.Join(dir, "had")
	if out, err := exec.Command("go", "build", "-o", hadBinary, "had/cmd/had").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the daemon: %v\n%s", err, out)
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
