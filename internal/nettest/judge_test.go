package nettest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// judge checks what must hold after every fault, once it is mended: one owner
// on whom everybody agrees, at no time since the fault began two holders, no
// claim on the wire out of turn, and a history that is complete, identical on
// all nodes and true to what happened on the hosts.
func (s *site) judge(t *testing.T, since time.Time) {
	t.Helper()
	owner, events := s.settledHistory(t)
	checkEpochs(t, events, owner)
	owners := epochOwners(events)
	for _, vip := range s.VIPs() {
		h := s.neverTwoHolders(t, vip, since)
		if !isSubsequence(turns(h.Owners()), owners) {
			t.Errorf("the kernels had %s on %v, one after another; the log knows of the owners %v", vip, turns(h.Owners()), owners)
		}
		s.claimsInTurn(t, vip, h)
	}
}

// settledHistory returns the owner and a history that ends with its epoch. A busy
// machine may cost it its lease while all is gathered.
func (s *site) settledHistory(t *testing.T) (owner string, events []*hadv1.Event) {
	t.Helper()
	for range 5 {
		owner = s.settled(t)
		epoch := s.epoch(t)
		events = s.fullHistory(t)
		if s.settled(t) == owner && s.epoch(t) == epoch {
			break
		}
	}
	return owner, events
}

// neverTwoHolders asks the kernels' own record, in which dead daemons count
// too.
func (s *site) neverTwoHolders(t *testing.T, vip netip.Addr, since time.Time) lab.History {
	t.Helper()
	h, err := s.Observer.History(within(t), vip)
	must(t, err)
	for _, o := range h.Overlaps() {
		if o.To.After(since) {
			t.Errorf("%v had %s at the same time, for %v:\n%s", o.Hosts, vip, o.To.Sub(o.From), h)
		}
	}
	return h
}

// gap judges what is done to a cluster that serves: at no time have two hosts an
// address. It says how long its client had no answer, at the longest.
func (s *site) gap(t *testing.T, what string, do func()) {
	t.Helper()
	before := time.Now()
	do()
	for _, vip := range s.vips {
		s.neverTwoHolders(t, vip, before)
		gap, _ := s.clients[vip].Report().LongestGap(before, time.Now())
		t.Logf("measured: %s: %s: no answer for %.1f ms", what, vip, float64(gap.Duration())/float64(time.Millisecond))
	}
}

// claimsInTurn checks that hosts announced an address on the wire in the order
// in which they had it: a late announcement of a former owner would take the
// clients away from the present one.
func (s *site) claimsInTurn(t *testing.T, vip netip.Addr, h lab.History) {
	t.Helper()
	claims, err := s.wire.Claims(vip)
	must(t, err)
	var hosts []string
	for _, c := range claims {
		if c.Host != lab.ClientName {
			hosts = append(hosts, c.Host)
		}
	}
	if !isSubsequence(turns(hosts), turns(h.Owners())) {
		t.Errorf("%s was claimed on the wire by %v, one after another; it was on %v", vip, turns(hosts), turns(h.Owners()))
	}
}

// fullHistory waits until every node has the same history and nothing is left
// to deliver: what each node did has arrived, and every run of a script is in
// it as often as it ran.
func (s *site) fullHistory(t *testing.T) []*hadv1.Event {
	t.Helper()
	return s.fullHistoryBut(t, func([]*hadv1.Event, string, uint64) bool { return false })
}

// fullHistoryBut is fullHistory where of some nodes' epochs, by what the history
// says of them, runs may be missing, as must be when a disk dies with what was
// written down on it.
func (s *site) fullHistoryBut(t *testing.T, excused func(events []*hadv1.Event, node string, epoch uint64) bool) (events []*hadv1.Event) {
	t.Helper()
	eventually(t, "all nodes have one history, and every finished hook run is in it once", func() error {
		var err error
		if events, err = s.history(t, s.Servers()[0].Name); err != nil {
			return err
		}
		for _, h := range s.Servers() {
			n, err := s.nodeStatus(t, h.Name, h.Name)
			if err != nil {
				return err
			}
			if n.GetPendingReports() > 0 {
				return fmt.Errorf("%s has yet to deliver %d reports", h.Name, n.GetPendingReports())
			}
			theirs, err := s.history(t, h.Name)
			if err != nil {
				return err
			}
			if err := sameEvents(events, theirs); err != nil {
				return fmt.Errorf("%s and %s: %w", s.Servers()[0].Name, h.Name, err)
			}
		}
		if s.noLedger {
			return nil
		}
		return sameRuns(s.hooks.runs(t), events, func(node string, epoch uint64) bool { return excused(events, node, epoch) })
	})
	return events
}

func sameEvents(a, b []*hadv1.Event) error {
	for i := range min(len(a), len(b)) {
		if !proto.Equal(a[i], b[i]) {
			return fmt.Errorf("event %d differs:\n%v\n%v", i, a[i], b[i])
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("one has %d events, the other %d", len(a), len(b))
	}
	return nil
}

// sameRuns compares the scripts' own ledger with the log. A run that was cut
// short is in the log too; whether it had reached the ledger can't be known.
func sameRuns(ledger map[string]int, events []*hadv1.Event, excused func(node string, epoch uint64) bool) error {
	finished, cutShort := map[string]int{}, map[string]int{}
	for _, e := range events {
		r := e.GetHook()
		if r == nil {
			continue
		}
		if r.GetOutcome() == hadv1.HookResult_OUTCOME_EXITED {
			finished[ledgerLine(e.GetNode(), r)]++
		} else {
			cutShort[ledgerLine(e.GetNode(), r)]++
		}
	}
	var errs []error
	for line, n := range ledger {
		if logged := finished[line]; n < logged || n > logged+cutShort[line] && !excused(ledgerOwner(line)) {
			errs = append(errs, fmt.Errorf("%q ran %d times and is in the log %d times", line, n, logged))
		}
	}
	for line, n := range finished {
		if ledger[line] == 0 {
			errs = append(errs, fmt.Errorf("%q is in the log %d times and never ran", line, n))
		}
	}
	return errors.Join(errs...)
}

// checkEpochs checks what the log says about ownership: epochs only grow, each
// begins after all earlier ones are closed, or handed over by their own owner,
// and the newest is the owner's.
func checkEpochs(t *testing.T, events []*hadv1.Event, owner string) {
	t.Helper()
	open := map[uint64]*hadv1.Acquire{} // by epoch
	known := map[uint64]bool{}
	var newest uint64
	for i, e := range events {
		if i > 0 && cmpEvents(events[i-1], e) >= 0 {
			t.Errorf("event %d.%d comes after %d.%d", e.GetIndex(), e.GetSub(), events[i-1].GetIndex(), events[i-1].GetSub())
		}
		if e.GetAt().AsTime().After(e.GetRecordedAt().AsTime()) {
			t.Errorf("an event was recorded before it happened: %v", e)
		}
		epoch := e.GetEpoch()
		switch {
		case e.GetAcquired() != nil:
			if epoch != e.GetIndex() || epoch <= newest {
				t.Errorf("epoch %d was opened by entry %d, after epoch %d", epoch, e.GetIndex(), newest)
			}
			for earlier := range open {
				if !handedOver(e.GetAcquired(), earlier) {
					t.Errorf("epoch %d of %s was opened while %v was open", epoch, e.GetNode(), open)
				}
			}
			open[epoch], known[epoch], newest = e.GetAcquired(), true, epoch
		case e.GetReleased() != nil:
			if !known[epoch] {
				t.Errorf("epoch %d was released and never opened", epoch)
			}
			delete(open, epoch)
		case e.GetClosed() != nil:
			if open[epoch] == nil {
				t.Errorf("epoch %d was closed twice", epoch)
			}
			waited := time.Duration(e.GetClosed().GetWaitedNs())
			if need := mustWait(open[epoch].GetTerms()); waited < need {
				t.Errorf("epoch %d was closed after a wait of %v; its terms ask for %v", epoch, waited, need)
			}
			delete(open, epoch)
		}
	}
	if len(open) != 1 || open[newest].GetInstance().GetNode() != owner {
		t.Errorf("the log has the open epochs %v at the end; %s owns", open, owner)
	}
}

func handedOver(a *hadv1.Acquire, epoch uint64) bool {
	return slices.ContainsFunc(a.GetEvidence(), func(ev *hadv1.Evidence) bool {
		return ev.GetEpoch() == epoch && ev.GetKind() == hadv1.Evidence_KIND_HANDED_OVER
	})
}

// mustWait is how long the addresses of a silent owner may be heard: as long as
// its lease, with a packet gate; without one as long as its kernel may have
// them, which is their lifetime and the 1.5 s by which kernels are late.
func mustWait(terms *hadv1.Terms) time.Duration {
	lease := time.Duration(terms.GetTtlNs())
	if slices.Contains(terms.GetLayers(), "gate") {
		return lease
	}
	return lease + time.Duration(terms.GetAddressLifetimeNs()) + 1500*time.Millisecond
}

func cmpEvents(a, b *hadv1.Event) int {
	return slices.Compare([]uint64{a.GetIndex(), uint64(a.GetSub())}, []uint64{b.GetIndex(), uint64(b.GetSub())})
}

// epochOwners returns the owners that the log knows, one after another.
func epochOwners(events []*hadv1.Event) []string {
	var owners []string
	for _, e := range events {
		if e.GetAcquired() != nil {
			owners = append(owners, e.GetNode())
		}
	}
	return turns(owners)
}

// turns leaves one of several equal names in a row.
func turns(names []string) []string { return slices.Compact(slices.Clone(names)) }

func isSubsequence(part, whole []string) bool {
	for _, name := range whole {
		if len(part) > 0 && part[0] == name {
			part = part[1:]
		}
	}
	return len(part) == 0
}
