package simtest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"had/cluster"
	"had/internal/failover"
	hadv1 "had/proto/had/v1"
)

// leader returns a living process that leads and is ready; nil: none.
func (w *world) leader() *process {
	for _, h := range w.hosts {
		if p := h.process(); p != nil && !p.stopped() {
			if _, node := p.ready(); node != nil && node.Leadership().Ready {
				return p
			}
		}
	}
	return nil
}

// owner returns the process that serves; nil: none.
func (w *world) owner() *process { return w.inPhase(failover.PhaseServing) }

// acquiring returns a process that takes an epoch on; nil: none.
func (w *world) acquiring() *process { return w.inPhase(failover.PhaseAcquiring) }

func (w *world) inPhase(phase failover.Phase) *process {
	for _, h := range w.hosts {
		if p := h.process(); p != nil && !p.stopped() {
			if c, _ := p.ready(); c != nil && c.Status().Holding.Phase == phase {
				return p
			}
		}
	}
	return nil
}

var vips = []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::10")}

// policyText is a policy with the first n addresses and some volumes.
func (w *world) policyText(n, volumes int) string {
	var b strings.Builder
	if n == len(vips) {
		b.WriteString("prefer = [\"beta\"]\n")
	}
	for i, a := range vips[:n] {
		fmt.Fprintf(&b, "vip \"v%d\" {\n  address = %q\n}\n", i, a)
	}
	fmt.Fprintf(&b, "hooks {\n  dir = \"/etc/had/hooks\"\n  timeout = \"%v\"\n}\n", hookTimeout)
	if w.layout.steered {
		b.WriteString(checksText)
		if n == len(vips) {
			b.WriteString(failbackText)
		}
	}
	w.volumesText(&b, volumes)
	return b.String()
}

// policy applies a policy with n addresses through the leader. Its answer may
// get lost, as any operator's.
func (w *world) policy(n int) {
	p := w.leader()
	if p == nil {
		return
	}
	text := w.policyText(n, w.carried)
	w.tasks.Go(func() {
		cmd := &hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{
			ExpectedVersion: p.view().Policy.GetVersion(), Text: text, By: "root@" + p.h.name,
		}}}
		if p.pass() == nil {
			v, err := p.node.Propose(p.hard, cmd)
			w.checker.proposed(p, cmd, v, err)
		}
	})
}

// move asks the owner to hand over; target "" leaves it the choice.
func (w *world) move(target string) {
	p := w.owner()
	if p == nil {
		return
	}
	w.tasks.Go(func() {
		if p.pass() != nil {
			return
		}
		ctx, cancel := context.WithTimeout(p.hard, 10*time.Second)
		defer cancel()
		r, err := p.controller.Move(ctx, &hadv1.MoveRequest{
			Operation: fmt.Sprintf("op-%d", time.Since(w.began)), Target: target, By: "root@" + p.h.name,
		})
		w.diary.logged("%s: move to %q: %v, %v", p.h.name, target, r.GetTarget(), err)
	})
}

// moveTo makes a node the owner, as an operator does.
func (w *world) moveTo(name string) {
	w.t.Helper()
	w.until(w.bound(), name+" owns", func() bool {
		owner := w.settled()
		if owner != "" && owner != name {
			w.move(name)
			w.elapse(time.Second)
		}
		return owner == name
	})
}

// stop is SIGSTOP for a process, at a moment when nothing of it runs.
func (w *world) stop(l *life) {
	synctest.Wait()
	l.stop()
}

// stopIn stops a process in the middle of what it does, at its nth seam from
// now; where that can't be, while it does nothing.
func (w *world) stopIn(l *life, n int) {
	if exact() {
		l.stopAt(n)
		return
	}
	w.stop(l)
}

// settled says who owns when all is well: exactly one host has all addresses
// of the policy, serves the latest epoch and leads; "" while that isn't so.
func (w *world) settled() string {
	p := w.owner()
	if p == nil || w.leader() != p || p.h.kernel == nil {
		return ""
	}
	v := p.view()
	s := p.controller.Status()
	if !p.h.now().Before(s.LeaseUntil) || s.Holding.Epoch != v.LastEpoch || s.Holding.PolicyVersion != v.Policy.GetVersion() {
		return ""
	}
	want := strings.Count(v.Policy.GetText(), "vip \"")
	for _, h := range w.hosts {
		if !w.rightlyMounted(h, p.h == h, strings.Count(v.Policy.GetText(), "volume \"")) {
			return ""
		}
		has := len(w.checker.heldBy(h.name))
		if h == p.h && (has != want || !w.checker.answers(h.name)) || h != p.h && has != 0 {
			return ""
		}
	}
	return p.h.name
}

// begin waits for the first owner.
func (w *world) begin() {
	w.t.Helper()
	w.until(10*time.Second, "a leader", func() bool { return w.leader() != nil })
	w.policy(2)
	w.until(w.bound(), "a first owner", func() bool { return w.settled() != "" })
}

// bound is how soon somebody must own on a healthy cluster whose hooks
// succeed: what a takeover may have to wait for, the elections and
// health checks before it, and the hooks.
func (w *world) bound() time.Duration {
	terms := cluster.TimingFor(w.layout.slowest()).Terms(cluster.LayerLifetime)
	return cluster.TakeoverWait(terms) + 10*w.layout.slowest() + 2*time.Second + w.volumesBound()
}

// heal repairs everything and starts every daemon.
func (w *world) heal() {
	w.diary.fault("heal")
	w.network.heal()
	w.pdu.fail(works)
	if w.layout.steered {
		w.unsteer()
	}
	for _, h := range w.hosts {
		h.disk.slow(0, 0)
		h.disk.fill(false)
		h.kernel.halve(false)
		h.scripts.behave()
		h.kernel.link(true)
		h.shelf.mend()
		h.services.ignoreTerm(false)
		for _, l := range h.lives() {
			l.cont()
		}
		h.switchOn()
		if p := h.process(); p != nil && isClosed(p.dead) {
			synctest.Wait() // it was killed at a seam in this very moment, and is on its way
		}
		h.start()
	}
}

// finish checks what must hold on a healed cluster: somebody owns within the
// limit, and the history is complete and the same everywhere.
func (w *world) finish(limit time.Duration) {
	w.t.Helper()
	w.until(limit, "one owner after the heal", func() bool { return w.settled() != "" })
	w.until(30*time.Second, "every report in the log on every node", func() bool {
		synctest.Wait() // so that nothing is under way while the histories are compared
		return w.quiet()
	})
	if !w.checker.failed() {
		w.checker.histories()
	}
}

// quiet reports whether every node is up, has delivered its journal and tells
// as much as the others. Lease renewals leave no trace in what they tell.
func (w *world) quiet() bool {
	var last []uint64
	for _, h := range w.hosts {
		p := h.process()
		if p == nil || p.stopped() || h.journal.count() > 0 || h.unsaid() {
			return false
		}
		_, node := p.ready()
		if node == nil {
			return false
		}
		events, _ := node.History(0)
		if len(events) == 0 {
			return false
		}
		last = append(last, events[len(events)-1].GetIndex())
	}
	return slices.Min(last) == slices.Max(last)
}

// count returns how many events of a kind the longest history has.
func (w *world) count(kind func(e *hadv1.Event) bool) int {
	most := 0
	for _, h := range w.hosts {
		p := h.process()
		if p == nil || p.stopped() {
			continue
		}
		if _, node := p.ready(); node != nil {
			events, _ := node.History(0)
			n := 0
			for _, e := range events {
				if kind(e) {
					n++
				}
			}
			most = max(most, n)
		}
	}
	return most
}

func acquisitions(e *hadv1.Event) bool { return e.GetAcquired() != nil }
func failures(e *hadv1.Event) bool {
	o := e.GetProgress().GetOutcome()
	return o == hadv1.Progress_OUTCOME_FAILED || o == hadv1.Progress_OUTCOME_VETOED
}
