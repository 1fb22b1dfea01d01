package hook

import (
	"context"
	"fmt"
	"time"
)

// Leftover is what SIGKILL has not ended of a run yet, the script or what it
// started: it is stuck in the kernel, or the host is short of time. Until Gone
// it may still act. Its methods are for one goroutine at a time.
type Leftover struct {
	runner  *Runner
	process *process
	reaped  bool // the script itself has ended
	running Running
	result  Result
	over    bool
}

// Gone reports whether nothing of the run is left. The first time, the run is
// recorded as finished. It sends no further signal and waits for nobody.
func (l *Leftover) Gone(ctx context.Context) (bool, error) {
	if l.over {
		return true, nil
	}
	// A session's number is taken for as long as one of its processes lives, and
	// the script's own until it is reaped: setsid(2), pid_namespaces(7).
	left, err := l.process.session()
	if err != nil {
		return false, fmt.Errorf("look for what is left of %s: %w", l.running.Script, err)
	}
	if len(left) > 0 {
		return false, nil
	}
	if !l.reaped {
		if exited, err := l.process.wait(ctx, 0); !exited {
			return false, err
		}
		if status, err := l.process.reap(); err == nil && status.Signaled() {
			l.result.Signal = signalName(status.Signal())
		}
	}
	l.over = true
	l.result.Duration = time.Since(l.result.Started)
	err = l.runner.record(ctx, func(ctx context.Context) error { return l.runner.config.Recorder.Finished(ctx, l.running, l.result) })
	if err != nil {
		return true, fmt.Errorf("record the end of %s: %w", l.running.Script, err)
	}
	return true, nil
}
