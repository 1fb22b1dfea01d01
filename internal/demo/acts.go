package demo

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"had/internal/lab"
)

// act is one way to lose an owner.
type act struct {
	title string
	brief string // of the owner, in the summary
	about string
	deed  string // in the timeline
	// strike makes it happen to the owner.
	strike func(ctx context.Context, c *Cluster, owner *lab.Host) error
	// mend makes the cluster whole again once another server owns; nil when
	// nothing was broken.
	mend func(c *Cluster, former *lab.Host) error
	// lesson explains what was measured.
	lesson func(c *Cluster, r result) string
}

// script is the demo: the three acts in order.
func script() []act {
	return []act{
		{
			title:  "move the owner on purpose",
			brief:  "moved on purpose",
			deed:   "hactl move",
			about:  "The everyday case: a reboot is due, so the addresses go to another server first. The operator says so on any server.",
			strike: move,
			lesson: func(*Cluster, result) string {
				return "In short: the new owner prepared everything while the old one still answered. Only then did it ask for the addresses: deleted there, told, added here. What the clients missed beyond that is what the scripts took, which stop and start the web service."
			},
		},
		{
			title:  "crash the owner",
			brief:  "crashed (kill -9)",
			deed:   "kill -9",
			about:  "kill -9 of had on the owner. Its host runs on, with the addresses still in its kernel, and had can take down nothing any more.",
			strike: crash,
			mend: func(c *Cluster, former *lab.Host) error {
				c.n.fact("demo", plain, fmt.Sprintf("starts had on %s again, as systemd would", former.Name))
				return former.StartDaemon()
			},
			lesson: crashLesson,
		},
		{
			title:  "cut the owner off",
			brief:  "cut off from all",
			deed:   "cuts the owner off",
			about:  "Every packet from and to the owner is dropped. Its daemon lives, its cable is in; it can tell nobody what it does, and nobody can tell it to stop.",
			strike: cut,
			mend: func(c *Cluster, _ *lab.Host) error {
				c.n.fact("demo", plain, "ends the cut")
				return c.lab.Heal()
			},
			lesson: cutLesson,
		},
	}
}

func move(ctx context.Context, c *Cluster, owner *lab.Host) error {
	names := append(c.others(""), c.others("")...)
	target := ""
	for i, name := range names {
		if name == owner.Name {
			target = names[i+1]
			break
		}
	}
	return c.show(ctx, c.lab.Servers()[0], "move", "--to", target, "--reason", "kernel update on "+owner.Name)
}

func crash(_ context.Context, c *Cluster, owner *lab.Host) error {
	c.n.fact("demo", plain, fmt.Sprintf("kill -9 %d, had on %s; now for the next owner to come", owner.Daemon().Pid(), owner.Name))
	return owner.Kill(syscall.SIGKILL)
}

func cut(_ context.Context, c *Cluster, owner *lab.Host) error {
	c.n.fact("demo", plain, fmt.Sprintf("cuts %s off from all; now for the next owner to come", owner.Name))
	return c.lab.Isolate(owner.Name)
}

func crashLesson(c *Cluster, r result) string {
	text := "In short: a small process beside had, its guard, saw it die."
	if gone, ok := r.lost(c.lab.VIPs()[0], r.from); ok {
		text += fmt.Sprintf(" It had taken the addresses down after %s", ms(inMs(gone)))
	} else {
		text += " It took the addresses down"
	}
	return text + fmt.Sprintf(" and told the other servers, so nobody had to wait for the lease to run out. The web service of %s ran on without the address, because its PreRel never ran; the new start of had made up for it (HAD_FORCED=1).", r.from)
}

func cutLesson(c *Cluster, r result) string {
	text := fmt.Sprintf("In short: %s noticed by itself that it could not renew its lease", r.from)
	if gone, ok := r.lost(c.lab.VIPs()[0], r.from); ok {
		text += fmt.Sprintf(", so it took the addresses down after %s", seconds(inMs(gone)))
	}
	return text + fmt.Sprintf(", and then stopped its service (HAD_FORCED=1). It could tell nobody, so the next owner waited until the lease was certainly over: %s after the last renewal. Had %s not done its part, its guard would have, and the filter in its kernel. What it did meanwhile was in its journal and reached the log after the cut: the lines that show two times.", seconds(c.timing.TakeoverWaitMs), r.from)
}

// noLeader is the exit code by which hactl says that no leader or no quorum
// could be reached: nothing has happened.
const noLeader = 4

// perform plays an act and shows what came of it. On a machine so busy that an
// election comes between, it asks again.
func (c *Cluster) perform(ctx context.Context, a act) (result, error) {
	for attempt := 1; ; attempt++ {
		r, err := c.attempt(ctx, a)
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != noLeader || attempt == 3 {
			return r, err
		}
		c.n.para("Nobody led at that moment: this machine is very busy. Once more.")
		c.n.blank()
	}
}

func (c *Cluster) attempt(ctx context.Context, a act) (r result, err error) {
	owner, err := c.steady(ctx)
	if err != nil {
		return r, err
	}
	before, err := c.agreed(ctx, "the history of all servers is the same", func([]event) bool { return true })
	if err != nil {
		return r, err
	}
	c.n.para(a.about)
	c.n.blank()
	r = result{brief: a.brief, deed: a.deed, from: owner.Name, start: time.Now()}
	if err := a.strike(ctx, c, owner); err != nil {
		return r, err
	}
	s, err := c.awaitStatus(ctx, c.witness(owner), "another server than "+owner.Name+" owns", func(s status) bool {
		return s.owned(owner.Name)
	})
	if err != nil {
		return r, err
	}
	r.to = s.Ownership.Owner
	if err := c.answering(ctx, r.to, r.start); err != nil {
		return r, err
	}
	c.pages(ctx, owner)
	if a.mend != nil {
		if err := a.mend(c, owner); err != nil {
			return r, err
		}
	}
	// The former owner is asked itself: what the others know of it may be from
	// before. Its new daemon answers once it has made up for what was left undone.
	if _, err := c.steadyBy(ctx, owner); err != nil {
		return r, err
	}
	if a.mend != nil {
		c.ownPage(ctx, owner)
	}
	// The former owner may tell the log last of all that it has let go, and how
	// its last script ended.
	after, err := c.agreed(ctx, "the release by "+owner.Name+" and its PostRel are in every log", func(events []event) bool {
		events = slices.DeleteFunc(slices.Clone(added(before, events)), func(e event) bool { return e.Node != owner.Name })
		return slices.ContainsFunc(events, func(e event) bool { return e.Released != nil }) &&
			slices.ContainsFunc(events, func(e event) bool { return e.Hook != nil && e.Hook.Stage == "PostRel" })
	})
	if err != nil {
		return r, err
	}
	r.events = added(before, after)
	if err := c.measure(ctx, &r); err != nil {
		return r, err
	}
	return r, c.tell(ctx, r, a.lesson(c, r))
}

// pages shows what the client reads at the virtual addresses, and what the
// former owner's own web service says.
func (c *Cluster) pages(ctx context.Context, former *lab.Host) {
	for _, vip := range c.lab.VIPs() {
		c.n.fact("client", plain, "GET "+urlOf(vip)+": "+page(ctx, c.lab.Client, urlOf(vip)))
	}
	c.ownPage(ctx, former)
}

func (c *Cluster) ownPage(ctx context.Context, h *lab.Host) {
	c.n.fact(h.Name, plain, "its own web service: "+page(ctx, h, urlOf(h.V4)))
}

// page returns what a host reads at a URL, or why it reads nothing, in a line.
func page(ctx context.Context, from *lab.Host, url string) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	body, err := from.Get(ctx, url)
	if err != nil {
		body = err.Error()
		if _, status, ok := strings.Cut(body, "status "); ok {
			body = status
		}
		if errors.Is(err, context.DeadlineExceeded) {
			body = "no answer within 3 s"
		}
	}
	return strings.Join(strings.Fields(body), " ")
}

// introduce shows the cluster before the first act.
func (c *Cluster) introduce(ctx context.Context) error {
	if err := c.show(ctx, c.lab.Servers()[0], "status"); err != nil {
		return err
	}
	c.n.blank()
	vip := c.lab.VIPs()[0]
	c.n.fact("client", plain, "GET "+urlOf(vip)+": "+page(ctx, c.lab.Client, urlOf(vip)))
	return c.n.err
}
