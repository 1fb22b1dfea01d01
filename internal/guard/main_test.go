package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// The test binary is several programs. By itself it starts itself again in
// namespaces of its own, where the tests run; a test starts it as a
// daemon, and that starts it as its guard, as had does.
const (
	namespaceVariable = "GUARD_TEST_NAMESPACE"
	daemonVariable    = "GUARD_TEST_DAEMON" // its daemonConfig in JSON
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "guard":
		os.Exit(code(Main(os.Stderr)))
	case len(os.Args) == 2 && os.Args[1] == "mounter":
		os.Exit(code(MounterMain()))
	case len(os.Args) == 2 && os.Args[1] == "churn":
		os.Exit(code(churn()))
	case os.Getenv(daemonVariable) != "":
		os.Exit(code(daemon(os.Getenv(daemonVariable))))
	case os.Getenv(namespaceVariable) == "":
		os.Exit(again())
	}
	if err := wire(); err != nil {
		os.Exit(code(err))
	}
	// What is mounted here is seen by nobody else, and goes with the last process.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		os.Exit(code(err))
	}
	os.Exit(m.Run())
}

func code(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// again runs this program in new network and mount namespaces.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), namespaceVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return code(fmt.Errorf("make namespaces (these tests need root): %w", err))
	}
	return cmd.ProcessState.ExitCode()
}

// wire gives the namespace a loopback and a cable, eth0.
func wire() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "eth1"
	if err := netlink.LinkAdd(veth); errors.Is(err, fs.ErrExist) {
		return nil // a fuzzer's worker, in the namespace of who started it
	} else if err != nil {
		return err
	}
	for _, name := range []string{"lo", "eth0", "eth1"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	return nil
}

// pipeline is how a test and its daemon talk: one JSON value a line.
type pipeline struct {
	*json.Encoder
	*json.Decoder
}

func newPipeline(r io.Reader, w io.Writer) pipeline {
	return pipeline{json.NewEncoder(w), json.NewDecoder(r)}
}
