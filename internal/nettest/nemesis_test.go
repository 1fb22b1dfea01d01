package nettest

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// outcome is who owns while a fault of the owner alone lasts.
type outcome int

const (
	anybody outcome = iota // the owner stays or another takes over, once
	another
	nobody // there is no majority
)

// fault is one thing that goes wrong on or around a host. It lasts until
// weather.calm.
type fault struct {
	name   string
	then   outcome
	guard  bool // it needs a guard process
	strike func(w *weather, t *testing.T, victim string)
}

// faults returns all there are. What can't be done just now, such as a signal
// to a daemon that has ended, is no fault.
func faults() []fault {
	all := []fault{
		{"kill-daemon", another, false, func(w *weather, _ *testing.T, v string) { w.signal(v, syscall.SIGKILL, toDaemon) }},
		{"kill-guard", anybody, true, func(w *weather, _ *testing.T, v string) { w.signal(v, syscall.SIGKILL, toGuard) }},
		{"kill-both", another, true, func(w *weather, _ *testing.T, v string) { w.signal(v, syscall.SIGKILL, w.eitherFirst()...) }},
		{"stop-daemon", another, false, func(w *weather, _ *testing.T, v string) { w.signal(v, syscall.SIGSTOP, toDaemon) }},
		{"stop-guard", anybody, true, func(w *weather, _ *testing.T, v string) { w.signal(v, syscall.SIGSTOP, toGuard) }},
		{"stop-both", another, true, func(w *weather, _ *testing.T, v string) { w.signal(v, syscall.SIGSTOP, w.eitherFirst()...) }},
		{"terminate", another, false, func(w *weather, _ *testing.T, v string) { w.signal(v, syscall.SIGTERM, toDaemon) }},
		{"restart", anybody, false, (*weather).restart},
		{"move", anybody, false, (*weather).moveAway},
		{"link-down", another, false, func(w *weather, t *testing.T, v string) { must(t, w.LinkDown(v)) }},
		{"link-flaps", anybody, false, (*weather).flap},
		{"isolate", another, false, func(w *weather, t *testing.T, v string) { must(t, w.Isolate(v)) }},
		{"split", nobody, false, func(w *weather, t *testing.T, _ string) { must(t, w.SplitServers()) }},
		{"hide", another, false, func(w *weather, t *testing.T, v string) { w.hide(t, v) }},
		{"mute", another, false, func(w *weather, t *testing.T, v string) { w.lose(t, v, 100, 0) }},
		{"deaf", another, false, func(w *weather, t *testing.T, v string) { w.lose(t, v, 0, 100) }},
		{"loss", anybody, false, func(w *weather, t *testing.T, v string) { w.lose(t, v, 20+w.rand.IntN(40), 20+w.rand.IntN(40)) }},
		{"loss-one-way", anybody, false, func(w *weather, t *testing.T, v string) { w.lose(t, v, 20+w.rand.IntN(60), 0) }},
		{"full-disk", anybody, false, func(w *weather, t *testing.T, v string) { must(t, w.Host(v).FillDisk()) }},
		{"stalled-disk", another, false, func(w *weather, t *testing.T, v string) { w.disk(t, v, w.Host(v).StallDisk) }},
		{"broken-disk", another, false, func(w *weather, t *testing.T, v string) { w.disk(t, v, w.Host(v).BreakDisk) }},
		{"busy-cores", anybody, false, (*weather).hog},
		{"scarce-memory", anybody, false, (*weather).squeeze},
		{"address-deleted", anybody, false, (*weather).deleteAddress},
	}
	if *chaosVolumes {
		all = append(all, volumeFaults()...)
	}
	return all
}

// weather strikes a site with faults.
type weather struct {
	*site
	volumes *volumeSite // nil: there are none
	rand    *rand.Rand
	prober  *lab.Prober
	undo    []func(t *testing.T)
	witness string         // "": there is none
	stopped []*lab.Process // daemons told to end, which may take a while
	absent  map[string]*absence
	// lossy is when a host's disk could keep nothing: what its daemon wrote
	// down then is lost if it ends before it has told the others.
	lossy map[string][]span
}

// absence is when neither of a host's two processes could act: nobody was
// alive to take an address out of its kernel.
type absence struct {
	daemon, guard bool
	since         time.Time
	spans         []span
}

type span struct{ from, to time.Time }

// recipient is one of a host's two processes.
type recipient int

const (
	toDaemon recipient = iota
	toGuard
)

func (w *weather) eitherFirst() []recipient {
	if w.rand.IntN(2) == 0 {
		return []recipient{toGuard, toDaemon}
	}
	return []recipient{toDaemon, toGuard}
}

// signal sends a signal to one or both of a host's processes.
func (w *weather) signal(host string, sig syscall.Signal, to ...recipient) {
	a := w.absenceOf(host)
	for _, r := range to {
		if r == toGuard {
			_, _ = w.Host(host).SignalGuard(sig)
		} else {
			_ = w.Host(host).Kill(sig)
		}
		if sig == syscall.SIGTERM { // it leaves nothing behind, in its own time
			w.stopped = append(w.stopped, w.Host(host).Daemon())
			continue
		}
		a.daemon, a.guard = a.daemon || r == toDaemon, a.guard || r == toGuard
	}
	if a.daemon && a.guard && a.since.IsZero() {
		a.since = time.Now()
	}
}

func (w *weather) absenceOf(host string) *absence {
	if w.absent[host] == nil {
		w.absent[host] = &absence{}
	}
	a := w.absent[host]
	if n, err := w.Host(host).SignalGuard(0); err == nil && n == 0 {
		a.guard = true
	}
	return a
}

// end is when one of the host's processes is alive again.
func (a *absence) end() {
	if !a.since.IsZero() {
		a.spans = append(a.spans, span{a.since, time.Now()})
	}
	a.daemon, a.guard, a.since = false, false, time.Time{}
}

func (w *weather) restart(t *testing.T, host string) {
	w.signal(host, syscall.SIGTERM, toDaemon)
	if w.Host(host).Wait(within(t)); !w.Host(host).Running() {
		must(t, w.Host(host).StartDaemon())
	}
}

// moveAway asks for a move and doesn't wait for long: in the midst of other
// faults most are refused.
func (w *weather) moveAway(t *testing.T, host string) {
	to := w.others(host, w.witness)
	target := to[w.rand.IntN(len(to))]
	ctx, cancel := context.WithTimeout(t.Context(), 4*detect)
	defer cancel()
	_ = w.askUntil(ctx, t, host, func(ctx context.Context, ha hadv1.HAClient) error {
		_, err := ha.Move(ctx, &hadv1.MoveRequest{Target: target, By: "the test", Operation: strconv.FormatUint(w.rand.Uint64(), 16)})
		return err
	})
}

func (w *weather) flap(t *testing.T, host string) {
	for range 2 + w.rand.IntN(6) {
		must(t, w.LinkDown(host))
		w.pause(t, detect)
		must(t, w.LinkUp(host))
		w.pause(t, detect)
	}
}

// lose drops a share of what a server sends to the others, and of what they
// send to it. The client sees all of them.
func (w *weather) lose(t *testing.T, host string, out, in int) {
	for _, other := range w.others(host) {
		must(t, w.Loss(host, other, out))
		must(t, w.Loss(other, host, in))
	}
}

func (w *weather) disk(t *testing.T, host string, fail func() error) {
	began := time.Now()
	must(t, fail())
	w.undo = append(w.undo, func(*testing.T) { w.lossy[host] = append(w.lossy[host], span{began, time.Now()}) })
}

func (w *weather) hog(t *testing.T, host string) {
	stop, err := w.Host(host).Hog(2 * runtime.NumCPU())
	must(t, err)
	w.undo = append(w.undo, func(*testing.T) { stop() })
}

func (w *weather) squeeze(t *testing.T, host string) {
	if !w.Host(host).Running() {
		return
	}
	stop, err := w.Host(host).Squeeze(int64(1+w.rand.IntN(4)) << 20)
	must(t, err)
	w.undo = append(w.undo, func(t *testing.T) { must(t, stop()) })
}

func (w *weather) deleteAddress(_ *testing.T, host string) {
	vip := w.vips[w.rand.IntN(len(w.vips))]
	_ = w.Host(host).DelAddress(netip.PrefixFrom(vip, vip.BitLen()))
}

// pause waits for a random time below most.
func (w *weather) pause(t *testing.T, most time.Duration) {
	timer := time.NewTimer(time.Duration(w.rand.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// calm ends every fault. Daemons that are about to end are started again, as
// an init system would, by settle.
func (w *weather) calm(t *testing.T) {
	t.Helper()
	for _, undo := range slices.Backward(w.undo) {
		undo(t)
	}
	w.undo = nil
	for _, h := range w.Servers() {
		must(t, h.MendDisk(t.Context()))
		_, err := h.SignalGuard(syscall.SIGCONT)
		must(t, err)
	}
	if w.volumes != nil {
		w.volumes.plugAllIn(t)
	}
	w.mend(t)
	for _, p := range w.stopped {
		select {
		case <-p.Done():
		case <-within(t).Done():
			t.Fatalf("had, process %d, doesn't end after SIGTERM", p.Pid())
		}
	}
	w.stopped = nil
	w.mend(t)
	for host, a := range w.absent {
		if w.Host(host).Running() {
			a.end()
		}
	}
}

// settle waits until one owner serves and everybody agrees, and starts daemons
// again that ended over a fault.
func (w *weather) settle(t *testing.T) string {
	t.Helper()
	if w.volumes != nil {
		w.volumes.allSettled(t)
	} else {
		eventually(t, "every daemon runs again and one owner serves", func() error {
			for _, h := range w.Servers() {
				revive(t, h)
			}
			_, err := w.agreed(t)
			return err
		})
	}
	for _, a := range w.absent { // of those that had been killed
		a.end()
	}
	return w.settled(t)
}

// leftToTheDead reports whether an overlap in the kernels' lists is the trace
// of a host on which nobody was alive to remove the address. That it can't
// answer for it is for the wire to show.
func (w *weather) leftToTheDead(o lab.Overlap) bool {
	alive := 0
	for _, host := range o.Hosts {
		if !w.dead(host, o) {
			alive++
		}
	}
	return alive <= 1
}

func (w *weather) dead(host string, o lab.Overlap) bool {
	a := w.absent[host]
	if a == nil {
		return false
	}
	spans := a.spans
	if !a.since.IsZero() {
		spans = append(slices.Clone(spans), span{a.since, time.Now()})
	}
	return slices.ContainsFunc(spans, func(s span) bool { return !o.From.Before(s.from) && o.From.Before(s.to) })
}
