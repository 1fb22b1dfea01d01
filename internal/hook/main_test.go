package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// daemonVariable makes the test binary a daemon that runs the PreAcq stage of
// the hooks directory it names, for a test to kill.
const daemonVariable = "HOOK_TEST_DAEMON"

func TestMain(m *testing.M) {
	if dir := os.Getenv(daemonVariable); dir != "" {
		os.Exit(daemon(dir))
	}
	// Under nohup(1) SIGHUP is ignored, and what is ignored stays so in
	// scripts; what is handled doesn't (signal(7)). had does the same.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

// daemon writes what it is about to run to <dir>/running, as a journal would.
func daemon(dir string) int {
	r, err := NewRunner(Config{Dir: dir, Timeout: time.Minute, Recorder: fileRecorder(filepath.Join(dir, "running"))})
	if err == nil {
		_, err = r.Stage(context.Background(), Run{Stage: PreAcq, Event: Acquire, VIP: testVIP()})
	}
	fmt.Fprintln(os.Stderr, "daemon ended by itself:", err)
	return 1
}

type fileRecorder string

func (f fileRecorder) Started(_ context.Context, r Running) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(string(f), b, 0o600)
}

func (f fileRecorder) Finished(context.Context, Running, Result) error { return nil }

func testVIP() netip.Addr { return netip.MustParseAddr("192.0.2.10") }

// fixture is a hooks directory with one folder, and a recorder.
type fixture struct {
	t   *testing.T
	dir string // the hooks directory

	mu     sync.Mutex
	record []string
	fail   error
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	if err := os.Mkdir(f.path(""), 0o755); err != nil {
		t.Fatal(err)
	}
	return f
}

// path returns a name's place in the folder of testVIP.
func (f *fixture) path(name string) string {
	return filepath.Join(f.dir, testVIP().String(), name)
}

// script writes a /bin/sh script.
func (f *fixture) script(name, body string) string {
	f.t.Helper()
	return f.file(name, "#!/bin/sh\n"+body+"\n")
}

func (f *fixture) file(name, content string) string {
	f.t.Helper()
	// A process forked by another test while the file is open for writing
	// would keep it busy for execve (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(f.path(name), []byte(content), 0o755); err != nil {
		f.t.Fatal(err)
	}
	return f.path(name)
}

// fifo makes a named pipe beside the scripts, through which they tell the test
// how far they are.
func (f *fixture) fifo(name string) string {
	f.t.Helper()
	if err := syscall.Mkfifo(f.path(name), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return f.path(name)
}

// heard returns what was written to a fifo, once all writers have closed it.
func (f *fixture) heard(fifo string) string {
	f.t.Helper()
	b, err := os.ReadFile(fifo)
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (f *fixture) Started(_ context.Context, r Running) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record = append(f.record, "started "+r.Script)
	return f.fail
}

func (f *fixture) Finished(ctx context.Context, r Running, result Result) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record = append(f.record, fmt.Sprintf("finished %s %s", r.Script, result.Outcome))
	return f.fail
}

// runner returns one with the given timeout, closed at the end of the test.
func (f *fixture) runner(timeout time.Duration) *Runner {
	f.t.Helper()
	r, err := NewRunner(Config{Dir: f.dir, Timeout: timeout, Recorder: f})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(r.Close)
	return r
}

// stage runs one and fails the test on the runner's own errors.
func (f *fixture) stage(timeout time.Duration, stage Stage) []Result {
	f.t.Helper()
	results, err := f.runner(timeout).Stage(f.t.Context(), Run{Stage: stage, Event: Acquire, VIP: testVIP()})
	if err != nil {
		f.t.Fatal(err)
	}
	return results
}

// only runs a stage that has one script.
func (f *fixture) only(timeout time.Duration, stage Stage) Result {
	f.t.Helper()
	results := f.stage(timeout, stage)
	if len(results) != 1 {
		f.t.Fatalf("%d results, want 1: %v", len(results), results)
	}
	return results[0]
}

// alive reports whether a process exists and is not a zombie.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	procs, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if p.pid == pid {
			return true
		}
	}
	return false
}
