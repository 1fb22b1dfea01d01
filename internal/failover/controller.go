package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"had/cluster"
	"had/internal/check"
	"had/internal/clock"
	"had/internal/evidence"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Config is what a Controller needs.
type Config struct {
	Cluster       string
	Instance      *hadv1.Instance
	Namespace     string          // of this host's network, as in /proc/PID/ns/net
	Members       []*hadv1.Member // as they are when this node starts; later the log's count
	Timing        cluster.Timing
	Log           Log
	Journal       Journal
	Addresses     Addresses
	Gate          Gate                 // nil: this host has none
	Guard         Guard                // nil: this host has none
	Volumes       Volumes              // nil: this host carries none
	Tokens        Tokens               // nil: this host keeps none
	Reservations  Reservations         // nil: likewise
	KeyMark       uint64               // what this cluster's reservation keys begin with
	Services      Services             // nil: nothing that scripts start is in had's hands
	Flush         Flush                // nil: unmounting does it
	Watchdog      func() time.Duration // after which this host is reset when its guard is gone; 0: it has none armed; nil: likewise
	Off           evidence.Off         // nil: this host has no means to switch another off
	Answers       evidence.Answers     // nil: as for evidence.Config
	Network       Network
	Hooks         HookRunners
	CheckHook     func(p *policy.Policy) (HookFolders, error) // an error: the scripts can't do an acquisition as they are
	CheckVolumes  func(p *policy.Policy) []string             // why this host could not mount them, as far as was seen lately; it doesn't wait. nil: never
	Mirror        Mirror                                      // nil: this node copies nothing
	HostTrouble   func() []string                             // why this host should not own, apart from the policy; nil: never
	Peers         Peers
	Probe         check.Probe     // looks at what the policy's checks name; nil: checks don't run
	Farewell      *hadv1.Farewell // what this node's guard said of its earlier run and may not be in the log yet; nil: nothing
	FarewellTaken func() error    // it is in the log
	Secured       *hadv1.Secured  // likewise of its volumes, while that run lived
	SecuredTaken  func() error    // it is in the log
	Clock         clock.Source
	Logger        hclog.Logger
	Version       string
}

// Controller is the ring on one node: it gathers, decides and has the steps
// run, until it is stopped.
type Controller struct {
	cfg       Config
	self      *hadv1.Member
	lease     *cluster.Lease
	holder    *holder
	keeper    *keeper
	courier   *courier
	farewells *farewells
	evidence  *evidence.Seeker
	poller    *poller
	executor  *executor
	parsed    parsedPolicy
	backoff   backoff
	steering  steering
	checks    *check.Runner // nil: checks don't run
	woken     chan struct{} // capacity 1

	tokenLooks tokenLooks

	mu        sync.Mutex
	plan      Plan
	led       readiness
	stopping  bool
	noMove    uint64 // the epoch that could not be moved in order when it was tried
	changes   int    // that the kernel has reported
	links     linksSeen
	acquiring func() // cuts short what isn't worth finishing when had stops; nil: nothing
}

// readiness is when this node was first seen to lead a term, and to be ready.
type readiness struct {
	term  uint64
	since clock.Instant
}

// New returns a controller; nothing happens before Run.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, lease: new(cluster.Lease), woken: make(chan struct{}, 1)}
	for _, m := range cfg.Members {
		if m.GetNodeId() == cfg.Instance.GetNodeId() {
			c.self = m
		}
	}
	m := &mounts{guard: cfg.Volumes}
	c.holder = &holder{kernel: cfg.Addresses, gate: cfg.Gate, guard: cfg.Guard, mounts: m, lease: c.lease, now: cfg.Clock, logger: cfg.Logger.Named("lease"), margin: cfg.Timing.Margin, pace: pace{lifetime: cfg.Timing.AddressLifetime}}
	c.keeper = &keeper{
		log: cfg.Log, lease: c.lease, holder: c.holder, instance: cfg.Instance, timing: cfg.Timing, now: cfg.Clock,
		logger: cfg.Logger.Named("lease"), wake: c.Wake, nudged: make(chan struct{}, 1), returned: make(chan struct{}, 1), begun: make(chan struct{}, 1), awake: make(chan struct{}, 1),
	}
	c.courier = &courier{
		journal: cfg.Journal, log: cfg.Log, peers: cfg.Peers,
		logger: cfg.Logger.Named("journal"), busy: make(chan struct{}, 1),
	}
	c.farewells = &farewells{log: cfg.Log, peers: cfg.Peers, logger: cfg.Logger, changed: make(chan struct{}, 1)}
	if cfg.Farewell != nil {
		c.farewells.add(cfg.Farewell, cfg.FarewellTaken)
	}
	if cfg.Secured != nil {
		c.farewells.addSecured(cfg.Secured, cfg.SecuredTaken)
	}
	c.poller = &poller{
		peers: cfg.Peers, log: cfg.Log, members: c.others, every: 2 * max(time.Second, cfg.Timing.Detect), now: cfg.Clock,
		changed: c.Wake, joined: c.keeper.reannounce, last: map[string]PeerHealth{}, news: make(chan struct{}, 1),
	}
	c.executor = &executor{
		cluster: cfg.Cluster, instance: cfg.Instance, netns: cfg.Namespace, timing: cfg.Timing, log: cfg.Log, peers: cfg.Peers, journal: cfg.Journal,
		network: cfg.Network, hooks: cfg.Hooks, keeper: c.keeper, holder: c.holder, mounts: m, tokens: cfg.Tokens, services: cfg.Services, flush: cfg.Flush, mirror: cfg.Mirror, watchdog: cfg.Watchdog, reservations: cfg.Reservations, keyMark: cfg.KeyMark, courier: c.courier,
		now: cfg.Clock, logger: cfg.Logger,
	}
	c.evidence = evidence.New(evidence.Config{
		Self: c.self, Log: cfg.Log, Policy: c.PolicyInForce, Off: cfg.switchOff(), Evict: cfg.evict(), Answers: cfg.Answers, Report: c.executor.fenceTry,
		Changed: c.Wake, Clock: cfg.Clock, Logger: cfg.Logger.Named("fence"),
	})
	c.backoff = newBackoff(cfg.Clock)
	c.steering.now = cfg.Clock
	if cfg.Probe != nil {
		c.checks = check.New(check.Config{Probe: cfg.Probe, Changed: c.checkChanged, Clock: cfg.Clock})
	}
	c.parsed.now = cfg.Clock
	return c
}

// members are all nodes of the cluster.
func (c *Controller) members() []*hadv1.Member {
	if v, _ := c.cfg.Log.View(); v.Roster != nil {
		return v.Roster.GetMembers()
	}
	return c.cfg.Members
}

// member returns the node of a name, nil: there is none.
func (c *Controller) member(name string) *hadv1.Member {
	for _, m := range c.members() {
		if m.GetName() == name {
			return m
		}
	}
	return nil
}

// others are the members but for this node.
func (c *Controller) others() []*hadv1.Member {
	return slices.DeleteFunc(slices.Clone(c.members()), func(m *hadv1.Member) bool {
		return m.GetNodeId() == c.cfg.Instance.GetNodeId()
	})
}

// Wake makes the controller look again soon.
func (c *Controller) Wake() { poke(c.woken) }

// Run works until ctx ends; then it stops in order: it releases what it
// holds, hands leadership on and runs the last hooks, which may take as long
// as the hooks' timeouts. hard cuts even that short; what is held is then
// taken down by force.
func (c *Controller) Run(ctx, hard context.Context) error {
	tasks, stopTasks := context.WithCancel(hard)
	defer stopTasks()
	c.executor.life = tasks
	g, tasks := errgroup.WithContext(tasks)
	g.Go(func() error { return c.keeper.Run(tasks) })
	g.Go(func() error { return c.courier.Run(tasks) })
	g.Go(func() error { return c.farewells.Run(tasks) })
	g.Go(func() error { return c.evidence.Run(tasks) })
	g.Go(func() error { return c.poller.Run(tasks) })
	g.Go(func() error {
		return (&trials{log: c.cfg.Log, now: c.cfg.Clock, logger: c.cfg.Logger.Named("policy")}).Run(tasks)
	})
	if c.checks != nil {
		g.Go(func() error { return c.checks.Run(tasks) })
	}
	g.Go(func() error {
		defer stopTasks()
		stop := context.AfterFunc(ctx, c.stop)
		defer stop()
		c.loop(tasks)
		err := c.letGoHard(context.WithoutCancel(tasks))
		// The last hooks' results; what can't be delivered now is delivered
		// after the next start.
		if left := c.courier.flushLast(tasks, max(time.Second, 2*c.cfg.Timing.TTL)); left != nil {
			c.cfg.Logger.Info("some reports stay in the journal until the next start", "count", c.cfg.Journal.PendingCount(), "error", left)
		}
		return err
	})
	return g.Wait()
}

// stop asks the ring to release everything and end.
func (c *Controller) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if c.acquiring != nil {
		c.acquiring() // it is not worth finishing
	}
	c.Wake()
}

func (c *Controller) isStopping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

// lookEvery bounds how long the ring rests when nothing wakes it.
const lookEvery = time.Second

func (c *Controller) loop(ctx context.Context) {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	tries := 0
	for ctx.Err() == nil {
		leadership := c.cfg.Log.LeadershipChanged()
		c.executor.lookAtLeft(ctx)
		in, changed := c.gather()
		c.watchChecks(in, in.serving())
		plan := Decide(in)
		c.setPlan(plan)
		if len(plan.Steps) > 0 && !(in.Stopping && in.Holding.Epoch == 0 && tries > 0) {
			c.act(ctx, in, plan)
			if in.Stopping {
				tries++
			}
			continue
		}
		if in.Stopping && in.Holding.Epoch == 0 {
			return
		}
		rest := clock.UntilBeat(lookEvery)
		if plan.Again != 0 {
			rest = min(rest, max(plan.Again.Sub(in.Now), time.Millisecond))
		}
		timer.Reset(rest)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
		case <-leadership:
		case <-c.woken:
		}
	}
}

// gather collects the inputs of one decision. The channel is closed when the
// replicated state changes.
func (c *Controller) gather() (Inputs, <-chan struct{}) {
	// Leadership first: a view older than a leadership that is Ready could
	// lack entries of the earlier terms.
	leadership := c.cfg.Log.Leadership()
	view, changed := c.cfg.Log.View()
	c.poller.expect(view.Policy.GetIndex())
	p, err := c.parsed.of(view.Policy)
	holding := c.executor.held()
	in := Inputs{
		Instance: c.cfg.Instance, Witness: c.self.GetWitness(), Margin: c.holder.ahead(holding.Epoch),
		Leadership: leadership, View: view, LastLease: c.cfg.Log.LastLease(), Policy: p, PolicySeen: c.parsed.seenAt(),
		Holding: holding, Peers: c.poller.view(), Fencing: c.evidence.Tries(),
		TransferAfter: c.backoff.transferAfter(view.LastEpoch), TurnAfter: c.backoff.turnAfter(),
	}
	in.Reported, in.Stuck = c.executor.reports()
	for name, p := range in.Peers {
		if c.backoff.shunned(name) {
			p.Eligible, p.Reasons = false, []string{"leadership could not be handed to it"}
			in.Peers[name] = p
		}
	}
	switch {
	case err != nil:
		in.Blockers = []string{err.Error()}
	case (in.Leadership.Leading || in.Leadership.Standing) && holding.Epoch == 0:
		_, hooks := c.hookFolders(p)
		in.Blockers = c.blockers(view, p, holding, hooks, c.lookOnce(p)).texts()
	}
	c.mu.Lock()
	if leadership.Ready && leadership.Term != c.led.term {
		c.led = readiness{leadership.Term, c.cfg.Clock()}
	}
	in.ReadySince = c.led.since
	in.Stopping, in.NoMove = c.stopping, holding.Epoch != 0 && c.noMove == holding.Epoch
	c.mu.Unlock()
	if holding.Phase == PhaseServing {
		in.HandOver, in.Retire = c.linkLost(), cmp.Or(c.unguarded(), c.ungated(view.Claim(holding.Epoch)))
	}
	if holding.Epoch == 0 {
		in.Earlier = c.neverHeld(view)
	} else if claim := view.Claim(holding.Epoch); p != nil && claim != nil {
		_, in.Remount = c.executor.volumeChange(claim, p, view.Policy.GetVersion())
	}
	in.Unproven = c.executor.unproven() != ""
	// The lease right before the clock, which is last, so that nothing is newer than
	// it: what is above may wait for the kernel while the lease is renewed.
	in.LeaseEpoch, in.LeaseUntil, _ = c.lease.Held()
	in.LeaseLost, in.InGrace = c.keeper.whyLost(holding.Epoch), c.keeper.inGrace(holding.Epoch)
	in.Now = c.cfg.Clock()
	c.steering.complete(&in, c.checkResults())
	in.Prepared = c.executor.isPrepared(in)
	return in, changed
}

// act runs a plan's steps in order. A step that fails ends the plan, and the
// next decision sees what is left; but a failed transfer of leadership keeps
// no release from being finished.
func (c *Controller) act(ctx context.Context, in Inputs, plan Plan) {
	for _, s := range plan.Steps {
		err := c.do(ctx, in, s)
		if err == nil {
			continue
		}
		c.cfg.Logger.Warn("a step failed", "step", s.Kind, "epoch", s.Epoch, "error", err)
		if s.Kind != StepTransfer {
			return
		}
	}
}

func (c *Controller) do(ctx context.Context, in Inputs, s Step) error {
	switch s.Kind {
	case StepYield, StepRelease, StepForce:
		c.watchChecks(in, 0) // the release scripts stop what they look at
	default:
	}
	switch s.Kind {
	case StepPrepare:
		return c.acquire(ctx, in, s, c.executor.prepare)
	case StepAcquire:
		return c.acquire(ctx, in, s, c.executor.acquire)
	case StepTakeOver:
		return c.acquire(ctx, in, s, c.executor.takeOver)
	case StepOrderMove:
		if s.Soft {
			return c.softOrder(ctx, s)
		}
		return c.retire(ctx, s)
	case StepYield:
		err := c.executor.yield(ctx, s)
		c.backoff.transferred(s.Target, in.View.LastEpoch, err)
		return err
	case StepReconfigure:
		return c.retryable(ctx, c.executor.reconfigure(ctx, in, s))
	case StepRelease:
		return c.retryable(ctx, c.executor.release(ctx, s))
	case StepForce:
		return c.retryable(ctx, c.executor.force(ctx, s))
	case StepFinish:
		return c.executor.finish(ctx, s)
	case StepReportClean:
		return c.retryable(ctx, c.executor.reportClean(ctx, s))
	case StepCloseLeft:
		return c.retryable(ctx, c.executor.closeLeft(ctx, in, s))
	case StepTransfer:
		err := c.cfg.Log.Transfer(ctx, s.Target)
		c.backoff.transferred(s.Target, in.View.LastEpoch, err)
		return err
	case StepUnfreeze:
		_, err := c.cfg.Log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Unfreeze{Unfreeze: &hadv1.Unfreeze{
			Index: in.View.Frozen.GetIndex(), Expired: true, Reason: s.Cause,
		}}})
		return c.retryable(ctx, err)
	case StepHold:
		_, err := c.cfg.Log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Hold{Hold: &hadv1.Hold{
			Term: in.Leadership.Term, Epoch: s.Epoch, Reason: s.Cause,
		}}})
		return c.retryable(ctx, err)
	case StepEndMove:
		_, err := c.cfg.Log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_MoveEnd{MoveEnd: &hadv1.MoveEnd{
			Operation: in.View.Move.GetOrder().GetOperation(), Why: s.Cause,
		}}})
		return c.retryable(ctx, err)
	}
	return fmt.Errorf("unknown step %q", s.Kind)
}

func (c *Controller) acquire(ctx context.Context, in Inputs, s Step, own func(context.Context, Inputs, Step) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.acquiring = cancel
	stopping := c.stopping
	c.mu.Unlock()
	if stopping {
		return errors.New("had is stopping")
	}
	err := own(ctx, in, s)
	if err != nil || s.Kind != StepPrepare { // what is only prepared has not succeeded
		c.backoff.turn(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acquiring = nil
	return err
}

// retryable keeps a step that failed from being tried in a tight loop.
func (c *Controller) retryable(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	pause := retryDelay / 10
	if errors.Is(err, errStillMounted) {
		pause = retryDelay // it has taken its time already, and kills and calls the kernel
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return err
}

// letGoHard is the last thing before the ring ends: whatever is still held is
// taken out of the kernel.
func (c *Controller) letGoHard(ctx context.Context) error {
	h := c.executor.held()
	if h.Epoch == 0 || h.Phase == PhaseLeaving {
		return nil
	}
	err := c.executor.force(ctx, Step{Kind: StepForce, Epoch: h.Epoch, Cause: "had was told to stop at once"})
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

func (c *Controller) setPlan(p Plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plan = p
}

// parsedPolicy keeps the policy of the newest version parsed.
type parsedPolicy struct {
	now clock.Source

	mu      sync.Mutex
	seen    clock.Instant // when this version was first asked for
	version uint64
	policy  *policy.Policy
	err     error
}

// of returns the parsed policy, nil when there is none yet.
func (c *parsedPolicy) of(p *hadv1.Policy) (*policy.Policy, error) {
	if p == nil {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version != p.GetVersion() {
		parsed, diags := policy.ParsePolicy(fmt.Sprintf("policy version %d", p.GetVersion()), []byte(p.GetText()))
		c.version, c.policy, c.err, c.seen = p.GetVersion(), parsed, diags.Err(), c.now()
	}
	if c.err != nil {
		return nil, errors.Join(fmt.Errorf("this version of had can't read policy version %d", p.GetVersion()), c.err)
	}
	return c.policy, nil
}

// Watchdog is how long after its guard's end this host is reset; 0: no watchdog of
// its own is armed.
func (c *Controller) Watchdog() time.Duration {
	if c.cfg.Watchdog == nil {
		return 0
	}
	return c.cfg.Watchdog()
}

// PolicyInForce returns the policy of the log; nil when there is none yet.
func (c *Controller) PolicyInForce() (*policy.Policy, error) {
	view, _ := c.cfg.Log.View()
	return c.parsed.of(view.Policy)
}

func (c *parsedPolicy) seenAt() clock.Instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}
