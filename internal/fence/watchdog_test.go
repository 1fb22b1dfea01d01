package fence

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What real watchdogs do is tested in a virtual machine (internal/vmtest).

// fakeSys is a /sys in which /dev/null is a watchdog.
func fakeSys(t *testing.T, change map[string]string) string {
	t.Helper()
	sys := t.TempDir()
	files := map[string]string{
		"dev/char/1:3/identity": "Software Watchdog\n", "dev/char/1:3/timeout": "60\n",
		"dev/char/1:3/min_timeout": "1\n", "dev/char/1:3/max_timeout": "65535\n",
		"dev/char/1:3/state": "inactive\n", "dev/char/1:3/nowayout": "0\n", "dev/char/1:3/bootstatus": "0\n",
	}
	maps.Copy(files, change)
	for name, text := range files {
		path := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return sys
}

func TestLookAtWatchdog(t *testing.T) {
	info, err := lookAtWatchdog(fakeSys(t, map[string]string{"dev/char/1:3/state": "active\n", "dev/char/1:3/nowayout": "1\n", "dev/char/1:3/bootstatus": "32\n"}), os.DevNull)
	want := WatchdogInfo{
		Device: os.DevNull, Identity: "Software Watchdog", Timeout: time.Minute, Min: time.Second, Max: 65535 * time.Second,
		Running: true, NoWayOut: true, Reset: true,
	}
	if err != nil || info != want {
		t.Errorf("%+v, %v, want %+v", info, err, want)
	}
	for device, says := range map[string]string{"/dev/nowhere": "modprobe softdog", os.TempDir(): "no character device", "/dev/zero": "no watchdog"} {
		if _, err := lookAtWatchdog(fakeSys(t, nil), device); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it to say %q", device, err, says)
		}
	}
	if _, err := LookAtWatchdog(os.DevNull); err == nil {
		t.Error("/dev/null is a watchdog")
	}
}

func TestUnfitWatchdogsAreNotOpened(t *testing.T) {
	for name, test := range map[string]struct {
		change  map[string]string
		timeout time.Duration
		says    string
	}{
		"too short":       {timeout: 5 * time.Second, change: map[string]string{"dev/char/1:3/min_timeout": "10\n"}, says: "less than 10s"},
		"too long":        {timeout: time.Minute, change: map[string]string{"dev/char/1:3/max_timeout": "30\n"}, says: "more than 30s"},
		"half a second":   {timeout: time.Second / 2, says: "whole seconds"},
		"it only logs":    {timeout: time.Minute, change: map[string]string{"module/softdog/parameters/soft_noboot": "1\n"}, says: "soft_noboot"},
		"it isn't one":    {timeout: time.Minute, says: "inappropriate ioctl"},
		"it says rubbish": {timeout: time.Minute, change: map[string]string{"dev/char/1:3/timeout": "x\n"}, says: "invalid syntax"},
	} {
		t.Run(name, func(t *testing.T) {
			sys := fakeSys(t, test.change)
			_, err := openWatchdog(os.DevNull, test.timeout, func() (WatchdogInfo, error) { return lookAtWatchdog(sys, os.DevNull) })
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), os.DevNull) {
				t.Errorf("open: %v, want it to say %q", err, test.says)
			}
		})
	}
}

func TestCloseLooksWhetherItStopped(t *testing.T) {
	for _, running := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "watchdog")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		w := &Watchdog{file: f, timeout: time.Minute, look: func() (WatchdogInfo, error) { return WatchdogInfo{Running: running}, nil }}
		if err := w.Feed(); err != nil {
			t.Error(err)
		}
		if err := w.Close(); errors.Is(err, ErrNoWayOut) != running || err != nil && !running {
			t.Errorf("Close with running %t: %v", running, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "\x00V" {
			t.Errorf("it was written %q, %v", b, err)
		}
		if err := w.Feed(); !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EBADF) {
			t.Errorf("Feed after Close: %v", err)
		}
	}
}
