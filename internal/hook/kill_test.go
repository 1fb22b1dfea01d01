package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The daemon is killed while a script runs that has a child in its session,
// one in a session of its own, and one that dropped its environment.
func TestKillOrphanAfterTheDaemonWasKilled(t *testing.T) {
	f := newFixture(t)
	ready := f.fifo("ready")
	f.script("PreAcq", fmt.Sprintf(`
		sleep 61 & a=$!
		setsid sleep 62 & b=$!
		env -i sleep 63 & c=$!
		echo $$ $a $b $c > %s
		wait`, ready))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(self)
	daemon.Env = append(os.Environ(), daemonVariable+"="+f.dir)
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var script, child, service, bare int
	_, scanErr := fmt.Sscan(f.heard(ready), &script, &child, &service, &bare)
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait() // "signal: killed"
	if scanErr != nil {
		t.Fatal(scanErr)
	}

	gone(t, script) // by its parent-death signal
	var running Running
	if err := json.Unmarshal([]byte(f.read(f.dir+"/running")), &running); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if killed, err := KillOrphan(ctx, running); err != nil || killed != 3 {
		t.Errorf("KillOrphan = %d, %v; want the 3 that are left", killed, err)
	}
	for _, pid := range []int{child, service, bare} {
		if alive(t, pid) {
			t.Errorf("process %d survived", pid)
		}
	}
	if killed, err := KillOrphan(ctx, running); err != nil || killed != 0 {
		t.Errorf("KillOrphan again = %d, %v", killed, err)
	}
}

// gone waits for the end of a process that is not a child of this one.
func gone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone already
	}
	defer unix.Close(fd)
	if !readable(fd, long) {
		t.Errorf("process %d lives on", pid)
	}
}

func TestKillOrphanLeavesOthersAlone(t *testing.T) {
	f := newFixture(t)
	ready := f.fifo("ready")
	f.script("PostAcq", `sleep 60 >&- 2>&- & echo $! > `+ready+` & wait $!`)
	heard := make(chan string, 1)
	go func() { heard <- f.heard(ready) }()
	if r := f.only(long, PostAcq); !r.OK() {
		t.Fatalf("result = %+v", r)
	}
	var pid int
	if _, err := fmt.Sscan(<-heard, &pid); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(pid, unix.SIGKILL)
	if killed, err := KillOrphan(t.Context(), Running{ID: "another run"}); err != nil || killed != 0 {
		t.Errorf("KillOrphan = %d, %v", killed, err)
	}
	if !alive(t, pid) {
		t.Error("a service of another run was killed")
	}
}

func TestKillOrphanGivesUpInTime(t *testing.T) {
	stuck := func() ([]int, error) { return []int{os.Getpid() + 1<<22}, nil } // beyond pid_max: never ends
	begun := time.Now()
	if err := killAll(stuck, begun.Add(20*time.Millisecond)); err == nil {
		t.Error("claims to have killed what is still there")
	}
}

func TestParseStat(t *testing.T) {
	for stat, want := range map[string]struct {
		proc  proc
		alive bool
	}{
		"12 (sh) S 1 12 11 0 -1": {proc{12, 11}, true},
		"12 (a) b) (c) R 1 2 3":  {proc{12, 3}, true},
		"12 (sh) Z 1 12 11 0 -1": {proc{12, 11}, false},
	} {
		p, alive, err := parseStat(stat)
		if err != nil || p != want.proc || alive != want.alive {
			t.Errorf("parseStat(%q) = %v, %v, %v", stat, p, alive, err)
		}
	}
	for _, stat := range []string{"", "12 sh S 1 2 3", "12 (sh) S 1", "x (sh) S 1 2 3"} {
		if _, _, err := parseStat(stat); err == nil {
			t.Errorf("parseStat(%q) accepted", stat)
		}
	}
}
