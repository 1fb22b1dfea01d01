package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"had/internal/cgroup"
	"had/internal/hook"
)

// Processes are the syncs' processes on this host. Each sync has a control group
// beside had's own, in which it starts and which is ended when it has; so nothing
// of it outlives its run, whatever it did to its session. A host without version
// 2 of control groups makes do with the mark in the environment of its processes,
// from which only those escape that clear it, and runs one sync at a time.
type Processes struct {
	commands *hook.Commands
	mark     string
	group    *cgroup.Group // whose children are the syncs' groups; nil: this host has none

	alone chan struct{} // capacity 1; who runs without a group has it

	mu   sync.Mutex
	left map[string]*hook.Leftover // what SIGKILL has not ended yet
}

// NewProcesses returns those of a daemon, which its data folder tells from
// others'; why says why there are no control groups for them, and is empty when
// there are.
func NewProcesses(dataDir string) (p *Processes, why string) {
	h := fnv.New32a()
	h.Write([]byte(dataDir))
	p = &Processes{
		commands: hook.NewCommands(), left: map[string]*hook.Leftover{},
		mark: fmt.Sprintf("sync-%08x", h.Sum32()), alone: make(chan struct{}, 1),
	}
	own, err := cgroup.Own()
	if err != nil {
		return p, err.Error()
	}
	group := own.Beside(fmt.Sprintf("had-sync-%08x", h.Sum32()))
	probe := group.Child("probe.")
	if err := errors.Join(probe.Make(), probe.Remove()); err != nil {
		return p, err.Error()
	}
	_ = group.Remove() // the first sync makes it; it stays while an earlier run's is in it
	p.group = &group
	return p, ""
}

// Close ends the reading of output. Nothing must run any more.
func (p *Processes) Close() {
	p.commands.Close()
	if p.group != nil {
		_ = p.group.Remove() // unless somebody is left in it, who is ended by the next run of had
	}
}

// Run implements Commands.
func (p *Processes) Run(ctx context.Context, name string, cmd hook.Command) (hook.Result, error) {
	cmd.Mark = p.mark
	_, _ = p.reap(ctx, name)
	if p.group == nil {
		select {
		case p.alone <- struct{}{}:
			defer func() { <-p.alone }()
		case <-ctx.Done():
			return hook.Result{Script: cmd.Name, Outcome: hook.Canceled, Err: "not started: " + context.Cause(ctx).Error()}, nil
		}
	} else {
		g := p.group.Child(name)
		err := g.Make()
		if err == nil {
			cmd.Group, err = g.Open()
		}
		if err != nil {
			return hook.Result{Script: cmd.Name, Outcome: hook.Refused, Err: "not run: " + err.Error()}, nil
		}
		defer cmd.Group.Close()
	}
	result, err := p.commands.Run(ctx, cmd)
	if result.Left != nil {
		p.mu.Lock()
		p.left[name] = result.Left
		p.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	if ended := p.End(ctx, name); ended == nil {
		err = nil // what could not be ended at first is gone by now
	} else {
		err = errors.Join(err, ended)
	}
	return result, err
}

// End implements Commands.
func (p *Processes) End(ctx context.Context, name string) error {
	if p.group != nil {
		err := p.group.Child(name).End(ctx)
		if err == nil {
			// Who has left the group writes nothing any more, though its parent may not
			// have seen its end yet.
			_, _ = p.reap(ctx, name)
		}
		return err
	}
	if err := hook.KillMarked(ctx, "a sync", p.mark); err != nil {
		return err
	}
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		gone, err := p.reap(ctx, name)
		if gone || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end sync %s: %w", name, hook.ErrStillRunning)
		case <-again.C:
		}
	}
}

// reap looks whether what SIGKILL had not ended at first has ended.
func (p *Processes) reap(ctx context.Context, name string) (gone bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.left[name]
	if left == nil {
		return true, nil
	}
	if gone, err = left.Gone(ctx); gone {
		delete(p.left, name)
	}
	return gone, err
}

// Left implements Commands.
func (p *Processes) Left() (names []string, err error) {
	if p.group == nil {
		return []string{"any"}, nil // whatever has the mark
	}
	groups, err := p.group.Children()
	for _, g := range groups {
		names = append(names, g.Name())
	}
	return names, err
}
