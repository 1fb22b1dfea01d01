package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const long = 20 * time.Second // a timeout that no passing test reaches

func TestStageRunsInOrderAndRecordsEach(t *testing.T) {
	f := newFixture(t)
	var want []string
	for i := range 100 {
		name := fmt.Sprintf("PostAcq%02d", i)
		f.script(name, "echo "+name)
		want = append(want, "started "+name, "finished "+name+" exited")
	}
	for i, r := range f.stage(long, PostAcq) {
		if got := string(r.OutputTail); !r.OK() || got != fmt.Sprintf("PostAcq%02d\n", i) {
			t.Fatalf("result %d: %v %q", i, r, got)
		}
	}
	if !slices.Equal(f.record, want) {
		t.Errorf("recorded %v", f.record)
	}
}

func TestScriptSeesArgumentsAndOnlyItsEnvironment(t *testing.T) {
	t.Setenv("DAEMONS_OWN_SECRET", "leak")
	f := newFixture(t)
	f.script("PreRel10", `echo "$# $1 $2 $(pwd)"; readlink /proc/self/fd/0; env -u PWD -u OLDPWD -u SHLVL -u _ | grep -v HAD_RUN | sort`)
	run := Run{Stage: PreRel, Event: Release, VIP: testVIP(), Env: Env{
		Cluster: "office", Reason: "moved by\x00 root", Interface: "eth0", Node: "alpha", PreviousOwner: "beta", Epoch: 7, Forced: true,
		Volumes: map[string]string{"web-stuff": "/srv/web"},
	}}
	results, err := f.runner(long).Stage(t.Context(), run)
	if err != nil || len(results) != 1 {
		t.Fatal(results, err)
	}
	want := `2 release 192.0.2.10 /
/dev/null
HAD_CLUSTER=office
HAD_EPOCH=7
HAD_EVENT=release
HAD_FORCED=1
HAD_INTERFACE=eth0
HAD_NODE=alpha
HAD_PREVIOUS_OWNER=beta
HAD_REASON=moved by root
HAD_VIP=192.0.2.10
HAD_VOLUME_WEB_STUFF=/srv/web
HOME=/root
LANG=C.UTF-8
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
`
	if got := string(results[0].OutputTail); got != want {
		t.Errorf("script saw:\n%swant:\n%s", got, want)
	}
	if !results[0].Forced {
		t.Error("the result doesn't say that it was forced")
	}

	run.Env.Forced = false
	results, err = f.runner(long).Stage(t.Context(), run)
	if err != nil || bytes.Contains(results[0].OutputTail, []byte("HAD_FORCED")) {
		t.Errorf("HAD_FORCED is set although nothing was forced: %s %v", results[0].OutputTail, err)
	}
}

func TestFailureStopsOnlyTestAndPreAcq(t *testing.T) {
	for stage, want := range map[Stage]int{PreAcq: 1, PostAcq: 2, PreRel: 2, PostRel: 2} {
		f := newFixture(t)
		f.script(string(stage)+"1", "exit 3")
		f.script(string(stage)+"2", "exit 0")
		results := f.stage(long, stage)
		if len(results) != want || results[0].OK() || results[0].ExitCode != 3 {
			t.Errorf("%s: %v, want %d results, the first a failure", stage, results, want)
		}
	}
	f := newFixture(t)
	f.script("Test", "echo no disk; exit 1")
	if r := f.only(long, Test); r.OK() || string(r.OutputTail) != "no disk\n" {
		t.Errorf("veto = %v %q", r, r.OutputTail)
	}
}

func TestEveryExitCodeAndSignal(t *testing.T) {
	for _, code := range []int{0, 1, 126, 127, 128, 143, 255} {
		f := newFixture(t)
		f.script("PreAcq", fmt.Sprintf("exit %d", code))
		if r := f.only(long, PreAcq); r.Outcome != Exited || r.ExitCode != code || r.Signal != "" || r.OK() != (code == 0) {
			t.Errorf("exit %d: %+v", code, r)
		}
	}
	for _, signal := range []string{"SIGHUP", "SIGTERM", "SIGKILL", "SIGSEGV", "SIGPIPE", "SIGUSR1"} {
		f := newFixture(t)
		f.script("PreAcq", "kill -"+strings.TrimPrefix(signal, "SIG")+" $$")
		if r := f.only(long, PreAcq); r.Outcome != Signaled || r.Signal != signal || r.OK() {
			t.Errorf("%s: %+v", signal, r)
		}
	}
}

func TestTimeoutKillsTheWholeSession(t *testing.T) {
	for name, body := range map[string]string{
		"obeys SIGTERM":   `sleep 60 & echo $! > %s; wait`,
		"ignores SIGTERM": `trap "" TERM; sleep 60 & echo $! > %s; while :; do sleep 60; done`,
		"another group":   `timeout 60 sleep 61 & echo $! > %s; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			child := f.path("child")
			f.script("PostAcq", fmt.Sprintf(body, child))
			const timeout = 300 * time.Millisecond
			r := f.only(timeout, PostAcq)
			if r.Outcome != TimedOut || r.Err == "" || r.OK() {
				t.Errorf("result = %+v", r)
			}
			if limit := timeout + 2*time.Second; r.Duration > limit {
				t.Errorf("took %s, promised are %s", r.Duration, limit)
			}
			var pid int
			if _, err := fmt.Sscan(f.read(child), &pid); err != nil {
				t.Fatal(err)
			}
			if alive(t, pid) {
				t.Errorf("child %d survived", pid)
			}
		})
	}
}

func TestCancelKillsAtOnce(t *testing.T) {
	f := newFixture(t)
	ready := f.fifo("ready")
	f.script("PreAcq1", `trap "" TERM; sleep 60 & echo $! > `+ready+`; wait; wait`)
	f.script("PreAcq2", "true")
	ctx, cancel := context.WithCancelCause(t.Context())
	var pid int
	go func() {
		fmt.Sscan(f.heard(ready), &pid)
		cancel(errors.New("the lease ended"))
	}()
	results, err := f.runner(long).Stage(ctx, Run{Stage: PreAcq, Event: Acquire, VIP: testVIP()})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0].Outcome != Canceled || !strings.Contains(results[0].Err, "the lease ended") {
		t.Fatalf("results = %+v", results)
	}
	if alive(t, pid) {
		t.Errorf("child %d survived", pid)
	}
	if want := []string{"started PreAcq1", "finished PreAcq1 canceled"}; !slices.Equal(f.record, want) {
		t.Errorf("recorded %v, want %v", f.record, want)
	}
}

func TestCanceledContextStartsNothing(t *testing.T) {
	f := newFixture(t)
	f.script("PreRel1", "true")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the lease ended"))
	results, err := f.runner(long).Stage(ctx, Run{Stage: PreRel, Event: Release, VIP: testVIP()})
	if len(results) != 0 || err == nil || !strings.Contains(err.Error(), "the lease ended") {
		t.Errorf("Stage = %v, %v", results, err)
	}
}

// Vetting and recording take time; what allows a stage is asked after them,
// before each script.
func TestWhatIsNoLongerAllowedIsNotStarted(t *testing.T) {
	f := newFixture(t)
	marks := t.TempDir()
	for _, name := range []string{"PostAcq1", "PostAcq2"} {
		f.script(name, "touch "+filepath.Join(marks, name))
	}
	var asked []string
	results, err := f.runner(long).Stage(t.Context(), Run{
		Stage: PostAcq, Event: Acquire, VIP: testVIP(),
		Allowed: func() error {
			asked = append(asked, f.record[len(f.record)-1])
			if len(asked) > 1 {
				return errors.New("the lease is over")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 || !results[0].OK() || results[1].Outcome != Canceled || results[1].Err != "not started: the lease is over" {
		t.Errorf("results = %+v", results)
	}
	if want := []string{"started PostAcq1", "started PostAcq2"}; !slices.Equal(asked, want) {
		t.Errorf("asked after %q, want %q", asked, want)
	}
	if ran, _ := os.ReadDir(marks); len(ran) != 1 {
		t.Errorf("%d scripts ran, want the first", len(ran))
	}
}

// A service that a script leaves running keeps running, doesn't hold up the
// stage, and may go on printing.
func TestBackgroundServiceIsLeftAlone(t *testing.T) {
	f := newFixture(t)
	begin, end := f.fifo("begin"), f.fifo("end")
	f.script("PostAcq", fmt.Sprintf(`
		(read line < %s; head -c 200000 /dev/zero; echo done > %s) &
		echo started $!`, begin, end))
	r := f.only(long, PostAcq)
	var pid int
	if _, err := fmt.Sscanf(string(r.OutputTail), "started %d", &pid); err != nil || !r.OK() {
		t.Fatalf("result = %+v %q: %v", r, r.OutputTail, err)
	}
	if r.Duration > long/2 {
		t.Errorf("the stage waited for the service: %s", r.Duration)
	}
	if !alive(t, pid) {
		t.Fatal("the service was killed")
	}
	// More than a pipe holds: without a reader it would hang or die.
	if err := os.WriteFile(begin, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if got := f.heard(end); got != "done" {
		t.Errorf("the service ended before it was done: %q", got)
	}
}

func TestOutputIsBounded(t *testing.T) {
	f := newFixture(t)
	const size = 64 << 20
	f.script("PostAcq", fmt.Sprintf("yes 0123456789abcde | head -c %d; echo last >&2", size))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := f.only(long, PostAcq)
	runtime.ReadMemStats(&after)
	if r.OutputBytes != size+5 || len(r.OutputTail) != 4096 || !bytes.HasSuffix(r.OutputTail, []byte("abcde\nlast\n")) {
		t.Errorf("%d bytes, tail of %d: …%q", r.OutputBytes, len(r.OutputTail), r.OutputTail[len(r.OutputTail)-20:])
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("allocated %d bytes for the output", grown)
	}
}

func TestOutputIsKeptAsBytes(t *testing.T) {
	f := newFixture(t)
	f.script("PostAcq", `printf '\377\376\000x'`)
	if r := f.only(long, PostAcq); !bytes.Equal(r.OutputTail, []byte("\xff\xfe\x00x")) {
		t.Errorf("tail = %q", r.OutputTail)
	}
}

func TestTailKeepsTheLastBytes(t *testing.T) {
	var all []byte
	got := tail{limit: 10}
	for i := range 200 {
		part := bytes.Repeat([]byte{byte('a' + i%26)}, i%23)
		all = append(all, part...)
		got.add(part)
		if want := all[max(0, len(all)-10):]; !bytes.Equal(got.last(10), want) || got.total != uint64(len(all)) {
			t.Fatalf("after %d bytes: %q, want %q", len(all), got.last(10), want)
		}
		if cap(got.buf) > 64 {
			t.Fatalf("keeps %d bytes", cap(got.buf))
		}
	}
}

func TestScriptThatDeletesItself(t *testing.T) {
	f := newFixture(t)
	f.script("PostAcq", `rm "$0"; echo gone`)
	if r := f.only(long, PostAcq); !r.OK() || string(r.OutputTail) != "gone\n" || r.Digest == "" {
		t.Errorf("result = %+v", r)
	}
	if results := f.stage(long, PostAcq); len(results) != 0 {
		t.Errorf("ran again: %v", results)
	}
}

func TestRefusedWithAHint(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, f *fixture)
		want    string
	}{
		"no interpreter line": {func(t *testing.T, f *fixture) { f.file("PreAcq", "echo hello\n") }, "add #!/bin/sh"},
		"empty":               {func(t *testing.T, f *fixture) { f.file("PreAcq", "") }, "add #!/bin/sh"},
		"missing interpreter": {func(t *testing.T, f *fixture) { f.file("PreAcq", "#!/usr/bin/nothing -x\n") }, `"/usr/bin/nothing -x"`},
		"DOS line ends":       {func(t *testing.T, f *fixture) { f.file("PreAcq", "#!/bin/sh\r\necho\r\n") }, `"/bin/sh\r"`},
		"being written": {func(t *testing.T, f *fixture) {
			file, err := os.OpenFile(f.script("PreAcq", ""), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { file.Close() })
		}, "being written"},
		"writable by others":     {func(t *testing.T, f *fixture) { chmod(t, f.script("PreAcq", ""), 0o757) }, "mode 0757"},
		"writable by its group":  {func(t *testing.T, f *fixture) { chmod(t, f.script("PreAcq", ""), 0o775) }, "mode 0775"},
		"owned by another":       {func(t *testing.T, f *fixture) { chown(t, f.script("PreAcq", ""), 1234) }, "belongs to user 1234"},
		"folder writable":        {func(t *testing.T, f *fixture) { f.script("PreAcq", ""); chmod(t, f.path(""), 0o777) }, "mode 0777"},
		"folder owned by other":  {func(t *testing.T, f *fixture) { f.script("PreAcq", ""); chown(t, f.path(""), 1234) }, "belongs to user 1234"},
		"hooks directory":        {func(t *testing.T, f *fixture) { f.script("PreAcq", ""); chmod(t, f.dir, 0o775) }, "mode 0775"},
		"link into another tree": {func(t *testing.T, f *fixture) { linkInto(t, f) }, "mode 0777"},
		"circular link":          {func(t *testing.T, f *fixture) { circle(t, f) }, "symbolic links"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			tc.prepare(t, f)
			r := f.refused()
			if r.Outcome != Refused || !strings.Contains(r.Err, tc.want) || r.OK() {
				t.Errorf("result = %+v, want refused with %q", r, tc.want)
			}
		})
	}
}

// refused runs PreAcq as found when it was still in order: a folder is read
// first and its scripts are checked when their turn comes.
func (f *fixture) refused() Result {
	f.t.Helper()
	r, err := f.runner(long).script(f.t.Context(), Run{Stage: PreAcq, Event: Acquire, VIP: testVIP()},
		Script{Stage: PreAcq, Name: "PreAcq", Path: f.path("PreAcq")})
	if err != nil {
		f.t.Fatal(err)
	}
	if n := len(f.record); n == 0 || f.record[n-1] != "finished PreAcq refused" {
		f.t.Errorf("recorded %v", f.record)
	}
	return r
}

// linkInto makes the script a link to a sound file in a directory that
// everybody can write.
func linkInto(t *testing.T, f *fixture) {
	t.Helper()
	dir := f.path("open")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.script("open/real", "")
	chmod(t, dir, 0o777)
	if err := os.Symlink("open/../open/real", f.path("PreAcq")); err != nil {
		t.Fatal(err)
	}
}

func circle(t *testing.T, f *fixture) {
	t.Helper()
	if err := os.Symlink("PreAcq", f.path("PreAcq")); err != nil {
		t.Fatal(err)
	}
}

func TestLinkWithinTrustedDirectoriesRuns(t *testing.T) {
	f := newFixture(t)
	f.script("real", "echo linked")
	if err := os.Symlink("../192.0.2.10/real", f.path("PreAcq")); err != nil {
		t.Fatal(err)
	}
	if r := f.only(long, PreAcq); !r.OK() || string(r.OutputTail) != "linked\n" {
		t.Errorf("result = %+v", r)
	}
}

// A release must go on when the disk is full.
func TestRunsThoughTheRecorderFails(t *testing.T) {
	f := newFixture(t)
	f.fail = errors.New("no space left on device")
	f.script("PreRel1", "echo one")
	f.script("PreRel2", "echo two")
	results, err := f.runner(long).Stage(t.Context(), Run{Stage: PreRel, Event: Release, VIP: testVIP()})
	if !errors.Is(err, f.fail) {
		t.Errorf("error = %v", err)
	}
	if len(results) != 2 || !results[0].OK() || !results[1].OK() {
		t.Errorf("results = %v", results)
	}
}

func TestNewRunnerRefusesWhatCannotWork(t *testing.T) {
	f := newFixture(t)
	for _, c := range []Config{
		{Dir: "hooks", Timeout: time.Second, Recorder: f},
		{Dir: f.dir, Recorder: f},
		{Dir: f.dir, Timeout: time.Second, OutputLimit: -1, Recorder: f},
		{Dir: f.dir, Timeout: time.Second},
	} {
		if _, err := NewRunner(c); err == nil {
			t.Errorf("NewRunner(%+v) accepted", c)
		}
	}
}

func (f *fixture) read(path string) string {
	f.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if err := os.Chown(path, uid, 0); err != nil {
		t.Fatal(err)
	}
}
