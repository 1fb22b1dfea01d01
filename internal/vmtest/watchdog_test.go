package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/fence"
)

const (
	timeout  = 2 * time.Second
	alive    = "vmtest: still alive"
	released = "vmtest: nobody feeds it any more"

	holdVariable = "VMTEST_HOLD" // the device that a holder feeds
)

// hold feeds a watchdog for ever.
func hold(device string) error {
	w, err := fence.OpenWatchdog(device, timeout)
	if err != nil {
		return err
	}
	fmt.Println("armed")
	for {
		if err := w.Feed(); err != nil {
			return err
		}
		time.Sleep(timeout / 4)
	}
}

// startHolder returns when the holder has armed the watchdog.
func startHolder(t *testing.T, device string) *os.Process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{holdVariable + "=" + device}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "armed\n" {
		t.Fatalf("the holder said %q: %v", line, err)
	}
	return cmd.Process
}

// A watchdog that is fed, stopped, armed again, and then left alone by a
// process that was killed.
func TestSoftdog(t *testing.T) {
	test(t, sides{
		modules: []string{"softdog"},
		inside: func(t *testing.T) {
			load(t, "softdog", "")
			const device = "/dev/watchdog"
			fedAndStopped(t, device)
			h := startHolder(t, device)
			time.Sleep(2 * timeout) // it feeds
			if _, err := fence.OpenWatchdog(device, timeout); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "RuntimeWatchdogSec") {
				t.Errorf("open it twice: %v", err)
			}
			if err := h.Kill(); err != nil {
				t.Fatal(err)
			}
			left(t)
		},
		outside: func(t *testing.T, m *machine) { resets(t, m) },
	})
}

// A device of its own, whose feeder hangs.
func TestI6300ESB(t *testing.T) {
	test(t, sides{
		modules: []string{"i6300esb"},
		devices: []string{"-device", "i6300esb", "-action", "watchdog=reset"},
		inside: func(t *testing.T) {
			load(t, "i6300esb", "")
			const device = "/dev/watchdog0"
			fedAndStopped(t, device)
			h := startHolder(t, device)
			if err := h.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			left(t)
		},
		outside: func(t *testing.T, m *machine) {
			events := resets(t, m)
			if !slices.ContainsFunc(events, func(e event) bool { return e.Event == "WATCHDOG" && e.Data.Action == "reset" }) {
				t.Errorf("it wasn't the watchdog: %+v", events)
			}
		},
	})
}

// One that can't be stopped says so before and after.
func TestNoWayOut(t *testing.T) {
	test(t, sides{
		modules: []string{"softdog"},
		inside: func(t *testing.T) {
			load(t, "softdog", "nowayout=1")
			const device = "/dev/watchdog"
			if info, err := fence.LookAtWatchdog(device); err != nil || !info.NoWayOut || info.Running {
				t.Errorf("%+v, %v", info, err)
			}
			w, err := fence.OpenWatchdog(device, timeout)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); !errors.Is(err, fence.ErrNoWayOut) {
				t.Errorf("Close: %v", err)
			}
			left(t)
		},
		outside: func(t *testing.T, m *machine) { resets(t, m) },
	})
}

// fedAndStopped shows that feeding keeps the machine alive, and that closing
// stops the watchdog.
func fedAndStopped(t *testing.T, device string) {
	t.Helper()
	before, err := fence.LookAtWatchdog(device)
	t.Logf("%+v, %v", before, err)
	if err != nil || before.Running || before.NoWayOut {
		t.Fatalf("%+v, %v", before, err)
	}
	w, err := fence.OpenWatchdog(device, timeout+time.Second/2)
	if err != nil {
		t.Fatal(err)
	}
	if w.Timeout() != timeout {
		t.Errorf("the timeout is %s", w.Timeout())
	}
	if info, err := fence.LookAtWatchdog(device); err != nil || !info.Running || info.Timeout != timeout {
		t.Errorf("armed it is %+v, %v", info, err)
	}
	for range 8 {
		time.Sleep(timeout / 4)
		if err := w.Feed(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(timeout + timeout/2)
}

// left waits until the machine has been reset, for twice the timeout.
func left(t *testing.T) {
	t.Helper()
	if t.Failed() {
		return
	}
	fmt.Println(released)
	time.Sleep(2 * timeout)
	fmt.Println(alive)
	t.Error("the machine wasn't reset")
}

func resets(t *testing.T, m *machine) []event {
	t.Helper()
	m.says(released)
	begin := time.Now()
	events := m.ends(alive)
	t.Logf("reset after %s", time.Since(begin).Round(10*time.Millisecond))
	wasReset(t, events)
	return events
}
