package guard

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// churn has garbage collected all the time on one CPU, with real-time priority,
// and prints how often a timer of 2 ms was heard in a second.
func churn() error {
	var cpu unix.CPUSet
	cpu.Set(0)
	for range 2 { // a thread may have been made during the first round
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range threads {
			if id, err := strconv.Atoi(t.Name()); err == nil {
				_ = unix.SchedSetaffinity(id, &cpu) // it may have ended
			}
		}
	}
	runtime.GOMAXPROCS(2) // as on most hosts
	if err := realTime(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var kept atomic.Pointer[[]byte]
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for {
			for range 500 {
				b := make([]byte, 1000)
				kept.Store(&b)
			}
			runtime.GC()
			select {
			case <-again.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for heard := 0; ; heard++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			<-ended
			fmt.Print(heard)
			return nil
		}
	}
}

// Neither does it stand still, as it does with SCHED_FIFO and two threads of Go,
// nor does it lose a time slice at each collection, as with SCHED_RR.
func TestGarbageIsCollectedOnOneCPU(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, os.Args[0], "churn").CombinedOutput()
	if ctx.Err() != nil {
		t.Fatal("a process with real-time priority stands still in its own garbage collection")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	heard, err := strconv.Atoi(string(out))
	if err != nil || heard < 400 { // of 500; 40 to 300 with two threads
		t.Errorf("a timer of 2 ms was heard %q times in a second: %v", out, err)
	}
}
