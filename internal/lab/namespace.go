package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"had/internal/thread"
)

// namespace is an anonymous network namespace (network_namespaces(7)): it has
// no name in the file system and exists only while this process holds its
// descriptor, a thread in it or a socket of it. The kernel therefore removes
// it, with everything in it, however this process ends.
type namespace struct {
	fd netns.NsHandle
	// ino identifies the namespace among those of all processes:
	// the inode of /proc/<pid>/ns/net.
	ino uint64
}

// newNamespace creates an empty namespace: a loopback link that is down.
func newNamespace() (*namespace, error) {
	ns := &namespace{fd: netns.None()}
	err := onThread(func() error {
		fd, err := netns.New()
		if err != nil {
			return fmt.Errorf("create a network namespace (needs CAP_SYS_ADMIN; run as root): %w", err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(fd), &st); err != nil {
			return errors.Join(fmt.Errorf("identify the new network namespace: %w", err), fd.Close())
		}
		ns.fd, ns.ino = fd, st.Ino
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// do runs f on a thread that is in the namespace. A socket that f opens stays
// in the namespace for good; goroutines that f starts are not in it.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.fd); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

func (n *namespace) close() error {
	if !n.fd.IsOpen() {
		return nil
	}
	if err := n.fd.Close(); err != nil {
		return fmt.Errorf("close the network namespace: %w", err)
	}
	return nil
}

// onThread runs f locked to a thread, which f may move to another network
// namespace, and moves the thread back. A thread that can't be moved back is
// never used again.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("find this thread's network namespace: %w", err)
			return
		}
		err = f()
		back := netns.Set(home)
		if back == nil {
			runtime.UnlockOSThread()
		}
		result <- errors.Join(err, back, home.Close())
	}()
	return <-result
}

// sysctl writes value to /proc/sys/<name>. What is below net/ belongs to the
// network namespace of the thread that opens the file (proc_sys_net(5)), so
// call it from do.
func sysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

// keeper is the one thread that forks a host's processes. They inherit its
// network, mount, UTS and IPC namespaces. PR_SET_PDEATHSIG follows the thread that
// forked, not the process (prctl(2)); hence the thread lives as long as the
// host does.
type keeper struct {
	thread int // its number, as in /proc/self/task
	jobs   chan func()
	quit   chan struct{}
	gone   chan struct{}
}

// newKeeper starts the thread in ns, with a mount table of its own, whose
// changes reach no other host, and with hostname as its host name.
func newKeeper(ns *namespace, hostname string) (*keeper, error) {
	k := &keeper{jobs: make(chan func()), quit: make(chan struct{}), gone: make(chan struct{})}
	ready := make(chan error, 1)
	thread.Go(func() {
		// Never unlocked: the thread ends with this function, because its
		// mount namespace can't be left again.
		defer close(k.gone)
		k.thread = unix.Gettid()
		err := settle(ns, hostname)
		ready <- err
		if err != nil {
			return
		}
		for {
			select {
			case job := <-k.jobs:
				job()
			case <-k.quit:
				return
			}
		}
	})
	if err := <-ready; err != nil {
		<-k.gone
		return nil, err
	}
	return k, nil
}

// settle moves the calling thread into a host's namespaces.
func settle(ns *namespace, hostname string) error {
	if err := netns.Set(ns.fd); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	// Of IPC, too: what databases share there is no other host's, and goes with
	// the host however they end.
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC); err != nil {
		return fmt.Errorf("create mount, UTS and IPC namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mount table private: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return nil
}

// do runs f on the thread and returns its error.
func (k *keeper) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case k.jobs <- func() { result <- f() }:
		return <-result
	case <-k.gone:
		return ErrClosed
	}
}

// close ends the thread; processes it forked get their SIGKILL from the kernel.
func (k *keeper) close() {
	close(k.quit)
	<-k.gone
}
