package fence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/program"
)

// script writes an executable file.
func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	// A process forked by another test while the file is open for writing
	// would keep it busy for execve (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// fakeAgent is an agent written as a shell script. It finds what it was told in
// $action and in $in, and the folder it is in in $dir.
func fakeAgent(t *testing.T, body string) Agent {
	t.Helper()
	path := script(t, "fence_fake", `#!/bin/sh
in=$(cat); action=$(printf '%s\n' "$in" | sed -n 's/^action=//p'); dir=${0%/*}
`+body+"\n")
	return Agent{Program: path, Options: map[string]string{"ip": "192.0.2.1"}}
}

func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const offer = `case $action in status) `

func TestAgentsStatus(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		off  bool
		says string
	}{
		"off":                                   {body: `echo Status: OFF; exit 2`, off: true},
		"on":                                    {body: `echo Status: ON; exit 0`, says: "the host is still on"},
		"an error":                              {body: `echo "ERROR: Connection timed out" >&2; exit 1`, says: "exit code 1: it said: ERROR: Connection timed out"},
		"2 without a word":                      {body: `exit 2`, says: "didn't print"},
		"2 and on":                              {body: `echo Status: ON; exit 2`, says: "didn't print"},
		"2 of an interpreter":                   {body: `echo "python3: can't turn off the script" >&2; exit 2`, says: "didn't print"},
		"off, and 0":                            {body: `echo Status: OFF; exit 0`, says: "still on"},
		"killed by another":                     {body: `echo Status: OFF; kill -9 $$`, says: "signal: killed"},
		"only the status is believed, not this": {body: `echo "Success: Powered OFF"; exit 0`, says: "still on"},
	} {
		t.Run(name, func(t *testing.T) {
			err := fakeAgent(t, offer+test.body+";; esac").IsOff(t.Context())
			if (err == nil) != test.off {
				t.Errorf("IsOff: %v, want off %t", err, test.off)
			}
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("IsOff: %v, want it to say %q", err, test.says)
			}
			if err != nil && !strings.Contains(err.Error(), "fence_fake ip=192.0.2.1: ask whether it is off") {
				t.Errorf("IsOff: %v, want it to name the device and the question", err)
			}
		})
	}
}

func TestAgentIsToldOnItsInputAlone(t *testing.T) {
	a := fakeAgent(t, `echo "$# $in" > $dir/told; env > $dir/env; tr '\0' ' ' < /proc/$$/cmdline > $dir/argv`)
	a.Options = map[string]string{"ip": "192.0.2.1", "plug": " x ", "q": `"y"`}
	a.Secrets = map[string]string{"password": secretFile(t, "s3cret=1\n")}
	t.Setenv("NOTIFY_SOCKET", "/run/x")
	if err := a.Off(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(a.Program), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	want := "0 action=off\nip=192.0.2.1\npassword=s3cret=1\nplug=\" x \"\nq=\"\"y\"\"\n"
	if got := read("told"); got != want {
		t.Errorf("it was told %q, want %q", got, want)
	}
	if env := read("env"); strings.Contains(env, "s3cret") || strings.Contains(env, "NOTIFY") {
		t.Errorf("its environment is %s", env)
	}
	if argv := read("argv"); strings.Contains(argv, "s3cret") {
		t.Errorf("its arguments are %s", argv)
	}
}

// What an agent prints may hold the secret in many forms.
func TestSecretsStaySecret(t *testing.T) {
	const secret = `p&ss'"w\rd `
	a := fakeAgent(t, `s=$(printf '%s\n' "$in" | sed -n 's/^password="\(.*\)"$/\1/p')
printf 'login %s failed\n' "$s" >&2
cat >&2 <<'END'
GET /?p=p%26ss%27%22w%5Crd+ {"p": "p&ss'\"w\\rd "} 'p&ss\'"w\\rd '
END
exit 1`)
	a.Secrets = map[string]string{"password": secretFile(t, secret+"\n")}
	err := a.Off(t.Context())
	if err == nil {
		t.Fatal("Off says nil")
	}
	for _, form := range []string{"w\\rd", "w%5Crd", "p&ss", "p%26ss"} {
		if strings.Contains(err.Error(), form) {
			t.Errorf("%v holds %q", err, form)
		}
	}
	if !strings.Contains(err.Error(), "login (secret) failed") {
		t.Errorf("%v: want to see where the secret was", err)
	}
}

// A secret at the place where the output was cut can't be recognised.
func TestACutSecretStaysSecret(t *testing.T) {
	a := fakeAgent(t, `s=$(echo "$in" | sed -n 's/^password=//p')
yes "$s$s$s$s" | head -c 200000 | tr '\n' ' ' >&2; echo >&2; echo the end >&2; exit 1`)
	a.Secrets = map[string]string{"password": secretFile(t, "correcthorsebattery")}
	err := a.Off(t.Context())
	if err == nil || strings.Contains(err.Error(), "battery") || !strings.Contains(err.Error(), "the end") {
		t.Errorf("Off: %v", err)
	}
	if len(err.Error()) > 2000 {
		t.Errorf("it is %d bytes long", len(err.Error()))
	}
}

func TestBadSecrets(t *testing.T) {
	writable := secretFile(t, "x")
	if err := os.Chmod(writable, 0o666); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		"/nowhere":                               "no such file",
		secretFile(t, ""):                        "is empty",
		secretFile(t, "\n"):                      "is empty",
		secretFile(t, "x\naction=on\n"):          "more than one line",
		secretFile(t, strings.Repeat("x", 5000)): "longer than",
		writable:                                 "can be written by users other than root",
		fifo:                                     "is empty",
	} {
		a := fakeAgent(t, `echo "$action" >> $dir/ran`)
		a.Secrets = map[string]string{"password": path}
		err := a.Off(t.Context())
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "password") {
			t.Errorf("Off: %v, want it to say %q of the password", err, says)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(a.Program), "ran")); err == nil {
			t.Error("the agent ran all the same")
		}
	}
}

func TestOptionsAreOneLine(t *testing.T) {
	for _, options := range []map[string]string{{"plug": "1\naction=on"}, {"plug\naction": "x"}, {"a=b": "c"}, {"x": "\x00"}} {
		a := fakeAgent(t, `exit 0`)
		a.Options = options
		if err := a.Off(t.Context()); err == nil || !strings.Contains(err.Error(), "isn't one line") {
			t.Errorf("%q: %v", options, err)
		}
	}
}

// An agent that doesn't end is killed with all that it started.
func TestTheWholeGroupIsKilled(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*Agent, time.Duration, context.CancelFunc)
		want error
	}{
		"timeout": {func(a *Agent, d time.Duration, _ context.CancelFunc) { a.Timeout = d }, program.ErrTimeout},
		"context": {func(_ *Agent, d time.Duration, cancel context.CancelFunc) { time.AfterFunc(d, cancel) }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			// On a busy host it may be killed before it has started anything.
			for d := 200 * time.Millisecond; d < time.Minute; d *= 2 {
				if killed(t, test.want, func(a *Agent, cancel context.CancelFunc) { test.end(a, d, cancel) }) {
					return
				}
			}
			t.Error("the agent never started anything")
		})
	}
}

// killed reports whether an agent that was ended had started another process,
// and fails unless that is gone.
func killed(t *testing.T, want error, end func(*Agent, context.CancelFunc)) bool {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := fakeAgent(t, `trap '' TERM HUP INT
sh -c 'trap "" TERM HUP INT; echo holding; exec sleep 600' > `+fifo+` &
echo Status: OFF; wait`)
	end(&a, cancel)
	if err := a.IsOff(ctx); !errors.Is(err, want) {
		t.Fatalf("IsOff: %v, want %v", err, want)
	}
	if err := held.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(held) // until the last that has it open for writing is gone
	if err != nil {
		t.Errorf("what the agent started lives on: %v", err)
	}
	return len(text) > 0
}

// "Off" that comes when the daemon is gone could hit a host that has returned.
func TestAProgramDiesWithTheDaemon(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	power := script(t, "power", "#!/bin/sh\nexec 3> "+fifo+"\necho holding >&3\nexec sleep 600\n")
	daemon := exec.CommandContext(t.Context(), "/proc/self/exe")
	daemon.Env = append(os.Environ(), daemonVariable+"="+power)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("holding\n"))
	_, err = io.ReadFull(held, line)
	if killErr := daemon.Process.Kill(); err != nil || killErr != nil {
		t.Fatal(err, killErr)
	}
	_ = daemon.Wait() // it was killed
	reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	held.Close()
	if err := reader.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(reader); err != nil {
		t.Errorf("the program lives on: %v", err)
	}
}

// daemonVariable makes the test binary a daemon that runs the program it names,
// for a test to kill.
const daemonVariable = "FENCE_TEST_DAEMON"

func TestMain(m *testing.M) {
	if power := os.Getenv(daemonVariable); power != "" {
		fmt.Fprintln(os.Stderr, "daemon ended by itself:", Command{Command: []string{power}}.Off(context.Background()))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// An agent that leaves something running which holds its output doesn't hold
// anything up.
func TestWhatHoldsTheOutputIsNotWaitedFor(t *testing.T) {
	a := fakeAgent(t, `sleep 20 & echo Status: OFF; exit 2`)
	begin := time.Now()
	if err := a.IsOff(t.Context()); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestOutputIsBounded(t *testing.T) {
	a := fakeAgent(t, `head -c 50000000 /dev/zero; yes | head -c 50000000 >&2; exit 1`)
	err := a.Off(t.Context())
	if err == nil || !strings.Contains(err.Error(), "y; y; y; y") || len(err.Error()) > 2000 {
		t.Errorf("Off: %v", err)
	}
}

func TestWhoMayChangeAnAgent(t *testing.T) {
	a := fakeAgent(t, `exit 0`)
	if err := os.Chmod(a.Program, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := a.Off(t.Context()); err == nil || !strings.Contains(err.Error(), "can be written by users other than root") {
		t.Errorf("Off: %v", err)
	}
	err := Agent{Program: "fence_of_nobody"}.Off(t.Context())
	if err == nil || !strings.Contains(err.Error(), "apt-get install fence-agents") {
		t.Errorf("Off: %v", err)
	}
}

func TestCommand(t *testing.T) {
	good := func(body string) []string { return []string{script(t, "power", "#!/bin/sh\n"+body+"\n"), "a b"} }
	for name, test := range map[string]struct {
		command, verify []string
		off             bool
		says            string
	}{
		"off":               {command: good(`exit 0`), verify: good(`[ "$1" = "a b" ]`), off: true},
		"not verified":      {command: good(`exit 0`), verify: good(`echo it is on; exit 1`), says: "exit code 1: it said: it is on"},
		"it failed, but is": {command: good(`exit 3`), verify: good(`exit 0`), off: true},
		"no verification":   {command: good(`exit 0`), says: "there is no command"},
		"not there":         {command: good(`exit 0`), verify: []string{"/nowhere"}, says: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Level{Command{Command: test.command, Verify: test.verify}}.off(t.Context())
			if (err == nil) != test.off || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("off: %v, want off %t, saying %q", err, test.off, test.says)
			}
		})
	}
	c := Command{Command: good(""), Verify: []string{"/nowhere"}}
	if err := Check(t.Context(), Level{c}); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("Check: %v", err)
	}
	c.Verify = good("")
	if err := Check(t.Context(), Level{c}); err != nil {
		t.Errorf("Check: %v", err)
	}
}
