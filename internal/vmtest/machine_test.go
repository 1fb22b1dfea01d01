package vmtest

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	kernelDir = "../../build/vm/kernel" // made by `make test-vm`
	patience  = 10 * time.Minute        // for a machine to do something; a boot takes 10 s

	insideEnded = "vmtest: the inside has ended"
)

// machine is a virtual machine that has been started. What it does arrives in
// the order in which it happens.
type machine struct {
	t      *testing.T
	lines  chan string // of its console; closed when it is gone
	events chan event  // of qemu's; closed when it is gone
	log    []string
	late   *time.Timer
}

// event is one of qemu's (QEMU Machine Protocol).
type event struct {
	Event string
	Data  struct {
		Action string // of WATCHDOG
		Reason string // of SHUTDOWN
	}
}

// boot starts a machine whose init is this binary, with the calling test's
// inside. It doesn't reboot: a reset ends it.
func boot(t *testing.T, s sides) *machine {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal("there is no qemu-system-x86_64: apt-get install --no-install-recommends qemu-system-x86")
	}
	kernels, err := filepath.Glob(filepath.Join(kernelDir, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		t.Fatalf("there is no kernel in %s: run make test-vm, which fetches Debian's", kernelDir)
	}
	dir := t.TempDir()
	initrd := image(t, dir, s)
	control, err := net.Listen("unix", filepath.Join(dir, "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	cmd := exec.Command(qemu, slices.Concat([]string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "pc,accel=tcg", "-cpu", "max", "-m", "256",
		"-serial", "stdio", "-qmp", "unix:" + control.Addr().String(),
		"-kernel", kernels[0], "-initrd", initrd,
		// A panic stops the machine for good, so that it can't be taken for a reset.
		"-append", "console=ttyS0 loglevel=4 panic=0 mitigations=off nokaslr no_timer_check " + insideVariable + "=1 rdinit=/init -- -test.v -test.timeout=8m -test.run=^" + t.Name() + "$",
	}, s.devices)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, lines: make(chan string, 10000), events: make(chan event, 100), late: time.NewTimer(patience)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		defer close(m.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			m.lines <- strings.TrimSpace(s.Text())
		}
		ended <- cmd.Wait()
	}()
	go m.listen(control)
	t.Cleanup(func() {
		m.late.Stop()
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		control.Close()
		for line := range m.lines {
			m.log = append(m.log, line)
		}
		for range m.events {
		}
		t.Logf("its console:\n%s", strings.Join(m.log, "\n"))
	})
	return m
}

// image writes the initramfs and returns its path.
func image(t *testing.T, dir string, s sides) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if program.Section(".interp") != nil {
		t.Fatal("this test must be a static program: build it with CGO_ENABLED=0, as make test-vm does")
	}
	files := map[string]string{"/init": self}
	if err := collect(kernelDir, s.modules, files); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.programs {
		if err := collectProgram(p, files); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "initrd")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := writeImage(f, files); err != nil {
		t.Fatal(err)
	}
	return path
}

// listen takes qemu's events.
func (m *machine) listen(control net.Listener) {
	defer close(m.events)
	c, err := control.Accept()
	if err != nil {
		return // it never came
	}
	defer c.Close()
	if _, err := c.Write([]byte(`{"execute":"qmp_capabilities"}`)); err != nil {
		return
	}
	for in := json.NewDecoder(c); ; {
		var e event
		if in.Decode(&e) != nil {
			return
		}
		if e.Event != "" {
			m.events <- e
		}
	}
}

// says waits until the console has a line with the text.
func (m *machine) says(text string) {
	m.t.Helper()
	for {
		select {
		case line, ok := <-m.lines:
			if !ok {
				m.t.Fatalf("the machine is gone and never said %q", text)
			}
			m.log = append(m.log, line)
			if strings.Contains(line, text) {
				return
			}
			if strings.HasPrefix(line, "--- FAIL") || strings.HasPrefix(line, "FAIL") || line == insideEnded {
				m.t.Fatalf("the inside ended without %q", text)
			}
		case <-m.late.C:
			m.t.Fatalf("the machine didn't say %q in time", text)
		}
	}
}

// passes waits until the inside has passed.
func (m *machine) passes() {
	m.t.Helper()
	m.says("--- PASS: " + m.t.Name())
}

// ends waits until the machine is gone and returns its events. What the inside
// says meanwhile is a failure if it has the text.
func (m *machine) ends(unless string) []event {
	m.t.Helper()
	for line := range m.lines {
		m.log = append(m.log, line)
		if strings.Contains(line, unless) {
			m.t.Fatalf("the machine lives on: %s", line)
		}
	}
	var all []event
	for e := range m.events {
		all = append(all, e)
	}
	return all
}

// wasReset fails unless the last event is a reset from inside.
func wasReset(t *testing.T, events []event) {
	t.Helper()
	for _, e := range events {
		if e.Event == "SHUTDOWN" && e.Data.Reason == "guest-reset" {
			return
		}
	}
	t.Errorf("the machine wasn't reset: %+v", events)
}
