package guard

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/storage"
)

// paper is a guard without a process: what it is asked, and how it answers.
type paper struct {
	page  *Page
	died  chan struct{}
	asked []Op
	hold  func(p *paper, r Request) error
}

func (p *paper) ask(_ context.Context, r Request) error {
	p.asked = append(p.asked, r.Op)
	if r.Op == OpHold {
		return p.hold(p, r)
	}
	return nil
}

func (p *paper) kill() error {
	close(p.died)
	return nil
}

// A guard that takes over volumes whose lease ends at that very moment knows of
// them; and one that couldn't be told is replaced by one that can.
func TestVolumesAreTakenOver(t *testing.T) {
	holds := func(p *paper, r Request) error { p.page.begin(r.Until); return nil }
	for name, second := range map[string]func(p *paper, r Request) error{
		"the lease ends meanwhile": func(p *paper, r Request) error {
			p.page.begin(r.Until)
			p.page.due(r.Until, 0)
			return nil
		},
		"it doesn't answer": func(*paper, Request) error { return errors.New("it doesn't answer") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				now := func() clock.Instant { return clock.Instant(time.Second + time.Since(began)) }
				var guards []*paper
				answers := []func(p *paper, r Request) error{holds, second, holds}
				s := SupervisorOf(func(context.Context) (*Guard, error) {
					p := &paper{page: NewPage(), died: make(chan struct{}), hold: answers[min(len(guards), len(answers)-1)]}
					guards = append(guards, p)
					p.page.look(clock.Instant(time.Hour)) // it never sleeps
					return Simulated(p.page, p.ask, p.kill, p.died, now), nil
				}, now, hclog.NewNullLogger())
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- s.Run(ctx) }()
				synctest.Wait()
				s.Extend(7, now().Add(time.Minute))
				if err := s.Hold(ctx, 7, nil, []storage.Volume{{Name: "web", Device: "LABEL=web", Path: "/srv/web"}}); err != nil {
					t.Fatal(err)
				}
				close(guards[0].died)
				time.Sleep(10 * time.Second)
				if err := s.Secure(ctx, 7); err != nil {
					t.Error(err)
				}
				if last := guards[len(guards)-1]; !slices.Equal(last.asked, []Op{OpHold, OpSecure}) {
					t.Errorf("the guard was asked for %v", last.asked)
				}
				cancel()
				close(guards[len(guards)-1].died)
				<-ended // whether in order is not the question
			})
		})
	}
}
