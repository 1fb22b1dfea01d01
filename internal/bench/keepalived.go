package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"had/internal/lab"
)

// keepalived is Debian's, configured as had behaves: any server may own, and
// one that comes back doesn't take the addresses back (nopreempt).
type keepalived struct {
	lab      *lab.Lab
	binary   string
	interval time.Duration
}

func (k *keepalived) file(h *lab.Host) string { return filepath.Join(h.Dir(), "keepalived.conf") }

func (k *keepalived) configure(vips []netip.Addr) error {
	for i, h := range k.lab.Servers() {
		if err := os.WriteFile(k.file(h), []byte(keepalivedConfig(h.Name, 150-10*i, k.interval, vips)), 0o600); err != nil {
			return fmt.Errorf("write the configuration of keepalived on %s: %w", h.Name, err)
		}
		if err := install(h, k.binary); err != nil {
			return err
		}
	}
	return nil
}

// keepalivedConfig is a keepalived.conf(5). Intervals below a second need
// VRRP version 3 (RFC 5798 section 5.2.7). One instance carries both families:
// its advertisement names an IPv4 address, and all others are excluded from
// it, which keeps them together and costs the least.
func keepalivedConfig(host string, priority int, interval time.Duration, vips []netip.Addr) string {
	var b strings.Builder
	advertised := lab.DefaultVIPs()[0]
	fmt.Fprintf(&b, `global_defs {
    router_id %s
    vrrp_version 3
}
vrrp_instance bench {
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 77
    priority %d
    advert_int %g
    virtual_ipaddress {
        %s/32
    }
`, host, priority, interval.Seconds(), advertised)
	rest := slices.DeleteFunc(slices.Clone(vips), func(vip netip.Addr) bool { return vip == advertised })
	if len(rest) > 0 {
		b.WriteString("    virtual_ipaddress_excluded {\n")
		for _, vip := range rest {
			fmt.Fprintf(&b, "        %s/%d\n", vip, vip.BitLen())
		}
		b.WriteString("    }\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// command runs keepalived in the foreground and without a log: a thousand
// addresses with a line each would be measured too.
func (k *keepalived) command(h *lab.Host) []string {
	return []string{
		installed(h, k.binary), "--use-file", k.file(h), "--vrrp", "--dont-fork", "--no-syslog",
		"--pid", filepath.Join(h.Dir(), "keepalived.pid"), "--vrrp_pid", filepath.Join(h.Dir(), "vrrp.pid"),
	}
}

func (k *keepalived) begin(ctx context.Context) error {
	h := k.lab.Servers()[0]
	if _, err := h.Exec(ctx, k.binary, "--use-file", k.file(h), "--config-test"); err != nil {
		return fmt.Errorf("check the configuration of keepalived: %w", err)
	}
	return nil
}

// well can't ask keepalived anything. A backup is ready once its master's
// advertisements have come for as long as it would wait for one.
func (k *keepalived) well(context.Context) error {
	for _, h := range k.lab.Servers() {
		pid, since, err := readPidFile(filepath.Join(h.Dir(), "vrrp.pid"))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, 0); err != nil {
			return fmt.Errorf("find the VRRP process %d of %s: %w", pid, h.Name, err)
		}
		if up := time.Since(since); up < 5*k.interval {
			return fmt.Errorf("keepalived on %s runs only since %s", h.Name, up)
		}
	}
	return nil
}

// move stops the owner: keepalived has no command for it. Its farewell
// (priority 0, RFC 5798 section 6.4.3) makes this its fastest way.
func (k *keepalived) move(_ context.Context, owner *lab.Host) error {
	pid, _, err := readPidFile(filepath.Join(owner.Dir(), "keepalived.pid"))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop keepalived on %s: %w", owner.Name, err)
	}
	return nil
}

// readPidFile returns the process number in a file and when it was written.
func readPidFile(path string) (pid int, written time.Time, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, written, fmt.Errorf("find keepalived: %w", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0, written, fmt.Errorf("find keepalived: %w", err)
	}
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return 0, written, fmt.Errorf("read the process number in %s: %w", path, err)
	}
	return pid, st.ModTime(), nil
}

// daemon is the VRRP process, which does the work. Its parent starts it again;
// of the parent's own death it learns, and says farewell as after SIGTERM.
func (k *keepalived) daemon(first int, all []int) []int {
	return slices.DeleteFunc(slices.Clone(all), func(pid int) bool { return pid == first })
}
