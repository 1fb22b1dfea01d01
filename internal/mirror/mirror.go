// Package mirror copies data from the owner to the nodes that don't own: the
// `sync` blocks of a policy. On each of those nodes it runs their commands, on a
// schedule, never the same one twice at once, and only while it can be said whom
// they copy from. Whether one is held is decided in the log (cluster.View's
// SyncHeld); DESIGN.md says what keeps a copy from running where its node owns.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/clock"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// ErrRefused is wrapped by the errors of what can't be done now; the rest of
// their text is a whole sentence.
var ErrRefused = errors.New("refused")

// Log is the replicated log as this node sees it. cluster.Node is one.
type Log interface {
	Leadership() cluster.Leadership
	LeadershipChanged() <-chan struct{}
	View() (cluster.View, <-chan struct{})
}

// Commands are the processes of the syncs on this host. Processes is one.
type Commands interface {
	// Run runs a command to its end, at the timeout or with ctx at the latest.
	// After a nil error nothing of what it had started is left.
	Run(ctx context.Context, name string, cmd hook.Command) (hook.Result, error)
	// End ends what is left of a sync, of an earlier run of had too. After nil
	// there is nothing.
	End(ctx context.Context, name string) error
	// Left names the syncs of which something may be left from an earlier run of
	// had.
	Left() ([]string, error)
}

// Memory keeps across restarts when this node's data were what the owner had.
type Memory interface {
	Load() (map[string]time.Time, error)
	Save(map[string]time.Time) error
}

// Config is what a Mirror needs.
type Config struct {
	Cluster  string
	Self     *hadv1.Member
	Log      Log
	Policy   func() (*policy.Policy, error) // in force; nil when there is none
	Holding  func() bool                    // this node holds an epoch, or something of one
	Report   func(ctx context.Context, r *hadv1.SyncResult)
	Commands Commands
	Memory   Memory
	Jitter   func(most time.Duration) time.Duration // a random time from 0 to most
	Logger   hclog.Logger
}

// Mirror runs the syncs of this node.
type Mirror struct {
	cfg    Config
	woken  chan struct{} // capacity 1
	looked chan struct{} // closed when an earlier run's syncs have been looked for: stuck is not nil

	mu     sync.Mutex
	jobs   map[string]*job // by name, of the policy in force
	fresh  map[string]time.Time
	barred int             // how many want nothing to begin
	life   context.Context // nil: nothing may begin
	runs   sync.WaitGroup
	stuck  map[string]string // syncs that can't be ended, and why; nil: not looked yet
	desk   desk
}

// job is one sync.
type job struct {
	sync     policy.Sync
	due      time.Time // the next run; zero: to be planned
	turn     uint64    // of the owner for which due was planned: View.Syncs.Since
	run      *run      // under way; nil: none
	failures int       // in a row
	why      string    // of the latest failure
	told     string    // what was last reported
}

// run is one run under way.
type run struct {
	source source
	began  time.Time
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when nothing of it is left, or nobody can say so
	result *hadv1.SyncResult
}

// New returns a mirror; nothing happens before Run.
func New(cfg Config) *Mirror {
	return &Mirror{cfg: cfg, woken: make(chan struct{}, 1), looked: make(chan struct{}), desk: desk{mail: make(chan struct{}, 1)}, jobs: map[string]*job{}, fresh: map[string]time.Time{}}
}

// lookEvery is the time between two looks. Who is copied from is looked at as
// well whenever another node leads: the owner leads.
const lookEvery = time.Second

// Run runs syncs until ctx ends, and then ends those under way.
func (m *Mirror) Run(ctx context.Context) error {
	if m.cfg.Self.GetWitness() {
		<-ctx.Done()
		return nil
	}
	ages, err := m.cfg.Memory.Load()
	m.mu.Lock()
	m.life = ctx
	if err != nil {
		m.cfg.Logger.Warn("how old the copies are isn't known", "error", err)
		m.desk.lost = err.Error()
	} else {
		m.fresh = ages
	}
	m.mu.Unlock()
	var writing sync.WaitGroup
	defer writing.Wait()
	closing, over := context.WithCancel(context.WithoutCancel(ctx))
	defer over() // when the last run has had its say
	writing.Go(func() { m.write(closing) })
	for ctx.Err() == nil {
		leads := m.cfg.Log.LeadershipChanged()
		m.look()
		m.endLeft(ctx)
		select {
		case <-ctx.Done():
		case <-leads:
		case <-time.After(clock.UntilBeat(lookEvery)):
		case <-m.woken:
		}
	}
	m.mu.Lock()
	m.life = nil // nothing begins any more
	m.mu.Unlock()
	m.runs.Wait()
	return nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// look stops what may not go on, begins what is due and plans the rest.
func (m *Mirror) look() {
	p, err := m.cfg.Policy()
	if err != nil {
		p = nil // this version can't read it: the ring says so
	}
	view, _ := m.cfg.Log.View()
	src, why := m.source(view)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow(p)
	for _, j := range m.jobs {
		if j.run != nil && j.run.source != src {
			if why == "" {
				why = "it owns in another epoch now"
			}
			j.run.cancel(errors.New(why))
		}
	}
	if src.owner == m.cfg.Self.GetName() {
		m.own(view)
		return
	}
	for name, j := range m.jobs {
		if src.owner == "" || j.run != nil || view.SyncHeld(name) != "" {
			continue
		}
		m.plan(j, view)
		if !time.Now().Before(j.due) && m.mayBegin(view) == "" {
			m.begin(j, src)
		}
	}
}

// follow takes over the syncs of a policy; a run of one that is another now, or
// none, is stopped.
func (m *Mirror) follow(p *policy.Policy) {
	named := map[string]bool{}
	if p != nil {
		for _, y := range p.Syncs {
			named[y.Name] = true
			j := m.jobs[y.Name]
			if j == nil {
				j = &job{sync: y}
				m.jobs[y.Name] = j
			}
			if !sameSync(j.sync, y) {
				if j.run != nil {
					j.run.cancel(errors.New("the policy has changed"))
				}
				j.sync, j.due = y, time.Time{}
			}
		}
	}
	for name, j := range m.jobs {
		if named[name] {
			continue
		}
		if j.run != nil {
			j.run.cancel(errors.New("the policy has it no more"))
			continue // forgotten when it has ended
		}
		delete(m.jobs, name)
	}
}

// plan says when a sync runs next. The first run of an owner's turn is soon:
// until it is through, this node couldn't take over without a hold.
func (m *Mirror) plan(j *job, view cluster.View) {
	if turn := view.Syncs.GetSince(); turn != j.turn {
		j.turn, j.due = turn, time.Time{}
	}
	if !j.due.IsZero() {
		return
	}
	j.due = time.Now()
	if at, ok := m.fresh[j.sync.Name]; ok && view.SyncCopied(j.sync.Name, m.cfg.Self.GetName()) >= j.turn {
		j.due = at.Add(j.sync.Every) // an earlier run of had has made one in this turn
	}
	j.due = j.due.Add(m.jitter(j.sync))
}

// jitter keeps the nodes from beginning all at once.
func (m *Mirror) jitter(y policy.Sync) time.Duration {
	return m.cfg.Jitter(min(y.Every/10, time.Minute))
}

// mayBegin says why nothing may begin at present; empty: it may.
func (m *Mirror) mayBegin(view cluster.View) string {
	switch {
	case view.Move != nil:
		return "the owner is moving to " + view.Move.GetOrder().GetTarget()
	case m.life == nil || m.life.Err() != nil:
		return "had is starting or stopping"
	case m.stuck == nil:
		return "what an earlier run of had left is being looked for"
	case m.barred > 0 || m.cfg.Holding():
		return m.cfg.Self.GetName() + " is taking over, or gives up"
	}
	for _, why := range m.stuck {
		return why
	}
	return ""
}

// own notes that this node's data are the owner's, and says which syncs are held.
func (m *Mirror) own(view cluster.View) {
	now := time.Now()
	for name, j := range m.jobs {
		m.fresh[name] = now
		if held := view.SyncHeld(name); held != "" {
			m.tell(j, &hadv1.SyncResult{
				Name: name, Epoch: view.LastEpoch, Owner: view.LastOwner, Outcome: hadv1.SyncResult_OUTCOME_HELD,
				Error: held + ": hactl sync resume " + name,
			})
		}
	}
	if len(m.jobs) > 0 && now.Sub(m.desk.saved) >= time.Minute {
		m.save()
	}
}

// endLeft ends what an earlier run of had has left, and what couldn't be ended.
func (m *Mirror) endLeft(ctx context.Context) {
	m.mu.Lock()
	left, looked := m.stuck, m.stuck != nil
	m.mu.Unlock()
	var names []string
	for name := range left {
		names = append(names, name)
	}
	if !looked {
		var err error
		if names, err = m.cfg.Commands.Left(); err != nil {
			m.cfg.Logger.Error("look for syncs that an earlier run of had left", "error", err)
			return
		}
	}
	still := map[string]string{}
	for _, name := range names {
		still[name] = m.end(ctx, name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stuck == nil {
		m.stuck = map[string]string{}
		close(m.looked)
	}
	for name, why := range still {
		if m.stuck[name] = why; why == "" {
			delete(m.stuck, name)
		}
	}
}

// endLimit is how long ending a sync may take: SIGKILL needs no time.
const endLimit = 2 * time.Second

// end ends a sync; the answer says why it could not.
func (m *Mirror) end(ctx context.Context, name string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	if err := m.cfg.Commands.End(ctx, name); err != nil {
		why := fmt.Sprintf("sync %s can't be ended, and may still write: %v", name, err)
		m.cfg.Logger.Error(why)
		return why
	}
	return ""
}

// Cease ends every run and lets none begin until resume is called. After a nil
// error nothing of any run is left on this host. It costs nothing when none is
// under way.
func (m *Mirror) Cease(ctx context.Context) (resume func(), err error) {
	m.mu.Lock()
	m.barred++
	var runs []*run
	for _, j := range m.jobs {
		if j.run != nil {
			j.run.cancel(errors.New(m.cfg.Self.GetName() + " takes over"))
			runs = append(runs, j.run)
		}
	}
	m.mu.Unlock()
	resume = sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.barred--
	})
	ctx, cancel := context.WithTimeout(ctx, 2*endLimit)
	defer cancel()
	if !m.cfg.Self.GetWitness() {
		select {
		case <-m.looked:
		case <-ctx.Done():
		}
	}
	for _, r := range runs {
		select {
		case <-r.done:
		case <-ctx.Done():
			resume()
			return nil, fmt.Errorf("end sync %s: %w", r.result.GetName(), context.Cause(ctx))
		}
	}
	if why := m.left(); why != "" {
		resume()
		return nil, errors.New(why)
	}
	return resume, nil
}

// left says what of a sync may still write on this host; empty: nothing.
func (m *Mirror) left() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stuck == nil && !m.cfg.Self.GetWitness() {
		return "what an earlier run of had may have left of its syncs has not been looked for yet"
	}
	for _, why := range m.stuck {
		return why
	}
	return ""
}
