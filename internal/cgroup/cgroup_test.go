package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestOwnIsFoundOrTheSentenceSaysWhyNot(t *testing.T) {
	const (
		unified = "30 22 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
		hybrid  = "31 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n40 30 0:37 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
		legacy  = "31 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
		part    = "40 30 0:37 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	)
	for _, c := range []struct {
		name, groups, mounts string
		want, beside         string
	}{
		{"unified", "0::/system.slice/had.service\n", unified, "/sys/fs/cgroup/system.slice/had.service", "/sys/fs/cgroup/system.slice/x"},
		{"both versions", "4:memory:/a\n0::/b\n", hybrid, "/sys/fs/cgroup/unified/b", "/sys/fs/cgroup/unified/x"},
		{"at the top", "0::/\n", unified, "/sys/fs/cgroup", "/sys/fs/cgroup/x"},
		{"a part is mounted", "0::/docker/abc/d\n", part, "/sys/fs/cgroup/d", "/sys/fs/cgroup/x"},
		{"at the top of that part", "0::/docker/abc\n", part, "/sys/fs/cgroup", "/sys/fs/cgroup/x"},
	} {
		g, err := own(c.groups, c.mounts)
		if err != nil || g.Path() != c.want || g.Beside("x").Path() != c.beside {
			t.Errorf("%s: %q, beside %q, %v; want %q, beside %q", c.name, g.Path(), g.Beside("x").Path(), err, c.want, c.beside)
		}
	}
	for _, c := range []struct{ name, groups, mounts, why string }{
		{"version 1 alone", "4:memory:/a\n", legacy, "none of version 2"},
		{"no control groups", "", "", "none of version 2"},
		{"not mounted", "0::/a\n", legacy, "isn't mounted"},
		{"another namespace's", "0::/../a\n", unified, "outside"},
		{"another part is mounted", "0::/docker/abcd\n", part, "isn't in what is mounted"},
	} {
		if g, err := own(c.groups, c.mounts); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %q, %v; want a sentence with %q", c.name, g.Path(), err, c.why)
		}
	}
}

// newGroup makes a group for a test; the kernel must have version 2.
func newGroup(t *testing.T) Group {
	t.Helper()
	own, err := Own()
	if err != nil {
		t.Fatalf("mount control groups of version 2 (cgroups(7)), this test is about them: %v", err)
	}
	g := own.Child("had-test-" + strings.ReplaceAll(t.Name(), "/", "-"))
	if err := g.Make(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(g.Kill(ctx), g.Remove()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// start runs a shell script in the group, until the test ends; ended is closed
// when it has.
func start(t *testing.T, g Group, script string) (ended <-chan struct{}) {
	t.Helper()
	dir, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the script doesn't print: %v", err)
	}
	c := make(chan struct{})
	go func() {
		defer close(c)
		_ = cmd.Wait()
	}()
	return c
}

// Whatever a process does to get away (a session of its own, another parent, an
// empty environment), it stays in its group.
func TestKillEndsAllWhoAreIn(t *testing.T) {
	for _, how := range []struct {
		name string
		kill func(ctx context.Context, g Group) error
	}{
		{"at once", func(ctx context.Context, g Group) error { return g.Kill(ctx) }},
		{"one by one", func(ctx context.Context, g Group) error { return errors.Join(g.killEach(ctx), g.Wait(ctx)) }},
	} {
		t.Run(how.name, func(t *testing.T) {
			g := newGroup(t)
			inner := g.Child("inner")
			if err := inner.Make(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			start(t, g, "setsid env -i sleep 61 >&- 2>&- & sleep 62 >&- 2>&- & echo ready")
			ended := start(t, inner, "trap '' TERM; echo ready; while :; do sleep 1; done")
			if pids, err := g.Processes(); err != nil || len(pids) < 3 {
				t.Errorf("processes %v are in the group (%v), want 3 or more", pids, err)
			}
			if err := how.kill(ctx, g); err != nil {
				t.Fatal(err)
			}
			<-ended
			if is, err := g.Populated(); err != nil || is {
				t.Errorf("populated: %v, %v", is, err)
			}
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(g.Path()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the group is still there: %v", err)
			}
		})
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	g := newGroup(t)
	start(t, g, "echo ready; sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "processes [") {
		t.Errorf("waited for a process that lives: %v", err)
	}
	if err := g.Remove(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("removed a group with a process in it: %v", err)
	}
}

// The kernel drops what it had put off telling when a group goes.
func TestWaitEndsWhenAnotherRemovesTheGroup(t *testing.T) {
	for range 20 {
		g := newGroup(t)
		ended := start(t, g, "echo ready; sleep 60")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		waited := make(chan error, 1)
		go func() { waited <- g.Wait(ctx) }()
		if err := os.WriteFile(filepath.Join(g.Path(), "cgroup.kill"), []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		for errors.Is(g.Remove(), syscall.EBUSY) && ctx.Err() == nil {
			runtime.Gosched()
		}
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		<-ended
		cancel()
	}
}

func TestGroupThatIsNotThereHasNobody(t *testing.T) {
	own, err := Own()
	if err != nil {
		t.Fatal(err)
	}
	g := own.Child("had-test-none")
	if err := errors.Join(g.Kill(t.Context()), g.Wait(t.Context()), g.Remove()); err != nil {
		t.Error(err)
	}
	if pids, err := g.Processes(); err != nil || len(pids) > 0 {
		t.Errorf("processes %v, %v", pids, err)
	}
	if f, err := g.Open(); err == nil {
		f.Close()
		t.Error("opened a group that isn't there")
	}
}
