package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"had/internal/hook"
)

const long = 20 * time.Second // that no passing test reaches

func shell(line string) hook.Command {
	return hook.Command{Name: `sync "pages"`, Line: []string{"/bin/sh", "-c", line}, Timeout: long}
}

// alive reports whether a process exists and isn't a zombie.
func alive(pid string) bool {
	words, err := os.ReadFile("/proc/" + pid + "/cmdline")
	return err == nil && len(words) > 0
}

// Nothing of a run outlives it, however it ends and whatever it did to get away.
func TestNothingOutlivesARun(t *testing.T) {
	p, why := NewProcesses(t.TempDir())
	if why != "" {
		t.Fatalf("mount control groups of version 2 (cgroups(7)), this test is about them: %s", why)
	}
	defer p.Close()
	bare, _ := NewProcesses(t.TempDir())
	defer bare.Close()
	bare.group = nil // as on a host without them
	for host, p := range map[string]*Processes{"with control groups": p, "without": bare} {
		for does, line := range map[string]string{
			"ends":                        "%s & %s",
			"is stopped":                  "%s & echo $$ >> %[3]s; sleep 60",
			"ignores SIGTERM":             `trap "" TERM; %s & while :; do sleep 60; done`,
			"leaves its session":          "setsid %s & sleep 60",
			"leaves its session and ends": "setsid %s & true",
			"forgets its environment":     "env -i %s & sleep 60",
		} {
			t.Run(host+" "+does, func(t *testing.T) {
				pids := filepath.Join(t.TempDir(), "pids")
				child := "sh -c 'echo $$ >> " + pids + "; exec sleep 60'"
				line := strings.NewReplacer("%[3]s", pids, "%s & %s", child+" & sleep 0.2", "%s", child).Replace(line)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() {
					for { // stopped as soon as the child is there
						if text, _ := os.ReadFile(pids); len(text) > 0 {
							cancel()
							return
						}
						select {
						case <-ctx.Done():
							return
						case <-time.After(time.Millisecond):
						}
					}
				}()
				running := ctx
				if does == "ends" || strings.HasSuffix(does, "and ends") {
					running = t.Context()
				}
				result, err := p.Run(running, "pages", shell(line))
				if err != nil {
					t.Errorf("%+v, %v", result, err)
				}
				text, err := os.ReadFile(pids)
				if err != nil && !strings.HasSuffix(does, "and ends") { // there it may be killed before it writes
					t.Fatal(err)
				}
				for pid := range strings.FieldsSeq(string(text)) {
					if alive(pid) {
						t.Errorf("process %s goes on", pid)
					}
				}
			})
		}
	}
}

// A daemon that died has left a sync running; the next one knows and ends it.
func TestAnEarlierRunsSyncIsFoundAndEnded(t *testing.T) {
	dir := t.TempDir()
	earlier, why := NewProcesses(dir)
	if why != "" {
		t.Fatal(why)
	}
	defer earlier.Close()
	pids := filepath.Join(t.TempDir(), "pids")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = earlier.Run(t.Context(), "pages", shell("setsid env -i sh -c 'echo $$ > "+pids+"; exec sleep 60' & wait"))
	}()
	var pid int
	for deadline := time.Now().Add(long); pid == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		text, _ := os.ReadFile(pids)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	next, _ := NewProcesses(dir)
	defer next.Close()
	names, err := next.Left()
	if err != nil || fmt.Sprint(names) != "[pages]" {
		t.Errorf("left: %q, %v", names, err)
	}
	other, _ := NewProcesses(t.TempDir()) // another daemon of this host
	if names, err := other.Left(); err != nil || len(names) != 0 {
		t.Errorf("left of another's: %q, %v", names, err)
	}
	if err := next.End(t.Context(), "pages"); err != nil {
		t.Error(err)
	}
	if alive(strconv.Itoa(pid)) {
		t.Error("it goes on")
	}
	<-done
	if names, err := next.Left(); err != nil || len(names) != 0 {
		t.Errorf("left afterwards: %q, %v", names, err)
	}
}

// Who has run no sync leaves no group on the host, even if it is killed.
func TestNoGroupBeforeTheFirstSync(t *testing.T) {
	p, why := NewProcesses(t.TempDir())
	if why != "" {
		t.Fatal(why)
	}
	if _, err := os.Stat(p.group.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", p.group.Path(), err)
	}
}

func TestAgesAreKept(t *testing.T) {
	f := File(filepath.Join(t.TempDir(), "syncs.json"))
	if ages, err := f.Load(); err != nil || len(ages) != 0 {
		t.Errorf("%v, %v", ages, err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for range 2 {
		if err := f.Save(map[string]time.Time{"pages": at}); err != nil {
			t.Fatal(err)
		}
	}
	if ages, err := f.Load(); err != nil || !ages["pages"].Equal(at) {
		t.Errorf("%v, %v", ages, err)
	}
	if err := os.WriteFile(string(f), []byte(`{"pages": 7`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(); err == nil || !strings.Contains(err.Error(), "remove it if it is damaged") {
		t.Error(err)
	}
}
