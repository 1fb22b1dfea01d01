package storage

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ownNamespace says that the test binary has its mount namespace.
	ownNamespace = "STORAGE_TEST_NAMESPACE"

	// helperVariable makes the test binary one of the helpers.
	helperVariable = "STORAGE_TEST_HELPER"
)

// TestMain runs the tests in a mount namespace of their own, with all their
// threads: whatever they leave behind goes with it.
func TestMain(m *testing.M) {
	if helper := os.Getenv(helperVariable); helper != "" {
		os.Exit(help(helper, os.Args[1:]))
	}
	if os.Getenv(ownNamespace) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "make the mounts of the test's namespace private:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	signal.Ignore(syscall.SIGINT) // it is for the tests to end
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(max(1, exit.ExitCode()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a mount namespace of their own (they need root):", err)
		os.Exit(1)
	}
}

func init() { //nolint:gochecknoinits // only here it is certain which thread runs this
	if os.Getenv(helperVariable) == "headless" {
		runtime.LockOSThread() // main stays on the first thread
	}
}

// help is what the helpers do. Each says a line when it has begun, and goes on
// until its input ends.
func help(name string, args []string) int {
	var err error
	switch name {
	case "open": // a file
		_, err = os.OpenFile(args[0], os.O_CREATE|os.O_RDWR, 0o600)
	case "chdir":
		err = os.Chdir(args[0])
	case "headless": // a file, by a process whose first thread ends with its input
		if _, err = os.OpenFile(args[0], os.O_CREATE|os.O_RDWR, 0o600); err == nil {
			fmt.Println("ready")
			_, _ = io.Copy(io.Discard, os.Stdin)
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
		}
	case "map": // a file
		err = mapFile(args[0])
	case "nothing": // but to live in its mount namespace
	case "write": // numbers, synced one by one; says each that is safe
		return write(args[0])
	default:
		err = fmt.Errorf("there is no helper %q", name)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func mapFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		return err
	}
	_, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	return err
}

// stamp is one record of the writer.
const stamp = "%08d\n"

func write(path string) int {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	for n := 1; err == nil; n++ {
		if _, err = fmt.Fprintf(f, stamp, n); err == nil {
			err = f.Sync()
		}
		if err == nil {
			fmt.Println(n)
		}
	}
	fmt.Println(err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// helper is a process that uses a volume.
type helper struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

// startHelper starts one, with flags of clone(2), and waits until it has begun.
func startHelper(t testing.TB, flags uintptr, name string, args ...string) *helper {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperVariable+"="+name)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	h := &helper{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(h.kill)
	if line := h.line(); name != "write" && line != "ready" {
		t.Fatalf("helper %s: %s", name, line)
	}
	return h
}

func (h *helper) line() string {
	line, _ := h.out.ReadString('\n')
	return strings.TrimSpace(line)
}

// kill ends the helper, and returns what it has said until then.
func (h *helper) kill() { h.killed() }

func (h *helper) killed() string {
	_ = h.cmd.Process.Kill()
	said, _ := io.ReadAll(h.out)
	_ = h.cmd.Wait()
	return string(said)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tool runs a program that the tests need.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s(these tests need e2fsprogs, xfsprogs, util-linux and root)", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// loopDevice makes a loop device of a file. It goes when the test is over and
// nothing has it mounted; or with the process, however that ends.
func loopDevice(t testing.TB, image string) string {
	t.Helper()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("make a loop device (these tests need root): %v", err)
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		must(t, err)
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		must(t, err)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}})
		if errors.Is(err, unix.EBUSY) { // somebody was faster
			loop.Close()
			continue
		}
		must(t, err)
		t.Cleanup(func() { loop.Close() })
		return loop.Name()
	}
}

const imageSize = 400 << 20 // xfs takes no less than 300 MB; only what is written takes space

// newImage makes a file with a file system.
func newImage(t testing.TB, fstype string, options ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, imageSize))
	if fstype != "" {
		tool(t, "mkfs."+fstype, append(append([]string{"-q"}, options...), image)...)
	}
	return image
}

// newVolume makes a volume on a loop device, which is unmounted at the end.
func newVolume(t testing.TB, fstype string, options ...string) Volume {
	t.Helper()
	return volumeOn(t, newImage(t, fstype, options...))
}

func volumeOn(t testing.TB, image string) Volume {
	t.Helper()
	dir := t.TempDir()
	v := Volume{Name: "web", Device: loopDevice(t, image), Path: filepath.Join(dir, "srv/web")}
	t.Cleanup(func() { detach(t, dir) })
	return v
}

// detach unmounts all below a folder, so that it can be removed.
func detach(t testing.TB, dir string) {
	ms, err := ownMounts()
	if err != nil {
		t.Error(err)
	}
	for _, m := range slices.Backward(ms) {
		if within(m.Mountpoint, dir) {
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH)
		}
	}
}

// eventually waits for what the kernel does by itself in a moment.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// fileSystems are those that every test of mounting is about.
func fileSystems() []string { return []string{"ext4", "xfs"} }

// clean fails unless the file system on a device is without errors.
func clean(t testing.TB, fstype, device string) {
	t.Helper()
	if fstype == "xfs" {
		tool(t, "xfs_repair", "-n", device)
	} else {
		tool(t, "fsck."+fstype, "-f", "-n", device)
	}
}

// digest is the same for an image as long as nobody writes to it.
func digest(t testing.TB, image string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(image)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	for at := int64(0); ; { // the holes take most of it
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err != nil {
			return [sha256.Size]byte(h.Sum(nil))
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		must(t, err)
		fmt.Fprintln(h, data, hole)
		_, err = io.Copy(h, io.NewSectionReader(f, data, hole-data))
		must(t, err)
		at = hole
	}
}
