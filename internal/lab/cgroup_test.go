package lab

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// A process that has left its namespaces is still in its group for a moment.
func TestGroupsGoOnceTheirProcessesHaveEnded(t *testing.T) {
	t.Parallel()
	s, err := newSlice(t.Name())
	must(t, err)
	if s == nil {
		t.Fatal("mount control groups of version 2 (cgroups(7)): without them the lab makes none, and this test can't run")
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "0.3")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(s.daemons.Fd())}
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	start := time.Now()
	must(t, s.close())
	must(t, <-ended)
	if d := time.Since(start); d < 200*time.Millisecond {
		t.Errorf("the groups went after %v, with a process in them", d)
	}
	if _, err := os.Stat(s.group.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", s.group.Path(), err)
	}
}
