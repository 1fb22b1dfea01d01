package simtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"had/internal/clock"
	"had/internal/failover"
	"had/internal/guard"
	"had/internal/hook"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// guardian is a guard's process: the real warden, in a simulated process of
// its own that outlives its daemon.
type guardian struct {
	*life
	had    *process
	page   *guard.Page
	inbox  chan guard.Call // the socket
	ctx    context.Context // until death
	cancel context.CancelFunc
	ended  chan struct{}
	epoch  atomic.Uint64 // that it was last told to hold
}

// socketRoom is how many requests the socket holds for a stopped guard.
const socketRoom = 64

// supervisor returns the real supervisor of simulated guards; nil: this host
// has none.
func (p *process) supervisor(logger hclog.Logger) *guard.Supervisor {
	if p.h.member.GetWitness() || p.h.w.layout.bare {
		return nil
	}
	return guard.SupervisorOf(func(context.Context) (*guard.Guard, error) { return p.startGuard(logger) }, p.clock, logger.Named("guard"))
}

// follow does what the daemon does when a guard has come or gone.
func (p *process) follow(ctx context.Context, guards *guard.Supervisor, c *failover.Controller) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-guards.Changed():
			c.Wake()
		}
	}
}

// startGuard starts a guard, unless one works on this host.
func (p *process) startGuard(logger hclog.Logger) (*guard.Guard, error) {
	if err := p.pass(); err != nil {
		return nil, err
	}
	g := &guardian{life: newLife(p.h), had: p, page: guard.NewPage(), inbox: make(chan guard.Call, socketRoom), ended: make(chan struct{})}
	g.guards = true
	g.ctx, g.cancel = context.WithCancel(context.Background())
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	if p.h.guard != nil {
		return nil, errors.New("simulation: another guard works on this host")
	}
	p.h.guard, p.h.disturbedAt = g, time.Now()
	p.h.w.tasks.Go(func() { g.run(logger) })
	kill := func() error {
		if err := p.pass(); err != nil {
			return err
		}
		g.die()
		return nil
	}
	return guard.Simulated(g.page, g.request, kill, g.ended, p.clock), nil
}

// die is SIGKILL.
func (g *guardian) die() {
	g.end()
	g.cancel()
	g.h.disturb()
	g.h.shelf.killOf(g.life)
}

// run is the life of a guard.
func (g *guardian) run(logger hclog.Logger) {
	calls := make(chan guard.Call)
	died := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() {
		select {
		case <-g.had.dead:
			if g.pass() == nil {
				close(died)
			}
		case <-g.dead:
		}
	})
	tasks.Go(func() { g.serve(calls) })
	wake := &alarm{g: g, c: make(chan struct{}, 1)}
	cfg := guard.WardenConfig{
		Instance: g.had.instance, Margin: g.h.timing.Margin, Page: g.page, Now: g.clock, Alarm: wake,
		Kernel: guardedKernel{g}, Kill: g.killScript, Teller: g, Spool: spool{g}, Logger: g.logger(),
	}
	if g.h.kernel.gate != nil {
		cfg.Gate = &openGate{gate: g.h.kernel.gate, by: g.life}
	}
	if g.h.w.layout.volumes > 0 {
		cfg.Volumes = mounter{g}
		if g.h.services.grouped {
			cfg.Services = groups{g}
		}
	}
	err := guard.NewWarden(cfg).Run(g.ctx, calls, died)
	wake.stop()
	g.h.w.diary.logged("%s: the guard ends: %v", g.h.name, err)
	g.die()
	g.h.mu.Lock()
	if g.h.guard == g {
		g.h.guard = nil
	}
	g.h.mu.Unlock()
	close(g.ended)
	tasks.Wait()
}

// clock is the guard's, and a seam.
func (g *guardian) clock() clock.Instant {
	_ = g.pass() // a dead one's next seam ends it
	return g.h.now()
}

// serve takes requests from the socket, fast ones one at a time.
func (g *guardian) serve(calls chan<- guard.Call) {
	for {
		select {
		case c := <-g.inbox:
			if g.pass() != nil {
				return
			}
			answered := make(chan error, 1)
			call := guard.Call{Request: c.Request, Reply: func(err error) { answered <- err }}
			if c.Request.Slow() {
				call.Reply = c.Reply
			}
			select {
			case calls <- call:
			case <-g.dead:
				return
			}
			if c.Request.Slow() {
				continue
			}
			err := <-answered
			if err == nil && c.Request.Op == guard.OpHold {
				g.epoch.Store(c.Request.Epoch)
				if c.Request.Adopted {
					g.h.disturb()
				}
			}
			c.Reply(err)
		case <-g.dead:
			return
		}
	}
}

// requestLimit is how long a daemon waits for its guard's answer to a fast one.
const requestLimit = time.Second

// request is the daemon's side of the socket.
func (g *guardian) request(ctx context.Context, r guard.Request) error {
	if err := g.had.pass(); err != nil {
		return err
	}
	answered := make(chan error, 1)
	select {
	case g.inbox <- guard.Call{Request: r, Reply: func(err error) { answered <- err }}:
	default:
		return errors.New("simulation: the socket to the guard is full")
	}
	var limit <-chan time.Time
	if !r.Slow() {
		timer := time.NewTimer(requestLimit)
		defer timer.Stop()
		limit = timer.C
	}
	select {
	case err := <-answered:
		return errors.Join(err, g.had.pass())
	case <-g.ended:
		_ = g.had.pass()
		return errors.New("simulation: the guard has died")
	case <-limit:
		_ = g.had.pass()
		return errors.New("simulation: the guard doesn't answer")
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-g.had.dead:
		return errDead
	}
}

// alarm is a timer by the host's clock.
type alarm struct {
	g *guardian
	c chan struct{}

	mu    sync.Mutex
	timer *time.Timer
}

func (a *alarm) Set(at clock.Instant) {
	after := time.Duration(float64(at.Sub(a.g.h.now()))/a.g.h.rate) + 1 // rounded up: an alarm never comes early
	after += a.g.h.w.layout.tamper.sleepy
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(max(after, 0), func() {
		select {
		case a.c <- struct{}{}:
		default:
		}
	})
}

func (a *alarm) C() <-chan struct{} { return a.c }

func (a *alarm) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
}

// guardedKernel is the addresses as the guard reaches them.
type guardedKernel struct{ g *guardian }

func (k guardedKernel) Remove(_ context.Context, gone []vip.Address) error {
	if err := k.g.pass(); err != nil {
		return err
	}
	for _, a := range gone {
		k.g.h.w.checker.remove(k.g.h.name, a.Addr)
	}
	return nil
}

func (g *guardian) killScript(_ context.Context, r hook.Running) (int, error) {
	if err := g.pass(); err != nil {
		return 0, err
	}
	return g.h.scripts.kill(r.ID), nil
}

// tellEvery is how often a node that doesn't answer is told again.
const tellEvery = 100 * time.Millisecond

// Tell tells all other daemons.
func (g *guardian) Tell(ctx context.Context, f *hadv1.Farewell) {
	if g.pass() != nil {
		return
	}
	g.h.w.diary.logged("%s: the guard tells: epoch %d is released", g.h.name, f.GetReleased().GetEpoch())
	g.h.w.checker.told(f)
	g.tellAll(ctx, tellEvery, func(c *failover.Controller) { c.TakeFarewell(proto.CloneOf(f)) })
}

// TellSecured tells them of the volumes.
func (g *guardian) TellSecured(ctx context.Context, s *hadv1.Secured) {
	if g.pass() != nil {
		return
	}
	g.h.w.diary.logged("%s: the guard tells: the volumes of epoch %d are safe", g.h.name, s.GetEpoch())
	g.tellAll(ctx, 10*tellEvery, func(c *failover.Controller) { c.TakeSecured(proto.CloneOf(s)) })
}

func (g *guardian) tellAll(ctx context.Context, every time.Duration, take func(c *failover.Controller)) {
	var wg sync.WaitGroup
	for _, h := range g.h.w.hosts {
		if h == g.h {
			continue
		}
		wg.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(ctx, connectionLimit)
				_, err := call(ctx, g.life, h.name, func(q *process) (struct{}, error) {
					c, _ := q.ready()
					if c == nil {
						return struct{}{}, errRefused
					}
					take(c)
					return struct{}{}, nil
				})
				cancel()
				if err == nil || wait(ctx, every, g.dead) != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// spool is the place on the host's disk where a guard leaves a farewell.
type spool struct{ g *guardian }

func (s spool) Keep(f *hadv1.Farewell) error {
	if err := s.g.pass(); err != nil {
		return err
	}
	s.g.h.w.checker.told(f)
	if err := s.g.h.disk.write(s.g.life, func() error {
		s.g.h.mu.Lock()
		defer s.g.h.mu.Unlock()
		s.g.h.farewell = proto.CloneOf(f)
		return nil
	}); err != nil {
		return fmt.Errorf("simulation: keep a farewell: %w", err)
	}
	return nil
}

// KeepSecured forgets it: the next start proves the same, or says nothing.
func (s spool) KeepSecured(*hadv1.Secured) error { return s.g.pass() }

// settlePatience is how long a guard of the earlier run may take to finish.
const settlePatience = 5 * time.Second

// settle waits until no guard of an earlier run works on this host, as
// guard.Settle does, and returns what it said.
func (p *process) settle() (*hadv1.Farewell, error) {
	p.h.mu.Lock()
	earlier := p.h.guard
	p.h.mu.Unlock()
	if earlier != nil {
		timer := time.NewTimer(settlePatience)
		defer timer.Stop()
		select {
		case <-earlier.ended:
		case <-timer.C:
			if err := p.pass(); err != nil {
				return nil, err
			}
			earlier.die()
			<-earlier.ended
		case <-p.dead:
		}
	}
	if err := p.pass(); err != nil {
		return nil, err
	}
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	return p.h.farewell, nil
}

func (p *process) forgetFarewell() error {
	if err := p.pass(); err != nil {
		return err
	}
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	p.h.farewell = nil
	return nil
}
