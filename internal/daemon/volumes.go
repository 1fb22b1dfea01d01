package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"had/internal/evidence"
	"had/internal/failover"
	"had/internal/fence"
	"had/internal/guard"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

// switchOff implements evidence.Off: it switches a node off by what a policy has
// for it.
func switchOff(ctx context.Context, f policy.Fence, m policy.Method, node string) (what string, err error) {
	levels, err := fenceLevels(f, m, node)
	if err != nil {
		return "", err
	}
	if err := fence.Off(ctx, levels...); err != nil {
		return "", err
	}
	return nameDevices(levels), nil
}

// answers asks a node's port, which its host's kernel answers for.
func answers(members func() []*hadv1.Member) evidence.Answers {
	return func(ctx context.Context, node string) bool {
		all := members()
		i := slices.IndexFunc(all, func(m *hadv1.Member) bool { return m.GetName() == node })
		if i < 0 {
			return true
		}
		var dialer net.Dialer
		c, err := dialer.DialContext(ctx, "tcp", all[i].GetAddress())
		if err != nil {
			return errors.Is(err, syscall.ECONNREFUSED)
		}
		_ = c.Close()
		return true
	}
}

// fenceLevels are the devices that a policy has for a node and a method.
func fenceLevels(f policy.Fence, m policy.Method, node string) (levels []fence.Level, err error) {
	switch m {
	case policy.MethodAgent:
		for _, agents := range f.Agents[node] {
			var l fence.Level
			for _, a := range agents {
				l = append(l, fence.Agent{Program: a.Program, Options: a.Options, Secrets: a.Secrets, Timeout: a.Timeout})
			}
			levels = append(levels, l)
		}
	case policy.MethodCommand:
		for _, commands := range f.Commands[node] {
			var l fence.Level
			for _, c := range commands {
				l = append(l, fence.Command{Command: c.Command, Verify: c.Verify, Timeout: c.Timeout})
			}
			levels = append(levels, l)
		}
	case policy.MethodConfirm, policy.MethodLease, policy.MethodWatchdog, policy.MethodReservation:
	}
	if len(levels) == 0 {
		return nil, fmt.Errorf("the policy has no %s for %s: add %s %q { … } to its fence", m, node, m, node)
	}
	return levels, nil
}

func nameDevices(levels []fence.Level) string {
	var names []string
	for _, l := range levels {
		for _, d := range l {
			names = append(names, d.String())
		}
	}
	return strings.Join(names, ", ")
}

// leftovers are the volumes of an earlier run of which it isn't proven that this
// host can't write to them. Until it is, this node votes and doesn't own.
type leftovers struct {
	recover func(ctx context.Context) (failover.Recovered, error)
	cleared chan struct{} // closed when nothing is left

	mu  sync.Mutex
	why string // empty: nothing is left
}

// leftoversEvery is the time between two attempts, which take their own.
const leftoversEvery = 5 * time.Second

func newLeftovers(first failover.Recovered, again func(ctx context.Context) (failover.Recovered, error)) *leftovers {
	return &leftovers{recover: again, why: first.Unproven, cleared: make(chan struct{})}
}

// run tries again until nothing is left.
func (l *leftovers) run(ctx context.Context) error {
	tick := time.NewTicker(leftoversEvery)
	defer tick.Stop()
	for l.trouble() != "" {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r, err := l.recover(ctx)
		if err != nil {
			r.Unproven = err.Error()
		}
		l.mu.Lock()
		l.why = r.Unproven
		l.mu.Unlock()
	}
	close(l.cleared)
	return nil
}

// trouble is why this node must not own; empty: it may.
func (l *leftovers) trouble() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// leftVolumes implements failover.RecoverVolumes.
type leftVolumes struct {
	inspector *inspector
	secure    func(ctx context.Context, volumes []storage.Volume) error
}

// Secure implements failover.RecoverVolumes. What scripts have left running ends
// with it, whatever its epoch.
func (l leftVolumes) Secure(ctx context.Context, _ uint64, volumes []storage.Volume) error {
	return l.secure(ctx, volumes)
}

// Unused implements failover.RecoverVolumes.
func (l leftVolumes) Unused(ctx context.Context, volumes []storage.Volume) error {
	return answer(l.inspector.ask(ctx, inspection{Op: inspectUnused, Volumes: volumes}))
}

// answer is an inspector's as one error.
func answer(wrong []string, err error) error {
	if err == nil && len(wrong) > 0 {
		err = errors.New(strings.Join(wrong, "; "))
	}
	return err
}

// services are what scripts of epochs with volumes leave running. Their control
// groups are the guard's; dataDir tells which guard's.
type services struct{ dataDir string }

// servicesGrace is how long a service that PreRel has left running has to end.
const servicesGrace = 5 * time.Second

// group is hook.Config's: a script runs in the group of its epoch while there is
// one.
func (s services) group(run hook.Run) (*os.File, error) {
	if run.Env.Epoch == 0 || len(run.Env.Volumes) == 0 {
		return nil, nil
	}
	f, err := guard.OpenServices(s.dataDir, run.Env.Epoch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// End implements failover.Services.
func (s services) End(ctx context.Context, epoch uint64) (ended []string, err error) {
	return guard.StopServices(ctx, s.dataDir, epoch, servicesGrace)
}
