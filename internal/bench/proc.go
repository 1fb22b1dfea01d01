package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// netSpace returns the inode of a process's network namespace.
func netSpace(pid int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st); err != nil {
		return 0, fmt.Errorf("find the network namespace of process %d: %w", pid, err)
	}
	return st.Ino, nil
}

// processesIn returns the processes in a network namespace, zombies left out,
// in order of their numbers.
func processesIn(space uint64) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// One that ends meanwhile, or has ended, has no namespace.
		if ino, err := netSpace(pid); err == nil && ino == space && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// usage is what processes have used up to a moment.
type usage struct {
	at             time.Time
	cpu            time.Duration
	written        int64 // bytes caused to be sent to the disk
	sent, received int64 // packets of the server's link
	rss, pss       int64 // bytes, now
	processes      int
}

// readUsage adds up what the processes of a server have used. They must be
// the same at both ends of an interval that is measured.
func readUsage(pids []int) (usage, error) {
	u := usage{at: time.Now(), processes: len(pids)}
	if len(pids) == 0 {
		return u, errors.New("measure a daemon: it has no process")
	}
	for _, pid := range pids {
		cpu, err := cpuTime(pid)
		if err != nil {
			return u, err
		}
		u.cpu += cpu
		memory, err := fields(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Rss:", "Pss:")
		if err != nil {
			return u, err
		}
		u.rss += memory[0] << 10
		u.pss += memory[1] << 10
		io, err := fields(fmt.Sprintf("/proc/%d/io", pid), "write_bytes:")
		if err != nil {
			return u, err
		}
		u.written += io[0]
	}
	var err error
	u.received, u.sent, err = packets(pids[0])
	return u, err
}

// cpuTime reads the clock of the CPU time that all threads of a process have
// used, those that have ended included. Its number is made as
// clock_getcpuclockid(3) makes it: CPUCLOCK_SCHED of the inverted process
// number (linux/posix-timers_types.h).
func cpuTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// fields reads the first number after each name in a file of "name number"
// lines, as proc(5) has them.
func fields(path string, names ...string) ([]int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("measure a process: %w", err)
	}
	values := make([]int64, len(names))
	for i, name := range names {
		_, after, ok := strings.Cut("\n"+string(text), "\n"+name)
		words := strings.Fields(after)
		if !ok || len(words) == 0 {
			return nil, fmt.Errorf("find %q in %s: it has no such line", name, path)
		}
		if values[i], err = strconv.ParseInt(words[0], 10, 64); err != nil {
			return nil, fmt.Errorf("read %q in %s: %w", name, path, err)
		}
	}
	return values, nil
}

// packets reads the counters of eth0 where a process is (/proc/PID/net/dev:
// after the name, received bytes and packets, then six more, then sent bytes
// and packets).
func packets(pid int) (received, sent int64, err error) {
	path := fmt.Sprintf("/proc/%d/net/dev", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, fmt.Errorf("count packets: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, counters, _ := strings.Cut(lines.Text(), ":")
		words := strings.Fields(counters)
		if strings.TrimSpace(name) != "eth0" || len(words) < 10 {
			continue
		}
		received, err1 := strconv.ParseInt(words[1], 10, 64)
		sent, err2 := strconv.ParseInt(words[9], 10, 64)
		return received, sent, errors.Join(err1, err2)
	}
	return 0, 0, fmt.Errorf("count packets: %s has no eth0", path)
}

// fileSystem names the type of the file system that a folder is on.
func fileSystem(dir string) (string, error) {
	var best, kind string
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find the file system of %s: %w", dir, err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 3 || !fs.ValidPath(strings.TrimPrefix(words[1], "/")) && words[1] != "/" {
			continue
		}
		at := words[1]
		inside := at == "/" || dir == at || strings.HasPrefix(dir, at+"/")
		if inside && len(at) >= len(best) {
			best, kind = at, words[2]
		}
	}
	return kind, nil
}
