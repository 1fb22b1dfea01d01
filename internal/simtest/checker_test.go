package simtest

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/fence/fencetest"
	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// checker sees every change of every kernel, every script and every proposal,
// and holds them against the invariants of docs/protocol.md:
//
//  1. at most one host has an address at every instant, whoever put it there
//     and whether or not that daemon still lives;
//  2. at most one owner an epoch, epochs only grow, and nothing is done for an
//     epoch that is not open;
//  3. every committed transition and every report a node ever wrote down is in
//     the history exactly once, on every node, once the network has healed;
//  4. (world.until, and [settle]) somebody owns within the stated bound;
//  5. a refused request changes nothing.
type checker struct {
	w *world

	mu         sync.Mutex
	tables     map[string]map[netip.Addr]time.Time // of each kernel: when the address goes by itself
	adds       map[string]int                      // how often an address came up on a host
	newest     cluster.View                        // the most that was ever applied anywhere
	acquired   map[uint64]*hadv1.Instance          // epochs whose Acquire was accepted
	refused    map[uint64]string                   // log indexes of refused commands
	farewells  map[string]bool                     // what guards said; the log may do without
	transfers  int
	violations int

	storageTable
}

func newChecker(w *world) *checker {
	c := &checker{
		w: w, tables: map[string]map[netip.Addr]time.Time{}, adds: map[string]int{},
		acquired: map[uint64]*hadv1.Instance{}, refused: map[uint64]string{},
		farewells: map[string]bool{}, storageTable: newStorageTable(),
	}
	for _, name := range names {
		c.tables[name] = map[netip.Addr]time.Time{}
	}
	if w.layout.fence == "reservation" {
		c.disks["web"], c.disks["db"] = fencetest.NewDisk(), fencetest.NewDisk()
	}
	return c
}

// violation fails the test; the first few are told.
func (c *checker) violation(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.violate(format, args...)
}

func (c *checker) violate(format string, args ...any) {
	if c.violations++; c.violations > 3 {
		return
	}
	text := fmt.Sprintf(format, args...)
	c.w.diary.fault("VIOLATION: %s", text)
	if c.w.layout.tamper.expected {
		return
	}
	c.w.t.Errorf("after %.3f s: %s", time.Since(c.w.began).Seconds(), text)
}

func (c *checker) failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.violations > 0
}

// set is an address that p adds or renews.
func (c *checker) set(p *process, addr netip.Addr, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(p)
	now := time.Now()
	if expires, there := c.tables[p.h.name][addr]; !there || !now.Before(expires) {
		c.adds[p.h.name]++
		c.w.diary.logged("%s: + %s", p.h.name, addr)
	}
	c.tables[p.h.name][addr] = until
	// What a stopped daemon still does when it wakes, behind its gate, nobody hears.
	if c.answer(p.h.name, addr) && !p.stopped() && !slices.ContainsFunc(c.newest.Open, func(o *hadv1.Claim) bool {
		return proto.Equal(o.GetInstance(), p.instance)
	}) {
		c.violate("%s sets %s, and no epoch of this run is open", p.h.name, addr)
	}
	c.alone(p.h.name, addr)
}

// heard checks a host whose gate may let more through than before.
func (c *checker) heard(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for addr := range c.tables[name] {
		c.alone(name, addr)
	}
}

// alone checks that no other host can answer for an address when this one can.
// It is called with mu held, whenever a host may have come to answer for it;
// by time alone a host only falls silent.
func (c *checker) alone(name string, addr netip.Addr) {
	if !c.answer(name, addr) {
		return
	}
	for _, other := range c.w.hosts {
		if other.name != name && c.answer(other.name, addr) {
			c.violate("%s answers for %s, and so does %s, for %v more", name, addr, other.name, time.Until(c.tables[other.name][addr]))
		}
	}
}

// answer reports whether a host can answer for an address now: its kernel has
// it, and no gate keeps the packets back. It is called with mu held.
func (c *checker) answer(name string, addr netip.Addr) bool {
	expires, there := c.tables[name][addr]
	return there && time.Now().Before(expires) && c.w.host(name).kernel.gate.passes(addr)
}

// answers reports whether a host answers for all that is in its kernel.
func (c *checker) answers(name string) bool {
	held := c.heldBy(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(held, func(a netip.Addr) bool { return !c.answer(name, a) })
}

// told notes what a guard says.
func (c *checker) told(f *hadv1.Farewell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := f.GetReleased()
	c.farewells[reportKey(r.GetReporter().GetNode(), f.GetAt().AsTime(), r)] = true
}

// look notes the newest replicated state that p, if there is one, or any other
// daemon has. It is called with mu held.
func (c *checker) look(p *process) {
	before := c.newest.Applied
	defer func() {
		if c.newest.Applied > before {
			c.storageHolds()
		}
	}()
	for _, h := range c.w.hosts {
		q := h.process()
		if p != nil && h == p.h {
			q = p
		}
		if q == nil || q.stopped() {
			continue
		}
		if _, node := q.ready(); node != nil {
			if v, _ := node.View(); v.Applied > c.newest.Applied {
				if v.LastEpoch < c.newest.LastEpoch {
					c.violate("the last epoch went back from %d to %d", c.newest.LastEpoch, v.LastEpoch)
				}
				c.newest = v
			}
		}
	}
}

func (c *checker) remove(name string, addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.tables[name][addr]; there {
		c.w.diary.logged("%s: - %s", name, addr)
		delete(c.tables[name], addr)
	}
}

func (c *checker) removeAll(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tables[name])
}

func (c *checker) present(name string, addr netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	expires, there := c.tables[name][addr]
	return there && time.Now().Before(expires)
}

// heldBy returns what is in a host's kernel now, in order.
func (c *checker) heldBy(name string) []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []netip.Addr
	for addr, expires := range c.tables[name] {
		if time.Now().Before(expires) {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// added returns how often an address came up on a host.
func (c *checker) added(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.adds[name]
}

// hookBegins checks a script that is about to run.
func (c *checker) hookBegins(p *process, run hook.Run) {
	has := c.present(p.h.name, run.VIP)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(p)
	claim := c.newest.Claim(run.Env.Epoch)
	mine := claim != nil && proto.Equal(claim.GetInstance(), p.instance)
	switch run.Stage {
	case hook.PreAcq, hook.PostAcq:
		if !mine {
			c.violate("%s on %s runs for epoch %d, which is not open for this run", run.Stage, p.h.name, run.Env.Epoch)
		}
		for v := range run.Env.Volumes {
			if m := c.mounts[p.h.name][v]; run.Stage == hook.PreAcq && m != (mount{run.Env.Epoch, true}) && !p.stopped() {
				c.violate("PreAcq on %s runs for epoch %d, and %s is not mounted", p.h.name, run.Env.Epoch, v)
			}
		}
		if run.Stage == hook.PreAcq && has {
			c.violate("PreAcq on %s runs with %s up already", p.h.name, run.VIP)
		}
	case hook.PreRel:
		if !run.Env.Forced && !mine {
			c.violate("an orderly PreRel on %s runs for epoch %d, which is not open for this run", p.h.name, run.Env.Epoch)
		}
		if run.Env.Forced && has {
			c.violate("a forced PreRel on %s runs with %s still up", p.h.name, run.VIP)
		}
	case hook.PostRel:
		if has {
			c.violate("PostRel on %s runs with %s still up", p.h.name, run.VIP)
		}
		for v := range run.Env.Volumes {
			if m := c.mounts[p.h.name][v]; m.epoch == run.Env.Epoch {
				c.violate("PostRel on %s runs for epoch %d with %s mounted", p.h.name, run.Env.Epoch, v)
			}
		}
	case hook.Test:
	}
}

// proposed notes what became of a command.
func (c *checker) proposed(p *process, cmd *hadv1.Command, v cluster.Verdict, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.w.layout.volumes > 0 && cmd.GetLeaseRenew() == nil {
		c.look(p)
	}
	switch {
	case v.Refused != "":
		c.refused[v.Index] = v.Refused
	case err == nil && cmd.GetAcquire() != nil:
		if other := c.acquired[v.Index]; other != nil {
			c.violate("epoch %d was given to %v and to %v", v.Index, other, p.instance)
		}
		c.acquired[v.Index] = p.instance
	}
}

func (c *checker) transferred(from, to string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transfers++
	c.w.diary.logged("%s: leadership to %s: %v", from, to, err)
}

func (c *checker) transferCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.transfers
}

// histories checks, on a healed cluster whose nodes have all caught up, that
// all tell the same and that nothing is missing or doubled.
func (c *checker) histories() {
	var first []*hadv1.Event
	var of string
	for _, h := range c.w.hosts {
		events, dropped := h.process().node.History(0)
		if dropped > 0 {
			c.violation("the run was too long to check: %d events of the history are gone", dropped)
			return
		}
		if first == nil {
			first, of = events, h.name
		}
		if i := differAt(first, events); i >= 0 {
			c.violation("the histories of %s and %s differ at event %d:\n  %v\n  %v", of, h.name, i, at(first, i), at(events, i))
			return
		}
	}
	c.epochs(first)
	c.reports(first)
	c.refusals(first)
}

func differAt(a, b []*hadv1.Event) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || !proto.Equal(a[i], b[i]) {
			return i
		}
	}
	return -1
}

func at(events []*hadv1.Event, i int) string {
	if i >= len(events) {
		return fmt.Sprintf("(ends after %d events)", len(events))
	}
	return events[i].String()
}

// epochs checks the order of owners: each epoch is opened once, after the
// ones before it were closed or handed over by their own owner.
func (c *checker) epochs(history []*hadv1.Event) {
	var last uint64
	open, seen := map[uint64]bool{}, map[uint64]bool{}
	for _, e := range history {
		switch {
		case e.GetAcquired() != nil:
			if e.GetEpoch() <= last {
				c.violation("epoch %d was opened after epoch %d", e.GetEpoch(), last)
			}
			for _, ev := range e.GetAcquired().GetEvidence() {
				if ev.GetKind() == hadv1.Evidence_KIND_HANDED_OVER {
					delete(open, ev.GetEpoch())
				}
			}
			if len(open) > 0 {
				c.violation("epoch %d was opened while %v was open", e.GetEpoch(), open)
			}
			last = e.GetEpoch()
			open[last], seen[last] = true, true
		case e.GetClosed() != nil, e.GetReleased() != nil:
			delete(open, e.GetEpoch())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for epoch, instance := range c.acquired {
		if !seen[epoch] {
			c.violate("epoch %d was given to %v and is not in the history", epoch, instance)
		}
	}
}

// reports holds the journals against the history: the same reports, each once.
func (c *checker) reports(history []*hadv1.Event) {
	want := map[string]int{}
	for _, h := range c.w.hosts {
		for _, r := range h.journal.reports() {
			want[reportKey(r.GetNode(), r.GetAt().AsTime(), r.GetHookResult(), r.GetProgress(), r.GetReleased(), r.GetFenceTry(), r.GetCheckChange())]++
		}
	}
	for _, e := range history {
		if e.GetHook() != nil || e.GetProgress() != nil || e.GetReleased() != nil || e.GetFenceTry() != nil || e.GetCheckChanged() != nil {
			want[reportKey(e.GetNode(), e.GetAt().AsTime(), e.GetHook(), e.GetProgress(), e.GetReleased(), e.GetFenceTry(), e.GetCheckChanged())]--
		}
	}
	for key, n := range want {
		switch {
		case n > 0:
			c.violation("a report is %d times too few in the history: %s", n, key)
		case n == -1 && c.farewells[key]:
		case n < 0:
			c.violation("a report is %d times too many in the history: %s", -n, key)
		}
	}
}

func reportKey(node string, at time.Time, bodies ...proto.Message) string {
	key := fmt.Sprintf("%s at %v", node, at.UTC())
	for _, b := range bodies {
		if b.ProtoReflect().IsValid() {
			data, _ := proto.MarshalOptions{Deterministic: true}.Marshal(b)
			key += fmt.Sprintf(" %s %x", b.ProtoReflect().Descriptor().Name(), data)
		}
	}
	return key
}

// refusals checks that refused commands left no trace.
func (c *checker) refusals(history []*hadv1.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range history {
		if why, ok := c.refused[e.GetIndex()]; ok {
			c.violate("entry %d was refused (%s) and yet made an event: %v", e.GetIndex(), why, e)
		}
	}
}
