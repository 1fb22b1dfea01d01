// Package evidence finds out that the silent owner of an epoch with volumes can't
// write to them any more, and has the log take it: the record Secured, without
// which nobody may mount them. What counts is in the terms of that epoch; what
// each kind proves, in docs/protocol.md.
//
// It never shortens a wait and never mounts. It is wrong at most by switching off
// a host whose lease has ended, or by taking its disks.
package evidence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/clock"
	"had/internal/policy"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
)

// Log is the replicated log as this node sees it. cluster.Node is one.
type Log interface {
	Propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error)
	Leadership() cluster.Leadership
	LeadershipChanged() <-chan struct{}
	View() (cluster.View, <-chan struct{})
	LastLease() clock.Instant
	// Confirm returns nil when a majority has followed this node as its leader since
	// the call.
	Confirm(ctx context.Context) error
}

// Off switches a node off by one method of a policy. It returns nil only when the
// node was seen to be off afterwards; what names the devices that said so.
type Off func(ctx context.Context, f policy.Fence, m policy.Method, node string) (what string, err error)

// Evict takes the disks of volumes with a reservation key away from who has them. It
// returns nil only when the disks say that they refuse everybody else's writes.
type Evict func(ctx context.Context, volumes []*hadv1.HeldVolume, key uint64) error

// Answers reports whether a node's host answers this one, whatever has become of its
// had: its kernel takes a connection or refuses it.
type Answers func(ctx context.Context, node string) bool

// Config is what a Seeker needs.
type Config struct {
	Self    *hadv1.Member
	Log     Log
	Policy  func() (*policy.Policy, error) // in force; nil when there is none
	Off     Off
	Evict   Evict
	Answers Answers                                        // nil: it can't be known, and may be so
	Report  func(ctx context.Context, try *hadv1.FenceTry) // to the history
	Changed func()                                         // there is more to say of the tries
	Clock   clock.Source
	Logger  hclog.Logger
}

// Seeker looks for evidence while this node leads.
type Seeker struct {
	cfg Config

	mu    sync.Mutex
	tries map[uint64]*tries // by epoch, of those that are sought for
}

// New returns a seeker; nothing happens before Run.
func New(cfg Config) *Seeker { return &Seeker{cfg: cfg, tries: map[uint64]*tries{}} }

const (
	// patience is how long a silent owner is left alone, after the end of its lease
	// and from when there is a leader to be told: what it or its guard has to say is
	// then on its way.
	patience = 500 * time.Millisecond

	// look is how long such an owner's host has to answer, and looks how often it is
	// asked: from a host that doesn't, nothing is on its way. It is off, or cut off.
	look  = 50 * time.Millisecond
	looks = 2

	// lookLate is how late a look may end and say something: on a node that gets no CPU
	// for longer, the question may not have been asked, or the answer not been heard.
	lookLate = look / 5

	// confirmPause is between two questions whether a majority follows this node.
	confirmPause = 100 * time.Millisecond

	firstPause = 5 * time.Second // between two rounds of tries
	maxPause   = time.Minute

	proposeLimit = 5 * time.Second
)

// Run seeks until ctx ends.
func (s *Seeker) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		leads := s.cfg.Log.LeadershipChanged()
		l := s.cfg.Log.Leadership()
		if l.Ready && !s.cfg.Self.GetWitness() {
			s.lead(ctx, l.Term)
			continue
		}
		select {
		case <-ctx.Done():
		case <-leads:
		}
	}
	return nil
}

// lead seeks for the owners of a term's beginning, each by itself, until this node
// doesn't lead that term any more. There are no others: what is opened in a term is
// its leader's own.
func (s *Seeker) lead(ctx context.Context, term uint64) {
	ctx, cancel := context.WithCancel(ctx)
	var seeking sync.WaitGroup
	defer seeking.Wait()
	defer cancel()
	view, _ := s.cfg.Log.View()
	for _, c := range view.Open {
		if s.concerns(c) {
			seeking.Go(func() { s.seek(ctx, term, c.GetEpoch()) })
		}
	}
	for {
		leads := s.cfg.Log.LeadershipChanged()
		if l := s.cfg.Log.Leadership(); !l.Ready || l.Term != term {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-leads:
		}
	}
}

// concerns reports whether a claim is another node's and lacks evidence. A node
// is the last that could say that it is off itself.
func (s *Seeker) concerns(c *hadv1.Claim) bool {
	return c.GetInstance().GetNodeId() != s.cfg.Self.GetNodeId() && cluster.WhyNotSecured(c) != ""
}

// seek tries the methods of an epoch's terms in their order, again and again,
// until the epoch is secured or closed.
func (s *Seeker) seek(leading context.Context, term, epoch uint64) {
	ctx, cancel := context.WithCancel(leading)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { s.watch(ctx, cancel, epoch) })
	defer s.forget(epoch)

	pause, led := firstPause, s.cfg.Clock()
	for {
		c := s.claim(epoch)
		over := func() clock.Instant { return max(led, cluster.LeaseOverAt(s.cfg.Log.LastLease(), c)) }
		if c == nil || !s.until(ctx, over) {
			return
		}
		enough := func() clock.Instant { return over().Add(patience) }
		if s.answers(ctx, c, enough()) && !s.until(ctx, enough) {
			return
		}
		if !s.thawed(ctx) {
			return
		}
		for _, m := range c.GetTerms().GetFenceMethods() {
			r := s.try(ctx, term, epoch, policy.Method(m))
			if ctx.Err() != nil {
				return
			}
			// That the log takes it ends the search, and must not cut off the answer.
			if r != nil && s.propose(leading, policy.Method(m), r) {
				return
			}
		}
		next := s.cfg.Clock().Add(pause)
		s.of(epoch).again(next)
		pause = min(2*pause, maxPause)
		if !s.until(ctx, func() clock.Instant { return next }) {
			return
		}
	}
}

// answers reports whether the host of a claim's owner answers, or may: until the
// instant enough it is found out. It takes a moment where the host doesn't.
func (s *Seeker) answers(ctx context.Context, c *hadv1.Claim, enough clock.Instant) bool {
	if s.cfg.Answers == nil {
		return true
	}
	for silent := 0; silent < looks; {
		began := s.cfg.Clock()
		limited, cancel := context.WithTimeout(ctx, look)
		ok := s.cfg.Answers(limited, c.GetInstance().GetNode())
		if !ok {
			<-limited.Done() // the next look is not sooner
		}
		cancel()
		now := s.cfg.Clock()
		if ok || ctx.Err() != nil || !now.Before(enough) {
			return ok
		}
		if now.Sub(began) <= look+lookLate {
			silent++
		}
	}
	return false
}

// thawed returns true once nothing is frozen, and false if ctx ends first: while
// nobody may succeed an owner, no host is switched off to do so.
func (s *Seeker) thawed(ctx context.Context) bool {
	for {
		view, changed := s.cfg.Log.View()
		if view.Frozen == nil {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// watch ends a seek once there is nothing left to seek.
func (s *Seeker) watch(ctx context.Context, enough func(), epoch uint64) {
	for {
		view, changed := s.cfg.Log.View()
		if c := view.Claim(epoch); c == nil || cluster.WhyNotSecured(c) == "" {
			enough()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// claim returns the claim of an epoch that still lacks evidence, else nil.
func (s *Seeker) claim(epoch uint64) *hadv1.Claim {
	view, _ := s.cfg.Log.View()
	if c := view.Claim(epoch); c != nil && s.concerns(c) {
		return c
	}
	return nil
}

// until returns true once it is at, which may move, and false if ctx ends first.
func (s *Seeker) until(ctx context.Context, at func() clock.Instant) bool {
	for {
		left := at().Sub(s.cfg.Clock())
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// try tries one method and returns its evidence; nil: there is none.
func (s *Seeker) try(ctx context.Context, term, epoch uint64, m policy.Method) *hadv1.Secured {
	// The claim as it is before the try begins: should its owner renew meanwhile,
	// what was found out is about the past.
	c := s.claim(epoch)
	if c == nil {
		return nil
	}
	r := &hadv1.Secured{Term: term, Epoch: epoch, Instance: c.GetInstance(), By: s.cfg.Self.GetName(), LeaseIndex: c.GetLastLeaseIndex()}
	switch m {
	case policy.MethodAgent, policy.MethodCommand:
		what, err := s.off(ctx, c, m)
		if err != nil {
			return nil
		}
		r.Kind, r.Detail = hadv1.Secured_KIND_FENCED, steps.Printable(what)
	case policy.MethodReservation:
		what, err := s.evict(ctx, c)
		if err != nil {
			return nil
		}
		r.Kind, r.Detail = hadv1.Secured_KIND_RESERVED, steps.Printable(what)
	case policy.MethodLease:
		r.Kind = hadv1.Secured_KIND_LEASE
		if !s.wait(ctx, m, c, r, "waiting for the margin after the lease of "+c.GetInstance().GetNode()) {
			return nil
		}
	case policy.MethodWatchdog:
		r.Kind = hadv1.Secured_KIND_WATCHDOG
		if !s.wait(ctx, m, c, r, "waiting until the watchdog of "+c.GetInstance().GetNode()+" has certainly fired") {
			return nil
		}
	case policy.MethodConfirm:
		return nil // a person does
	default:
		return nil // of a version that knows more
	}
	return r
}

// wait waits until time is evidence of r's kind, and notes how long that was. It
// returns false at once where the epoch's terms don't let it count.
func (s *Seeker) wait(ctx context.Context, m policy.Method, c *hadv1.Claim, r *hadv1.Secured, what string) bool {
	at, ok := cluster.SecuredAt(s.cfg.Log.LastLease(), c, r.GetKind())
	if !ok {
		return false
	}
	s.of(c.GetEpoch()).begin(m, what, at)
	s.cfg.Changed()
	if !s.until(ctx, func() clock.Instant {
		at, _ := cluster.SecuredAt(s.cfg.Log.LastLease(), c, r.GetKind())
		return at
	}) {
		return false
	}
	r.WaitedNs = int64(s.cfg.Clock().Sub(s.cfg.Log.LastLease()))
	return true
}

// off switches the owner of a claim off, and tells how that went.
func (s *Seeker) off(ctx context.Context, c *hadv1.Claim, m policy.Method) (what string, err error) {
	node := c.GetInstance().GetNode()
	return s.do(ctx, c, m, "switching "+node+" off", func() (string, error) {
		p, err := s.cfg.Policy()
		if err == nil && p == nil {
			err = errors.New("there is no policy that says how")
		}
		if err != nil {
			return "", err
		}
		return s.cfg.Off(ctx, p.Fence, m, node)
	})
}

// evict takes the disks of a claim's volumes away from its owner, and tells how that
// went.
func (s *Seeker) evict(ctx context.Context, c *hadv1.Claim) (what string, err error) {
	key := cluster.SeekersKey(c)
	if key == 0 {
		return "", errors.New("the epoch has reserved nothing")
	}
	return s.do(ctx, c, policy.MethodReservation, "taking the disks from "+c.GetInstance().GetNode(), func() (string, error) {
		var names []string
		for _, v := range c.GetVolumes() {
			names = append(names, fmt.Sprintf("%s (%s)", v.GetName(), v.GetDevice()))
		}
		return fmt.Sprintf("%s with key %#x", strings.Join(names, ", "), key), s.cfg.Evict(ctx, c.GetVolumes(), key)
	})
}

// do does something about a silent owner, once, and has it in status and history.
func (s *Seeker) do(ctx context.Context, c *hadv1.Claim, m policy.Method, doing string, act func() (string, error)) (what string, err error) {
	node, t := c.GetInstance().GetNode(), s.of(c.GetEpoch())
	if err := s.confirmed(ctx); err != nil {
		return "", err
	}
	t.begin(m, doing, 0)
	s.cfg.Changed()
	s.cfg.Logger.Warn("making sure of a silent owner of volumes", "doing", doing, "epoch", c.GetEpoch(), "method", m)
	began := s.cfg.Clock()
	what, err = act()
	if ctx.Err() != nil {
		return "", context.Cause(ctx) // nobody wants to know any more
	}
	try := &hadv1.FenceTry{Epoch: c.GetEpoch(), Node: node, Method: string(m), DurationNs: int64(s.cfg.Clock().Sub(began))}
	if err != nil {
		try.Error = steps.Printable(err.Error())
		s.cfg.Logger.Error("it isn't certain that the silent owner no longer writes", "node", node, "epoch", c.GetEpoch(), "method", m, "error", err)
	}
	if t.ended(m, try.GetError(), s.cfg.Clock()) || err == nil {
		s.cfg.Report(ctx, try)
	}
	s.cfg.Changed()
	return what, err
}

// confirmed waits until a majority confirms that this node leads: then the owner has
// not led since its lease was over, and so not renewed it. A leader that was cut off
// learns later than its followers that they have another: it may be the owner again.
func (s *Seeker) confirmed(ctx context.Context) error {
	for s.cfg.Log.Confirm(ctx) != nil {
		again := s.cfg.Clock().Add(confirmPause)
		if !s.until(ctx, func() clock.Instant { return again }) {
			break
		}
	}
	return context.Cause(ctx)
}

// propose puts evidence into the log and reports whether it was taken.
func (s *Seeker) propose(ctx context.Context, m policy.Method, r *hadv1.Secured) bool {
	r.At = timestamppb.Now()
	limited, cancel := context.WithTimeout(ctx, proposeLimit)
	defer cancel()
	_, err := s.cfg.Log.Propose(limited, &hadv1.Command{Record: &hadv1.Command_Secured{Secured: r}})
	if err != nil {
		s.cfg.Logger.Warn("the evidence about volumes is not in the log", "node", r.GetInstance().GetNode(), "epoch", r.GetEpoch(), "error", err)
		s.of(r.GetEpoch()).ended(m, fmt.Sprintf("the log didn't take it: %v", err), s.cfg.Clock())
		s.cfg.Changed()
		return false
	}
	s.cfg.Logger.Info("the volumes of an epoch are safe from its owner", "node", r.GetInstance().GetNode(), "epoch", r.GetEpoch(), "kind", r.GetKind())
	return true
}
