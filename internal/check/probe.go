package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unicode"

	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/policy"
)

// Carrier says whether an interface of this host has its carrier.
type Carrier func(iface string) (bool, error)

// Works says whether a mounted volume takes writes.
type Works func(ctx context.Context, v policy.Volume) error

// Host returns the probe of this host.
func Host(carrier Carrier, works Works) Probe {
	// Each look is a connection of its own, as a new client's would be, and goes
	// straight to where the policy says.
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context, c policy.Check) (string, error) {
		switch c.Kind {
		case policy.CheckHTTP:
			return get(ctx, client, c.URL)
		case policy.CheckTCP:
			return connect(ctx, c.Address)
		case policy.CheckExec:
			return run(ctx, c.Command)
		case policy.CheckLink:
			return link(carrier, c.Interface)
		case policy.CheckVolume:
			if err := works(ctx, *c.Volume); err != nil {
				return "", err
			}
			return "takes writes", nil
		}
		return "", fmt.Errorf("this version of had can't check %q", c.Kind)
	}
}

func get(ctx context.Context, client *http.Client, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", "had-check")
	resp, err := client.Do(req)
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // the address is in the policy
	}
	if err != nil {
		return "", err
	}
	if err := resp.Body.Close(); err != nil {
		return "", fmt.Errorf("end the answer: %w", err)
	}
	text := fmt.Sprintf("HTTP %d", resp.StatusCode)
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return "", errors.New(text)
	}
	return text, nil
}

func connect(ctx context.Context, address string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	_ = conn.Close() // it was accepted: that is all there is to know
	return "accepted", nil
}

func link(carrier Carrier, iface string) (string, error) {
	up, err := carrier(iface)
	switch {
	case err != nil:
		return "", err
	case !up:
		return "", fmt.Errorf("interface %s has no link", iface)
	}
	return "link up", nil
}

// searchPath is Debian's PATH for root: a check must not depend on how the
// daemon was started.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// run runs a command, whose whole process group is killed when ctx ends.
func run(ctx context.Context, argv []string) (string, error) {
	if err := hook.CheckTrusted(argv[0]); err != nil {
		return "", err
	}
	var said firstLine
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8"} // none of the daemon's own is passed on
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = stuckWait / 2 // for what it left behind to close its output
	// The parent-death signal is sent when the thread ends that forked
	// (PR_SET_PDEATHSIG(2const)), and it is meant for the daemon's death.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := clock.Unrelaxed(cmd.Start); err != nil {
		return "", fmt.Errorf("start %s: %w", argv[0], err)
	}
	err := cmd.Wait()
	text := cmd.ProcessState.String()
	if said.text() != "" {
		text += ": " + said.text()
	}
	switch {
	case cmd.ProcessState.Success() && ctx.Err() == nil:
		return text, nil // what it left behind kept the output open, at most
	case err == nil:
		err = ctx.Err()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return "", errors.New(strings.Replace(text, "exit status", "exit code", 1))
	}
	return "", errors.New(text)
}

// mostSaid is how much of a command's output is kept, in bytes.
const mostSaid = 200

// firstLine keeps the first line of what is written to it.
type firstLine struct {
	mu   sync.Mutex
	line []byte
	full bool
}

// Write never fails.
func (f *firstLine) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return len(p), nil
	}
	line, _, ended := strings.Cut(string(p), "\n")
	f.line = append(f.line, line...)
	f.full = ended && len(f.line) > 0 || len(f.line) > mostSaid
	return len(p), nil
}

func (f *firstLine) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := strings.ToValidUTF8(string(f.line[:min(len(f.line), mostSaid)]), "?")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text))
}
