package simtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// TestBrokenClustersAreFoundOut breaks one part at a time and expects the
// checker to notice: a checker that can't fail proves nothing.
func TestBrokenClustersAreFoundOut(t *testing.T) {
	cases := []struct {
		name string
		tamper
		play func(w *world)
	}{
		{
			"terms that promise too short a lease", tamper{propose: func(ctx context.Context, l *seenLog, cmd *hadv1.Command) (cluster.Verdict, error) {
				if a := cmd.GetAcquire(); a != nil {
					a.Terms = &hadv1.Terms{TtlNs: 1, AddressLifetimeNs: 1}
				}
				return l.propose(ctx, cmd)
			}}, ownerFallsSilent,
		},
		{
			"a successor that forgets when the last lease came",
			tamper{lastLease: func(clock.Instant) clock.Instant { return 0 }}, ownerFallsSilent,
		},
		{
			"a successor whose clock is twice as fast",
			tamper{rate: func(i int) float64 { return float64(1 + i) }}, ownerFallsSilent,
		},
		{
			"an owner whose clock is twice as slow",
			tamper{rate: func(i int) float64 { return []float64{0.5, 1, 1}[i] }}, ownerFallsSilent,
		},
		{"a gate that lets everything through", tamper{leakyGate: true}, ownerFallsSilent},
		{
			"reports delivered twice", tamper{propose: func(ctx context.Context, l *seenLog, cmd *hadv1.Command) (cluster.Verdict, error) {
				v, err := l.propose(ctx, cmd)
				if cmd.GetDeliver() != nil {
					again := proto.CloneOf(cmd)
					for _, r := range again.GetDeliver().GetReports() {
						r.Stream = "another"
					}
					_, second := l.propose(ctx, again)
					err = errors.Join(err, second)
				}
				return v, err
			}}, func(*world) {},
		},
		{
			"a report that gets lost", tamper{propose: func(ctx context.Context, l *seenLog, cmd *hadv1.Command) (cluster.Verdict, error) {
				for _, r := range cmd.GetDeliver().GetReports() {
					if r.GetHookResult().GetStage() == "PostAcq" {
						r.Body = nil
					}
				}
				return l.propose(ctx, cmd)
			}}, func(*world) {},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			parallel(t)
			l := three
			l.detect = []time.Duration{200 * time.Millisecond}
			l.tamper = c.tamper
			if l.tamper.leakyGate {
				l.gates = l.data
			}
			l.tamper.expected = true
			simulate(t, l, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				c.play(w)
				w.heal()
				w.finish(w.bound())
				if !w.checker.failed() {
					t.Error("nothing was found")
				}
			})
		})
	}
}

// ownerFallsSilent stops the owner, and its guard, and waits until another node
// owns.
func ownerFallsSilent(w *world) {
	w.until(w.bound(), "an owner", func() bool { return w.owner() != nil })
	if w.checker.failed() {
		return // found out before
	}
	first := w.owner()
	for _, l := range first.h.lives() {
		w.stop(l)
	}
	w.until(w.bound(), "another owner", func() bool {
		p := w.owner()
		return p != nil && p != first
	})
}
