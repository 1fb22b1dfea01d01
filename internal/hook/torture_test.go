package hook_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"had/cluster"
	"had/internal/hook"
	"had/internal/journal"
	hadv1 "had/proto/had/v1"
)

// torment is one thing that a script, or whoever put it there, can do.
type torment struct {
	does string
	make func(v *victim)
	log  []string // what the log then has of it, a line for each run
	warn string   // what status warns of instead of a run

	timeout time.Duration // 0: tortureTimeout
}

// The scripts that hang get this long.
const (
	tortureTimeout = 400 * time.Millisecond
	tortureLimit   = tortureTimeout + 2*time.Second // that one script can cost at the most, as docs/hooks.md says
)

// TestTorture does to the runner what scripts do to it sooner or later. Each has
// a defined result in the log, and none costs more than it may.
func TestTorture(t *testing.T) {
	const overstayed = "ran for longer than 400ms and was killed"
	for _, c := range []torment{
		{does: "hangs", make: sh(`exec sleep 600`), log: []string{"timed_out: it " + overstayed + "*"}},
		{does: "hangs and ignores SIGTERM", make: sh(`trap "" TERM; while :; do sleep 600; done`), log: []string{"timed_out: it " + overstayed + "*"}},
		{does: "stops itself", make: sh(`kill -STOP $$`), log: []string{"timed_out: it " + overstayed + "*"}},
		{does: "waits for what never comes", make: sh(`mkfifo "${0%/*}/pipe"; cat "${0%/*}/pipe"`), log: []string{"timed_out: it " + overstayed + "*"}},
		{does: "reads its standard input", make: sh(`cat; echo read`), log: []string{"exited 0: read"}},
		{does: "closes its output and hangs", make: sh(`exec >&- 2>&-; sleep 600`), log: []string{"timed_out: it " + overstayed + "*"}},
		{does: "starts two hundred that hang", make: sh(`i=0; while [ $i -lt 200 ]; do sleep 600 & i=$((i+1)); done; wait`), log: []string{"timed_out: it " + overstayed + "*"}},
		{does: "forks into the background", make: sh(`sleep 600 & echo done`), log: []string{"exited 0: done"}},
		{does: "forks into the background, in a session of its own", make: sh(`setsid sleep 600 & echo done`), log: []string{"exited 0: done"}},
		{does: "becomes a daemon that goes on printing", make: sh(`(while :; do echo again; sleep 0.01; done) & echo done`), log: []string{"exited 0: *"}},

		{does: "prints gigabytes", timeout: time.Minute, make: sh(`head -c 2G /dev/zero; echo the end`), log: []string{"exited 0 (2147483656 bytes): …the end"}},
		{does: "prints without end", make: sh(`yes`), log: []string{"timed_out (* bytes): *" + overstayed + "*"}},
		{does: "prints what is not UTF-8", make: sh(`printf '\377\376\000x'`), log: []string{"exited 0: \xff\xfe\x00x"}},
		{does: "has a name that is not UTF-8", make: named("PostAcq\xff\xfe", `echo named`), log: []string{"PostAcq\uFFFD exited 0: named"}},
		{does: "has a name with a line end", make: named("PostAcq\n1", `echo named`), log: []string{"PostAcq\n1 exited 0: named"}},

		{does: "deletes itself", make: sh(`rm "$0"; echo gone`), log: []string{"exited 0: gone"}},
		{does: "deletes its folder, before another's turn", make: both(sh(`rm -r "${0%/*}"; echo gone`), named("PostAcq20", `echo never`)),
			log: []string{"exited 0: gone", "PostAcq20 refused: not run: *no such file or directory"}},
		{does: "is replaced while it runs", make: sh(`printf '#!/bin/sh\necho new\n' >"$0~"; chmod +x "$0~"; mv "$0~" "$0"; echo old`), log: []string{"exited 0: old"}},
		{does: "replaces the one after it", make: both(sh(`printf '#!/bin/sh\necho new\n' >"${0%/*}/PostAcq20"; echo done`), named("PostAcq20", `echo old`)),
			log: []string{"exited 0: done", "PostAcq20 exited 0: new"}},
		{does: "ends its own process group", make: sh(`kill -KILL 0`), log: []string{"signaled SIGKILL"}},

		{does: "can be written by everybody", make: mode(0o757), log: []string{"refused: not run: *mode 0757*"}},
		{does: "can be written by its group", make: mode(0o775), log: []string{"refused: not run: *mode 0775*"}},
		{does: "belongs to somebody else", make: func(v *victim) { v.script(first, ""); v.must(os.Chown(v.path(first), 1234, 0)) }, log: []string{"refused: not run: *belongs to user 1234*"}},
		{does: "is a link to a sound script elsewhere", make: func(v *victim) { v.outside(0o755) }, log: []string{"exited 0: outside"}},
		{does: "is a link to where everybody can write", make: func(v *victim) { v.outside(0o777) }, log: []string{"refused: not run: *mode 0777*"}},
		{does: "has an interpreter that isn't there", make: file("#!/usr/bin/nothing -x\n"), log: []string{`refused: not run: the interpreter "/usr/bin/nothing -x" *isn't there`}},
		{does: "was written on DOS", make: file("#!/bin/sh\r\necho\r\n"), log: []string{`refused: not run: the interpreter "/bin/sh\r" *isn't there`}},
		{does: "is empty", make: file(""), log: []string{"refused: not run: *add #!/bin/sh as its first line"}},
		{does: "is neither script nor program", make: file("\x7fELF\x02\x01"), log: []string{"refused: not run: *neither a program for this machine nor a script*"}},
		{does: "is too large to be read in time", make: func(v *victim) { v.script(first, ""); v.must(os.Truncate(v.path(first), 64<<30)) }, log: []string{"timed_out: not started: the file could not be read within 400ms"}},

		{does: "is not executable", make: mode(0o644), warn: "it is not executable"},
		{does: "is a directory", make: func(v *victim) { v.must(os.Mkdir(v.path(first), 0o755)) }, warn: "it is a directory"},
		{does: "is a named pipe", make: func(v *victim) { v.must(syscall.Mkfifo(v.path(first), 0o755)) }, warn: "it is not a regular file"},
		{does: "is a link to nothing", make: func(v *victim) { v.must(os.Symlink("nothing", v.path(first))) }, warn: "a link to something that isn't there"},
		{does: "is a link to itself", make: func(v *victim) { v.must(os.Symlink(first, v.path(first))) }, warn: "too many levels of symbolic links"},
	} {
		t.Run(c.does, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t)
			c.make(v)
			began := time.Now()
			v.stage(cmp.Or(c.timeout, tortureTimeout))
			if took, limit := time.Since(began), time.Duration(max(1, len(c.log)))*tortureLimit; took > limit && c.timeout == 0 {
				t.Errorf("the stage took %s; %s are promised", took, limit)
			}
			told := v.told()
			if len(told) != len(c.log) {
				t.Fatalf("the log has %q, want %q", told, c.log)
			}
			for i, line := range told {
				if !matches(c.log[i], strings.TrimPrefix(line, first+" ")) {
					t.Errorf("the log has\n%q, want\n%q", line, c.log[i])
				}
			}
			if c.warn != "" && (len(v.folder.Warnings) != 1 || !strings.Contains(v.folder.Warnings[0], c.warn)) {
				t.Errorf("warnings %q, want %q", v.folder.Warnings, c.warn)
			}
		})
	}
}

// What a script was is what the log says it was, though it is another now.
func TestTheLogHasTheDigestOfWhatRan(t *testing.T) {
	v := newVictim(t)
	sh(`printf '#!/bin/sh\necho new\n' >"$0~"; chmod +x "$0~"; mv "$0~" "$0"; echo old`)(v)
	for _, want := range []string{"old\n", "new\n"} {
		text, err := os.ReadFile(v.path(first))
		v.must(err)
		sum := sha256.Sum256(text)
		v.stage(20 * time.Second)
		runs := v.runs()
		if r := runs[len(runs)-1]; string(r.GetOutputTail()) != want || r.GetDigest() != hex.EncodeToString(sum[:]) {
			t.Errorf("it printed %q and its digest is %s; want %q and %x", r.GetOutputTail(), r.GetDigest(), want, sum)
		}
	}
}

// Every exit code, and a thousand scripts in order: each is one line of the log.
func TestEveryExitCodeOfAThousandScripts(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	var want []string
	for i := range 1000 {
		name := fmt.Sprintf("PostAcq%03d", i)
		v.script(name, fmt.Sprintf("exit %d", i%256))
		want = append(want, fmt.Sprintf("%s exited %d", name, i%256))
	}
	v.stage(20 * time.Second)
	if told := v.told(); !slices.Equal(told, want) {
		t.Errorf("the log has %d lines, not the %d of the scripts in order", len(told), len(want))
	}
}

// A script may end by any signal; those that don't end it are no failure, and
// SIGSTOP makes it one that hangs.
func TestEverySignal(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	harmless := []syscall.Signal{unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH,
		unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU} // the last three: nobody could wake it, so they don't stop it (setpgid(2))
	var want []string
	for n := 1; n <= 64; n++ {
		if n == 32 || n == 33 {
			continue // the C library's own (nptl(7)): a program that started this one may have them ignored
		}
		name := fmt.Sprintf("PostAcq%02d", n)
		v.script(name, fmt.Sprintf("kill -%d $$; echo alive", n))
		switch sig := syscall.Signal(n); {
		case sig == unix.SIGSTOP:
			want = append(want, name+" timed_out*")
		case slices.Contains(harmless, sig):
			want = append(want, name+" exited 0: alive")
		case n > 31:
			want = append(want, fmt.Sprintf("%s signaled SIG%d", name, n))
		default:
			want = append(want, name+" signaled "+unix.SignalName(sig))
		}
	}
	v.stage(time.Second)
	told := v.told()
	if len(told) != len(want) {
		t.Fatalf("the log has %d lines, want %d", len(told), len(want))
	}
	for i := range told {
		if !matches(want[i], told[i]) {
			t.Errorf("the log has %q, want %q", told[i], want[i])
		}
	}
}

// first is the script that torments are about.
const first = "PostAcq10"

// victim is a hooks directory of one address, with a runner, a journal and a log
// as a node has them.
type victim struct {
	t       *testing.T
	dir     string
	vip     netip.Addr
	journal *journal.Journal
	folder  hook.Folder // as it was before the stage
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	root := t.TempDir()
	v := &victim{t: t, dir: filepath.Join(root, "hooks"), vip: netip.MustParseAddr("192.0.2.10")}
	v.must(os.MkdirAll(v.path(""), 0o755))
	memory, err := os.MkdirTemp("/dev/shm", "had-test-") //nolint:usetesting // two thousand syncs of a disk are not what is tested
	v.must(err)
	t.Cleanup(func() { v.must(os.RemoveAll(memory)) })
	v.journal, err = journal.Open(filepath.Join(memory, "journal.db"), "id-alpha")
	v.must(err)
	t.Cleanup(func() { v.must(v.journal.Close()) })
	return v
}

func (v *victim) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *victim) path(name string) string { return filepath.Join(v.dir, v.vip.String(), name) }

func (v *victim) script(name, body string) { v.file(name, "#!/bin/sh\n"+body+"\n") }

func (v *victim) file(name, content string) {
	v.t.Helper()
	// As in the fixture of package hook: no other test's child may keep it open.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	v.must(os.WriteFile(v.path(name), []byte(content), 0o755))
}

// outside makes the script a link to one in a folder of this mode.
func (v *victim) outside(mode os.FileMode) {
	v.t.Helper()
	dir := filepath.Join(filepath.Dir(v.dir), "elsewhere")
	v.must(os.Mkdir(dir, 0o755))
	v.file("../../elsewhere/script", "#!/bin/sh\necho outside\n")
	v.must(os.Chmod(dir, mode))
	v.must(os.Symlink(filepath.Join(dir, "script"), v.path(first)))
}

func sh(body string) func(*victim) { return named(first, body) }

func named(name, body string) func(*victim) {
	return func(v *victim) { v.t.Helper(); v.script(name, body) }
}

func file(content string) func(*victim) {
	return func(v *victim) { v.t.Helper(); v.file(first, content) }
}

func mode(mode os.FileMode) func(*victim) {
	return func(v *victim) {
		v.t.Helper()
		v.script(first, "echo never")
		v.must(os.Chmod(v.path(first), mode))
	}
}

func both(a, b func(*victim)) func(*victim) {
	return func(v *victim) { v.t.Helper(); a(v); b(v) }
}

// stage runs PostAcq, and ends what it has left running.
func (v *victim) stage(timeout time.Duration) {
	v.t.Helper()
	var err error
	v.folder, err = hook.Scan(v.dir, v.vip)
	v.must(err)
	ids := &identities{Journal: v.journal}
	r, err := hook.NewRunner(hook.Config{Dir: v.dir, Timeout: timeout, Recorder: ids})
	v.must(err)
	defer r.Close()
	_, err = r.Stage(v.t.Context(), hook.Run{Stage: hook.PostAcq, Event: hook.Acquire, VIP: v.vip, Env: hook.Env{Node: "alpha", Epoch: 7}})
	v.must(err)
	v.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for _, run := range ids.runs {
			if _, err := hook.KillOrphan(ctx, run); err != nil {
				v.t.Error(err)
			}
		}
	})
}

// identities is a recorder that remembers by which marks what is left is found.
type identities struct {
	*journal.Journal
	runs []hook.Running
}

func (i *identities) Started(ctx context.Context, r hook.Running) error {
	if len(i.runs) < 10 { // those with more leave nothing
		i.runs = append(i.runs, r)
	}
	return i.Journal.Started(ctx, r)
}

// runs delivers the journal into a log and returns what its history has.
func (v *victim) runs() (out []*hadv1.HookResult) {
	v.t.Helper()
	log := cluster.NewState()
	log.Apply(cluster.Entry{Index: 1, Term: 1}, &hadv1.Command{Record: &hadv1.Command_Birth{Birth: &hadv1.Birth{
		Cluster: "office", ClusterId: "c-1", Members: []*hadv1.Member{{Name: "alpha", NodeId: "id-alpha"}},
	}}})
	verdict := log.Apply(cluster.Entry{Index: 2, Term: 1}, &hadv1.Command{Record: &hadv1.Command_Deliver{
		Deliver: &hadv1.Deliver{Reports: v.journal.Pending(10000)},
	}})
	if verdict.Refused != "" {
		v.t.Fatal(verdict.Refused)
	}
	events, _ := log.History(1)
	for _, e := range events {
		if e.GetHook() != nil {
			out = append(out, e.GetHook())
		}
	}
	return out
}

// told is the history in lines: "PostAcq10 exited 0: what it printed".
func (v *victim) told() (lines []string) {
	v.t.Helper()
	for _, r := range v.runs() {
		outcome := strings.ToLower(strings.TrimPrefix(r.GetOutcome().String(), "OUTCOME_"))
		line := r.GetScript() + " " + outcome
		if r.GetOutcome() == hadv1.HookResult_OUTCOME_EXITED {
			line += " " + strconv.Itoa(int(r.GetExitCode()))
		}
		if r.GetOutcome() == hadv1.HookResult_OUTCOME_SIGNALED {
			line += " " + r.GetSignal()
		}
		if n := r.GetOutputBytes(); n > uint64(len(r.GetOutputTail())) {
			line += fmt.Sprintf(" (%d bytes)", n)
		}
		printed := strings.TrimSuffix(string(r.GetOutputTail()), "\n")
		if i := bytes.LastIndexByte(r.GetOutputTail(), 0); i > 1000 {
			printed = "…" + printed[i+1:]
		}
		if text := r.GetError() + printed; text != "" {
			line += ": " + text
		}
		if time.Duration(r.GetDurationNs()) > 30*time.Second {
			v.t.Errorf("%s took %s", r.GetScript(), time.Duration(r.GetDurationNs()))
		}
		lines = append(lines, line)
	}
	return lines
}

// matches compares a line with one in which "*" stands for anything.
func matches(want, line string) bool {
	parts := strings.Split(want, "*")
	if len(parts) == 1 {
		return want == line
	}
	rest, found := strings.CutPrefix(line, parts[0])
	if !found {
		return false
	}
	for _, p := range parts[1:] {
		_, after, ok := strings.Cut(rest, p)
		if !ok {
			return false
		}
		rest = after
	}
	return true
}
