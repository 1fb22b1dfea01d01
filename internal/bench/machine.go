package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// describe says where and with what a run is made.
func (r *runner) describe(ctx context.Context) (m Machine, err error) {
	m.Cores = runtime.NumCPU()
	if m.CPU, err = cpuModel(); err != nil {
		return m, err
	}
	memory, err := fields("/proc/meminfo", "MemTotal:")
	if err != nil {
		return m, err
	}
	m.MemoryMB = int(memory[0] >> 10)
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return m, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(uts.Release[:])
	if m.FileSystem, err = fileSystem(os.TempDir()); err != nil {
		return m, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, fmt.Errorf("read the load: %w", err)
	}
	m.Load, _, _ = strings.Cut(string(load), " ")
	if m.Had, err = version(ctx, r.cfg.Had, "version"); err != nil || r.cfg.Keepalived == "" {
		return m, err
	}
	m.Keepalived, err = version(ctx, r.cfg.Keepalived, "--version")
	return m, err
}

func cpuModel() (string, error) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("read the processor's name: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value), nil
		}
	}
	return runtime.GOARCH, nil
}

// version returns the first line that a program says about its version, on
// whichever stream.
func version(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w: %s", program, err, out)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, nil
}
