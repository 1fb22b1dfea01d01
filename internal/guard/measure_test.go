package guard

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"had/internal/clock"
)

// These are the figures of DESIGN.md. The observer has real-time priority too,
// so that a busy host delays the guard and not the look at it:
//
//	go test -run '^$' -bench . -benchtime 50x ./internal/guard
func observe(b *testing.B) {
	b.Helper()
	if err := realTime(); err != nil {
		b.Fatal(err)
	}
}

// removals delivers when the last of n addresses was removed.
func removals(b *testing.B, n int) <-chan clock.Instant {
	b.Helper()
	updates := make(chan netlink.AddrUpdate, 4*n)
	done := make(chan struct{})
	b.Cleanup(func() { close(done) })
	err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{
		ReceiveBufferSize: 64 << 20, ReceiveBufferForceSize: true, // a message lost is a removal missed
	})
	if err != nil {
		b.Fatal(err)
	}
	last := make(chan clock.Instant, 1)
	go func() {
		left := n
		for u := range updates {
			if u.NewAddr {
				continue
			}
			if left--; left == 0 {
				last <- clock.Now()
				left = n
			}
		}
	}()
	return last
}

// spread reports the middle, the 99th percentile and the worst of durations.
func spread(b *testing.B, what string, d []time.Duration) {
	slices.Sort(d)
	for name, i := range map[string]int{"p50": len(d) / 2, "p99": len(d) * 99 / 100, "max": len(d) - 1} {
		b.ReportMetric(float64(d[i].Microseconds()), what+"-"+name+"-us")
	}
}

// From the instant at which the guard is due (half the margin before the
// lease's end) to the last address gone, with a stopped daemon.
func BenchmarkDeadline(b *testing.B) {
	observe(b)
	o := newOffice(b, nil)
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("addresses=%d", 2*n), func(b *testing.B) {
			cfg := o.visit(b).config()
			d := startDaemon(b, cfg)
			addrs := virtual(n)
			last := removals(b, len(addrs))
			var late []time.Duration
			for epoch := range uint64(b.N) {
				r := d.ask(order{Do: "hold", Epoch: epoch + 1, For: time.Duration(n+150) * time.Millisecond, Addresses: addrs})
				d.signal(syscall.SIGSTOP)
				late = append(late, (<-last).Sub(r.Until.Add(-cfg.Margin/2)))
				d.signal(syscall.SIGCONT)
				d.ask(order{Do: "drop", Epoch: epoch + 1})
			}
			spread(b, "late", late)
		})
	}
}

// From SIGKILL of the daemon to the last address gone and to the first peer
// that has heard.
func BenchmarkDeath(b *testing.B) {
	observe(b)
	ca := newAuthority(b)
	plain, encrypted := newOffice(b, nil), newOffice(b, ca.files)
	encrypted.tls = ca.paths("alpha")
	for _, c := range []struct {
		name   string
		office *office
		n      int
	}{{"addresses=2", plain, 1}, {"addresses=2,TLS", encrypted, 1}, {"addresses=2000", plain, 1000}} {
		b.Run(c.name, func(b *testing.B) {
			addrs := virtual(c.n)
			last := removals(b, len(addrs))
			var down, told []time.Duration
			for range b.N {
				o := c.office.visit(b)
				d := startDaemon(b, o.config())
				d.ask(order{Do: "hold", Epoch: 1, For: 10 * time.Second, Addresses: addrs})
				killed := clock.Now()
				d.signal(syscall.SIGKILL)
				down = append(down, (<-last).Sub(killed))
				told = append(told, (<-o.heard).at.Sub(killed))
			}
			spread(b, "gone", down)
			spread(b, "told", told)
		})
	}
}

// From had's request for the forced end of a volume, which a service writes to and
// syncs, to the proof. At a lease's end the guard does the same.
func BenchmarkSecure(b *testing.B) {
	observe(b)
	o := newOffice(b, nil)
	for _, fstype := range []string{"ext4", "xfs"} {
		b.Run(fstype, func(b *testing.B) {
			o := o.visit(b)
			disk := newDisk(b, b.TempDir(), "data", fstype)
			d := startDaemon(b, o.config())
			var took []time.Duration
			for epoch := range uint64(b.N) {
				d.holdDisks(epoch+1, 20*time.Second, disk)
				if err := os.RemoveAll(filepath.Join(disk.Path, "writes")); err != nil {
					b.Fatal(err)
				}
				o.writer(epoch+1, disk.Path)
				begun := clock.Now()
				d.ask(order{Do: "secure", Epoch: epoch + 1})
				took = append(took, clock.Now().Sub(begun))
				d.ask(order{Do: "drop", Epoch: epoch + 1})
			}
			spread(b, "proven", took)
		})
	}
}

// What a guard of the program had costs in memory, when it has guarded for a
// while, and in CPU when nothing happens. PSS counts a page that several processes map as a part of each, and
// the daemon maps the same program.
func BenchmarkCost(b *testing.B) {
	dir := b.TempDir()
	exe := filepath.Join(dir, "had")
	if out, err := exec.CommandContext(b.Context(), "make", "-C", "../..", "build", "BIN="+dir).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	cfg := newOffice(b, nil).config()
	cfg.Exe = exe
	d := startDaemon(b, cfg)
	for epoch := range uint64(b.N) {
		d.ask(order{Do: "hold", Epoch: epoch + 1, For: 10 * time.Second, Addresses: virtual(10)})
		d.ask(order{Do: "drop", Epoch: epoch + 1})
	}
	before := cpu(b, d.guard)
	<-time.After(idle)
	b.ReportMetric(float64((cpu(b, d.guard)-before).Microseconds())/1000*float64(time.Minute/idle), "cpu-ms/min")
	var text string
	for _, name := range []string{"status", "smaps_rollup"} {
		t, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", d.guard, name))
		if err != nil {
			b.Fatal(err)
		}
		text += string(t)
	}
	for _, name := range []string{"VmRSS", "RssAnon", "RssFile", "VmLck", "Pss", "Locked", "Threads"} {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindStringSubmatch(text)
		v, err := strconv.Atoi(m[1])
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(v), name)
	}
}

const idle = 5 * time.Second

// cpu sums what the threads of a process have run (sched-stats.rst of the
// kernel: the first number is ns).
func cpu(b *testing.B, pid int) (sum time.Duration) {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		b.Fatalf("threads of %d: %v, %v", pid, files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		var ns int64
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}
