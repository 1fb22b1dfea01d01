package demo

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
	"testing"
	"time"
)

// programs is the directory of the had and hactl that the tests run.
var programs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "had-demo-")
		if err == nil {
			defer os.RemoveAll(dir)
			programs = dir
			err = build(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(dir string) error {
	if out, err := exec.Command("make", "-C", "../..", "build", "BIN="+dir).CombinedOutput(); err != nil {
		return fmt.Errorf("build had and hactl: %w\n%s", err, out)
	}
	return nil
}

// longEnough is far beyond what anything here takes.
const longEnough = 2 * time.Minute

// program is `had dev` as a user runs it. Everything it starts inherits its
// mark, and everything it writes is below its tmp.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	stderr bytes.Buffer
	tmp    string
	mark   string
	read   sync.WaitGroup

	mu      sync.Mutex
	out     bytes.Buffer
	awaited int // bytes of out up to the end of what was awaited last
	changed chan struct{}
}

func start(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{t: t, tmp: t.TempDir(), changed: make(chan struct{})}
	p.mark = "HAD_DEMO_TEST=" + p.tmp
	p.cmd = exec.Command(filepath.Join(programs, "had"), append([]string{"dev"}, args...)...)
	p.cmd.Env = append(os.Environ(), "TMPDIR="+p.tmp, p.mark)
	p.cmd.Stderr = &p.stderr
	var err error
	p.stdin, err = p.cmd.StdinPipe()
	must(t, err)
	p.stdout, err = p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // nothing to kill unless the test failed
	p.read.Go(p.collect)
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (p *program) collect() {
	buf := make([]byte, 4096)
	for {
		n, err := p.stdout.Read(buf)
		p.mu.Lock()
		p.out.Write(buf[:n])
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// await returns when the program has printed the text, after what was awaited
// before.
func (p *program) await(text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), longEnough)
	defer cancel()
	for {
		p.mu.Lock()
		_, after, seen := strings.Cut(p.out.String()[p.awaited:], text)
		if seen {
			p.awaited = p.out.Len() - len(after)
		}
		changed := p.changed
		p.mu.Unlock()
		if seen {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			p.t.Fatalf("no %q in its output:\n%s%s", text, p.output(), p.stderr.String())
		}
	}
}

// say types a command.
func (p *program) say(line string) {
	p.t.Helper()
	_, err := io.WriteString(p.stdin, line+"\n")
	must(p.t, err)
}

// end waits for the program's end and returns its exit code. It fails the
// test when anything of it is left.
func (p *program) end() int {
	p.t.Helper()
	patience := time.AfterFunc(longEnough, func() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) })
	defer patience.Stop()
	p.read.Wait()
	err := p.cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		p.t.Fatal(err)
	}
	p.leftNothing()
	if p.t.Failed() {
		p.t.Logf("output:\n%s%s", p.output(), p.stderr.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *program) leftNothing() {
	p.t.Helper()
	left, err := os.ReadDir(p.tmp)
	must(p.t, err)
	for _, e := range left {
		p.t.Errorf("%s is left", filepath.Join(p.tmp, e.Name()))
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	must(p.t, err)
	for _, path := range environs {
		// A process that has gone meanwhile is none that is left.
		environ, _ := os.ReadFile(path)
		if bytes.Contains(environ, []byte(p.mark)) {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			p.t.Errorf("a process is left: %s %q", filepath.Dir(path), cmdline)
		}
	}
}
