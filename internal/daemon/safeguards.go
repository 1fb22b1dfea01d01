package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/failover"
	"had/internal/gate"
	"had/internal/guard"
	"had/internal/hook"
	"had/internal/peer"
	"had/internal/policy"
)

// safeguards are what ends a lease when had can't: the packet gate in the
// kernel, and the guard beside had. A witness, which never owns, has neither.
type safeguards struct {
	gate   *gate.Gate // nil: this host has none
	noGate error      // why
	old    *oldGates  // nil: without a gate there are none
	guard  *guard.Supervisor
}

// arm opens the gate and prepares the guard of a node that is born.
func arm(cfg Config, l *localState, timing cluster.Timing) *safeguards {
	if cfg.File.Self().Witness {
		return nil
	}
	s := &safeguards{}
	s.gate, s.noGate = gate.Open(l.gateConfig())
	g := guardConfig(cfg, l, timing)
	if s.gate != nil {
		g.Gate = l.gateConfig().Name
		s.old = newOldGates(l, s.gate)
	}
	s.guard = guard.NewSupervisor(g)
	if s.noGate != nil {
		cfg.Logger.Warn("there is no packet gate: should this host stop as an owner, the others wait until its addresses have expired", "error", s.noGate)
	}
	return s
}

func guardConfig(cfg Config, l *localState, timing cluster.Timing) guard.Config {
	f := cfg.File
	c := guard.Config{
		Cluster: f.Cluster, Instance: l.instance, DataDir: f.DataDir, Members: peerMembers(f), Version: cfg.Version.GetVersion(),
		Margin: timing.Margin,
		Logger: cfg.Logger.Named("guard"), LogLevel: cfg.Logger.GetLevel(), LogJSON: cfg.LogJSON, LogJournal: cfg.Log.Journal(),
	}
	if f.Watchdog.Device != "" {
		c.Watchdog = &guard.WatchdogConfig{Device: f.Watchdog.Device, Timeout: f.Watchdog.Timeout}
	}
	if f.TLS.Enabled() {
		c.TLS = &guard.TLSPaths{CA: f.TLS.CA, Cert: f.TLS.Cert, Key: f.TLS.Key}
	}
	return c
}

func peerMembers(f *policy.NodeFile) []peer.Member {
	var members []peer.Member
	for _, m := range f.Members {
		members = append(members, peer.Member{Name: m.Name, Address: m.Address, Witness: m.Witness})
	}
	return members
}

// run keeps both until ctx ends. A gate that guards nothing any more is taken
// off the interfaces then.
func (s *safeguards) run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	if s.gate != nil {
		tasks.Go(func() { _ = s.gate.Run(ctx) }) // it reports through Problem
		tasks.Go(func() { s.old.run(ctx) })
	}
	return s.guard.Run(ctx)
}

// close lets go of the gate; when nothing of this host's is guarded, it is
// taken off.
func (s *safeguards) close(name gate.Config) error {
	if s == nil || s.gate == nil {
		return nil
	}
	s.gate.Close()
	return gate.Uninstall(name)
}

// certify tells the guard what to show other nodes.
func (s *safeguards) certify(ctx context.Context, files *peer.TLSFiles) error {
	if s == nil {
		return nil
	}
	pem, _ := files.InUse()
	return s.guard.Certify(ctx, pem)
}

// enrol tells the guard who the members are.
func (s *safeguards) enrol(ctx context.Context, id *peer.Identity) error {
	r, ok := id.Roster()
	if s == nil || !ok {
		return nil
	}
	return s.guard.Enrol(ctx, r)
}

// trouble is why a host with these must not own at present; nil: it may.
func (s *safeguards) trouble() error {
	if s == nil || s.old == nil {
		return nil
	}
	return s.old.trouble()
}

// cleared is closed when no gate of an earlier cluster is left.
func (s *safeguards) cleared() <-chan struct{} {
	if s == nil || s.old == nil {
		return nil
	}
	return s.old.cleared
}

// changed delivers when the guard has come or gone.
func (s *safeguards) changed() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.guard.Changed()
}

// into hands both to the ring, where nil means that there is none.
func (s *safeguards) into(c *failover.Config) {
	if s == nil {
		return
	}
	c.Guard, c.Volumes, c.Reservations = s.guard, s.guard, s.guard
	if s.gate != nil {
		c.Gate = s.gate
	}
}

// problems are what status should say of them.
func (s *safeguards) problems() []string {
	if s == nil {
		return nil
	}
	var out []string
	if s.noGate != nil {
		out = append(out, fmt.Sprintf("it has no packet gate, so a takeover from it waits until its addresses have expired: %v", s.noGate))
	} else if err := s.gate.Problem(); err != nil {
		out = append(out, err.Error())
	}
	return out
}

// Layer is one thing that ends a lease on this host when had can't.
type Layer struct {
	Name    string `json:"name"` // as in an Acquire's terms
	Missing string `json:"missing,omitempty"`
}

// Layers says which layers a daemon would have on this host, and why not. It
// needs root.
func Layers() []Layer {
	layers := []Layer{{Name: cluster.LayerLifetime}, {Name: cluster.LayerGuard}, {Name: cluster.LayerGate}}
	if err := gate.Probe(); err != nil {
		layers[2].Missing = err.Error()
	}
	return layers
}

// gateConfig names this cluster's gate on this host; before the cluster is born
// it has none, and no name.
func (l *localState) gateConfig() gate.Config {
	c := gate.Config{Logger: l.cfg.Logger.Named("gate")}
	if birth, born := l.identity.Birth(); born {
		c.Name = gateOf(l.cfg.File.Cluster, birth.Origin())
	}
	return c
}

// earlierGate opens the gate that an earlier run left in the kernel; nil when
// there is none, or none can be found: then addresses that are taken away stay
// closed until the next start.
func (l *localState) earlierGate() *gate.Control {
	c := l.gateConfig()
	if c.Name == "" {
		return nil
	}
	g, err := gate.Find(c)
	switch {
	case errors.Is(err, gate.ErrNotInstalled), errors.Is(err, gate.ErrUnavailable):
		return nil
	case err != nil:
		l.cfg.Logger.Warn("the packet gate of an earlier run was not looked at", "error", err)
		return nil
	}
	return g
}

// scriptRecorder makes runs of scripts durable, and known to the guard: should
// had die, the guard ends them before it says that nothing is left.
type scriptRecorder struct {
	hook.Recorder
	logger hclog.Logger

	mu    sync.Mutex
	guard *guard.Supervisor // nil: there is none (yet)
}

func (r *scriptRecorder) guardedBy(g *guard.Supervisor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guard = g
}

func (r *scriptRecorder) current() *guard.Supervisor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.guard
}

// Started implements hook.Recorder. Without a guard there is nobody who could
// say too much, and release scripts must run all the same.
func (r *scriptRecorder) Started(ctx context.Context, run hook.Running) error {
	if err := r.Recorder.Started(ctx, run); err != nil {
		return err
	}
	g := r.current()
	if g == nil {
		return nil
	}
	err := g.Script(ctx, run)
	if err != nil && g.Alive() == nil {
		return err
	}
	return nil
}

// Finished implements hook.Recorder.
func (r *scriptRecorder) Finished(ctx context.Context, run hook.Running, result hook.Result) error {
	if g := r.current(); g != nil {
		if err := g.ScriptEnded(ctx, run.ID); err != nil {
			r.logger.Warn("the guard was not told that a script has ended", "script", run.Script, "error", err)
		}
	}
	return r.Recorder.Finished(ctx, run, result)
}
