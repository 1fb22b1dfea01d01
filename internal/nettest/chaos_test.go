package nettest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

var (
	chaosTime   = flag.Duration("chaos.time", 8*time.Second, "let random faults strike for so long")
	chaosSeed   = flag.Uint64("chaos.seed", 0, "draw them from this seed; 0: from a new one")
	chaosFault  = flag.String("chaos.fault", "", "instead, only these faults, one after another (a comma between them, or \"all\")")
	chaosTrials = flag.Int("chaos.n", 50, "how often each of them")
	chaosDetect = flag.Duration("chaos.detect", 0, "the clusters' detection time; 0: 300ms, and 500ms with volumes")
	chaosReport = flag.String("chaos.report", "", "write what happened to this path, as .txt and .json")
)

const (
	// roundLength and roundEvents end a cluster's life: a node keeps only so
	// many events, and all of them are compared in the end.
	roundLength = 3 * time.Minute
	roundEvents = 1300
	// probing is the time between two requests to every host. What two hosts
	// can answer at the same time for less may go unseen.
	probing = time.Millisecond
)

// TestChaos lets faults strike a cluster of real daemons at random moments,
// singly and one on top of the other, and judges every instant by what is
// answered on the wire: no two hosts answer for an address, and when a fault
// is over one owner serves, on whom everybody agrees. After each round the
// histories of all nodes are compared with each other, with what the scripts
// noted, and with what was seen on the wire.
//
// With -chaos.volumes the owner has two volumes as well, and who falls silent is
// switched off. Then the kernels are asked at every instant who has mounted them, and
// what services have written and synced must be there.
//
// With -chaos.fault it tries the named faults of an owner one by one, waits for
// what must come of each, and heals it.
func TestChaos(t *testing.T) {
	t.Parallel()
	interrupted, stop := signal.NotifyContext(t.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c := &chronicle{Seed: *chaosSeed, Started: time.Now(), Detect: inMS(detectInChaos())}
	if c.Seed == 0 {
		c.Seed = uint64(c.Started.UnixNano())
	}
	t.Logf("the faults' seed is %d; the machine's timing can't be repeated", c.Seed)
	p := &plan{rand: rand.New(rand.NewPCG(c.Seed, 0)), until: c.Started.Add(*chaosTime)}
	if *chaosFault != "" {
		p.trials = directed(t, *chaosFault, *chaosTrials)
		p.directed = true
	}
	for n := 1; interrupted.Err() == nil && p.more() && len(c.violations()) < 10; n++ {
		t.Run(fmt.Sprintf("round %d", n), func(t *testing.T) {
			newWar(t, c, p).fight(t, func() bool { return interrupted.Err() == nil })
		})
		if t.Failed() && len(c.violations()) == 0 {
			c.Rounds[len(c.Rounds)-1].Violations = append(c.Rounds[len(c.Rounds)-1].Violations, "it didn't come to its end: see the test's output")
		}
	}
	c.Ended = time.Now()
	for _, v := range c.violations() {
		t.Error(v)
	}
	if *chaosReport != "" {
		must(t, c.write(*chaosReport))
	}
	t.Log(c.text())
}

// plan says which faults strike, in random runs until a time, or as directed.
type plan struct {
	rand     *rand.Rand
	until    time.Time
	directed bool
	trials   []fault
}

func (p *plan) more() bool {
	if p.directed {
		return len(p.trials) > 0
	}
	return time.Now().Before(p.until)
}

func directed(t *testing.T, names string, n int) (trials []fault) {
	t.Helper()
	known := faults()
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, f := range known {
			if name == "all" || f.name == name {
				found = true
				trials = append(trials, slices.Repeat([]fault{f}, n)...)
			}
		}
		if !found {
			t.Fatalf("there is no fault %q; there are %v", name, faultNames(known))
		}
	}
	return trials
}

func faultNames(faults []fault) (names []string) {
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

// war is a round: the weather over one cluster, and who keeps the chronicle.
type war struct {
	*weather
	plan      *plan
	chronicle *chronicle
	round     *round
	began     time.Time
	events    []*hadv1.Event // so far
}

func newWar(t *testing.T, c *chronicle, p *plan) *war {
	t.Helper()
	cfg := lab.Config{Disks: true, Detect: detectInChaos(), VIPs: lab.DefaultVIPs()}
	r := &round{Nodes: "three servers", Started: time.Now()}
	if len(c.Rounds)%2 == 1 {
		cfg.Witnesses = []string{"gamma"}
		r.Nodes = "two servers and a witness"
	}
	c.Rounds = append(c.Rounds, r)
	w := &weather{rand: p.rand, witness: strings.Join(cfg.Witnesses, ""), absent: map[string]*absence{}, lossy: map[string][]span{}}
	if *chaosVolumes {
		w.volumes = newVolumeSite(t, cfg, "command", "confirm")
		w.site = w.volumes.site
	} else {
		w.site = newSite(t, cfg)
	}
	var err error
	w.prober, err = w.Probe(probing)
	must(t, err)
	t.Cleanup(w.prober.Close)
	t.Cleanup(func() {
		if t.Failed() && len(r.Violations) == 0 {
			r.Violations = append(r.Violations, "see the test's output")
		}
	})
	return &war{weather: w, plan: p, chronicle: c, round: r, began: time.Now()}
}

// fight goes on until the round is over, and judges it as a whole.
func (w *war) fight(t *testing.T, goOn func() bool) {
	w.note(t, w.settle(t))
	for goOn() && w.plan.more() && len(w.events) < roundEvents && time.Since(w.began) < roundLength {
		if w.plan.directed {
			f := w.plan.trials[0]
			w.plan.trials = w.plan.trials[1:]
			w.trial(t, f, true)
			continue
		}
		usable := slices.DeleteFunc(faults(), func(f fault) bool { return !w.usable(f) })
		if w.rand.IntN(4) == 0 {
			w.storm(t, usable)
		} else {
			w.trial(t, usable[w.rand.IntN(len(usable))], w.rand.IntN(2) == 0)
		}
	}
	w.conclude(t)
}

// usable reports whether a fault can be made here; the chronicle says why not.
func (w *war) usable(f fault) bool {
	var why error
	switch {
	case f.name == "scarce-memory":
		why = lab.CanSqueeze()
	case f.guard:
		if n, err := w.Servers()[0].SignalGuard(0); err == nil && n == 0 {
			why = fmt.Errorf("no guard runs")
		}
	}
	if why == nil {
		return true
	}
	if line := f.name + ": " + why.Error(); !slices.Contains(w.chronicle.LeftOut, line) {
		w.chronicle.LeftOut = append(w.chronicle.LeftOut, line)
	}
	return false
}

// trial lets one fault strike the owner at a random moment of its lease. When
// patient it waits for what must come of it, else it heals it sooner or later.
func (w *war) trial(t *testing.T, f fault, patient bool) {
	if !w.usable(f) {
		return
	}
	owner := w.settle(t)
	w.pause(t, 2*detect)
	o := w.open(owner, f.name)
	began := time.Now()
	f.strike(w.weather, t, owner)
	switch {
	case !patient:
		w.pause(t, 6*detect)
	case f.then == another:
		w.taken(t, owner)
	case f.then == nobody:
		w.allVacant(t)
	}
	if patient {
		// What a node notices late it notices within a second or two.
		if f.then == anybody && f.name != "move" && f.name != "restart" {
			linger := time.NewTimer(6 * detect)
			defer linger.Stop()
			<-linger.C
		}
		w.pause(t, 4*detect)
		o.During = w.answering(t, f.then, owner)
	}
	w.close(t, o, began)
}

// storm lets several faults strike anybody, without waiting for anything.
func (w *war) storm(t *testing.T, usable []fault) {
	owner := w.settle(t)
	o := w.open(owner)
	began := time.Now()
	servers := w.Servers()
	for range 2 + w.rand.IntN(5) {
		f, host := usable[w.rand.IntN(len(usable))], servers[w.rand.IntN(len(servers))].Name
		o.Faults = append(o.Faults, f.name+" "+host)
		f.strike(w.weather, t, host)
		w.pause(t, 3*detect)
		if w.rand.IntN(3) == 0 {
			must(t, w.Heal())
			_ = w.Host(host).Resume()
		}
	}
	w.close(t, o, began)
}

func (w *war) open(owner string, names ...string) *occurrence {
	o := &occurrence{At: time.Now(), Round: len(w.chronicle.Rounds), Faults: names, Owner: owner}
	w.chronicle.Faults = append(w.chronicle.Faults, o)
	return o
}

func (w *war) violated(o *occurrence, format string, args ...any) {
	o.Violated = append(o.Violated, fmt.Sprintf(format, args...))
}

// close heals what is broken, waits for one owner and judges the time since
// the fault began.
func (w *war) close(t *testing.T, o *occurrence, began time.Time) {
	healed := time.Now()
	o.Lasted = inMS(healed.Sub(began))
	w.calm(t)
	o.After = w.settle(t)
	settled := time.Now()
	o.Settled = inMS(settled.Sub(healed))
	for _, vip := range w.vips {
		r := w.clients[vip].Report()
		o.Gaps = append(o.Gaps, longest(r, began, healed))
		o.HealGaps = append(o.HealGaps, longest(r, healed, settled))
		h, err := w.prober.History(vip)
		must(t, err)
		for _, v := range h.Overlaps() {
			if v.To.Before(began) {
				continue
			}
			o.Overlap = max(o.Overlap, inMS(v.To.Sub(v.From)))
			w.violated(o, "%v answered for %s at the same time, for %v, from %v after the fault's beginning", v.Hosts, vip, v.To.Sub(v.From), v.From.Sub(began))
		}
		w.listed(t, o, vip, began)
	}
	if w.volumes != nil {
		o.Violated = append(o.Violated, w.volumes.wrong(t, began)...)
	}
	w.note(t, o.After)
	for _, e := range w.events {
		if e.GetRecordedAt().AsTime().After(began) {
			o.explain(e)
		}
	}
}

// listed looks for two hosts with an address in the kernels' own lists.
func (w *war) listed(t *testing.T, o *occurrence, vip netip.Addr, began time.Time) {
	h, err := w.Observer.History(within(t), vip)
	must(t, err)
	for _, v := range h.Overlaps() {
		switch {
		case v.To.Before(began):
		case w.leftToTheDead(v):
			o.Listed = max(o.Listed, inMS(v.To.Sub(v.From)))
		default:
			w.violated(o, "%v had %s at the same time, for %v, and somebody was alive to remove it", v.Hosts, vip, v.To.Sub(v.From))
		}
	}
}

func longest(r lab.Report, from, to time.Time) milliseconds {
	gap, _ := r.LongestGap(from, to)
	return inMS(gap.Duration())
}

// explain adds what an event of the history says about a change of the owner.
func (o *occurrence) explain(e *hadv1.Event) {
	switch {
	case e.GetAcquired() != nil:
		o.Moves++
		o.Reasons = append(o.Reasons, fmt.Sprintf("%s acquired: %s", e.GetNode(), e.GetAcquired().GetCause()))
	case e.GetReleased() != nil:
		o.Reasons = append(o.Reasons, fmt.Sprintf("%s released: %s", e.GetNode(), e.GetReleased().GetCause()))
	case e.GetClosed() != nil:
		o.Reasons = append(o.Reasons, fmt.Sprintf("%s was waited out, %v", e.GetNode(), time.Duration(e.GetClosed().GetWaitedNs()).Round(time.Millisecond)))
	}
}

// note reads the history as the owner knows it.
func (w *war) note(t *testing.T, owner string) {
	t.Helper()
	var err error
	w.events, err = w.history(t, owner)
	must(t, err)
}

// answering waits until those answer on the wire who must while a fault of
// the owner lasts, and returns who does.
func (w *war) answering(t *testing.T, then outcome, owner string) (hosts []string) {
	t.Helper()
	eventually(t, "the right hosts answer on the wire while the fault lasts", func() error {
		hosts = nil
		since := time.Now().Add(-2 * glance)
		for _, vip := range w.vips {
			h, err := w.prober.History(vip)
			must(t, err)
			for _, tr := range h.Transitions {
				if tr.At.After(since) {
					hosts = append(hosts, tr.Host)
				}
			}
		}
		slices.Sort(hosts)
		hosts = slices.Compact(hosts)
		if then == nobody && len(hosts) > 0 || then == another && (len(hosts) != 1 || hosts[0] == owner) {
			return fmt.Errorf("%v do; %s had them before", hosts, owner)
		}
		return nil
	})
	return hosts
}

// conclude judges the round as a whole: the histories of all nodes, what the
// scripts noted, and who answered on the wire, one after another.
func (w *war) conclude(t *testing.T) {
	w.calm(t)
	owner := w.wholeHistory(t)
	w.round.Identical = true
	checkEpochs(t, w.events, owner)
	owners := epochOwners(w.events)
	for _, e := range w.events {
		if a := e.GetAcquired(); a != nil {
			w.round.Epochs++
			w.round.Layers = a.GetTerms().GetLayers()
		}
		if e.GetHook() != nil {
			w.round.HookRuns++
		}
	}
	w.round.Events, w.round.Blind = len(w.events), inMS(w.prober.LongestPause())
	for _, vip := range w.vips {
		h, err := w.prober.History(vip)
		must(t, err)
		if !isSubsequence(turns(h.Owners()), owners) {
			t.Errorf("%s was answered by %v, one after another; the log knows of the owners %v", vip, turns(h.Owners()), owners)
		}
	}
	if w.volumes != nil {
		w.round.Blind = max(w.round.Blind, inMS(w.volumes.blind(t)))
		w.volumes.areClean(t)
	}
}

// wholeHistory gathers all events, once all are delivered, and returns the owner
// with whom they end. A busy machine may cost an owner its lease meanwhile: then
// the history goes on.
func (w *war) wholeHistory(t *testing.T) string {
	t.Helper()
	for range 10 {
		owner := w.settle(t)
		epoch := w.epoch(t)
		w.note(t, owner)
		w.events = w.fullHistoryBut(t, w.lostOnADisk)
		if w.settled(t) == owner && w.epoch(t) == epoch {
			return owner
		}
	}
	t.Fatal("the owner changed each time that all nodes had the whole history")
	return ""
}

// lostOnADisk reports whether a node's disk failed while it had an epoch, or
// before all that it had to tell of it was in the log. Scripts run on after a
// release, and what a failed disk has lost of them is run once more: that may be
// the last that the history says of the epoch, long after all else.
func (w *war) lostOnADisk(events []*hadv1.Event, node string, epoch uint64) bool {
	var from, last time.Time
	released := false
	for _, e := range events {
		if e.GetEpoch() != epoch || e.GetNode() != node {
			continue
		}
		if e.GetAcquired() != nil {
			from = e.GetRecordedAt().AsTime()
		}
		released = released || e.GetReleased() != nil
		last = e.GetRecordedAt().AsTime()
	}
	if !released {
		last = time.Now()
	}
	return slices.ContainsFunc(w.lossy[node], func(s span) bool { return s.from.Before(last) && from.Before(s.to) })
}
