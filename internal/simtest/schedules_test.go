package simtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"had/cluster"
	"had/internal/failover"
	hadv1 "had/proto/had/v1"
)

// The schedules of docs/protocol.md that need more than the replicated state;
// the numbers are those of that list.

var (
	three = layout{seed: 1, data: 3, detect: []time.Duration{500 * time.Millisecond}}
	fast  = layout{seed: 1, data: 3, detect: []time.Duration{200 * time.Millisecond}}
)

// latch holds back what passes it while it is shut.
type latch struct {
	mu   sync.Mutex
	shut chan struct{} // nil: open
}

func (g *latch) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *latch) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

func (g *latch) pass(dead <-chan struct{}) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-dead:
		}
	}
}

// TestSchedule3 stops an owner whose renewals have committed but whose answers
// it has not seen, and wakes it when its lease is over: it must not take the
// grants for a reason to hold the addresses again.
func TestSchedule3LateGrantsResurrectNothing(t *testing.T) {
	for _, stopped := range []time.Duration{
		500 * time.Millisecond, // the lease (400 ms) is just over; nobody else owns
		3 * time.Second,        // its addresses may still be in its kernel
		8 * time.Second,        // another node owns
	} {
		t.Run(stopped.String(), func(t *testing.T) {
			parallel(t)
			answers := new(latch)
			l := fast
			l.tamper.propose = func(ctx context.Context, s *seenLog, cmd *hadv1.Command) (cluster.Verdict, error) {
				v, err := s.propose(ctx, cmd)
				if cmd.GetLeaseRenew() != nil && s.p.h.name == "alpha" {
					answers.pass(s.p.dead)
				}
				return v, err
			}
			simulate(t, l, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				alpha := w.owner()
				epoch := alpha.controller.Status().Holding.Epoch
				answers.close()
				w.elapse(alpha.h.timing.Renew + 20*time.Millisecond) // one has committed
				w.stop(alpha.life)
				w.elapse(stopped)
				up := w.checker.added("alpha")
				alpha.cont()
				answers.open()
				w.elapse(100 * time.Millisecond)
				if got := w.checker.heldBy("alpha"); len(got) != 0 {
					t.Errorf("alpha still has %v after it woke up", got)
				}
				if h := alpha.controller.Status().Holding; h.Epoch == epoch && h.Phase == failover.PhaseServing {
					t.Error("alpha believes that it serves")
				}
				if got := w.checker.added("alpha"); got != up && stopped > time.Second {
					t.Errorf("alpha added addresses %d times after it woke up", got-up)
				}
				w.heal()
				w.finish(w.bound())
			})
		})
	}
}

// TestSchedule4 gives the nodes different values of detect: the successor
// waits by the record's, not by its own.
func TestSchedule4SuccessorWaitsByTheOwnersTerms(t *testing.T) {
	for _, detect := range [][]time.Duration{
		{time.Second, 200 * time.Millisecond},
		{200 * time.Millisecond, time.Second},
	} {
		t.Run(fmt.Sprint(detect), func(t *testing.T) {
			parallel(t)
			l := three
			l.detect = detect
			simulate(t, l, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				alpha := w.owner()
				w.stop(alpha.life)
				took := w.until(w.bound(), "another owner", func() bool { return w.owner() != nil })
				// The last renewal came at most Renew before the stop.
				least := cluster.TakeoverWait(alpha.h.timing.Terms(cluster.LayerLifetime)) - alpha.h.timing.Renew - 50*time.Millisecond
				if took < least {
					t.Errorf("the successor served %v after alpha fell silent; its terms ask for %v", took, least)
				}
				w.heal()
				w.finish(w.bound())
			})
		})
	}
}

// TestSchedule5 cuts a node off until it can only catch up by snapshot, and
// makes it the leader at once: its wait begins with the snapshot.
func TestSchedule5SnapshotRestartsTheWait(t *testing.T) {
	simulate(t, fast, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha, beta, gamma := w.owner(), w.host("beta"), w.host("gamma")
		w.network.isolate("beta")
		w.flood(alpha, 9000)
		w.elapse(5 * time.Minute) // raft looks whether to take a snapshot every 2 to 4 minutes
		if w.network.snapshots != 0 {
			t.Fatal("a snapshot was sent to a node that is cut off")
		}
		stale := beta.process().node.LastLease()

		healed := beta.now()
		w.network.heal()
		// raft tries a node that failed for long every 10 s only.
		w.until(15*time.Second, "beta has the snapshot", func() bool {
			w.network.mu.Lock()
			defer w.network.mu.Unlock()
			return w.network.snapshots > 0
		})
		if s := beta.process().node.LastLease(); s.Before(healed) {
			t.Errorf("beta's wait would begin at %v, before it got the snapshot at %v (it was %v before)", s, healed, stale)
		}
		w.stop(alpha.life)
		gamma.kill()
		w.elapse(time.Second)
		gamma.start() // with an empty memory of leases: it restarts its own wait
		w.until(w.bound()+5*time.Second, "another owner", func() bool { return w.owner() != nil })
		w.heal()
		w.finish(w.bound())
	})
}

// flood commits n commands that are refused.
func (w *world) flood(p *process, n int) {
	var wg sync.WaitGroup
	places := make(chan struct{}, 256)
	for range n {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			_, err := p.node.Propose(p.hard, &hadv1.Command{Record: &hadv1.Command_MoveEnd{MoveEnd: &hadv1.MoveEnd{Operation: "none"}}})
			if _, refused := errors.AsType[*cluster.RefusedError](err); !refused {
				w.checker.violation("the end of no move: %v, want a refusal", err)
			}
		})
	}
	wg.Wait()
}

// TestSchedule6 has a renewal of the silent owner commit between its
// successor's wait and the successor's Acquire. Nodes don't forward renewals;
// this one is forged with the successor's term, so that Apply accepts it.
func TestSchedule6RenewalBetweenWaitAndAcquire(t *testing.T) {
	var once sync.Once
	var injected time.Time
	var first error
	l := fast
	l.tamper.propose = func(ctx context.Context, s *seenLog, cmd *hadv1.Command) (cluster.Verdict, error) {
		a := cmd.GetAcquire()
		open := s.p.view().Newest()
		if a == nil || open == nil || a.GetEvidence()[0].GetKind() != hadv1.Evidence_KIND_WAITED {
			return s.propose(ctx, cmd)
		}
		var attempt bool
		once.Do(func() {
			attempt = true
			for _, term := range []uint64{a.GetTerm() - 1, a.GetTerm()} {
				_, err := s.propose(ctx, &hadv1.Command{Record: &hadv1.Command_LeaseRenew{LeaseRenew: &hadv1.LeaseRenew{
					Term: term, Epoch: open.GetEpoch(), Instance: open.GetInstance(),
				}}})
				if refused := errors.As(err, new(*cluster.RefusedError)); refused != (term != a.GetTerm()) {
					s.p.h.w.checker.violation("a renewal in term %d proposed by the leader of term %d: %v", term, a.GetTerm(), err)
				}
			}
			injected = time.Now()
		})
		v, err := s.propose(ctx, cmd)
		if attempt {
			first = err
		}
		return v, err
	}
	simulate(t, l, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha := w.owner()
		w.stop(alpha.life)
		w.until(2*w.bound(), "another owner", func() bool { return w.owner() != nil })
		if !errors.As(first, new(*cluster.RefusedError)) {
			t.Errorf("the Acquire after a later lease entry got %v, want a refusal", first)
		}
		if waited, least := time.Since(injected), cluster.TakeoverWait(alpha.h.timing.Terms(cluster.LayerLifetime)); waited < least {
			t.Errorf("the successor served %v after that entry, and its wait is %v", waited, least)
		}
		w.heal()
		w.finish(w.bound())
	})
}

// TestSchedule10 has the Acquire of a node commit after the node has given up
// on it.
func TestSchedule10AcquireCommitsTooLate(t *testing.T) {
	var once sync.Once
	l := fast
	l.tamper.propose = func(ctx context.Context, s *seenLog, cmd *hadv1.Command) (cluster.Verdict, error) {
		v, err := s.propose(ctx, cmd)
		if cmd.GetAcquire() != nil {
			once.Do(func() { v, err = cluster.Verdict{}, cluster.ErrOutcomeUnknown })
		}
		return v, err
	}
	simulate(t, l, func(w *world) {
		w.begin()
		events, _ := w.owner().node.History(0)
		var lost, owned uint64
		released := map[uint64]bool{}
		for _, e := range events {
			switch {
			case e.GetAcquired() != nil && lost == 0:
				lost = e.GetEpoch()
			case e.GetAcquired() != nil:
				owned = e.GetEpoch()
			case e.GetReleased() != nil:
				released[e.GetEpoch()] = true
			}
		}
		if !released[lost] || owned <= lost {
			t.Errorf("epoch %d was lost, released: %v; epoch %d is owned", lost, released[lost], owned)
		}
		w.finish(w.bound())
	})
}

// TestSchedule10SlowLeader gives the leader a disk that takes longer than a
// lease: it can't own, and must let another.
func TestSchedule10SlowLeader(t *testing.T) {
	simulate(t, fast, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha := w.host("alpha")
		alpha.disk.slow(2*alpha.timing.TTL, 3*alpha.timing.TTL)
		w.until(30*time.Second, "another owner than alpha", func() bool {
			s := w.settled()
			return s != "" && s != "alpha"
		})
		owners := w.count(acquisitions)
		w.elapse(2 * time.Minute)
		if more := w.count(acquisitions) - owners; more > 4 {
			t.Errorf("%d more epochs in two minutes", more)
		}
		w.heal()
		w.finish(w.bound() + time.Minute)
	})
}

// TestSchedule10SlowLogEverywhere slows all disks, so that no lease can be
// kept: nobody owns for long, few epochs are spent on it, and it passes.
func TestSchedule10SlowLogEverywhere(t *testing.T) {
	simulate(t, fast, func(w *world) {
		w.begin()
		for _, h := range w.hosts {
			h.disk.slow(h.timing.TTL, 2*h.timing.TTL)
		}
		before, moved := w.count(acquisitions), w.checker.transferCount()
		w.elapse(5 * time.Minute)
		if n := w.count(acquisitions) - before; n > 60 {
			t.Errorf("%d epochs in five minutes in which none can be kept", n)
		}
		if n := w.checker.transferCount() - moved; n > 60 {
			t.Errorf("leadership was handed on %d times in five minutes", n)
		}
		w.heal()
		w.finish(w.bound() + 5*time.Minute) // failed turns are tried again after up to 5 min
	})
}
