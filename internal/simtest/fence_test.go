package simtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// pdu switches hosts off: a device beside the network. It takes its time and it
// fails, but it never says that a host is off that isn't.
type pdu struct {
	w *world

	mu      sync.Mutex
	random  *rand.Rand
	failure failure
	count   int // hosts that were switched off
}

// failure is a way in which the device fails.
type failure int

const (
	works  failure = iota
	dead           // it does nothing, and says so
	mute           // it switches off, and can't tell
	silent         // it never answers
)

const (
	fenceTakes = 2 * time.Second
	// fenceTimeout is what the policy lets an attempt take.
	fenceTimeout = 10 * time.Second
	// offFor is how long somebody takes to switch a host on again.
	offFor = 15 * time.Second
)

func newPDU(w *world) *pdu { return &pdu{w: w, random: rng(w.layout.seed, "pdu")} }

func (d *pdu) fail(f failure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failure = f
}

func (d *pdu) draw(limit time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(d.random.Int64N(int64(limit)))
}

// offBy is the device in the hands of a daemon: evidence.Off.
func (d *pdu) offBy(p *process) func(context.Context, policy.Fence, policy.Method, string) (string, error) {
	return func(ctx context.Context, _ policy.Fence, m policy.Method, node string) (string, error) {
		if err := p.pass(); err != nil {
			return "", err
		}
		d.mu.Lock()
		f := d.failure
		d.mu.Unlock()
		h := d.w.host(node)
		d.w.diary.logged("%s: switches %s off (%s)", p.h.name, node, m)
		ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
		defer cancel()
		switch {
		case d.w.layout.tamper.lyingFence:
			return "a device that lies", nil
		case f == silent:
			<-ctx.Done()
			return "", errors.Join(context.Cause(ctx), p.pass())
		case f == dead:
			return "", errors.Join(wait(ctx, d.draw(fenceTakes), p.dead), p.pass(), errors.New("simulation: no route to the device"))
		}
		// What it was told it does, whatever becomes of who told it.
		off := make(chan struct{})
		d.w.after(d.draw(fenceTakes), func() {
			d.off(h)
			close(off)
		})
		select {
		case <-off:
		case <-ctx.Done():
			return "", errors.Join(context.Cause(ctx), p.pass())
		case <-p.dead:
			return "", errDead
		}
		if f == mute {
			return "", errors.Join(errors.New("simulation: the device doesn't say whether it is off"), p.pass())
		}
		return "pdu, outlet " + node, errors.Join(wait(ctx, d.draw(fenceTakes/10), p.dead), p.pass())
	}
}

// answers is evidence.Answers: a host's kernel answers whatever its processes do.
func (p *process) answers(ctx context.Context, node string) bool {
	w, there, back := p.h.w, true, time.Duration(0)
	forth, arrives := w.network.carry(p.h.name, node)
	if arrives {
		back, there = w.network.carry(node, p.h.name)
	}
	if !arrives || !there || w.host(node).isOff() {
		<-ctx.Done()
		return false
	}
	return wait(ctx, forth+back, p.dead) == nil && p.pass() == nil
}

// off switches a host off; somebody switches it on again.
func (d *pdu) off(h *host) {
	d.w.diary.fault("%s is switched off", h.name)
	d.mu.Lock()
	d.count++
	d.mu.Unlock()
	h.switchOff()
	d.w.after(time.Second+d.draw(offFor), h.switchOn)
}

// fenced is how many hosts were switched off.
func (d *pdu) fenced() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

// operate is the operator: whoever has seen for a while that nobody but a person
// can help walks to the host, switches it off, and says so.
func (w *world) operate() {
	seen := map[uint64]time.Time{}
	for {
		if wait(context.Background(), time.Second, w.ended) != nil {
			return
		}
		p := w.leader()
		if p == nil {
			continue
		}
		for _, c := range p.view().Open {
			epoch := c.GetEpoch()
			if c.GetInstance().GetNode() == p.h.name || cluster.WhyNotSecured(c) == "" {
				continue
			}
			if seen[epoch].IsZero() {
				seen[epoch] = time.Now()
			}
			if time.Since(seen[epoch]) > w.layout.operator {
				w.walkTo(w.host(c.GetInstance().GetNode()), c)
				w.confirm(p, c)
			}
		}
	}
}

// walkTo makes sure that the boot of a claim is over.
func (w *world) walkTo(h *host, c *hadv1.Claim) {
	if h.bootID() == c.GetInstance().GetBootId() {
		w.pdu.off(h)
	}
}

// confirm is `hactl fence confirm` on the leader, as package api carries it out.
func (w *world) confirm(p *process, c *hadv1.Claim) {
	w.diary.fault("an operator confirms that %s is off, for epoch %d", c.GetInstance().GetNode(), c.GetEpoch())
	w.tasks.Go(func() {
		if p.pass() != nil {
			return
		}
		cmd := &hadv1.Command{Record: &hadv1.Command_Secured{Secured: &hadv1.Secured{
			Epoch: c.GetEpoch(), Instance: c.GetInstance(), Kind: hadv1.Secured_KIND_CONFIRMED, By: "root@" + p.h.name,
			LeaseIndex: c.GetLastLeaseIndex(), At: timestamppb.Now(),
		}}}
		v, err := p.node.Propose(p.hard, cmd)
		w.checker.proposed(p, cmd, v, err)
		w.diary.logged("%s: confirmed: %v", p.h.name, err)
	})
}

// switchOff cuts a host's power for good.
func (h *host) switchOff() {
	h.mu.Lock()
	h.off = true
	h.mu.Unlock()
	h.powerOff()
}

// switchOn boots a host that was switched off.
func (h *host) switchOn() {
	h.mu.Lock()
	was := h.off
	h.off = false
	h.mu.Unlock()
	if was {
		h.start()
	}
}

func (h *host) isOff() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.off
}

func (h *host) bootID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bootID(h.name, h.boots)
}

func bootID(name string, boot int) string { return fmt.Sprintf("boot-%s-%d", name, boot) }
