package gate

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"had/internal/thread"
)

// Probe reports whether this host can run a gate: it runs one, for an instant,
// in a network namespace that it makes for that and that nothing else sees. The
// error is ErrUnavailable and says what is missing.
func Probe() error {
	result := make(chan error, 1)
	thread.Go(func() { result <- probe() }) // the namespace ends with the thread
	return <-result
}

func probe() error {
	namespace, err := netns.New()
	if err != nil {
		return unavailable("it needs CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root", err)
	}
	defer func() { _ = namespace.Close() }() // a descriptor
	g, err := Open(Config{Name: "probe", Logger: hclog.NewNullLogger()})
	if err != nil {
		return err
	}
	g.Close()
	return nil
}

// unavailable is an error for a person: what to do, then what was seen.
func unavailable(sentence string, err error) error {
	return fmt.Errorf("%w: %s (%w)", ErrUnavailable, sentence, err)
}

// explain says what an error of making or attaching a gate tells of the host.
func explain(err error) error {
	var refused *ebpf.VerifierError
	switch {
	case errors.Is(err, ErrUnavailable):
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return unavailable("it needs CAP_BPF and CAP_NET_ADMIN, and a kernel that isn't locked down: run as root, outside of a container that forbids bpf(2)", err)
	case errors.As(err, &refused), errors.Is(err, ebpf.ErrNotSupported):
		return unavailable(fmt.Sprintf("the kernel, %s, is too old: the gate needs Linux 5.8 (bpf_ktime_get_boot_ns)", release()), err)
	case errors.Is(err, unix.ENOSYS):
		return unavailable("the kernel was built without bpf(2) (CONFIG_BPF_SYSCALL)", err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return unavailable("the kernel was built without clsact or BPF filters (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF), or their modules aren't installed", err)
	default:
		return unavailable("it could not be put in place", err)
	}
}

// release is the kernel's version, as uname -r prints it.
func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown release"
	}
	return unix.ByteSliceToString(u.Release[:])
}
