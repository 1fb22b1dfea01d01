package guard

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/cgroup"
	"had/internal/clock"
)

// supervise runs a supervisor in this process, which then is the had.
func supervise(t *testing.T, o *office) (s *Supervisor, stop func() error) {
	t.Helper()
	s = NewSupervisor(o.guard())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop = func() error {
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if !stopped {
			_ = stop()
		}
	})
	eventually(t, "the first guard", func() bool { return s.Alive() == nil })
	return s, stop
}

func (s *Supervisor) pid(t *testing.T) int {
	t.Helper()
	g, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	return g.pid
}

func aDeadGuardIsReplaced(t *testing.T, o *office) {
	s, stop := supervise(t, o)
	until := func() clock.Instant { return clock.Now().Add(20 * time.Second) }
	for i, s9 := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		epoch := uint64(7 + i)
		if !s.Extend(epoch, until()) {
			t.Fatal("a new epoch can't be extended")
		}
		if err := s.Hold(t.Context(), epoch, virtual(1), nil); err != nil {
			t.Fatal(err)
		}
		old := s.pid(t)
		if err := syscall.Kill(old, s9); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the guard's end to be noticed", func() bool { return s.Alive() != nil })
		eventually(t, "another guard", func() bool { g, err := s.current(); return err == nil && g.pid != old })
		if err := syscall.Kill(old, 0); err == nil {
			t.Errorf("after %s there are two guards", s9)
		}
		if s.Alive() == nil {
			t.Error("the epoch went over to another guard, which knows nothing of it")
		}
		if !s.Extend(epoch, until()) {
			t.Error("the epoch ended with its guard, before it could be moved")
		}
		if err := s.Drop(t.Context(), epoch); err != nil {
			t.Error(err)
		}
		if err := s.Alive(); err != nil {
			t.Errorf("the epoch is dropped, and yet: %v", err)
		}
		if s.Extend(epoch, until()) {
			t.Error("an epoch was extended after it had been dropped")
		}
	}
	last := s.pid(t)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(last, 0); err == nil {
		t.Error("the guard outlived an orderly end")
	}
	if s.Alive() == nil || s.Extend(9, until()) || s.Hold(t.Context(), 9, virtual(1), nil) == nil {
		t.Error("something can be held without a guard")
	}
	o.silent()
}

// What the guard's process is, beside what it does.
func theGuardsProcess(t *testing.T, o *office) {
	s, _ := supervise(t, o)
	pid := s.pid(t)
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("its session is %d (%v), want its own, %d", sid, err, pid)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
		t.Errorf("it works in %q (%v) and keeps that file system from being unmounted", cwd, err)
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || string(comm) != "had-guard\n" {
		t.Errorf("its name is %q (%v)", comm, err)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || strings.Contains(string(env), namespaceVariable) {
		t.Errorf("it has had's environment: %q (%v)", env, err)
	}
	lacks := strings.Join(s.Shortfalls(), "; ")
	if !strings.Contains(lacks, "real-time") {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err != nil {
				t.Fatal(err)
			}
			if attr, err := unix.SchedGetAttr(id, 0); err != nil || attr.Policy != unix.SCHED_RR {
				t.Errorf("thread %d has the scheduling policy %v (%v)", id, attr, err)
			}
		}
	}
	if !strings.Contains(lacks, "control group") {
		its, own := groupOf(t, pid), groupOf(t, os.Getpid())
		if its == own {
			t.Errorf("it is in had's control group, %s", own)
		}
	}
	// What had starts later must not get the socket or the page.
	fds, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		what, _ := os.Readlink("/proc/self/fd/" + fd.Name()) // it may be closed by now
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil || !strings.HasPrefix(what, "socket:") && !strings.Contains(what, "had-guard") && !strings.Contains(what, "pidfd") {
			continue
		}
		var flags int
		if _, err := fmt.Sscanf(strings.Split(string(info), "flags:")[1], "%o", &flags); err != nil || flags&unix.O_CLOEXEC == 0 {
			t.Errorf("a child of had gets descriptor %s, %s", fd.Name(), what)
		}
	}
}

func groupOf(t *testing.T, pid int) string {
	t.Helper()
	group, err := cgroup.Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	return group.Path()
}
