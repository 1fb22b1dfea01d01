package simtest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// diary collects what happens: for a failed test's output the faults, all of
// them, and the daemons' log, its end; and when asked for a trace, all of it.
type diary struct {
	began   time.Time
	tracing bool

	mu     sync.Mutex
	faults []string
	log    []string
	trace  strings.Builder
}

const logKept = 600

func newDiary() *diary { return &diary{began: time.Now(), tracing: *simTrace != ""} }

// fault notes what was done to the world.
func (d *diary) fault(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	line := fmt.Sprintf("%9.3f  %s", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
	d.faults = append(d.faults, line)
	d.add("==" + line)
}

// logged notes what a daemon says, and what a reader of its log should know.
func (d *diary) logged(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(fmt.Sprintf("  %9.3f  %s", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...)))
}

// traced notes what happens too often for a log: messages and readings of clocks.
func (d *diary) traced(format string, args ...any) {
	if !d.tracing {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(&d.trace, "%d "+format+"\n", append([]any{time.Since(d.began).Nanoseconds()}, args...)...)
}

func (d *diary) add(line string) {
	if d.tracing {
		d.trace.WriteString(line + "\n")
	}
	d.log = append(d.log, line)
	if len(d.log) > 2*logKept {
		d.log = append([]string(nil), d.log[logKept:]...)
	}
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return "faults:\n" + strings.Join(d.faults, "\n") + "\nlog (its end):\n" + strings.Join(d.log, "\n")
}

// save adds the trace to the file that was asked for.
func (d *diary) save(t *testing.T) {
	if d == nil || !d.tracing {
		return
	}
	f, err := os.OpenFile(*simTrace, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(d.trace.String()); err != nil {
		t.Fatal(err)
	}
}

// parallel lets the worlds of a test live side by side, unless a trace is
// wanted: then they live in their order.
func parallel(t *testing.T) {
	if *simTrace == "" {
		t.Parallel()
	}
}
